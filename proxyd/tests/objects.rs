//! Services, EndpointSlices and nodes for tests, in few words.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ferrule_model::Family;
use proxyd::decide::{
    Backends, Complaint, Conditions, Endpoint, EndpointSlice, Frontend, Hints, Ingress, IpMode, Key, Labels,
    News, NodeFacts, Place, Protocol, Rules, Served, Service, ServiceName, ServicePort, ServiceType,
    SliceName, SlicePort, Table, TrafficPolicy,
};

/// The node on which everything is decided.
pub(crate) const HERE: &str = "node-a";
/// Its zone.
pub(crate) const ZONE: &str = "zone-1";
/// The cluster IP of [`service`].
pub(crate) const VIP: &str = "10.96.0.10";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn ips(texts: &[&str]) -> Box<[IpAddr]> {
    texts.iter().map(|text| ip(text)).collect()
}

pub(crate) fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

pub(crate) fn name(text: &str) -> ServiceName {
    let (namespace, name) = text.split_once('/').unwrap();
    ServiceName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// `default/web`: TCP port 80 at [`VIP`].
pub(crate) fn service() -> Service {
    Service {
        cluster_ips: ips(&[VIP]),
        ports: [port("http", Protocol::Tcp, 80)].into(),
        ..Service::new(name("default/web"))
    }
}

/// The same with node port 30080.
pub(crate) fn with_node_port() -> Service {
    let ports = [ServicePort { node_port: Some(number(30080)), ..port("http", Protocol::Tcp, 80) }];
    Service { service_type: ServiceType::NodePort, ports: ports.into(), ..service() }
}

/// The same with a load balancer's address, too.
pub(crate) fn with_balancer() -> Service {
    let ingress = [Ingress { address: ip("192.0.2.80"), mode: IpMode::Vip }];
    Service { service_type: ServiceType::LoadBalancer, ingress: ingress.into(), ..with_node_port() }
}

pub(crate) fn local_outside(service: Service) -> Service {
    Service { external_policy: TrafficPolicy::Local, ..service }
}

pub(crate) fn local_inside(service: Service) -> Service {
    Service { internal_policy: TrafficPolicy::Local, ..service }
}

pub(crate) fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: Arc::from(name), protocol, port: number(port), node_port: None }
}

/// A slice of `default/web` whose endpoints listen at TCP port 8080.
pub(crate) fn slice(name: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let family = endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.address));
    EndpointSlice {
        name: SliceName { namespace: Arc::from("default"), name: Arc::from(name) },
        service: Arc::new(self::name("default/web")),
        labels: Labels::default(),
        family,
        ports: [leads("http", Protocol::Tcp, 8080)].into(),
        endpoints: endpoints.into(),
        complaints: Box::default(),
    }
}

pub(crate) fn leads(name: &str, protocol: Protocol, port: u16) -> SlicePort {
    SlicePort { name: Arc::from(name), protocol, port: number(port) }
}

/// An endpoint that is ready, on this node.
pub(crate) fn here(address: &str) -> Endpoint {
    Endpoint {
        address: ip(address),
        conditions: Conditions::default(),
        node: Some(Arc::from(HERE)),
        hints: None,
    }
}

/// An endpoint that is ready, on another node.
pub(crate) fn there(address: &str) -> Endpoint {
    Endpoint { node: Some(Arc::from("node-b")), ..here(address) }
}

pub(crate) fn unready(endpoint: Endpoint) -> Endpoint {
    Endpoint { conditions: Conditions::of(Some(false), Some(false), None), ..endpoint }
}

/// An endpoint that is to end and still serves.
pub(crate) fn ending(endpoint: Endpoint) -> Endpoint {
    Endpoint { conditions: Conditions::of(Some(false), Some(true), Some(true)), ..endpoint }
}

pub(crate) fn hinted(endpoint: Endpoint, zones: &[&str], nodes: &[&str]) -> Endpoint {
    let texts = |texts: &[&str]| texts.iter().map(|text| Arc::from(*text)).collect();
    Endpoint { hints: Some(Arc::new(Hints { zones: texts(zones), nodes: texts(nodes) })), ..endpoint }
}

/// A table on [`HERE`], in [`ZONE`], with all of these.
pub(crate) fn table(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Table {
    table_with(Rules { external_cidrs: vec!["203.0.113.0/24".parse().unwrap()] }, services, slices)
}

pub(crate) fn table_with(rules: Rules, services: Vec<Service>, slices: Vec<EndpointSlice>) -> Table {
    let mut table = Table::new(rules, node());
    table.take(News::Services(services));
    table.take(News::Slices(slices));
    table
}

pub(crate) fn node() -> NodeFacts {
    NodeFacts { zone: Some(Arc::from(ZONE)), addresses: ips(&["198.51.100.1"]), ..NodeFacts::named(HERE) }
}

/// What `default/web` comes to.
pub(crate) fn web(table: &Table) -> Served {
    table.served(&name("default/web"))
}

pub(crate) fn at(address: &str, port: u16) -> Key {
    Key { place: Place::Address(ip(address)), protocol: Protocol::Tcp, port: number(port) }
}

pub(crate) fn at_node(port: u16) -> Key {
    Key { place: Place::Node(Family::V4), protocol: Protocol::Tcp, port: number(port) }
}

/// The frontend of `served` at `key`.
pub(crate) fn frontend(served: &Served, key: Key) -> &Frontend {
    served.frontends.iter().find(|frontend| frontend.key == key).unwrap_or_else(|| panic!("nothing at {key}"))
}

/// Where packets go, as text: `ADDRESS:PORT …`, `refused` or `dropped`.
pub(crate) fn words(backends: &Backends) -> String {
    match backends {
        Backends::To(all) => {
            let texts: Vec<_> = all.iter().map(|one| format!("{}:{}", one.address, one.port)).collect();
            texts.join(" ")
        }
        Backends::Refuse => "refused".to_owned(),
        Backends::Drop => "dropped".to_owned(),
    }
}

/// Where packets from outside and from inside go at `key`.
pub(crate) fn both(served: &Served, key: Key) -> (String, String) {
    let frontend = frontend(served, key);
    (words(&frontend.from_outside), words(&frontend.from_inside))
}

/// Where packets go at `key`, whoever sends them.
pub(crate) fn goes(served: &Served, key: Key) -> String {
    let (outside, inside) = both(served, key);
    assert_eq!(outside, inside, "clients outside and inside differ");
    outside
}

pub(crate) fn complaints(served: &Served) -> Vec<String> {
    served.complaints.iter().map(Complaint::to_string).collect()
}
