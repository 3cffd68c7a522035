//! The table of the cluster's nodes: pure. Snapshots come in from a source, and what has changed goes out, in words and
//! as a table.
//!
//! What the nodes mean for the kernel is decided in [`crate::desired`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_config::NodeEntry;
use ferrule_model::{Family, IpNetwork, Mac, family, network_address, vtep_mac};

/// One node of the cluster, as every source tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The IPv4 address by which other nodes reach it.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address by which other nodes reach it.
    pub v6: Option<Ipv6Addr>,
    /// The networks of its pods.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The Ethernet address of its VXLAN device.
    pub vtep_mac: Mac,
}

/// The nodes as they are known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The node that this daemon runs on.
    pub own: Node,
    /// All others, by name.
    pub others: BTreeMap<String, Node>,
}

/// What a snapshot changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeChange {
    /// The node is new.
    Added(String),
    /// The node is gone.
    Removed(String),
    /// The node is another than before.
    Changed(String),
}

/// What a snapshot says of the node that this daemon runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnNode {
    /// It is there.
    Present,
    /// It never was there: there is nothing to go by yet.
    Unknown,
    /// It was there before: what was known of it stays.
    Left,
}

/// The table: an own node, once it was seen, and the others.
#[derive(Debug)]
pub struct Nodes {
    own_name: String,
    own: Option<Node>,
    others: BTreeMap<String, Node>,
}

impl Node {
    /// The address by which other nodes reach it in `family`.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Its pod CIDRs of one family.
    pub fn pod_cidrs_of(&self, wanted: Family) -> impl Iterator<Item = IpNetwork> {
        self.pod_cidrs.iter().copied().filter(move |cidr| family(cidr) == wanted)
    }

    /// The address of its VXLAN device: the network address of its first pod CIDR of the family, which no pod gets.
    pub fn vtep(&self, family: Family) -> Option<IpAddr> {
        self.pod_cidrs_of(family).next().map(|cidr| network_address(&cidr))
    }
}

impl From<NodeEntry> for Node {
    fn from(entry: NodeEntry) -> Self {
        let vtep_mac = entry.vtep_mac.unwrap_or_else(|| vtep_mac(&entry.name));
        Self { name: entry.name, v4: entry.address, v6: entry.address6, pod_cidrs: entry.pod_cidrs, vtep_mac }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(", ");
        let addresses =
            list(&mut Family::BOTH.iter().filter_map(|f| self.address(*f)).map(|a| a.to_string()));
        let pods = list(&mut self.pod_cidrs.iter().map(ToString::to_string));
        write!(f, "{} at {addresses}, pods {}", self.name, if pods.is_empty() { "none" } else { &pods })
    }
}

impl Nodes {
    /// An empty table for the node called `own_name`.
    pub fn new(own_name: impl Into<String>) -> Self {
        Self { own_name: own_name.into(), own: None, others: BTreeMap::new() }
    }

    /// Takes a complete snapshot: what it changed, and what it says of the own node.
    pub fn snapshot(&mut self, nodes: Vec<Node>) -> (Vec<NodeChange>, OwnNode) {
        let mut changes = Vec::new();
        let mut others: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        let own = match (others.remove(&self.own_name), &self.own) {
            (Some(node), known) => {
                if known.as_ref().is_some_and(|known| *known != node) {
                    changes.push(NodeChange::Changed(self.own_name.clone()));
                }
                self.own = Some(node);
                OwnNode::Present
            }
            (None, Some(_)) => OwnNode::Left,
            (None, None) => OwnNode::Unknown,
        };
        let gone = self.others.keys().filter(|name| !others.contains_key(*name));
        changes.extend(gone.cloned().map(NodeChange::Removed));
        for (name, node) in &others {
            match self.others.get(name) {
                None => changes.push(NodeChange::Added(name.clone())),
                Some(known) if known != node => changes.push(NodeChange::Changed(name.clone())),
                Some(_) => {}
            }
        }
        self.others = others;
        (changes, own)
    }

    /// The table, once the own node was seen.
    pub fn cluster(&self) -> Option<Cluster> {
        Some(Cluster { own: self.own.clone()?, others: self.others.clone() })
    }

    /// The node of this name.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.own.as_ref().filter(|own| own.name == name).or_else(|| self.others.get(name))
    }

    /// How many nodes there are, the own one included.
    pub fn len(&self) -> usize {
        self.others.len() + usize::from(self.own.is_some())
    }

    /// No node is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, third: u8) -> Node {
        Node {
            name: name.into(),
            v4: Some(Ipv4Addr::new(192, 0, 2, third)),
            v6: None,
            pod_cidrs: vec![format!("10.244.{third}.0/24").parse().unwrap()],
            vtep_mac: vtep_mac(name),
        }
    }

    #[test]
    fn each_node_that_comes_goes_or_changes_is_told_once() {
        let mut nodes = Nodes::new("a");
        let (changes, own) = nodes.snapshot(vec![node("a", 1), node("b", 2), node("c", 3)]);
        assert_eq!(changes, [NodeChange::Added("b".into()), NodeChange::Added("c".into())]);
        assert_eq!(own, OwnNode::Present);
        let (changes, _) = nodes.snapshot(vec![node("a", 9), node("b", 2), node("d", 4)]);
        let expected =
            [NodeChange::Changed("a".into()), NodeChange::Removed("c".into()), NodeChange::Added("d".into())];
        assert_eq!(changes, expected);
        let (changes, _) = nodes.snapshot(vec![node("d", 4), node("b", 2), node("a", 9)]);
        assert_eq!(changes, [], "the order of a snapshot means nothing");
    }

    #[test]
    fn there_is_no_cluster_before_the_own_node_was_seen_and_it_stays_when_it_leaves() {
        let mut nodes = Nodes::new("a");
        assert_eq!(nodes.snapshot(vec![node("b", 2)]).1, OwnNode::Unknown);
        assert_eq!(nodes.cluster(), None);
        nodes.snapshot(vec![node("a", 1), node("b", 2)]);
        let (changes, own) = nodes.snapshot(vec![node("c", 3)]);
        assert_eq!(own, OwnNode::Left);
        assert_eq!(changes, [NodeChange::Removed("b".into()), NodeChange::Added("c".into())]);
        let cluster = nodes.cluster().unwrap();
        assert_eq!(cluster.own, node("a", 1));
        assert_eq!(cluster.others.keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_vtep_has_the_network_address_of_the_first_cidr_of_its_family() {
        let mut node = node("a", 1);
        node.pod_cidrs.push("10.245.0.0/24".parse().unwrap());
        assert_eq!(node.vtep(Family::V4), Some("10.244.1.0".parse().unwrap()));
        assert_eq!(node.vtep(Family::V6), None);
    }
}
