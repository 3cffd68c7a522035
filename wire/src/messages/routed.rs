//! The interface of `routed`, `io.ferrule.Routed`: its calls and replies as types. The program `routed` fills in what
//! the replies say.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::messages::method::methods;

/// Name of the interface.
pub const INTERFACE: &str = "io.ferrule.Routed";

/// The interface's definition, as introspection serves it.
pub const DEFINITION: &str = include_str!("../../io.ferrule.Routed.varlink");

methods! {
    INTERFACE;
    /// How this node is doing.
    Status = "io.ferrule.Routed.Status" -> StatusReply,
    /// All nodes.
    Nodes = "io.ferrule.Routed.Nodes" -> NodesReply,
    /// What the kernel has refused.
    Failures = "io.ferrule.Routed.Failures" -> FailuresReply,
}

/// Ask how this node is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {}

/// Answer to [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// This node's name.
    pub node: String,
    /// The version that runs.
    pub version: String,
    /// `[routing] backend`.
    pub backend: String,
    /// Where the nodes come from, in words for people.
    pub source: String,
    /// Whether the first list of nodes has been carried out in the kernel.
    pub ready: bool,
    /// What `routed` waits for before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Why the last pass could not be made at all. Absent if it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// This node's addresses and the links that hold them.
    pub underlay: String,
    /// MTU of the pods in bytes. 0 before it is known.
    pub mtu: u32,
    /// How many nodes there are, this one among them.
    pub nodes: u64,
    /// Milliseconds since the last complete list of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_age_ms: Option<u64>,
    /// Milliseconds since anything new was told of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub news_age_ms: Option<u64>,
    /// The objects in the kernel, by kind.
    pub objects: Vec<Objects>,
}

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The tunnel devices.
    Links,
    /// Addresses of the tunnel devices.
    Addresses,
    /// FDB entries.
    Fdb,
    /// Neighbours.
    Neighbours,
    /// Peers of the WireGuard device.
    Peers,
    /// Nexthop objects.
    Nexthops,
    /// Routes.
    Routes,
}

/// Objects of one kind, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// The kind.
    pub kind: Kind,
    /// How many objects there should be.
    pub desired: u64,
    /// How many objects of ours there are.
    pub observed: u64,
    /// How many objects are still to be made, changed or removed.
    pub pending: u64,
    /// How many of these the kernel has refused.
    pub failed: u64,
}

/// Ask for all nodes. The answer comes in several messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {}

/// One of the answers to [`Nodes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesReply {
    /// The next nodes.
    pub nodes: Vec<Node>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The addresses to which other nodes send.
    pub addresses: Vec<IpAddr>,
    /// The networks of its pods.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The MAC of its end of the VXLAN tunnels.
    pub vtep_mac: String,
    /// The reason why the node, or one of its networks, cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Ask what the kernel has refused. The answer comes in several messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failures {}

/// One of the answers to [`Failures`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailuresReply {
    /// The next refused objects.
    pub failures: Vec<Failure>,
}

/// An object that the kernel has refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The object, such as `route 10.244.2.0/24`.
    pub object: String,
    /// The kernel's own words, and what a person can do.
    pub reason: String,
    /// Milliseconds from now until it is tried again.
    pub next_try_ms: u64,
}
