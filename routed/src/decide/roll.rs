//! Decides which of the nodes that a source tells of count, if some claim what others have: one rule for all sources.
//! Pure.
//!
//! A node that clashes is left out alone, with a reason, and no other node is affected. A node is always left out if
//! one of its pod CIDRs holds a node's address or an address of Services: its routes would take the way of the nodes
//! themselves. Several nodes may claim one address, MAC or key, or overlapping pod CIDRs. Then this node comes first,
//! then one that is ready, then the newer one, then the first by name. So all nodes but those two decide alike, in
//! whatever order they hear of it. [`crate::decide::taken`] knows what only this machine can know (its own links), and
//! [`crate::decide::desired`] leaves nodes out because of that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ferrule_config::{Config, Tunnel};
use ferrule_model::{Family, IpNetwork, Mac, WgKey, last_address, ordinal};

use crate::decide::nodes::{Node, NodeUpdate};

/// What decides between nodes that claim the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Its kubelet says that it is ready; true if no source can say.
    pub ready: bool,
    /// When it was created, in whatever unit the source counts; 0 if no source can say.
    pub born: i64,
}

impl Default for Rank {
    fn default() -> Self {
        Self { ready: true, born: 0 }
    }
}

/// What may not be claimed twice, or at all.
#[derive(Debug, Clone, Default)]
struct Rules {
    /// Whether the MACs of the VXLAN devices count: of the first, of the second.
    macs: [bool; 2],
    /// Whether the WireGuard keys count.
    keys: bool,
    /// The networks of Services.
    services: Vec<IpNetwork>,
}

/// All nodes that the source tells of, including those that are left out.
#[derive(Debug)]
pub struct Roll {
    own_name: String,
    rules: Rules,
    all: BTreeMap<Arc<str>, (Node, Rank)>,
    /// The claims of the nodes that are not left out.
    claims: Claims,
    left_out: BTreeMap<Arc<str>, String>,
    /// The lines that are to be logged.
    lines: Vec<String>,
}

/// Which node has what. The networks do not overlap.
#[derive(Debug, Default)]
struct Claims {
    addresses: BTreeMap<(bool, u128), Arc<str>>,
    networks: BTreeMap<(bool, u128), (IpNetwork, Arc<str>)>,
    macs: HashMap<(usize, Mac), Arc<str>>,
    keys: HashMap<WgKey, Arc<str>>,
}

/// A claim that another node has, too.
struct Clash {
    /// What is claimed, as in `its address 192.0.2.2 is`.
    what: String,
    /// The node that has it.
    whose: Arc<str>,
}

impl Roll {
    /// An empty roll. `own_name` is the node that this daemon runs on.
    pub fn new(own_name: &str, config: &Config) -> Self {
        let (routing, services) = (&config.routing, config.cluster.service_cidrs.clone());
        let vxlan = routing.has(Tunnel::Vxlan);
        let macs = [vxlan, vxlan && routing.vxlan.device6.is_some()];
        let rules = Rules { macs, keys: routing.has(Tunnel::Wireguard), services };
        Self {
            own_name: own_name.to_owned(),
            rules,
            all: BTreeMap::new(),
            claims: Claims::default(),
            left_out: BTreeMap::new(),
            lines: Vec::new(),
        }
    }

    /// What was told of the node of this name, even if it is left out.
    pub fn get(&self, name: &str) -> Option<&(Node, Rank)> {
        self.all.get(name)
    }

    /// Replaces all nodes by these. Returns those that count.
    pub fn replace(&mut self, nodes: impl IntoIterator<Item = (Node, Rank)>) -> Vec<Node> {
        let named = |(node, rank): (Node, Rank)| (Arc::from(node.name.as_str()), (node, rank));
        self.all = nodes.into_iter().map(named).collect();
        self.decide();
        let counts = self.all.iter().filter(|(name, _)| !self.left_out.contains_key(*name));
        counts.map(|(_, (node, _))| node.clone()).collect()
    }

    /// Puts this node in. Returns what that changes among those that count.
    pub fn put(&mut self, node: Node, rank: Rank) -> Vec<NodeUpdate> {
        let name: Arc<str> = Arc::from(node.name.as_str());
        let known = self.all.get(&name);
        let is_known = known.is_some_and(|(known, _)| *known == node);
        if is_known && (self.left_out.is_empty() || known.is_some_and(|(_, known)| *known == rank)) {
            self.all.insert(name, (node, rank));
            return Vec::new();
        }
        if self.left_out.is_empty() {
            if let Some((known, _)) = known {
                self.claims.remove(known, &self.rules);
            }
            if self.rules.fault(&node).is_none() && self.claims.clash(&node, &self.rules).is_none() {
                self.claims.add(&name, &node, &self.rules);
                self.all.insert(name, (node.clone(), rank));
                return vec![NodeUpdate::Put(node)];
            }
        }
        let was_there = self.all.insert(Arc::clone(&name), (node, rank)).is_some();
        self.decide_after((!is_known).then_some((&name, was_there)))
    }

