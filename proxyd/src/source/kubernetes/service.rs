//! What matters of a Service object. Pure.
//!
//! A value that cannot be read is left out alone, with a [`Complaint`]. An object whose types are others than a
//! Service's is left out as a whole.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ferrule_cluster::kind::{Identity, Kind, Metadata, ObjectName, Resource, Unread};
use ferrule_model::{Family, IpNetwork};
use serde::Deserialize;

use super::followed::Followed;
use crate::decide::{
    Complaint, Ingress, IpMode, Labels, News, Protocol, Service, ServiceName, ServicePort, ServiceType,
    Shared, TrafficPolicy, text,
};

/// Where the API has Services.
pub(super) const SERVICES: Resource = Resource { group: "", version: "v1", plural: "services" };

/// The fields that are read of a Service.
#[derive(Debug, Deserialize)]
pub(super) struct Object {
    metadata: Metadata<Unread, ObjectLabels>,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    status: Option<Status>,
}

/// The labels that are read, of a Service and of an EndpointSlice.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ObjectLabels {
    #[serde(rename = "service.kubernetes.io/service-proxy-name")]
    proxy_name: Option<Unread>,
    #[serde(rename = "service.kubernetes.io/headless")]
    headless: Option<Unread>,
    /// Of an EndpointSlice: its Service.
    #[serde(rename = "kubernetes.io/service-name")]
    pub(super) service: Option<String>,
}

