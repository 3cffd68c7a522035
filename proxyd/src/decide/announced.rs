//! Which addresses this node serves, for whoever announces them to routers.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ferrule_config::{ServedAddress, ServedFile, ServedKind};

use super::{Backends, Frontend, Kind, Place, Served, ServiceName};

/// What all Services say about their addresses. It is fed with what the kernel has, not with what it should have, so
/// that no address is announced before it can be served.
#[derive(Debug, Default)]
pub struct Announced {
    /// Services that have no address here are not in it.
    services: HashMap<Arc<ServiceName>, Box<[(IpAddr, Part)]>>,
}

/// What one Service says about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    kind: ServedKind,
    /// Some packets reach an endpoint.
    is_served: bool,
    /// Some packets are dropped, and another node would serve them.
    is_dropped: bool,
    has_local_endpoints: bool,
}

impl Announced {
    /// Notes what a Service comes to now; nothing if it is gone. Returns whether that says something new.
    pub fn put(&mut self, service: &Arc<ServiceName>, served: &Served) -> bool {
        let mut parts: BTreeMap<IpAddr, Part> = BTreeMap::new();
        for (address, part) in served.frontends.iter().filter_map(part) {
            parts.entry(address).and_modify(|all| *all = all.and(part)).or_insert(part);
        }
        if parts.is_empty() {
            return self.services.remove(service).is_some();
        }
        let parts: Box<[_]> = parts.into_iter().collect();
        if self.services.get(service) == Some(&parts) {
            return false;
        }
        self.services.insert(Arc::clone(service), parts);
        true
    }

    /// The addresses that the node serves, as the file says them.
    pub fn file(&self, node: &str) -> ServedFile {
        let mut all: BTreeMap<IpAddr, (Part, Vec<String>)> = BTreeMap::new();
        for (service, parts) in &self.services {
            for (address, part) in parts {
                let (known, services) = all.entry(*address).or_insert((*part, Vec::new()));
                *known = known.and(*part);
                services.push(service.to_string());
            }
        }
        let served = all.into_iter().filter(|(_, (part, _))| part.is_served && !part.is_dropped);
        ServedFile::new(node.to_owned(), served.map(address).collect())
    }
}

fn address((address, (part, mut services)): (IpAddr, (Part, Vec<String>))) -> ServedAddress {
    services.sort_unstable();
    ServedAddress { address, kind: part.kind, has_local_endpoints: part.has_local_endpoints, services }
}

/// What a frontend says about its address. Node ports have none of their own.
fn part(frontend: &Frontend) -> Option<(IpAddr, Part)> {
    let Place::Address(address) = frontend.key.place else { return None };
    let kind = match frontend.kind {
        Kind::ClusterIp => ServedKind::ClusterIp,
        Kind::LoadBalancer => ServedKind::LoadBalancer,
        Kind::ExternalIp => ServedKind::ExternalIp,
        Kind::NodePort => return None,
    };
    let backends = match &frontend.from_outside {
        Backends::To(all) => &all[..],
        Backends::Refuse | Backends::Drop => &[],
    };
    let part = Part {
        kind,
        is_served: !backends.is_empty(),
        is_dropped: frontend.from_outside == Backends::Drop,
        has_local_endpoints: backends.iter().any(|backend| backend.is_local),
    };
    Some((address, part))
}

impl Part {
    /// What two Services, or two ports of one, say together.
    fn and(self, other: Self) -> Self {
        Self {
            kind: self.kind.min(other.kind),
            is_served: self.is_served || other.is_served,
            is_dropped: self.is_dropped || other.is_dropped,
            has_local_endpoints: self.has_local_endpoints || other.has_local_endpoints,
        }
    }
}
