//! What matters of this node's own Node object. Pure.

use std::sync::Arc;

use ferrule_cluster::kind::{Identity, Kind, Metadata, Resource, Unread};
use serde::Deserialize;

use crate::decide::{NodeFacts, text};

/// Where the API has Nodes.
pub(super) const NODES: Resource = Resource { group: "", version: "v1", plural: "nodes" };

/// The taint of a node that the autoscaler is about to remove (KEP-3836).
const UNWANTED: &str = "ToBeDeletedByClusterAutoscaler";

/// The fields that are read of a Node.
#[derive(Debug, Deserialize)]
pub(super) struct Object {
    metadata: Metadata<Unread, NodeLabels>,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeLabels {
    #[serde(rename = "topology.kubernetes.io/zone")]
    zone: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    taints: Option<Vec<Taint>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Kind for Object {
    const RESOURCE: Resource = NODES;

    fn take_identity(&mut self) -> Identity {
        self.metadata.take_identity()
    }
}

impl Object {
    /// What it says of the node of this name.
    pub(super) fn facts(self, name: &str) -> NodeFacts {
        let taints = self.spec.unwrap_or_default().taints.unwrap_or_default();
        let addresses = self.status.unwrap_or_default().addresses.unwrap_or_default();
        let internal = addresses.iter().filter(|address| address.kind == "InternalIP");
        let zone = self.metadata.labels.unwrap_or_default().zone.filter(|zone| !zone.is_empty());
        NodeFacts {
            name: Arc::from(name),
            zone: zone.map(Arc::from),
            // A name of a host stands there where a cloud gives nodes no addresses.
            addresses: internal.filter_map(|address| text::address(&address.address)).collect(),
            is_deleting: self.metadata.deletion_timestamp.is_some(),
            is_unwanted: taints.iter().any(|taint| taint.key == UNWANTED),
        }
    }
}