    /// Takes the node of this name out. Returns what that changes among those that count.
    pub fn remove(&mut self, name: &str) -> Vec<NodeUpdate> {
        let Some((node, _)) = self.all.remove(name) else { return Vec::new() };
        if self.left_out.is_empty() {
            self.claims.remove(&node, &self.rules);
            return vec![NodeUpdate::Remove(node.name)];
        }
        let counted = !self.left_out.contains_key(name);
        let mut updates: Vec<_> = counted.then_some(NodeUpdate::Remove(node.name)).into_iter().collect();
        updates.extend(self.decide_after(None));
        updates
    }

    /// Takes out the lines that have come up since the last call, as in `node b is left out: …`.
    pub fn lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// Decides afresh after the node `touched` changed, or came if it was not there. Returns what that changes.
    fn decide_after(&mut self, touched: Option<(&Arc<str>, bool)>) -> Vec<NodeUpdate> {
        let before = self.decide();
        let (now, all) = (&self.left_out, &self.all);
        let new = touched.filter(|(_, was_there)| !was_there).map(|(name, _)| name);
        let touched = touched.map(|(name, _)| name);
        let leaves = now.keys().filter(|name| !before.contains_key(*name) && new != Some(*name));
        let mut updates: Vec<_> = leaves.map(|name| NodeUpdate::Remove(name.to_string())).collect();
        let is_back = |name: &&Arc<str>| !now.contains_key(*name);
        let back = before.keys().filter(|name| touched != Some(*name)).chain(touched).filter(is_back);
        updates.extend(back.filter_map(|name| Some(NodeUpdate::Put(all.get(name)?.0.clone()))));
        updates
    }

    /// Decides which nodes are left out. Returns those that were left out before.
    fn decide(&mut self) -> BTreeMap<Arc<str>, String> {
        let mut left_out = BTreeMap::new();
        let mut hosts = Claims::default();
        for (name, (node, _)) in &self.all {
            match self.rules.fault(node) {
                Some(fault) => drop(left_out.insert(Arc::clone(name), fault)),
                None => hosts.add_addresses(name, node),
            }
        }
        let is_own = |name: &str| name == self.own_name;
        let mut order = Vec::with_capacity(self.all.len());
        for (name, (node, rank)) in &self.all {
            if left_out.contains_key(name) {
                continue;
            }
            match hosts.held(node).filter(|_| !is_own(name)) {
                Some(Clash { what, whose }) => drop(left_out.insert(
                    Arc::clone(name),
                    format!("{what} of node {whose}; give it a pod CIDR outside of the nodes' own networks"),
                )),
                None => order.push((Reverse(is_own(name)), Reverse(rank.ready), Reverse(rank.born), name)),
            }
        }
        order.sort_unstable();
        let mut claims = Claims::default();
        for (.., name) in &order {
            let Some((node, rank)) = self.all.get(*name) else { continue };
            let Some(Clash { what, whose }) = claims.clash(node, &self.rules) else {
                claims.add(name, node, &self.rules);
                continue;
            };
            let other = self.all.get(&whose).map(|(_, rank)| *rank).unwrap_or_default();
            let why = match () {
                () if is_own(&whose) => "is this one",
                () if other.ready != rank.ready => "is ready",
                () if other.born != rank.born => "is newer",
                () => "comes first by its name",
            };
            let words = format!(
                "{what} of node {whose}, which {why}; give each node its own, or remove the one that is gone"
            );
            left_out.insert(Arc::clone(name), words);
        }
        self.claims = claims;
        let before = std::mem::replace(&mut self.left_out, left_out);
        self.say(&before);
        before
    }

    fn say(&mut self, before: &BTreeMap<Arc<str>, String>) {
        let new = self.left_out.iter().filter(|(name, why)| before.get(*name) != Some(why));
        self.lines.extend(new.map(|(name, why)| format!("node {name} is left out: {why}")));
        let back =
            before.keys().filter(|name| self.all.contains_key(*name) && !self.left_out.contains_key(*name));
        self.lines.extend(back.map(|name| format!("node {name} can be used now")));
    }
}

