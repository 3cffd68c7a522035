//! Where a Service is to be reached: which of its addresses are served, whatever its endpoints are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrule_model::{Family, IpNetwork};

use super::{Complaint, Ingress, IpMode, Key, Kind, Place, Service, ServicePort, ServiceType, TrafficPolicy};

/// What the operator decides about Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The networks that may hold `spec.externalIPs`. Whoever may write a Service could otherwise take any address of
    /// the network for it, that of another server included (CVE-2020-8554).
    pub external_cidrs: Vec<IpNetwork>,
}

/// A place where a Service is to be reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) key: Key,
    pub(super) kind: Kind,
    pub(super) port: &'a ServicePort,
}

/// Whether packets can be sent to `address` from anywhere, and no other meaning of it is in the way.
pub(super) const fn is_servable(address: IpAddr) -> bool {
    let is_everybody = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_everybody)
}

/// Whether nobody is to reach the Service by this proxy: it is another's, a mere name, or has no address of its own.
pub(super) fn is_left_alone(service: &Service) -> bool {
    service.labels.left_alone()
        || service.service_type == ServiceType::ExternalName
        || service.cluster_ips.is_empty()
}

/// The policy for packets to external addresses and node ports. A Service without any has none of its own.
pub(super) fn external_policy(service: &Service) -> TrafficPolicy {
    let is_external = match service.service_type {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIp => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    };
    if is_external { service.external_policy } else { TrafficPolicy::Cluster }
}

/// All places where the Service is to be reached, sorted by their keys, each once. What is left out is told.
pub(super) fn wanted<'a>(
    service: &'a Service,
    rules: &Rules,
    complaints: &mut Vec<Complaint>,
) -> Vec<Wanted<'a>> {
    if is_left_alone(service) {
        return Vec::new();
    }
    let mut all = BTreeMap::new();
    let mut want = |place, kind, port: &'a ServicePort, number| {
        let key = Key { place, protocol: port.protocol, port: number };
        all.entry(key).or_insert(Wanted { key, kind, port });
    };
    // A load balancer's address may be among the external ones, too. It comes before them, with its source ranges.
    for (address, kind) in addresses(service, rules, complaints) {
        service.ports.iter().for_each(|port| want(Place::Address(address), kind, port, port.port));
    }
    for port in &service.ports {
        let Some(number) = port.node_port else { continue };
        let families = Family::BOTH.into_iter().filter(|family| has_family(service, *family));
        families.for_each(|family| want(Place::Node(family), Kind::NodePort, port, number));
    }
    all.into_values().collect()
}

/// The addresses of the Service that are served, the most important kind first.
fn addresses(service: &Service, rules: &Rules, complaints: &mut Vec<Complaint>) -> Vec<(IpAddr, Kind)> {
    let cluster = service.cluster_ips.iter().map(|address| (*address, Kind::ClusterIp));
    let balanced = vips(service).map(|ingress| (ingress.address, Kind::LoadBalancer));
    let external = service.external_ips.iter().map(|address| (*address, Kind::ExternalIp));
    let mut refuse = |(address, kind): &(IpAddr, Kind)| match fault(service, rules, *address, *kind) {
        Verdict::Good => true,
        Verdict::Silent => false,
        Verdict::Bad(complaint) => {
            complaints.push(complaint);
            false
        }
    };
    cluster.chain(balanced).chain(external).filter(&mut refuse).collect()
}

/// The load balancer's addresses that arrive at the nodes.
pub(super) fn vips(service: &Service) -> impl Iterator<Item = &Ingress> {
    service.ingress.iter().filter(|ingress| ingress.mode == IpMode::Vip)
}

enum Verdict {
    Good,
    /// It is not served, and that is as it should be.
    Silent,
    Bad(Complaint),
}

fn fault(service: &Service, rules: &Rules, address: IpAddr, kind: Kind) -> Verdict {
    if !is_servable(address) {
        return Verdict::Bad(Complaint::NotServable(address));
    }
    let is_allowed = || rules.external_cidrs.iter().any(|network| network.contains(address));
    match kind {
        // A balancer of both families may lead to a Service of one: it translates, and the nodes have no part in it.
        Kind::LoadBalancer if !has_family(service, Family::of(address)) => Verdict::Silent,
        Kind::ExternalIp if !has_family(service, Family::of(address)) => {
            Verdict::Bad(Complaint::NoSuchFamily(address))
        }
        Kind::ExternalIp if !is_allowed() => Verdict::Bad(Complaint::NotAllowed(address)),
        _ => Verdict::Good,
    }
}

fn has_family(service: &Service, family: Family) -> bool {
    service.cluster_ips.iter().any(|address| Family::of(*address) == family)
}
