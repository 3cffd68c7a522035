//! Which hosts may send to the port of VXLAN: those that have an address of a node. They are elements of sets of the
//! guard's table ([`super::guard`]).
//!
//! A packet of VXLAN bears no proof of who sent it. So the kernel compares its source with these sets, and the port is
//! an element itself: while it is missing, the port is open. It comes with the first complete list of the nodes. So is
//! the device whose packets must have a source to which the device leads: it comes when the routes are there.
//! WireGuard proves who sent a packet, and needs no such set.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrule_config::{Routing, Tunnel, Vxlan};
use ferrule_model::{Element, IfName};

use super::guard::receiver;
use super::nodes::{Cluster, Node, NodeChange};

/// The sets of the nodes' addresses, for IPv4 and for IPv6.
pub const NODES: [&str; 2] = ["nodes4", "nodes6"];
/// The set of the ports that only nodes may send to.
pub const PORTS: &str = "node_ports";
/// The set of the devices out of which nothing else comes than what they lead to.
pub const STRICT: &str = "strict";
/// All of the sets.
pub const SETS: [&str; 4] = [NODES[0], NODES[1], PORTS, STRICT];
/// `IFNAMSIZ`: the length of a link's name in a set.
const NAME_LENGTH: usize = 16;
/// The comment of every element. Events of the kernel tell by it whose an element is.
pub const COMMENT: &str = "node of ferrule's";

/// The elements that there should be, and those that there are.
#[derive(Debug)]
pub struct Senders {
    /// The port of VXLAN, if this node has a device of that kind.
    port: Option<u16>,
    /// The devices that are strict once the routes are there.
    strict: Vec<IfName>,
    are_routes_there: bool,
    /// How many nodes have each address. Two nodes that are told one after the other may have the same one meanwhile.
    nodes: BTreeMap<IpAddr, usize>,
    /// What the kernel has.
    held: BTreeSet<Element>,
    /// What is to be added, and what is to be removed.
    missing: BTreeSet<Element>,
    surplus: BTreeSet<Element>,
}

impl Senders {
    /// Of no node anything is known yet.
    pub fn new(routing: &Routing) -> Self {
        let none = BTreeSet::new;
        let Vxlan { device, device6, port, .. } = &routing.vxlan;
        let is_strict = receiver::is_way_back(routing);
        Self {
            port: routing.has(Tunnel::Vxlan).then_some(*port),
            strict: [Some(device), device6.as_ref()]
                .into_iter()
                .flatten()
                .filter(|_| is_strict)
                .cloned()
                .collect(),
            are_routes_there: false,
            nodes: BTreeMap::new(),
            held: none(),
            missing: none(),
            surplus: none(),
        }
    }

    /// Notes that the routes to the nodes are in the kernel.
    pub fn routes_are_there(&mut self) {
        if !std::mem::replace(&mut self.are_routes_there, true) {
            self.compare();
        }
    }

    /// Starts over with these nodes.
    pub fn know(&mut self, cluster: &Cluster) {
        self.nodes.clear();
        cluster.all_others().for_each(|node| self.count(node, 1));
        self.compare();
    }

    /// Takes in changes of nodes.
    pub fn change(&mut self, changes: &[NodeChange]) {
        for NodeChange { before, after, .. } in changes {
            let sides = [(after, 1), (before, -1)];
            for (node, by) in sides.into_iter().filter_map(|(node, by)| Some((node.as_deref()?, by))) {
                self.count(node, by);
                node.senders().into_iter().for_each(|address| self.weigh(address));
            }
        }
    }

    /// Takes in what the kernel has. Returns how many elements are gone that it had.
    pub fn found(&mut self, held: BTreeSet<Element>) -> usize {
        let gone = self.held.difference(&held).count();
        self.held = held;
        self.compare();
        gone
    }

    /// What is to be added.
    pub fn missing(&self) -> &BTreeSet<Element> {
        &self.missing
    }

    /// What is to be removed.
    pub fn surplus(&self) -> &BTreeSet<Element> {
        &self.surplus
    }

    /// What was missing has been added.
    pub fn added(&mut self) {
        self.held.append(&mut self.missing);
    }

    /// What was too much has been removed.
    pub fn removed(&mut self) {
        for element in std::mem::take(&mut self.surplus) {
            self.held.remove(&element);
        }
    }

    fn count(&mut self, node: &Node, by: isize) {
        for address in node.senders() {
            let count = self.nodes.entry(address).or_default();
            *count = count.saturating_add_signed(by);
            if *count == 0 {
                self.nodes.remove(&address);
            }
        }
    }

    /// Compares one address.
    fn weigh(&mut self, address: IpAddr) {
        let element = of_node(address);
        let (is_wanted, is_held) =
            (self.port.is_some() && self.nodes.contains_key(&address), self.held.contains(&element));
        for (set, belongs) in
            [(&mut self.missing, is_wanted && !is_held), (&mut self.surplus, is_held && !is_wanted)]
        {
            if belongs {
                set.insert(element.clone());
            } else {
                set.remove(&element);
            }
        }
    }

