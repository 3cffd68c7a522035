//! From the spelling of the services file to its meaning: every fault is found here.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ferrule_model::{Family, IpNetwork};
use toml::Spanned;

use super::raw::{Number, RawEndpoint, RawNode, RawPort, RawService};
use super::{EndpointEntry, PortEntry, ServiceEntry, ServiceKind, TrafficDistribution, Transport, ZoneEntry};
use crate::claims::Claims;
use crate::document::{Checked, Document};
use crate::name::check_node_name;
use crate::raw::Text;

/// The longest time of session affinity, in seconds: a day, as in Kubernetes.
const LONGEST_AFFINITY_S: u32 = 86_400;

/// The longest name of a Service or a namespace: that of a label of the DNS.
const LONGEST_NAME: usize = 63;

const TYPES: [(&str, ServiceKind); 3] = [
    ("ClusterIP", ServiceKind::ClusterIp),
    ("NodePort", ServiceKind::NodePort),
    ("LoadBalancer", ServiceKind::LoadBalancer),
];
const PROTOCOLS: [(&str, Transport); 3] =
    [("TCP", Transport::Tcp), ("UDP", Transport::Udp), ("SCTP", Transport::Sctp)];
/// Whether the policy is `Local`.
const POLICIES: [(&str, bool); 2] = [("Cluster", false), ("Local", true)];
const DISTRIBUTIONS: [(&str, TrafficDistribution); 3] = [
    ("PreferSameZone", TrafficDistribution::PreferSameZone),
    ("PreferSameNode", TrafficDistribution::PreferSameNode),
    // The older name of the first.
    ("PreferClose", TrafficDistribution::PreferSameZone),
];

pub(super) fn zones(document: &Document<'_>, raw: &[RawNode]) -> Checked<Vec<ZoneEntry>> {
    let mut names = Claims::new("node.name", "give every node once");
    let zone = |raw: &RawNode| {
        names.claim(document, raw.name.get_ref().clone(), &raw.name)?;
        let node = node_name(document, "node.name", &raw.name)?;
        Ok(ZoneEntry { node, zone: raw.zone.get_ref().clone() })
    };
    raw.iter().map(zone).collect()
}

pub(super) fn services(document: &Document<'_>, raw: &[RawService]) -> Checked<Vec<ServiceEntry>> {
    let services = raw.iter().map(|raw| service(document, raw)).collect::<Checked<Vec<_>>>()?;
    once_each(document, raw, &services)?;
    Ok(services)
}

const OWN: &str = "every Service has its own";

/// Checks that no two Services have the same name, cluster IP or node port.
fn once_each(document: &Document<'_>, raw: &[RawService], services: &[ServiceEntry]) -> Checked<()> {
    let mut names = Claims::new("service.name", OWN);
    let mut addresses = Claims::new("service.cluster_ips", OWN);
    let mut node_ports = Claims::new("service.port.node_port", OWN);
    for (raw, service) in raw.iter().zip(services) {
        names.claim(document, (&service.namespace, &service.name), &raw.name)?;
        for (address, text) in service.cluster_ips.iter().zip(&raw.cluster_ips) {
            addresses.claim(document, address, text)?;
        }
        for (port, raw) in service.ports.iter().zip(&raw.port) {
            if let (Some(number), Some(text)) = (port.node_port, &raw.node_port) {
                node_ports.claim(document, (port.protocol, number), text)?;
            }
        }
    }
    Ok(())
}

fn service(document: &Document<'_>, raw: &RawService) -> Checked<ServiceEntry> {
    let (namespace, name) = service_name(document, &raw.name)?;
    let policy = |key, text: &Option<Text>| word(document, key, text.as_ref(), &POLICIES, false);
    let service = ServiceEntry {
        namespace,
        name,
        kind: word(document, "service.type", raw.kind.as_ref(), &TYPES, ServiceKind::ClusterIp)?,
        cluster_ips: cluster_ips(document, raw)?,
        external_ips: addresses(document, "service.external_ips", &raw.external_ips)?,
        load_balancer_ips: addresses(document, "service.load_balancer_ips", &raw.load_balancer_ips)?,
        source_ranges: source_ranges(document, &raw.load_balancer_source_ranges)?,
        is_internal_local: policy("service.internal_traffic_policy", &raw.internal_traffic_policy)?,
        is_external_local: policy("service.external_traffic_policy", &raw.external_traffic_policy)?,
        session_affinity_s: raw
            .session_affinity_s
            .as_ref()
            .map(|time| affinity(document, time))
            .transpose()?,
        health_check_node_port: raw
            .health_check_node_port
            .as_ref()
            .map(|port| port_number(document, "service.health_check_node_port", port))
            .transpose()?,
        publish_not_ready_addresses: raw.publish_not_ready_addresses,
        traffic_distribution: distribution(document, raw)?,
        ports: ports(document, raw)?,
        endpoints: endpoints(document, raw)?,
    };
    fits_its_type(document, raw, &service)?;
    Ok(service)
}

