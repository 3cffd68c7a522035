//! Finds out which pods' links the kernel's events make doubtful: pure.
//!
//! What an ADD does is never doubtful: it makes new objects, and the watch learns them. What others do to those objects
//! is doubtful: a link that was on is off, or has another MAC or MTU; a known route or neighbour is gone or different.
//! What a DEL does looks the same until the link is gone. So a doubt waits for [`DELAY`], and is forgotten with its
//! link.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ferrule_model::table::OWN_COMMENT;
use ferrule_model::{
    BridgePort, Caller, Change, Event, IfIndex, IfName, IpNetwork, Link, LinkKind, Mac, Neighbour,
    NeighbourKey, PROTOCOL, Route, RouteKey, Wake, WayTo, host_prefix, host_veth_of, is_host_veth, is_ifb,
};

use super::suspects::{Settled, Suspects};
use crate::decide::culprit::{Culprits, Find};
use crate::decide::guard;
use crate::decide::objects::Links;

/// How long a doubt waits. A DEL switches a link off some ten milliseconds before the link is gone. The delay is also
/// the least time between two repairs of the same thing, in a fight with another program.
const DELAY: Duration = Duration::from_millis(150);

/// A pod's link and the device that limits it have the same digits in their names. They begin here.
const IFB_DIGITS_AT: usize = 3;
/// What limits are attached to: `TC_H_ROOT`, `TC_H_INGRESS`, and the ingress discipline.
const PARENTS: [u32; 3] = [0xffff_ffff, 0xffff_fff1, 0xffff_0000];

/// What is known of the pods' links, and what is doubted.
#[derive(Debug)]
pub struct Watch {
    links: Links,
    /// The MAC behind each address.
    neighbours: BTreeMap<NeighbourKey, Mac>,
    /// The link that the route to each address leads out of.
    routes: BTreeMap<IpNetwork, IfIndex>,
    /// The places of pods' links on bridges.
    ports: BTreeMap<IfIndex, Option<BridgePort>>,
    /// All bridges, and the devices that limit what pods send.
    bridges: Links,
    ifbs: Links,
    /// The places on links where something limits.
    limits: BTreeSet<(IfIndex, u32)>,
    /// Whether all pods were looked at once. Before that, events tell of links of which nothing is known.
    seeded: bool,
    suspects: Suspects,
    due: Option<Instant>,
    culprits: Culprits,
}

impl Watch {
    /// A watch that knows nothing yet. It asks `find` which process has a port.
    pub fn new(find: Find) -> Self {
        Self {
            links: Links::new(),
            neighbours: BTreeMap::new(),
            routes: BTreeMap::new(),
            ports: BTreeMap::new(),
            bridges: Links::new(),
            ifbs: Links::new(),
            limits: BTreeSet::new(),
            seeded: false,
            suspects: Suspects::default(),
            due: None,
            culprits: Culprits::new(find),
        }
    }

    /// Names the caller that asked for one of the changes that are told next.
    pub fn knows(&mut self, caller: Option<Caller>) {
        self.culprits.knows(caller);
    }

    /// When some pod is to be looked at.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes out which pods are to be looked at, and who changed what.
    pub fn take(&mut self) -> (Suspects, Culprits) {
        self.due = None;
        (std::mem::take(&mut self.suspects), self.culprits.take())
    }

    /// Learns the pods that were found right, or made right. `all` says that these are all pods there are.
    pub fn settled(&mut self, pods: Vec<Settled>, all: bool) {
        for Settled { link, ways, bridge, ifb, is_limited } in pods {
            if let Some((bridge, port)) = bridge {
                self.bridges.insert(bridge.index, bridge);
                self.ports.insert(link.index, Some(port));
            }
            if is_limited {
                let limited = |link: IfIndex| PARENTS.map(|parent| (link, parent));
                self.limits.extend(limited(link.index));
                self.limits.extend(ifb.iter().flat_map(|ifb| limited(ifb.index)));
            }
            self.ifbs.extend(ifb.map(|ifb| (ifb.index, ifb)));
            for WayTo { neighbour: (neighbour, value), route: (route, _) } in ways {
                self.neighbours.extend(value.mac.map(|mac| (neighbour, mac)));
                self.routes.insert(route.dst, link.index);
            }
            self.links.insert(link.index, link);
        }
        self.seeded |= all;
    }

