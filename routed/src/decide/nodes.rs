//! The table of the cluster's nodes: pure. A source hands in snapshots and changes; the table hands out what has really
//! changed.
//!
//! What the nodes mean for the kernel is decided in [`crate::decide::desired`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ferrule_config::NodeEntry;
use ferrule_model::{Delta, Family, IfName, IpNetwork, Mac, WgKey, family, network_address, vtep_mac};

/// One node of the cluster, in the form that every source uses.
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
    /// The public key of its WireGuard device, as far as the source knows it.
    pub wireguard_key: Option<WgKey>,
    /// The Ethernet address of its second VXLAN device, if IPv6 has one of its own.
    pub vtep_mac6: Mac,
    /// Further addresses of the machine. Nobody sends to them, but what the node sends may come from them, as behind a
    /// NAT that some of the other nodes are behind, too. Sorted.
    pub further: Vec<IpAddr>,
}

/// The nodes as they are known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The node that this daemon runs on.
    pub own: Node,
    /// All others, by name.
    pub others: BTreeMap<String, Arc<Node>>,
    /// The link that carries packets to them, if an operator has chosen it.
    pub uplink: Option<IfName>,
}

/// What a source tells of one node, whether or not it was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeUpdate {
    /// The node exists, with these values.
    Put(Node),
    /// No node of this name exists.
    Remove(String),
}

/// A node that came, went or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeChange {
    /// Its name.
    pub name: String,
    /// The node as it was; `None` if it is new.
    pub before: Option<Arc<Node>>,
    /// The node as it is; `None` if it is gone.
    pub after: Option<Arc<Node>>,
}

/// What a snapshot says of the node that this daemon runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnNode {
    /// It is in the snapshot.
    Present,
    /// It is not there and never was: there is nothing to go by yet.
    Unknown,
    /// It is not there, but was before: what was known of it stays.
    Left,
}

/// The table: the own node, once it was seen, and the others.
#[derive(Debug)]
pub struct Nodes {
    own_name: String,
    own: Option<Arc<Node>>,
    others: BTreeMap<String, Arc<Node>>,
}

impl Node {
    /// The address by which other nodes reach it in `family`.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// All addresses from which its packets may come.
    pub fn senders(&self) -> BTreeSet<IpAddr> {
        let reached = Family::BOTH.iter().filter_map(|family| self.address(*family));
        reached.chain(self.further.iter().copied()).collect()
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
        Self {
            vtep_mac: entry.vtep_mac.unwrap_or_else(|| vtep_mac(&entry.name)),
            vtep_mac6: vtep_mac6(&entry.name),
            further: Vec::new(),
            name: entry.name,
            v4: entry.address,
            v6: entry.address6,
            pod_cidrs: entry.pod_cidrs,
            wireguard_key: entry.wireguard_key,
        }
    }
}

/// The MAC of the second VXLAN device of the node of this name, if no source tells one. No node's name has a slash.
pub fn vtep_mac6(name: &str) -> Mac {
    vtep_mac(&[name, "/6"].concat())
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

impl Cluster {
    /// All nodes but this one.
    pub fn all_others(&self) -> impl Iterator<Item = &Node> + Clone {
        self.others.values().map(AsRef::as_ref)
    }

    /// Applies changes of other nodes.
    pub fn change(&mut self, changes: &[NodeChange]) {
        carry_out(&mut self.others, changes);
    }
}

fn carry_out(others: &mut BTreeMap<String, Arc<Node>>, changes: &[NodeChange]) {
    for NodeChange { name, after, .. } in changes {
        match after {
            Some(node) => drop(others.insert(name.clone(), Arc::clone(node))),
            None => drop(others.remove(name)),
        }
    }
}

impl fmt::Display for NodeChange {
    /// As in `node added: b at 192.0.2.2, pods 10.244.2.0/24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (_, None) => write!(f, "node removed: {}", self.name),
            (None, Some(node)) => write!(f, "node added: {node}"),
            (Some(_), Some(node)) => write!(f, "node changed: {node}"),
        }
    }
}

impl Nodes {
    /// An empty table for the node called `own_name`.
    pub fn new(own_name: impl Into<String>) -> Self {
        Self { own_name: own_name.into(), own: None, others: BTreeMap::new() }
    }

    /// Takes in a complete snapshot. Returns what it changed, and what it says of the own node.
    pub fn snapshot(&mut self, nodes: Vec<Node>) -> (Vec<NodeChange>, OwnNode) {
        let named = |node: Node| (node.name.clone(), Arc::new(node));
        // Collecting everything into a map at once takes a fraction of the time of thousands of insertions.
        let mut told: BTreeMap<_, _> = nodes.into_iter().map(named).collect();
        let own = told.remove(&self.own_name);
        let says = match (&own, &self.own) {
            (Some(_), _) => OwnNode::Present,
            (None, Some(_)) => OwnNode::Left,
            (None, None) => OwnNode::Unknown,
        };
        let Delta { put, delete } = Delta::between(&told, &self.others);
        let change = |(name, after): (String, Arc<Node>)| {
            let before = self.others.get(&name).cloned();
            NodeChange { name, before, after: Some(after) }
        };
        let gone = |(name, before)| NodeChange { name, before: Some(before), after: None };
        let mut changes: Vec<_> = delete.into_iter().map(gone).collect();
        changes.extend(put.into_iter().map(change));
        if self.others.is_empty() {
            self.others = told;
        } else {
            // A node that has not changed stays the same value, for all who share it.
            carry_out(&mut self.others, &changes);
        }
        changes.extend(own.and_then(|own| self.take(NodeUpdate::Put(Arc::unwrap_or_clone(own)))));
        (changes, says)
    }

