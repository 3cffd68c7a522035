//! The services file as news, as if Kubernetes had made EndpointSlices of it. Pure.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use ferrule_config::{
    EndpointEntry, PortEntry, ServiceEntry, ServiceKind, ServicesFile, TrafficDistribution, Transport,
};
use ferrule_model::Family;

use crate::decide::{
    Conditions, Endpoint, EndpointSlice, Hints, Ingress, IpMode, Labels, News, NodeFacts, Protocol, Service,
    ServiceName, ServicePort, ServiceType, SliceName, SlicePort, TrafficPolicy,
};

/// The zones of nodes, by their names.
type Zones = BTreeMap<String, Arc<str>>;

/// The ports that have another number, by the names of the Service's ports.
type Others = [(String, NonZeroU16)];

/// All that the file says, as one batch. `own` is this node as it is known otherwise; the file adds its zone.
pub fn news(file: &ServicesFile, own: &NodeFacts) -> [News; 3] {
    let zones: Zones =
        file.zones.iter().map(|entry| (entry.node.clone(), Arc::from(entry.zone.as_str()))).collect();
    let names: Vec<_> = file.services.iter().map(|entry| Arc::new(service_name(entry))).collect();
    let named = || file.services.iter().zip(&names);
    let slices = named().flat_map(|(entry, name)| slices(entry, name, &zones)).collect();
    let node = NodeFacts { zone: zones.get(&*own.name).cloned(), ..own.clone() };
    [
        News::Services(named().map(|(entry, name)| service(entry, Arc::clone(name))).collect()),
        News::Slices(slices),
        News::Node(node),
    ]
}

fn service_name(entry: &ServiceEntry) -> ServiceName {
    ServiceName { namespace: entry.namespace.clone(), name: entry.name.clone() }
}

fn service(entry: &ServiceEntry, name: Arc<ServiceName>) -> Service {
    let vip = |address: &_| Ingress { address: *address, mode: IpMode::Vip };
    let policy = |is_local| if is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let ranges = Some(&entry.source_ranges).filter(|ranges| !ranges.is_empty());
    Service {
        name,
        created_s: 0,
        service_type: match entry.kind {
            ServiceKind::ClusterIp => ServiceType::ClusterIp,
            ServiceKind::NodePort => ServiceType::NodePort,
            ServiceKind::LoadBalancer => ServiceType::LoadBalancer,
        },
        labels: Labels::default(),
        cluster_ips: entry.cluster_ips.as_slice().into(),
        external_ips: entry.external_ips.as_slice().into(),
        ingress: entry.load_balancer_ips.iter().map(vip).collect(),
        ports: entry.ports.iter().map(service_port).collect(),
        affinity: entry.session_affinity_s.and_then(std::num::NonZeroU32::new),
        internal_policy: policy(entry.is_internal_local),
        external_policy: policy(entry.is_external_local),
        source_ranges: ranges.map(|ranges| ranges.as_slice().into()),
        health_check_node_port: entry.health_check_node_port,
        complaints: Box::default(),
    }
}

fn service_port(entry: &PortEntry) -> ServicePort {
    let name = Arc::from(entry.name.as_str());
    ServicePort { name, protocol: protocol(entry.protocol), port: entry.port, node_port: entry.node_port }
}

const fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
        Transport::Sctp => Protocol::Sctp,
    }
}

/// The slices of a Service. The ports of a slice count for all its endpoints, so endpoints with other ports are in
/// another one.
fn slices(entry: &ServiceEntry, service: &Arc<ServiceName>, zones: &Zones) -> Vec<EndpointSlice> {
    let mut alike: BTreeMap<(Family, &Others), Vec<Endpoint>> = BTreeMap::new();
    for from in &entry.endpoints {
        let same = alike.entry((Family::of(from.address), &from.target_ports)).or_default();
        same.push(endpoint(entry, from, zones));
    }
    let slice = |(number, ((family, others), endpoints)): (usize, ((_, &Others), Vec<_>))| EndpointSlice {
        name: SliceName {
            namespace: Arc::from(entry.namespace.as_str()),
            name: Arc::from(format!("{}-{number}", entry.name)),
        },
        service: Arc::clone(service),
        labels: Labels::default(),
        family,
        ports: entry.ports.iter().map(|port| slice_port(port, others)).collect(),
        endpoints: endpoints.into(),
        complaints: Box::default(),
    };
    alike.into_iter().enumerate().map(slice).collect()
}

fn slice_port(entry: &PortEntry, others: &Others) -> SlicePort {
    let other = others.iter().find(|(name, _)| *name == entry.name).map(|(_, port)| *port);
    let name = Arc::from(entry.name.as_str());
    SlicePort { name, protocol: protocol(entry.protocol), port: other.unwrap_or(entry.target_port) }
}

/// An endpoint, with the conditions that Kubernetes' controller of EndpointSlices gives to a pod.
fn endpoint(service: &ServiceEntry, entry: &EndpointEntry, zones: &Zones) -> Endpoint {
    let takes_connections = entry.is_ready && !entry.is_terminating;
    Endpoint {
        address: entry.address,
        conditions: Conditions {
            ready: takes_connections || service.publish_not_ready_addresses,
            serving: entry.is_ready || service.publish_not_ready_addresses,
            terminating: entry.is_terminating,
        },
        node: entry.node.as_deref().map(Arc::from),
        hints: service.traffic_distribution.and_then(|wish| hints(wish, entry.node.as_deref()?, zones)),
    }
}