    /// Compares everything.
    fn compare(&mut self) {
        let mut wanted = BTreeSet::new();
        if let Some(port) = self.port {
            wanted.extend(self.nodes.keys().copied().map(of_node).chain([of_port(port)]));
        }
        if self.are_routes_there {
            wanted.extend(self.strict.iter().map(of_device));
        }
        self.missing = wanted.difference(&self.held).cloned().collect();
        self.surplus = self.held.difference(&wanted).cloned().collect();
    }
}

fn of_node(address: IpAddr) -> Element {
    match address {
        IpAddr::V4(address) => element(NODES[0], address.octets().to_vec()),
        IpAddr::V6(address) => element(NODES[1], address.octets().to_vec()),
    }
}

fn of_port(port: u16) -> Element {
    element(PORTS, port.to_be_bytes().to_vec())
}

fn of_device(name: &IfName) -> Element {
    let mut key = name.as_str().as_bytes().to_vec();
    key.resize(NAME_LENGTH, 0);
    element(STRICT, key)
}

fn element(set: &'static str, key: Vec<u8>) -> Element {
    Element::of_set(set, key, COMMENT.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::decide::nodes::Nodes;
    use ferrule_config::{Backend, NodeEntry};
    use proptest::prelude::*;

    fn node(name: u8, host: u8) -> Node {
        let address = format!("192.0.2.{host}").parse().unwrap();
        let entry = NodeEntry {
            name: format!("n{name}"),
            address: Some(address),
            address6: None,
            pod_cidrs: Vec::new(),
            vtep_mac: None,
            wireguard_key: None,
        };
        Node { further: vec![format!("2001:db8::{host}").parse().unwrap()], ..entry.into() }
    }

    fn cluster(others: &[(u8, u8)]) -> Cluster {
        let mut nodes = Nodes::new("n0");
        let all = others.iter().map(|(name, host)| node(*name, *host));
        nodes.snapshot(all.chain([node(0, 200)]).collect());
        nodes.cluster().unwrap()
    }

    /// Carries out what is due, as the kernel would.
    fn settle(senders: &mut Senders, kernel: &mut BTreeSet<Element>) {
        kernel.extend(senders.missing().iter().cloned());
        senders.added();
        kernel.retain(|element| !senders.surplus().contains(element));
        senders.removed();
    }

    #[test]
    fn the_port_is_closed_with_the_first_list_and_not_before() {
        let mut senders = Senders::new(&Routing::default());
        assert!(senders.missing().is_empty() && senders.surplus().is_empty());
        senders.know(&cluster(&[(1, 1)]));
        let sets: BTreeSet<_> = senders.missing().iter().map(|element| element.set).collect();
        assert_eq!(sets, [NODES[0], NODES[1], PORTS].into());
        senders.routes_are_there();
        assert!(senders.missing().iter().any(|element| element.set == STRICT));
        let mut senders = Senders::new(&Routing { backend: Backend::Native, ..Routing::default() });
        senders.know(&cluster(&[(1, 1)]));
        senders.routes_are_there();
        assert!(senders.missing().is_empty(), "there is no device of VXLAN");
    }

    #[test]
    fn what_somebody_else_took_out_is_missing_and_told() {
        let (mut senders, mut kernel) = (Senders::new(&Routing::default()), BTreeSet::new());
        senders.know(&cluster(&[(1, 1), (2, 2)]));
        settle(&mut senders, &mut kernel);
        assert_eq!(senders.found(kernel.clone()), 0);
        kernel.pop_first();
        assert_eq!(senders.found(kernel), 1);
        assert_eq!(senders.missing().len(), 1);
    }

    proptest! {
        /// Whatever nodes come, go and move: afterwards the kernel has what the last state wants, and until what is too
        /// much is removed it has both.
        #[test]
        fn the_path_to_a_state_means_nothing(
            states in prop::collection::vec(prop::collection::btree_map(1..5_u8, 1..6_u8, 0..5), 1..6)
        ) {
            let (mut senders, mut kernel) = (Senders::new(&Routing::default()), BTreeSet::new());
            let listed = |state: &BTreeMap<u8, u8>| state.iter().map(|(name, host)| (*name, *host)).collect::<Vec<_>>();
            senders.know(&cluster(&[]));
            settle(&mut senders, &mut kernel);
            let mut before = cluster(&[]);
            for state in &states {
                let after = cluster(&listed(state));
                let of = |cluster: &Cluster, name: &String| cluster.others.get(name).map(Arc::clone);
                let names: BTreeSet<_> = before.others.keys().chain(after.others.keys()).cloned().collect();
                let changes = names.into_iter().map(|name| NodeChange {
                    before: of(&before, &name), after: of(&after, &name), name,
                });
                let changes: Vec<_> = changes.filter(|change| change.before != change.after).collect();
                senders.change(&changes);
                let (was, there) = (kernel.clone(), kernel.union(senders.missing()).count());
                prop_assert_eq!(there, was.len() + senders.missing().len());
                settle(&mut senders, &mut kernel);
                let mut fresh = Senders::new(&Routing::default());
                fresh.know(&after);
                prop_assert_eq!(&kernel, fresh.missing());
                before = after;
            }
        }
    }
}
