//! Which endpoints packets go to: Kubernetes' rules of readiness, of traffic policies and of hints. They are those of
//! kube-proxy (`CategorizeEndpoints` in `pkg/proxy/topology.go`).

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use ferrule_model::Family;

use super::topology::Reach;
use super::{Backend, Backends, Conditions, EndpointSlice, Hints, NodeFacts, ServicePort, is_servable};

/// The endpoints of one port of a Service in one family.
#[derive(Debug)]
pub(super) struct Usable {
    /// Those that serve with the policy `Cluster`.
    cluster: Arc<[Backend]>,
    /// Those that serve with the policy `Local`.
    local: Arc<[Backend]>,
}

impl Usable {
    /// Chooses from all slices of a Service. Slices of the other family, and those that are left alone, do not count.
    pub(super) fn of(slices: &[EndpointSlice], port: &ServicePort, family: Family, node: &NodeFacts) -> Self {
        let all = candidates(slices, port, family, node);
        let ready = |candidate: &&Candidate<'_>| candidate.conditions.ready;
        let reach = Reach::of(all.iter().filter(ready).map(|candidate| candidate.hints), node);
        let near = |candidate: &&Candidate<'_>| reach.takes(candidate.hints, node);
        let local = |candidate: &&Candidate<'_>| candidate.backend.is_local;
        Self {
            cluster: ready_or_last(all.iter(), near),
            local: ready_or_last(all.iter().filter(local), |_| true),
        }
    }

    /// Where packets go with the policy `Cluster`.
    pub(super) fn cluster(&self) -> Backends {
        if self.cluster.is_empty() { Backends::Refuse } else { Backends::To(Arc::clone(&self.cluster)) }
    }

    /// Where packets go with the policy `Local`. If this node has no endpoint, they are dropped and not refused: the
    /// client tries again, and by then the load balancer sends it elsewhere.
    pub(super) fn local(&self) -> Backends {
        match (self.cluster.is_empty(), self.local.is_empty()) {
            (_, false) => Backends::To(Arc::clone(&self.local)),
            (false, true) => Backends::Drop,
            (true, true) => Backends::Refuse,
        }
    }
}

/// An endpoint of the port.
#[derive(Debug)]
struct Candidate<'a> {
    backend: Backend,
    conditions: Conditions,
    hints: Option<&'a Hints>,
}

impl Candidate<'_> {
    fn place(&self) -> (IpAddr, std::num::NonZeroU16) {
        (self.backend.address, self.backend.port)
    }
}

/// All endpoints of the port, sorted, each once.
///
/// While an endpoint moves from one slice to another, both have it for a while, perhaps with different conditions. Then
/// the entry counts that is on this node, as in kube-proxy, and of several such the one that may be used most.
fn candidates<'a>(
    slices: &'a [EndpointSlice],
    port: &ServicePort,
    family: Family,
    node: &NodeFacts,
) -> Vec<Candidate<'a>> {
    let mut all = Vec::new();
    for slice in slices.iter().filter(|slice| slice.family == family && !slice.labels.left_alone()) {
        let leads = slice.ports.iter().filter(|to| to.name == port.name && to.protocol == port.protocol);
        for to in leads {
            let fits = |address| Family::of(address) == family && is_servable(address);
            let endpoints = slice.endpoints.iter().filter(|endpoint| fits(endpoint.address));
            all.extend(endpoints.map(|endpoint| Candidate {
                backend: Backend {
                    address: endpoint.address,
                    port: to.port,
                    is_local: endpoint.node.as_ref() == Some(&node.name),
                },
                conditions: endpoint.conditions,
                hints: endpoint.hints.as_deref(),
            }));
        }
    }
    let usefulness = |of: &Candidate<'_>| {
        let Conditions { ready, serving, terminating } = of.conditions;
        (of.backend.is_local, ready, serving && terminating)
    };
    all.sort_by(|one, other| {
        let places = one.place().cmp(&other.place());
        places
            .then_with(|| Reverse(usefulness(one)).cmp(&Reverse(usefulness(other))))
            .then(one.hints.cmp(&other.hints))
    });
    all.dedup_by(|later, earlier| later.place() == earlier.place());
    all
}

/// The ready endpoints that are `near`. If none is ready, those that are terminating and still serve: better they than
/// none.
fn ready_or_last<'a, 'b: 'a>(
    all: impl Iterator<Item = &'a Candidate<'b>> + Clone,
    near: impl Fn(&&Candidate<'_>) -> bool,
) -> Arc<[Backend]> {
    let ready: Arc<[Backend]> = all
        .clone()
        .filter(|candidate| candidate.conditions.ready && near(candidate))
        .map(|candidate| candidate.backend)
        .collect();
    if !ready.is_empty() {
        return ready;
    }
    let is_last = |conditions: Conditions| conditions.serving && conditions.terminating;
    all.filter(|candidate| is_last(candidate.conditions)).map(|candidate| candidate.backend).collect()
}
