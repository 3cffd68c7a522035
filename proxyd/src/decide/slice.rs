//! EndpointSlices as a source tells of them.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ferrule_model::Family;

use super::{Complaint, Labels, Protocol, ServiceName};

/// The name of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName {
    /// Its namespace, which is that of its Service.
    pub namespace: Arc<str>,
    /// Its name in the namespace.
    pub name: Arc<str>,
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Some endpoints of a Service. A Service can have any number of slices, made by Kubernetes, mirrored from `Endpoints`,
/// or written by anybody. The names of fields are those of Kubernetes (`EndpointSlice` of `discovery.k8s.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: SliceName,
    /// The Service: the slice's namespace and its label `kubernetes.io/service-name`. A slice without that label is no
    /// Service's, and no source tells of it.
    pub service: Arc<ServiceName>,
    /// What its labels say about who serves it.
    pub labels: Labels,
    /// `addressType`. No source tells of a slice with `FQDN`.
    pub family: Family,
    /// `ports`, those with a number. They count for every endpoint of the slice.
    pub ports: Box<[SlicePort]>,
    /// `endpoints`, those with an address
    pub endpoints: Box<[Endpoint]>,
    /// What the source could not read of it, and left out.
    pub complaints: Box<[Complaint]>,
}

/// Where a port of the Service leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlicePort {
    /// The name of the Service's port; empty if that has none.
    pub name: Arc<str>,
    /// `protocol`; TCP if absent. It must be that of the Service's port, too.
    pub protocol: Protocol,
    /// `port`
    pub port: NonZeroU16,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of `addresses`. Kubernetes says that all are the same to clients, and kube-proxy uses the first only.
    pub address: IpAddr,
    /// `conditions`
    pub conditions: Conditions,
    /// `nodeName`: the node that it is on, if that is known
    pub node: Option<Arc<str>>,
    /// `hints`, if there are any
    pub hints: Option<Arc<Hints>>,
}

/// The conditions of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conditions {
    /// It takes new connections. That is so of an endpoint that is terminating or not ready only if the Service says
    /// `publishNotReadyAddresses`.
    pub ready: bool,
    /// It would take new connections, whether or not it is terminating.
    pub serving: bool,
    /// It is going to end.
    pub terminating: bool,
}

impl Conditions {
    /// The conditions as they are written. Kubernetes' meaning of an absent one: ready, serving, not terminating.
    pub fn of(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        Self {
            ready: ready.unwrap_or(true),
            serving: serving.unwrap_or(true),
            terminating: terminating.unwrap_or(false),
        }
    }
}

impl Default for Conditions {
    fn default() -> Self {
        Self::of(None, None, None)
    }
}

/// Whom an endpoint should preferably serve. Whoever makes the slice works that out, by the Service's
/// `trafficDistribution` for instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hints {
    /// `forZones`: the names of the zones
    pub zones: Box<[Arc<str>]>,
    /// `forNodes`: the names of the nodes
    pub nodes: Box<[Arc<str>]>,
}