impl From<&ObjectLabels> for Labels {
    fn from(labels: &ObjectLabels) -> Self {
        Self { proxy_name: labels.proxy_name.is_some(), headless: labels.headless.is_some() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    load_balancer_source_ranges: Option<Vec<String>>,
    health_check_node_port: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
    node_port: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Address>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Address {
    ip: Option<String>,
    ip_mode: Option<String>,
}

impl Kind for Object {
    const RESOURCE: Resource = SERVICES;

    fn take_identity(&mut self) -> Identity {
        self.metadata.take_identity()
    }
}

impl Followed for Service {
    type Kind = Object;
    type Name = Arc<ServiceName>;
    type Key = ServiceName;

    const KIND: &'static str = "Service";

    fn read(name: &ObjectName, object: Object) -> Result<Option<Self>, String> {
        service(Self::key(name), object).map(Some)
    }

    fn share(&mut self, texts: &mut Shared<str>) {
        self.ports.iter_mut().for_each(|port| texts.share(&mut port.name));
    }

    fn name(&self) -> Arc<ServiceName> {
        Arc::clone(&self.name)
    }

    fn key(name: &ObjectName) -> ServiceName {
        ServiceName { namespace: name.namespace.clone(), name: name.name.clone() }
    }

    fn all(all: Vec<Self>) -> News {
        News::Services(all)
    }

    fn put(self) -> News {
        News::PutService(self)
    }

    fn gone(name: &ServiceName) -> News {
        News::DeleteService(name.clone())
    }
}

fn service(name: ServiceName, object: Object) -> Result<Service, String> {
    let mut complaints = Vec::new();
    let spec = object.spec.unwrap_or_default();
    let ingress = object.status.unwrap_or_default().load_balancer.unwrap_or_default().ingress;
    Ok(Service {
        name: Arc::new(name),
        created_s: object.metadata.created_s().unwrap_or(0),
        service_type: service_type(spec.kind.as_deref())?,
        labels: object.metadata.labels.as_ref().map(Labels::from).unwrap_or_default(),
        cluster_ips: cluster_ips(&spec, &mut complaints),
        external_ips: addresses("spec.externalIPs", spec.external_ips.as_deref(), &mut complaints).collect(),
        ingress: ingress
            .unwrap_or_default()
            .iter()
            .filter_map(|one| balancer(one, &mut complaints))
            .collect(),
        ports: ports(spec.ports.unwrap_or_default(), &mut complaints),
        affinity: affinity(spec.session_affinity.as_deref(), spec.session_affinity_config),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        source_ranges: ranges(spec.load_balancer_source_ranges.as_deref(), &mut complaints),
        health_check_node_port: port_number(
            "spec.healthCheckNodePort",
            spec.health_check_node_port,
            &mut complaints,
        ),
        complaints: complaints.into(),
    })
}

fn service_type(text: Option<&str>) -> Result<ServiceType, String> {
    match text.unwrap_or_default() {
        "" | "ClusterIP" => Ok(ServiceType::ClusterIp),
        "NodePort" => Ok(ServiceType::NodePort),
        "LoadBalancer" => Ok(ServiceType::LoadBalancer),
        "ExternalName" => Ok(ServiceType::ExternalName),
        other => Err(format!("spec.type \"{other}\" is no type of Services that this version knows")),
    }
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

/// The first cluster IP of each family. A headless Service has the text `None` there.
fn cluster_ips(spec: &Spec, complaints: &mut Vec<Complaint>) -> Box<[IpAddr]> {
    let list = spec.cluster_ips.as_deref().filter(|list| !list.is_empty());
    let texts = list.or(spec.cluster_ip.as_ref().map(std::slice::from_ref)).unwrap_or_default();
    if texts.first().is_some_and(|text| text == "None") {
        return Box::default();
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in addresses("spec.clusterIPs", Some(texts), complaints) {
        if ips.iter().all(|known| Family::of(*known) != Family::of(ip)) {
            ips.push(ip);
        }
    }
    ips.into()
}

/// The addresses in a list of texts. Empty texts are absence.
fn addresses(
    field: &'static str,
    texts: Option<&[String]>,
    complaints: &mut Vec<Complaint>,
) -> impl Iterator<Item = IpAddr> {
    let texts = texts.unwrap_or_default().iter().filter(|text| !text.is_empty());
    texts.filter_map(move |text| address(field, text, complaints))
}

/// An address.
pub(super) fn address(field: &'static str, text: &str, complaints: &mut Vec<Complaint>) -> Option<IpAddr> {
    let address = text::address(text);
    if address.is_none() {
        complaints.push(unreadable(field, text, "an address"));
    }
    address
}

fn unreadable(field: &'static str, value: &str, expected: &'static str) -> Complaint {
    // A value can be as long as an object. Its beginning is enough for a person.
    let value = value.chars().take(100).collect::<String>().into();
    Complaint::Unreadable { field, value, expected }
}

/// An address of a load balancer. One with a name instead is not for the nodes.
fn balancer(raw: &Address, complaints: &mut Vec<Complaint>) -> Option<Ingress> {
    let text = raw.ip.as_deref().filter(|text| !text.is_empty())?;
    let address = address("status.loadBalancer.ingress[].ip", text, complaints)?;
    let mode = if raw.ip_mode.as_deref() == Some("Proxy") { IpMode::Proxy } else { IpMode::Vip };
    Some(Ingress { address, mode })
}

fn ports(raw: Vec<Port>, complaints: &mut Vec<Complaint>) -> Box<[ServicePort]> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(raw.len());
    for one in raw {
        let Some(protocol) = protocol("spec.ports[].protocol", one.protocol.as_deref(), complaints) else {
            continue;
        };
        let Some(port) = port_number("spec.ports[].port", one.port.or(Some(0)), complaints) else { continue };
        let node_port = one.node_port.filter(|port| *port != 0);
        let node_port = port_number("spec.ports[].nodePort", node_port, complaints);
        let name = one.name.unwrap_or_default();
        let clashes =
            |known: &ServicePort| *known.name == *name || (known.protocol, known.port) == (protocol, port);
        if ports.iter().any(clashes) {
            let expected = "a port whose name and number no other port has";
            complaints.push(unreadable("spec.ports[]", &format!("{name} {port}"), expected));
            continue;
        }
        ports.push(ServicePort { name: name.into(), protocol, port, node_port });
    }
    ports.into()
}

/// A protocol; absence is TCP.
pub(super) fn protocol(
    field: &'static str,
    text: Option<&str>,
    complaints: &mut Vec<Complaint>,
) -> Option<Protocol> {
    match text.unwrap_or_default() {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        other => {
            complaints.push(unreadable(field, other, "TCP, UDP or SCTP"));
            None
        }
    }
}

/// The number of a port, if there is one.
pub(super) fn port_number(
    field: &'static str,
    number: Option<i64>,
    complaints: &mut Vec<Complaint>,
) -> Option<NonZeroU16> {
    let number = number?;
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    if port.is_none() {
        complaints.push(unreadable(field, &number.to_string(), "a port, 1 to 65535"));
    }
    port
}

fn affinity(text: Option<&str>, config: Option<AffinityConfig>) -> Option<NonZeroU32> {
    if text != Some("ClientIP") {
        return None;
    }
    let seconds = config.unwrap_or_default().client_ip.unwrap_or_default().timeout_seconds;
    Some(seconds.and_then(NonZeroU32::new).unwrap_or(Service::DEFAULT_AFFINITY_S))
}

fn ranges(texts: Option<&[String]>, complaints: &mut Vec<Complaint>) -> Option<Box<[IpNetwork]>> {
    let texts = texts.filter(|texts| !texts.is_empty())?;
    let read = |text: &String| {
        let network = text::network(text);
        if network.is_none() {
            complaints.push(unreadable("spec.loadBalancerSourceRanges", text, "a network"));
        }
        network
    };
    Some(texts.iter().filter_map(read).collect())
}