    /// Takes in what is told of some nodes. Returns what changed. If the own node is removed, it stays as it was.
    pub fn update(&mut self, updates: Vec<NodeUpdate>) -> Vec<NodeChange> {
        updates.into_iter().filter_map(|update| self.take(update)).collect()
    }

    fn take(&mut self, update: NodeUpdate) -> Option<NodeChange> {
        let (name, after) = match update {
            NodeUpdate::Put(node) => (node.name.clone(), Some(Arc::new(node))),
            NodeUpdate::Remove(name) => (name, None),
        };
        let is_own = name == self.own_name;
        let before = if is_own { self.own.clone() } else { self.others.get(&name).cloned() };
        if before == after {
            return None;
        }
        match (&after, is_own) {
            (Some(node), true) => self.own = Some(Arc::clone(node)),
            (None, true) => return None,
            (Some(node), false) => drop(self.others.insert(name.clone(), Arc::clone(node))),
            (None, false) => drop(self.others.remove(&name)),
        }
        Some(NodeChange { name, before, after })
    }

    /// The table, if the own node was seen.
    pub fn cluster(&self) -> Option<Cluster> {
        Some(Cluster { own: self.own.as_deref()?.clone(), others: self.others.clone(), uplink: None })
    }

    /// Whether the own node was seen.
    pub fn is_own_known(&self) -> bool {
        self.own.is_some()
    }

    /// The name of the node that this daemon runs on.
    pub fn own_name(&self) -> &str {
        &self.own_name
    }

    /// At most `most` nodes in the order of their names, including the own one: those after the name `after`, or the
    /// first.
    pub fn page(&self, after: Option<&str>, most: usize) -> Vec<Arc<Node>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let mut page: Vec<_> =
            self.others.range::<str, _>((from, Unbounded)).take(most).map(|(_, node)| node).collect();
        if let Some(own) = self.own.as_ref().filter(|own| after.is_none_or(|after| own.name.as_str() > after))
        {
            page.insert(page.partition_point(|node| node.name < own.name), own);
        }
        page.into_iter().take(most).cloned().collect()
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
            wireguard_key: None,
            vtep_mac6: vtep_mac6(name),
            further: Vec::new(),
        }
    }

    fn told(changes: &[NodeChange]) -> Vec<String> {
        let first = |change: &NodeChange| change.to_string().split(' ').take(3).collect::<Vec<_>>().join(" ");
        changes.iter().map(first).collect()
    }

    #[test]
    fn each_node_that_comes_goes_or_changes_is_told_once() {
        let mut nodes = Nodes::new("a");
        let (changes, own) = nodes.snapshot(vec![node("a", 1), node("b", 2), node("c", 3)]);
        assert_eq!(told(&changes), ["node added: b", "node added: c", "node added: a"]);
        assert_eq!(own, OwnNode::Present);
        let (changes, _) = nodes.snapshot(vec![node("a", 9), node("b", 2), node("d", 4)]);
        assert_eq!(told(&changes), ["node removed: c", "node added: d", "node changed: a"]);
        let (changes, _) = nodes.snapshot(vec![node("d", 4), node("b", 2), node("a", 9)]);
        assert_eq!(changes, [], "the order of a snapshot means nothing");
        let updates = vec![
            NodeUpdate::Put(node("b", 2)),
            NodeUpdate::Put(node("d", 5)),
            NodeUpdate::Remove("nobody".into()),
            NodeUpdate::Remove("b".into()),
        ];
        assert_eq!(told(&nodes.update(updates)), ["node changed: d", "node removed: b"]);
    }

    #[test]
    fn there_is_no_cluster_before_the_own_node_was_seen_and_it_stays_when_it_leaves() {
        let mut nodes = Nodes::new("a");
        assert_eq!(nodes.snapshot(vec![node("b", 2)]).1, OwnNode::Unknown);
        assert_eq!(nodes.cluster(), None);
        nodes.snapshot(vec![node("a", 1), node("b", 2)]);
        let (changes, own) = nodes.snapshot(vec![node("c", 3)]);
        assert_eq!(own, OwnNode::Left);
        assert_eq!(told(&changes), ["node removed: b", "node added: c"]);
        assert_eq!(nodes.update(vec![NodeUpdate::Remove("a".into())]), []);
        let cluster = nodes.cluster().unwrap();
        assert_eq!(cluster.own, node("a", 1));
        assert_eq!(cluster.others.keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_cluster_follows_the_changes() {
        let mut nodes = Nodes::new("a");
        nodes.snapshot(vec![node("a", 1), node("b", 2), node("c", 3)]);
        let mut cluster = nodes.cluster().unwrap();
        let (changes, _) = nodes.snapshot(vec![node("a", 1), node("c", 4), node("d", 5)]);
        cluster.change(&changes);
        assert_eq!(Some(cluster), nodes.cluster());
    }

    #[test]
    fn pages_are_all_nodes_in_order() {
        let mut nodes = Nodes::new("c");
        nodes.snapshot(["e", "c", "a", "d", "b"].map(|name| node(name, 1)).to_vec());
        for most in 1..7 {
            let (mut names, mut after) = (String::new(), None::<String>);
            loop {
                let page = nodes.page(after.as_deref(), most);
                page.iter().for_each(|node| names.push_str(&node.name));
                after = page.last().map(|node| node.name.clone());
                if page.len() < most {
                    break;
                }
            }
            assert_eq!(names, "abcde", "{most}");
        }
    }

    #[test]
    fn a_vtep_has_the_network_address_of_the_first_cidr_of_its_family() {
        let mut node = node("a", 1);
        node.pod_cidrs.push("10.245.0.0/24".parse().unwrap());
        assert_eq!(node.vtep(Family::V4), Some("10.244.1.0".parse().unwrap()));
        assert_eq!(node.vtep(Family::V6), None);
    }
}
