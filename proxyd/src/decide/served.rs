//! What one Service comes to on this node.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ferrule_model::{Family, IpNetwork, host_prefix};

use super::addresses::{Wanted, external_policy, is_left_alone, is_servable, vips};
use super::endpoints::Usable;
use super::{
    Complaint, EndpointSlice, Frontend, HealthCheck, Key, Kind, NodeFacts, PortName, Service, ServiceType,
    TrafficPolicy,
};

/// What a data path has to do for one Service, and what is to be told about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Where it is reached, sorted by key.
    pub frontends: Vec<Frontend>,
    /// What its load balancer asks this node, if it has one that asks.
    pub health: Option<HealthCheck>,
    /// What of it is left out, sorted, each once.
    pub complaints: Vec<Complaint>,
}

/// A Service with all that belongs to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<'a> {
    pub(super) service: &'a Service,
    pub(super) slices: &'a [EndpointSlice],
    pub(super) node: &'a NodeFacts,
}

impl Whole<'_> {
    /// What the Service comes to at the places that it has got. `complaints` is what is to be told of those that it has
    /// not got.
    pub(super) fn served(&self, got: &[Wanted<'_>], mut complaints: Vec<Complaint>) -> Served {
        if self.service.labels.left_alone() {
            return Served::default();
        }
        complaints.extend_from_slice(&self.service.complaints);
        let mut frontends: Vec<_> = self
            .service
            .ports
            .iter()
            .flat_map(|port| Family::BOTH.map(|family| (port, family)))
            .flat_map(|(port, family)| {
                let here = |wanted: &&Wanted<'_>| {
                    wanted.port.name == port.name && wanted.key.place.family() == family
                };
                self.frontends(got.iter().filter(here), family)
            })
            .collect();
        frontends.sort_by_key(|frontend| frontend.key);
        if !is_left_alone(self.service) {
            self.complain(&frontends, &mut complaints);
        }
        complaints.sort();
        complaints.dedup();
        Served { frontends, health: self.health(), complaints }
    }

    /// The frontends of one port in one family.
    fn frontends<'b>(
        &self,
        mut places: impl Iterator<Item = &'b Wanted<'b>>,
        family: Family,
    ) -> Vec<Frontend> {
        let Some(first) = places.next() else { return Vec::new() };
        let usable = Usable::of(self.slices, first.port, family, self.node);
        let sources = self.sources(family);
        let frontend = |wanted: &Wanted<'_>| self.frontend(wanted, &usable, sources.as_deref());
        std::iter::once(first).chain(places).map(frontend).collect()
    }

    fn frontend(&self, wanted: &Wanted<'_>, usable: &Usable, sources: Option<&[IpNetwork]>) -> Frontend {
        let is_internal = wanted.kind == Kind::ClusterIp;
        let policy = if is_internal { self.service.internal_policy } else { external_policy(self.service) };
        let from_outside = match policy {
            TrafficPolicy::Cluster => usable.cluster(),
            TrafficPolicy::Local => usable.local(),
        };
        let from_inside = if is_internal { from_outside.clone() } else { usable.cluster() };
        let name = (*self.service.name).clone();
        Frontend {
            key: wanted.key,
            port: PortName { service: name, port: wanted.port.name.to_string() },
            kind: wanted.kind,
            from_outside,
            from_inside,
            keeps_client: !is_internal && policy == TrafficPolicy::Local,
            affinity: self.service.affinity,
            sources: sources.filter(|_| wanted.kind == Kind::LoadBalancer).map(<[_]>::to_vec),
        }
    }

    /// Who may use the load balancer's addresses of `family`. Where this node may, its packets may also come from one
    /// of those addresses, because load balancers put them on the node, and the kernel then prefers them as the source.
    fn sources(&self, family: Family) -> Option<Vec<IpNetwork>> {
        let of_family = |address: &IpAddr| Family::of(*address) == family;
        let ranges = self.service.source_ranges.as_deref()?;
        let mut sources: Vec<_> = ranges.iter().copied().filter(|range| of_family(&range.ip())).collect();
        if self.node.addresses.iter().any(|own| sources.iter().any(|range| range.contains(*own))) {
            let vips = vips(self.service).map(|ingress| ingress.address).filter(of_family);
            sources.extend(vips.map(host_prefix));
        }
        sources.sort();
        sources.dedup();
        Some(sources)
    }

    /// Adds what is to be told about endpoints, source ranges and the health check.
    fn complain(&self, frontends: &[Frontend], complaints: &mut Vec<Complaint>) {
        for slice in self.slices.iter().filter(|slice| !slice.labels.left_alone()) {
            complaints.extend_from_slice(&slice.complaints);
            for address in slice.endpoints.iter().map(|endpoint| endpoint.address) {
                if Family::of(address) != slice.family {
                    complaints.push(Complaint::WrongFamily { address, family: slice.family });
                } else if !is_servable(address) {
                    complaints.push(Complaint::NotServable(address));
                }
            }
        }
        let closed = frontends.iter().filter(|frontend| frontend.sources.as_ref().is_some_and(Vec::is_empty));
        complaints.extend(closed.map(|frontend| Complaint::NobodyAllowed(frontend.key.place.family())));
        if self.asks_for_health() && self.service.health_check_node_port.is_none() {
            complaints.push(Complaint::NoHealthCheckPort);
        }
    }

    /// Whether a load balancer has to ask each node if it has endpoints.
    fn asks_for_health(&self) -> bool {
        self.service.service_type == ServiceType::LoadBalancer
            && external_policy(self.service) == TrafficPolicy::Local
            && !is_left_alone(self.service)
    }

    fn health(&self) -> Option<HealthCheck> {
        let port: NonZeroU16 = self.service.health_check_node_port.filter(|_| self.asks_for_health())?;
        let of = |family| self.local_ready(family);
        let local_endpoints = Family::BOTH.map(of).into_iter().max().unwrap_or_default();
        Some(HealthCheck { service: (*self.service.name).clone(), port, local_endpoints })
    }

    /// How many ready endpoints of `family` this node has. Several ports of an endpoint count once. A pod with
    /// addresses of both families is in slices of both, so the families are counted apart.
    fn local_ready(&self, family: Family) -> usize {
        let mut addresses: Vec<IpAddr> = self
            .slices
            .iter()
            .filter(|slice| slice.family == family && !slice.labels.left_alone() && !slice.ports.is_empty())
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| endpoint.conditions.ready && endpoint.node.as_ref() == Some(&self.node.name))
            .map(|endpoint| endpoint.address)
            .filter(|address| Family::of(*address) == family && is_servable(*address))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.len()
    }
}

/// The keys of `all`.
pub(super) fn keys(all: &[Wanted<'_>]) -> Box<[Key]> {
    all.iter().map(|wanted| wanted.key).collect()
}
