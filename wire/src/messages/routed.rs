//! The interface of `routed`, `io.ferrule.Routed`: its calls and replies as types. What they say lives in `routed`.

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
    /// How this node is.
    Status = "io.ferrule.Routed.Status" -> StatusReply,
    /// All nodes.
    Nodes = "io.ferrule.Routed.Nodes" -> NodesReply,
    /// What the kernel has refused.
    Failures = "io.ferrule.Routed.Failures" -> FailuresReply,
}

/// How this node is.
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
    /// Where the nodes come from, for a person.
    pub source: String,
    /// The first list of nodes has been carried out in the kernel.
    pub ready: bool,
    /// What it waits for before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Why the last pass could not be made at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// This node's addresses and the links that hold them.
    pub underlay: String,
    /// Of the pods, in bytes; 0 before it is known.
    pub mtu: u32,
    /// How many nodes there are, this one among them.
    pub nodes: u64,
    /// Milliseconds since the last complete list of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_age_ms: Option<u64>,
    /// Milliseconds since anything new was told of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub news_age_ms: Option<u64>,
    /// What is in the kernel, by kind.
    pub objects: Vec<Objects>,
}

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The devices.
    Links,
    /// Addresses of the device.
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
    /// What there should be.
    pub desired: u64,
    /// What is there of ours.
    pub observed: u64,
    /// What is still to be made, changed or removed.
    pub pending: u64,
    /// Of these, what the kernel has refused.
    pub failed: u64,
}

/// All nodes; answers in several messages.
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
    /// Where other nodes send to.
    pub addresses: Vec<IpAddr>,
    /// Its pods' networks.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Its end of the tunnels.
    pub vtep_mac: String,
    /// What keeps it, or one of its networks, from being reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What the kernel has refused; answers in several messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failures {}

/// One of the answers to [`Failures`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailuresReply {
    /// The next ones.
    pub failures: Vec<Failure>,
}

/// An object that the kernel has refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// As in `route 10.244.2.0/24`.
    pub object: String,
    /// In the kernel's own words, and what a person can do.
    pub reason: String,
    /// Milliseconds from now until it is tried again.
    pub next_try_ms: u64,
}