    /// Takes in an event that `port` asked for.
    pub fn hears(&mut self, event: &Event, port: u32, now: Instant) {
        let doubtful = match event {
            Event::Overrun => return self.suspect_all(now),
            Event::Link(change, link) if link.kind == LinkKind::Other("bridge".into()) => {
                return self.bridge(*change, link, now);
            }
            Event::Link(change, link) if is_ifb(link.name.as_str()) => return self.ifb(*change, link, now),
            Event::Link(Change::Put, link) => self.link(link),
            Event::Link(Change::Delete, link) => return self.forget(link, now),
            Event::Route(change, key, route) => self.route(*change, key, route),
            Event::Neighbour(change, key, value) => self.neighbour(*change, *key, value),
            Event::Port(link, port) => self.port(*link, *port),
            Event::Address(Change::Delete, key, _) if self.bridges.contains_key(&key.link) => {
                self.culprits.saw(event, port, Some(&self.bridges));
                return self.suspect_bridge(key.link, now);
            }
            Event::Address(..) | Event::Fdb(..) | Event::OddRoute(..) => None,
        };
        let Some(index) = doubtful else { return };
        self.culprits.saw(event, port, Some(&self.links));
        match self.links.get(&index).filter(|_| self.seeded) {
            Some(link) => self.suspect(link.name.clone(), now),
            None => self.suspect_all(now),
        }
    }

    /// Takes in what `port` did to the table of host ports, to the guard, or to a link's limits.
    pub fn wakes(&mut self, wake: &Wake, port: u32, now: Instant) {
        let is_doubtful = match wake {
            Wake::Table(guard::TABLE) => {
                self.culprits.woke(wake, port);
                self.suspects.guard = true;
                self.due.get_or_insert(now + DELAY);
                return;
            }
            Wake::Table(_) => true,
            // Elements for the node's addresses, without which no host port is open. The kernel does not tell of a
            // program that replaces them by others.
            Wake::Element(owner) if owner == OWN_COMMENT => !self.seeded || !self.links.is_empty(),
            // A DEL closes the ports of a pod whose link is gone.
            Wake::Element(owner) => {
                let veth = host_veth_of(owner);
                !self.seeded || self.links.values().any(|link| Some(&link.name) == veth.as_ref())
            }
            Wake::Traffic { link, parent, gone } => return self.traffic(*link, *parent, *gone, now),
            Wake::Nexthop(_) | Wake::Rule | Wake::Sysctl | Wake::Overrun => false,
        };
        if is_doubtful {
            self.culprits.woke(wake, port);
            self.suspects.ports = true;
            // An element's owner does not tell which table it was taken from.
            self.suspects.guard |= matches!(wake, Wake::Element(_));
            self.due.get_or_insert(now + DELAY);
        }
    }

    /// Makes all pods doubtful.
    pub fn suspect_all(&mut self, now: Instant) {
        self.suspects.all = true;
        self.due.get_or_insert(now + DELAY);
    }

    fn suspect(&mut self, name: IfName, now: Instant) {
        self.suspects.links.insert(name);
        self.due.get_or_insert(now + DELAY);
    }

    fn link(&mut self, link: &Link) -> Option<IfIndex> {
        if !is_host_veth(link.name.as_str()) {
            return None;
        }
        let before = self.links.insert(link.index, link.clone());
        let is_doubtful = match before {
            Some(before) => before.up && (!link.up, link.mac, link.mtu) != (false, before.mac, before.mtu),
            None => !self.seeded,
        };
        is_doubtful.then_some(link.index)
    }

    /// Forgets what was on the link: it went with the link. What a port of a bridge may send under stays behind, and is
    /// taken away without haste.
    fn forget(&mut self, link: &Link, now: Instant) {
        if self.links.remove(&link.index).is_none() {
            return;
        }
        self.routes.retain(|_, index| *index != link.index);
        self.neighbours.retain(|key, _| key.link != link.index);
        self.limits.retain(|(of, _)| *of != link.index);
        if self.suspects.links.remove(&link.name) && self.suspects.is_none() {
            drop(self.take());
        }
        if self.ports.remove(&link.index).is_some() {
            self.suspects.gone.insert(link.name.clone());
            self.due.get_or_insert(now + DELAY);
        }
    }

