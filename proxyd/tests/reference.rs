//! Kubernetes' semantics of Services, written from its documentation and its enhancement proposals, apart from the
//! implementation. It follows one packet at a time through the whole cluster. It is slow and knows no tables.
//!
//! The pages are "Service", "Virtual IPs and Service Proxies" and "EndpointSlices" of kubernetes.io, and the KEPs 1669
//! (terminating endpoints), 1860 (ipMode), 2086 (internalTrafficPolicy), 2433 and 3015 (hints, PreferSameNode).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ferrule_model::{Family, IpNetwork};
use proxyd::decide::{
    Backends, Endpoint, EndpointSlice, IpMode, Key, NodeFacts, Place, Rules, Served, Service, ServicePort,
    ServiceType, TrafficPolicy,
};

/// Everything that decides about a packet.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) rules: Rules,
    pub(crate) node: NodeFacts,
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<EndpointSlice>,
}

/// A first packet that arrives at this node, or leaves it or one of its pods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) to: Key,
    pub(crate) from: IpAddr,
    /// Whether this node or one of its pods sent it.
    pub(crate) is_inside: bool,
}

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is not for a Service.
    Untouched,
    /// Its sender is told at once that nobody is there.
    Refused,
    /// Nobody is told anything.
    Dropped,
    /// It goes to one of these. The endpoint sees the client's own address, or must not.
    Sent { to: BTreeSet<(IpAddr, u16)>, keeps_client: bool, affinity_s: Option<u32> },
}

/// Through which kind of address of the Service the packet comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Cluster,
    Balancer,
    External,
    Node,
}

/// What the documentation says about the packet.
pub(crate) fn fate(cluster: &Cluster, packet: &Packet) -> Fate {
    let Some((service, door, port)) = owner(cluster, packet) else { return Fate::Untouched };
    if door == Door::Balancer && !may_enter(cluster, service, packet) {
        return Fate::Dropped;
    }
    let endpoints = endpoints(cluster, service, port, packet.to.place.family());
    let is_external = door != Door::Cluster;
    let is_local = match door {
        // "internalTrafficPolicy": for the cluster IP, whoever sends.
        Door::Cluster => service.internal_policy == TrafficPolicy::Local,
        // "Traffic sent to an External IP or LoadBalancer IP from within the cluster will always get Cluster
        // semantics."
        _ => service.external_policy == TrafficPolicy::Local && !packet.is_inside,
    };
    let usable =
        if is_local { on_node(&endpoints, &cluster.node) } else { for_all(&endpoints, &cluster.node) };
    if !usable.is_empty() {
        let keeps_client = is_external && service.external_policy == TrafficPolicy::Local;
        return Fate::Sent { to: usable, keeps_client, affinity_s: service.affinity.map(u32::from) };
    }
    // "Traffic mistakenly sent to a node with no endpoints will be dropped." Without any it is refused.
    if for_all(&endpoints, &cluster.node).is_empty() { Fate::Refused } else { Fate::Dropped }
}

/// Which Service the packet is for. Of several it is the oldest, then the first by name.
fn owner<'a>(cluster: &'a Cluster, packet: &Packet) -> Option<(&'a Service, Door, &'a ServicePort)> {
    let mut owners: Vec<_> = cluster
        .services
        .iter()
        .filter_map(|service| door(cluster, service, packet).map(|(door, port)| (service, door, port)))
        .collect();
    owners.sort_by_key(|(service, ..)| {
        (service.created_s, service.name.namespace.clone(), service.name.name.clone())
    });
    owners.first().copied()
}

/// Whether packets to other ports of `address` are refused: it is the cluster IP of a Service.
pub(crate) fn is_cluster_ip(cluster: &Cluster, address: IpAddr) -> bool {
    let ports = cluster.services.iter().flat_map(|service| &service.ports);
    let keys =
        ports.map(|port| Key { place: Place::Address(address), protocol: port.protocol, port: port.port });
    let owner = |to| owner(cluster, &Packet { to, from: address, is_inside: true });
    keys.filter_map(owner).any(|(_, door, _)| door == Door::Cluster)
}

/// Whether the packet is for the Service, and by which port.
fn door<'a>(cluster: &Cluster, service: &'a Service, packet: &Packet) -> Option<(Door, &'a ServicePort)> {
    let Key { place, protocol, port } = packet.to;
    let has_family = service.cluster_ips.iter().any(|own| own.is_ipv4() == (place.family() == Family::V4));
    if service.service_type == ServiceType::ExternalName
        || service.labels.proxy_name
        || service.labels.headless
        || !has_family
    {
        return None;
    }
    let by_port = || service.ports.iter().find(|own| own.protocol == protocol && own.port == port);
    let address = match place {
        Place::Address(address) => address,
        Place::Node(_) => {
            let mut ports = service.ports.iter();
            let port = ports.find(|own| own.protocol == protocol && own.node_port == Some(port))?;
            return Some((Door::Node, port));
        }
    };
    let is_vip = |own: &&proxyd::decide::Ingress| own.address == address && own.mode == IpMode::Vip;
    let is_allowed = cluster.rules.external_cidrs.iter().any(|network| network.contains(address));
    if service.cluster_ips.contains(&address) {
        Some((Door::Cluster, by_port()?))
    } else if service.ingress.iter().any(|own| is_vip(&own)) {
        Some((Door::Balancer, by_port()?))
    } else if service.external_ips.contains(&address) && is_allowed {
        Some((Door::External, by_port()?))
    } else {
        None
    }
}