impl Rules {
    /// What is wrong with the node by itself.
    fn fault(&self, node: &Node) -> Option<String> {
        let cidrs = &node.pod_cidrs;
        for (at, cidr) in cidrs.iter().enumerate() {
            if let Some(address) = addresses(node).find(|address| cidr.contains(*address)) {
                return Some(format!(
                    "its own address {address} lies in its pod CIDR {cidr}; give it a pod CIDR outside of the nodes' own \
                     networks, or see which address its kubelet reports (--node-ip)"
                ));
            }
            if let Some(services) = self.services.iter().find(|services| overlap(services, cidr)) {
                return Some(format!(
                    "its pod CIDR {cidr} overlaps {services} of [cluster] service_cidrs; give it another pod CIDR"
                ));
            }
            if let Some(other) = cidrs.iter().take(at).find(|other| overlap(other, cidr)) {
                return Some(format!("its pod CIDRs {other} and {cidr} overlap; give it others"));
            }
        }
        None
    }

    fn macs(&self, node: &Node) -> impl Iterator<Item = (usize, Mac)> {
        let all = [(self.macs[0], node.vtep_mac), (self.macs[1], node.vtep_mac6)];
        all.into_iter().enumerate().filter(|(_, (counts, _))| *counts).map(|(at, (_, mac))| (at, mac))
    }

    fn key(&self, node: &Node) -> Option<WgKey> {
        node.wireguard_key.filter(|_| self.keys)
    }
}

impl Claims {
    /// What the node claims and another has, if there is such a thing.
    fn clash(&self, node: &Node, rules: &Rules) -> Option<Clash> {
        let clash = |what: String, whose: &Arc<str>| Some(Clash { what, whose: Arc::clone(whose) });
        for address in addresses(node) {
            if let Some(whose) = self.addresses.get(&ordinal(address)) {
                return clash(format!("its address {address} is that"), whose);
            }
            if let Some((network, whose)) = self.network_at(address).filter(|(net, _)| net.contains(address))
            {
                return clash(format!("its address {address} lies in the pod CIDR {network}"), whose);
            }
        }
        for (at, mac) in rules.macs(node) {
            if let Some(whose) = self.macs.get(&(at, mac)) {
                return clash(format!("the MAC {mac} of its VXLAN device is that"), whose);
            }
        }
        if let Some((key, whose)) = rules.key(node).and_then(|key| self.keys.get_key_value(&key)) {
            return clash(format!("its WireGuard key {key} is that"), whose);
        }
        for cidr in &node.pod_cidrs {
            let found = self.network_at(last_address(cidr)).filter(|(network, _)| overlap(network, cidr));
            if let Some((network, whose)) = found {
                return clash(format!("its pod CIDR {cidr} overlaps {network}"), whose);
            }
        }
        self.held(node)
    }

    /// An address of a node that is in the pod CIDRs of another.
    fn held(&self, node: &Node) -> Option<Clash> {
        node.pod_cidrs.iter().find_map(|cidr| {
            let range = ordinal(cidr.network())..=ordinal(last_address(cidr));
            let (_, whose) = self.addresses.range(range).next()?;
            Some(Clash { what: format!("its pod CIDR {cidr} holds the address"), whose: Arc::clone(whose) })
        })
    }

    /// The last network that does not begin after `address`: no other network can contain it.
    fn network_at(&self, address: IpAddr) -> Option<&(IpNetwork, Arc<str>)> {
        self.networks.range(..=ordinal(address)).next_back().map(|(_, found)| found)
    }

    fn add_addresses(&mut self, name: &Arc<str>, node: &Node) {
        self.addresses.extend(addresses(node).map(|address| (ordinal(address), Arc::clone(name))));
    }

    fn add(&mut self, name: &Arc<str>, node: &Node, rules: &Rules) {
        self.add_addresses(name, node);
        self.macs.extend(rules.macs(node).map(|mac| (mac, Arc::clone(name))));
        self.keys.extend(rules.key(node).map(|key| (key, Arc::clone(name))));
        let network = |cidr: &IpNetwork| (ordinal(cidr.network()), (*cidr, Arc::clone(name)));
        self.networks.extend(node.pod_cidrs.iter().map(network));
    }

    /// Removes the claims of `node`. All of them must be its own.
    fn remove(&mut self, node: &Node, rules: &Rules) {
        addresses(node).for_each(|address| drop(self.addresses.remove(&ordinal(address))));
        rules.macs(node).for_each(|mac| drop(self.macs.remove(&mac)));
        rules.key(node).into_iter().for_each(|key| drop(self.keys.remove(&key)));
        node.pod_cidrs.iter().for_each(|cidr| drop(self.networks.remove(&ordinal(cidr.network()))));
    }
}

fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    Family::BOTH.into_iter().filter_map(|family| node.address(family))
}

fn overlap(one: &IpNetwork, other: &IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

#[cfg(test)]
mod tests;
