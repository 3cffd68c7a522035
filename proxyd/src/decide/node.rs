//! What counts of this node.

use std::net::IpAddr;
use std::sync::Arc;

/// This node, as far as it matters to Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name. Endpoints on it say this name.
    pub name: Arc<str>,
    /// Its label `topology.kubernetes.io/zone`
    pub zone: Option<Arc<str>>,
    /// Its own addresses (`status.addresses`, those of type `InternalIP`)
    pub addresses: Box<[IpAddr]>,
    /// It is being deleted (`metadata.deletionTimestamp`).
    pub is_deleting: bool,
    /// The autoscaler is about to remove it: it has the taint `ToBeDeletedByClusterAutoscaler`.
    pub is_unwanted: bool,
}

impl NodeFacts {
    /// A node of which only the name is known.
    pub fn named(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            zone: None,
            addresses: Box::default(),
            is_deleting: false,
            is_unwanted: false,
        }
    }

    /// Whether load balancers may send new connections here. kube-proxy's `/healthz` says no otherwise (KEP-3836).
    pub const fn is_eligible(&self) -> bool {
        !self.is_deleting && !self.is_unwanted
    }
}