/// "loadBalancerSourceRanges": only these clients may use the load balancer.
fn may_enter(cluster: &Cluster, service: &Service, packet: &Packet) -> bool {
    let Some(ranges) = &service.source_ranges else { return true };
    let holds = |address: IpAddr| ranges.iter().any(|range: &IpNetwork| range.contains(address));
    let is_own_balancer =
        service.ingress.iter().any(|own| own.address == packet.from && own.mode == IpMode::Vip);
    holds(packet.from)
        || (is_own_balancer
            && cluster.node.addresses.iter().any(|own| own.is_ipv4() == packet.from.is_ipv4() && holds(*own)))
}

/// One endpoint with its port.
struct Target<'a> {
    place: (IpAddr, u16),
    endpoint: &'a Endpoint,
}

/// All unique endpoints in all slices of the Service. If an endpoint is in several, what one slice says of it counts:
/// first that it is on this node, then that it is ready, then that it still serves.
fn endpoints<'a>(
    cluster: &'a Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Vec<Target<'a>> {
    let mut unique: Vec<Target<'a>> = Vec::new();
    for slice in &cluster.slices {
        let is_another = slice.labels.proxy_name || slice.labels.headless;
        if slice.service != service.name || slice.family != family || is_another {
            continue;
        }
        for to in slice.ports.iter().filter(|to| to.name == port.name && to.protocol == port.protocol) {
            for endpoint in slice.endpoints.iter().filter(|one| Family::of(one.address) == family) {
                let place = (endpoint.address, to.port.get());
                match unique.iter_mut().find(|known| known.place == place) {
                    Some(known) if weight(cluster, endpoint) > weight(cluster, known.endpoint) => {
                        known.endpoint = endpoint;
                    }
                    Some(_) => {}
                    None => unique.push(Target { place, endpoint }),
                }
            }
        }
    }
    unique
}

fn weight(cluster: &Cluster, endpoint: &Endpoint) -> (u8, std::cmp::Reverse<Option<proxyd::decide::Hints>>) {
    let is_here = endpoint.node.as_deref() == Some(&*cluster.node.name);
    let is_ready = endpoint.conditions.ready;
    let still_serves = endpoint.conditions.serving && endpoint.conditions.terminating;
    let bits = u8::from(is_here) << 2 | u8::from(is_ready) << 1 | u8::from(still_serves);
    (bits, std::cmp::Reverse(endpoint.hints.as_deref().cloned()))
}

type Places = BTreeSet<(IpAddr, u16)>;

fn places<'a>(targets: impl Iterator<Item = &'a Target<'a>>) -> Places {
    targets.map(|target| target.place).collect()
}

/// KEP-1669: "fall back to terminating endpoints that are serving".
fn last_ones<'a>(endpoints: impl Iterator<Item = &'a Target<'a>>) -> Places {
    places(endpoints.filter(|one| one.endpoint.conditions.serving && one.endpoint.conditions.terminating))
}

/// The policy Local.
fn on_node(endpoints: &[Target<'_>], node: &NodeFacts) -> Places {
    let here = || endpoints.iter().filter(|one| one.endpoint.node.as_deref() == Some(&*node.name));
    let ready = places(here().filter(|one| one.endpoint.conditions.ready));
    if ready.is_empty() { last_ones(here()) } else { ready }
}

/// The policy Cluster, with hints.
fn for_all(endpoints: &[Target<'_>], node: &NodeFacts) -> Places {
    let ready: Vec<_> = endpoints.iter().filter(|one| one.endpoint.conditions.ready).collect();
    if ready.is_empty() {
        return last_ones(endpoints.iter());
    }
    let for_nodes = |one: &Target<'_>| names(one.endpoint.hints.as_ref().map(|hints| &*hints.nodes));
    let for_zones = |one: &Target<'_>| names(one.endpoint.hints.as_ref().map(|hints| &*hints.zones));
    let zone = node.zone.as_deref().unwrap_or_default();
    preferred(&ready, for_nodes, &node.name)
        .or_else(|| preferred(&ready, for_zones, zone))
        .unwrap_or_else(|| places(ready.into_iter()))
}

/// The endpoints with a hint for `here`, if hints count: every endpoint has some, and one is for here.
fn preferred(
    ready: &[&Target<'_>],
    hints: impl Fn(&Target<'_>) -> Vec<String>,
    here: &str,
) -> Option<Places> {
    if ready.iter().any(|one| hints(one).is_empty()) {
        return None;
    }
    let chosen = places(ready.iter().copied().filter(|one| hints(one).iter().any(|hint| hint == here)));
    (!chosen.is_empty()).then_some(chosen)
}

fn names(hints: Option<&[std::sync::Arc<str>]>) -> Vec<String> {
    hints.unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// What a data path makes of the packet that is given these frontends.
pub(crate) fn carried_out<'a>(all: impl Iterator<Item = &'a Served>, packet: &Packet) -> Fate {
    let mut found: Vec<_> =
        all.flat_map(|served| &served.frontends).filter(|frontend| frontend.key == packet.to).collect();
    assert!(found.len() <= 1, "{} frontends have {}", found.len(), packet.to);
    let Some(frontend) = found.pop() else { return Fate::Untouched };
    if frontend.sources.as_ref().is_some_and(|all| !all.iter().any(|range| range.contains(packet.from))) {
        return Fate::Dropped;
    }
    match if packet.is_inside { &frontend.from_inside } else { &frontend.from_outside } {
        Backends::Refuse => Fate::Refused,
        Backends::Drop => Fate::Dropped,
        Backends::To(all) => {
            assert!(all.is_sorted_by(|one, other| one < other), "{all:?} are not sorted");
            Fate::Sent {
                to: all.iter().map(|one| (one.address, one.port.get())).collect(),
                keeps_client: frontend.keeps_client,
                affinity_s: frontend.affinity.map(u32::from),
            }
        }
    }
}