/// Checks that a Service has only what one of its type can have.
fn fits_its_type(document: &Document<'_>, raw: &RawService, service: &ServiceEntry) -> Checked<()> {
    let is_balanced = service.kind == ServiceKind::LoadBalancer;
    let is_at_nodes = service.kind != ServiceKind::ClusterIp;
    let only_balanced = "write type = \"LoadBalancer\", or remove it";
    let refuse = |place, key: &str, remedy| {
        let reason = format!("the Service \"{}\" is of another type", raw.name.get_ref());
        Err(document.fault_at(place, key, reason, remedy))
    };
    if let Some(text) = raw.load_balancer_ips.first().filter(|_| !is_balanced) {
        return refuse(text.span(), "service.load_balancer_ips", only_balanced);
    }
    if let Some(text) = raw.load_balancer_source_ranges.first().filter(|_| !is_balanced) {
        return refuse(text.span(), "service.load_balancer_source_ranges", only_balanced);
    }
    if let Some(port) = raw.port.iter().find_map(|port| port.node_port.as_ref()).filter(|_| !is_at_nodes) {
        let remedy = "write type = \"NodePort\" or \"LoadBalancer\", or remove it";
        return refuse(port.span(), "service.port.node_port", remedy);
    }
    if let Some(text) = raw.external_traffic_policy.as_ref().filter(|_| service.is_external_local)
        && !is_at_nodes
        && service.external_ips.is_empty()
    {
        let reason = "the Service has no address for clients outside";
        let remedy = "write another type, or add external_ips, or remove it";
        return Err(document.fault(text, "service.external_traffic_policy", reason, remedy));
    }
    match &raw.health_check_node_port {
        Some(port) if !(is_balanced && service.is_external_local) => {
            let reason = "no load balancer asks for it";
            let remedy =
                "write type = \"LoadBalancer\" and external_traffic_policy = \"Local\", or remove it";
            Err(document.fault(port, "service.health_check_node_port", reason, remedy))
        }
        _ => Ok(()),
    }
}

fn service_name(document: &Document<'_>, text: &Text) -> Checked<(String, String)> {
    let is_label = |part: &str| {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let ends = !part.starts_with('-') && !part.ends_with('-');
        (1..=LONGEST_NAME).contains(&part.len()) && part.bytes().all(good) && ends
    };
    match text.get_ref().split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_label(name) => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => {
            let reason = format!("\"{}\" cannot be a Service's name", text.get_ref());
            let remedy = "write it as NAMESPACE/NAME, each of 1 to 63 lower-case letters, digits and '-'";
            Err(document.fault(text, "service.name", reason, remedy))
        }
    }
}

fn cluster_ips(document: &Document<'_>, raw: &RawService) -> Checked<Vec<IpAddr>> {
    let key = "service.cluster_ips";
    let all = addresses(document, key, &raw.cluster_ips)?;
    let (Some(first), second) = (all.first(), all.get(1)) else {
        let reason = format!("the Service \"{}\" has no address", raw.name.get_ref());
        return Err(document.fault(&raw.name, key, reason, "add one of IPv4, or of IPv6, or of both"));
    };
    if let (Some(second), Some(text)) = (second, raw.cluster_ips.get(1))
        && Family::of(*first) == Family::of(*second)
    {
        let reason = format!("{second} is a second address of {}", Family::of(*second));
        return Err(document.fault(text, key, reason, "give at most one address of each family"));
    }
    match raw.cluster_ips.get(2) {
        Some(text) => {
            let reason = format!("\"{}\" is a third address", text.get_ref());
            Err(document.fault(text, key, reason, "give at most one address of each family"))
        }
        None => Ok(all),
    }
}

fn addresses(document: &Document<'_>, key: &'static str, texts: &[Text]) -> Checked<Vec<IpAddr>> {
    let mut once = Claims::new(key, "give every address once");
    let one = |text| {
        let address = document.servable(key, text)?;
        once.claim(document, address, text)?;
        Ok(address)
    };
    texts.iter().map(one).collect()
}

fn source_ranges(document: &Document<'_>, texts: &[Text]) -> Checked<Vec<IpNetwork>> {
    texts.iter().map(|text| document.prefix("service.load_balancer_source_ranges", text)).collect()
}

fn affinity(document: &Document<'_>, time: &Number) -> Checked<u32> {
    let remedy = "write for how many seconds a client stays with its endpoint, as 10800";
    document.number("service.session_affinity_s", time, 1..=LONGEST_AFFINITY_S, remedy)
}

