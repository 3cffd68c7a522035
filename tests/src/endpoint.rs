//! The ends of the table: nodes, pods and the host outside, and which source address each may show to which. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    addressing::{Family, Pair},
    space::Space,
};

/// What an endpoint is; a number is the node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node, with every address it has.
    Node {
        /// Which one.
        number: usize,
        /// All its addresses, of all its links.
        addresses: BTreeSet<IpAddr>,
    },
    /// A pod on a node.
    Pod {
        /// The node it is on.
        node: usize,
        /// The node's addresses on the underlay.
        node_underlay: Pair,
        /// MTU of its interface in bytes.
        mtu: u32,
    },
    /// The host outside the cluster.
    Outside,
}

/// Something that packets are sent from and to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As the table shows it.
    pub name: String,
    /// Where its sockets are opened.
    pub space: Space,
    /// Where it is reached.
    pub at: Pair,
    /// What it is.
    pub kind: Kind,
}

/// Whether the table promises anything from one to the other.
pub fn is_promised(from: &Kind, to: &Kind) -> bool {
    match (from, to) {
        (Kind::Pod { .. }, _) => true,
        (Kind::Node { .. }, to) => matches!(to, Kind::Pod { .. }),
        (Kind::Outside, _) => false,
    }
}

/// The addresses the packets of `from` may carry when they arrive at `to`.
pub fn permitted_sources(from: &Endpoint, to: &Endpoint, family: Family) -> Vec<IpAddr> {
    let own = from.at.of(family);
    match (&from.kind, &to.kind) {
        // No NAT inside the cluster.
        (Kind::Pod { .. }, Kind::Pod { .. }) => vec![own],
        (Kind::Pod { node, .. }, Kind::Node { number, .. }) if node == number => vec![own],
        // Another node's underlay address is not a pod's: masquerading to it is allowed, and needed where the underlay drops
        // pods' addresses.
        (Kind::Pod { node_underlay, .. }, Kind::Node { .. }) => vec![own, node_underlay.of(family)],
        (Kind::Pod { node_underlay, .. }, Kind::Outside) => vec![node_underlay.of(family)],
        (Kind::Node { addresses, .. }, _) => {
            addresses.iter().copied().filter(|address| address.is_ipv4() == (family == Family::V4)).collect()
        }
        (Kind::Outside, _) => vec![own],
    }
}

/// The size in bytes of the biggest packet the two may exchange: the pods' MTU.
pub fn full_size(from: &Kind, to: &Kind) -> Option<u32> {
    let mtu = |kind: &Kind| match kind {
        Kind::Pod { mtu, .. } => Some(*mtu),
        Kind::Node { .. } | Kind::Outside => None,
    };
    [mtu(from), mtu(to)].into_iter().flatten().min()
}