    fn port(&mut self, link: IfIndex, port: Option<BridgePort>) -> Option<IfIndex> {
        let is_on = self.links.get(&link).is_some_and(|link| link.up);
        let before = self.ports.insert(link, port).flatten();
        // An ADD puts the link on the bridge before it switches the link on.
        (is_on && before.is_some() && before != port).then_some(link)
    }

    fn bridge(&mut self, change: Change, link: &Link, now: Instant) {
        let before = match change {
            Change::Put => self.bridges.insert(link.index, link.clone()),
            Change::Delete => self.bridges.remove(&link.index),
        };
        if before.is_some_and(|before| before.up && (!link.up || link.mac != before.mac)) {
            self.suspect_bridge(link.index, now);
        }
    }

    /// Makes all pods on the bridge doubtful.
    fn suspect_bridge(&mut self, bridge: IfIndex, now: Instant) {
        let on_it = self.ports.iter().filter(|(_, port)| port.is_some_and(|port| port.bridge == bridge));
        let names: Vec<_> = on_it.filter_map(|(link, _)| Some(self.links.get(link)?.name.clone())).collect();
        names.into_iter().for_each(|name| self.suspect(name, now));
    }

    /// A DEL deletes this device after the pod's link.
    fn ifb(&mut self, change: Change, link: &Link, now: Instant) {
        let before = match change {
            Change::Put => self.ifbs.insert(link.index, link.clone()),
            Change::Delete => {
                self.limits.retain(|(of, _)| *of != link.index);
                self.ifbs.remove(&link.index)
            }
        };
        if before.is_some_and(|before| before.up && (!link.up || change == Change::Delete)) {
            self.suspect_veth_of(link, now);
        }
    }

    fn suspect_veth_of(&mut self, ifb: &Link, now: Instant) {
        let veth = ifb.name.as_str().get(IFB_DIGITS_AT..).and_then(host_veth_of);
        if let Some(veth) = veth.filter(|veth| self.links.values().any(|link| link.name == *veth)) {
            self.suspect(veth, now);
        }
    }

    /// An ADD makes each limit once.
    fn traffic(&mut self, link: IfIndex, parent: u32, gone: bool, now: Instant) {
        let is_doubtful = gone || !self.limits.insert((link, parent));
        match (self.links.get(&link), self.ifbs.get(&link).cloned()) {
            (Some(veth), _) if is_doubtful => self.suspect(veth.name.clone(), now),
            (_, Some(ifb)) if is_doubtful => self.suspect_veth_of(&ifb, now),
            (None, None) => drop(self.limits.remove(&(link, parent))),
            _ => {}
        }
    }

    fn route(&mut self, change: Change, key: &RouteKey, route: &Route) -> Option<IfIndex> {
        if *key != RouteKey::main(key.dst) || host_prefix(key.dst.ip()) != key.dst {
            return None;
        }
        let known = self.routes.get(&key.dst).copied();
        let is_pods = route.protocol == PROTOCOL;
        let out_of = route.link().filter(|link| is_pods && (!self.seeded || self.links.contains_key(link)));
        match (change, out_of) {
            (Change::Put, Some(link)) if self.seeded => {
                self.routes.insert(key.dst, link);
                None
            }
            (Change::Delete, Some(link)) => Some(link),
            // This route took the place of ours.
            (Change::Put, _) => known.or(out_of),
            (Change::Delete, None) => None,
        }
    }

    fn neighbour(&mut self, change: Change, key: NeighbourKey, value: &Neighbour) -> Option<IfIndex> {
        let known = self.neighbours.get(&key).copied();
        let is_right = change == Change::Put && value.permanent;
        match (known, value.mac) {
            (None, Some(mac)) if is_right && self.links.contains_key(&key.link) => {
                self.neighbours.insert(key, mac);
                None
            }
            (Some(known), mac) if !is_right || mac != Some(known) => Some(key.link),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