fn distribution(document: &Document<'_>, raw: &RawService) -> Checked<Option<TrafficDistribution>> {
    let text = raw.traffic_distribution.as_ref();
    let some =
        |text| word(document, "service.traffic_distribution", Some(text), &DISTRIBUTIONS, DISTRIBUTIONS[0].1);
    text.map(some).transpose()
}

fn ports(document: &Document<'_>, raw: &RawService) -> Checked<Vec<PortEntry>> {
    if raw.port.is_empty() {
        let reason = format!("the Service \"{}\" has no port", raw.name.get_ref());
        return Err(document.fault(&raw.name, "service.port", reason, "add a [[service.port]] table"));
    }
    let mut names = Claims::new("service.port.name", "every port of a Service has its own");
    let mut numbers = Claims::new("service.port.port", "every port of a Service has its own");
    let one = |raw_port: &RawPort| {
        let port = port(document, raw_port)?;
        numbers.claim(document, (port.protocol, port.port), &raw_port.port)?;
        match &raw_port.name {
            Some(text) if !port.name.is_empty() => names.claim(document, port.name.clone(), text)?,
            _ if raw.port.len() > 1 => {
                let reason = "a port of a Service with several ports has no name";
                return Err(document.fault(&raw_port.port, "service.port.name", reason, "add name = \"…\""));
            }
            _ => {}
        }
        Ok(port)
    };
    raw.port.iter().map(one).collect()
}

fn port(document: &Document<'_>, raw: &RawPort) -> Checked<PortEntry> {
    let number = |key, value: &Option<Number>| {
        value.as_ref().map(|value| port_number(document, key, value)).transpose()
    };
    let port = port_number(document, "service.port.port", &raw.port)?;
    Ok(PortEntry {
        name: raw.name.as_ref().map(|name| name.get_ref().clone()).unwrap_or_default(),
        protocol: word(document, "service.port.protocol", raw.protocol.as_ref(), &PROTOCOLS, Transport::Tcp)?,
        port,
        target_port: number("service.port.target_port", &raw.target_port)?.unwrap_or(port),
        node_port: number("service.port.node_port", &raw.node_port)?,
    })
}

fn endpoints(document: &Document<'_>, raw: &RawService) -> Checked<Vec<EndpointEntry>> {
    let mut once = Claims::new("service.endpoint.address", "give every endpoint once");
    let one = |raw_endpoint: &RawEndpoint| {
        let endpoint = endpoint(document, raw, raw_endpoint)?;
        once.claim(document, endpoint.address, &raw_endpoint.address)?;
        Ok(endpoint)
    };
    raw.endpoint.iter().map(one).collect()
}

fn endpoint(document: &Document<'_>, service: &RawService, raw: &RawEndpoint) -> Checked<EndpointEntry> {
    let names: Vec<_> =
        service.port.iter().filter_map(|port| port.name.as_ref().map(Spanned::get_ref)).collect();
    let target = |(name, number): (&Text, &Number)| {
        let key = "service.endpoint.target_ports";
        if !names.contains(&name.get_ref()) {
            let reason = format!("the Service has no port with the name \"{}\"", name.get_ref());
            return Err(document.fault(name, key, reason, "write the name of one of its ports"));
        }
        Ok((name.get_ref().clone(), port_number(document, key, number)?))
    };
    let node = |text| node_name(document, "service.endpoint.node", text);
    Ok(EndpointEntry {
        address: document.servable("service.endpoint.address", &raw.address)?,
        node: raw.node.as_ref().map(node).transpose()?,
        is_ready: raw.ready,
        is_terminating: raw.terminating,
        target_ports: raw.target_ports.iter().map(target).collect::<Checked<_>>()?,
    })
}

fn node_name(document: &Document<'_>, key: &str, text: &Text) -> Checked<String> {
    if check_node_name(text.get_ref()) {
        return Ok(text.get_ref().clone());
    }
    Err(document.not_a_node_name(key, text))
}

fn port_number(document: &Document<'_>, key: &str, value: &Number) -> Checked<NonZeroU16> {
    let remedy = "write the number of a port";
    let number = document.number(key, value, 1..=u32::from(u16::MAX), remedy)?;
    let number = u16::try_from(number).ok().and_then(NonZeroU16::new);
    number.ok_or_else(|| document.fault(value, key, format!("{} is no port", value.get_ref()), remedy))
}

/// What a word means, or `default` if it is not there.
fn word<T: Copy>(
    document: &Document<'_>,
    key: &str,
    text: Option<&Text>,
    words: &[(&str, T)],
    default: T,
) -> Checked<T> {
    let Some(text) = text else { return Ok(default) };
    let found = words.iter().find(|(word, _)| word == text.get_ref());
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let reason = format!("\"{}\" is not known here", text.get_ref());
        document.fault(text, key, reason, format!("write {}", known.join(" or ")))
    })
}