/// Whom an endpoint on `node` should serve (KEP-3015). The hints for zones are for when no endpoint is on the client's
/// node.
fn hints(wish: TrafficDistribution, node: &str, zones: &Zones) -> Option<Arc<Hints>> {
    let nodes = match wish {
        TrafficDistribution::PreferSameNode => [Arc::from(node)].into(),
        TrafficDistribution::PreferSameZone => Box::default(),
    };
    let hints = Hints { zones: zones.get(node).cloned().into_iter().collect(), nodes };
    (hints != Hints::default()).then(|| Arc::new(hints))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::decide::{Backends, Key, Place, Rules, Table};

    /// Where packets to `address` and `port` go on node-a, if the file says `text`: from outside, from inside.
    fn goes(text: &str, node: &str, (address, port): (&str, u16), protocol: Protocol) -> (String, String) {
        let file = ServicesFile::parse(text, Path::new("services.toml")).unwrap();
        let rules = Rules { external_cidrs: vec!["203.0.113.0/24".parse().unwrap()] };
        let mut table = Table::new(rules, NodeFacts::named(node));
        let batch = news(&file, &NodeFacts::named(node));
        let affected: Vec<_> = batch.into_iter().flat_map(|news| table.take(news)).collect();
        let place = Place::Address(address.parse().unwrap());
        let key = Key { place, protocol, port: port.try_into().unwrap() };
        let served = affected.iter().map(|name| table.served(name));
        let frontend =
            served.flat_map(|served| served.frontends).find(|frontend| frontend.key == key).unwrap();
        let words = |backends: &Backends| match backends {
            Backends::To(all) => {
                all.iter().map(|one| format!("{}:{}", one.address, one.port)).collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        };
        (words(&frontend.from_outside), words(&frontend.from_inside))
    }

    const SHIPPED: &str = include_str!("../../../conf/services.toml");

    #[test]
    fn the_shipped_example_leads_packets_as_it_says() {
        let goes = |node, to, protocol| goes(SHIPPED, node, to, protocol);
        let both = |text: &str| (text.to_owned(), text.to_owned());
        let all = "10.244.1.5:8080 10.244.2.5:9090";
        assert_eq!(goes("node-a", ("10.96.0.10", 80), Protocol::Tcp), both(all));
        assert_eq!(goes("node-a", ("192.0.2.80", 80), Protocol::Tcp), ("10.244.1.5:8080".into(), all.into()));
        assert_eq!(goes("node-a", ("fd00:96::10", 80), Protocol::Tcp), both("Refuse"), "it is not ready");
        assert_eq!(
            goes("node-a", ("10.96.0.53", 53), Protocol::Udp),
            both("10.244.2.53:53"),
            "one is to end"
        );
        assert_eq!(goes("node-b", ("203.0.113.53", 53), Protocol::Tcp), both("10.244.2.53:53"));
    }

    #[test]
    fn endpoints_near_the_client_come_first_if_the_file_asks_for_them() {
        let endpoints = ["a", "b", "c"].map(|node| {
            format!(
                "[[service.endpoint]]\naddress = \"10.244.0.{}\"\nnode = \"{node}\"\n",
                node.as_bytes()[0]
            )
        });
        let zones = [("a", "z1"), ("b", "z1"), ("c", "z2"), ("d", "z1")]
            .map(|(node, zone)| format!("[[node]]\nname = \"{node}\"\nzone = \"{zone}\"\n"));
        let text = |wish: &str| {
            format!(
                "[[service]]\nname = \"a/b\"\ncluster_ips = [\"10.96.0.1\"]\n{wish}[[service.port]]\nport = 80\n{}{}",
                endpoints.concat(),
                zones.concat()
            )
        };
        let near = |wish: &str, node| goes(&text(wish), node, ("10.96.0.1", 80), Protocol::Tcp).0;
        let same_zone = "traffic_distribution = \"PreferSameZone\"\n";
        let same_node = "traffic_distribution = \"PreferSameNode\"\n";
        let (a, b, c) = ("10.244.0.97:80", "10.244.0.98:80", "10.244.0.99:80");
        assert_eq!(near("", "a"), format!("{a} {b} {c}"));
        assert_eq!(near(same_zone, "a"), format!("{a} {b}"));
        assert_eq!(near(same_zone, "c"), c);
        assert_eq!(near(same_node, "a"), a);
        assert_eq!(near(same_node, "d"), format!("{a} {b}"), "none is on the node, so its zone counts");
        assert_eq!(near(same_node, "e"), format!("{a} {b} {c}"), "neither its node nor its zone has any");
    }

    #[test]
    fn endpoints_that_are_not_ready_are_served_if_the_file_publishes_them() {
        let text = |publish: bool| {
            format!(
                "[[service]]\nname = \"a/b\"\ncluster_ips = [\"10.96.0.1\"]\npublish_not_ready_addresses = {publish}\n\
                 [[service.port]]\nport = 80\n[[service.endpoint]]\naddress = \"10.244.1.1\"\nready = false\n"
            )
        };
        let to = ("10.96.0.1", 80);
        assert_eq!(goes(&text(true), "a", to, Protocol::Tcp).0, "10.244.1.1:80");
        assert_eq!(goes(&text(false), "a", to, Protocol::Tcp).0, "Refuse");
    }
}
