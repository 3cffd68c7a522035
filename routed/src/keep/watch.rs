//! Which pods' links the kernel's events make doubtful: pure.
//!
//! What an ADD does is never doubtful: it makes, and what is made is learned. What others do to it is: a link that was on is
//! off, or has another MAC or MTU, a route or a neighbour that was known is gone or another. What a DEL does looks the same until
//! the link is gone; so a doubt waits for [`DELAY`], and is forgotten with its link.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ferrule_model::{
    BridgePort, Caller, Change, Event, IfIndex, IfName, IpNetwork, Link, LinkKind, Mac, Neighbour,
    NeighbourKey, PROTOCOL, Route, RouteKey, Wake, WayTo, host_prefix, host_veth_of, is_host_veth, is_ifb,
};

use crate::decide::culprit::{Culprits, Find};
use crate::decide::guard;
use crate::decide::objects::Links;

/// How long a doubt waits: a link is gone some ten milliseconds after it was switched off for that. It is also the least time
/// between two repairs of the same thing, in a fight with another program.
const DELAY: Duration = Duration::from_millis(150);

/// Where the digits begin that a device that limits has in common with the pod's link.
const IFB_DIGITS_AT: usize = 3;
/// What limits hang on: `TC_H_ROOT`, `TC_H_INGRESS`, and the ingress discipline.
const PARENTS: [u32; 3] = [0xffff_ffff, 0xffff_fff1, 0xffff_0000];

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Everything of everybody.
    pub all: bool,
    /// What is on the links of those behind these host's ends.
    pub links: BTreeSet<IfName>,
    /// The host ports of everybody.
    pub ports: bool,
    /// The table that guards pods.
    pub guard: bool,
}

impl Suspects {
    /// Everything of everybody.
    pub fn everybody() -> Self {
        Self { all: true, ..Self::default() }
    }

    fn is_none(&self) -> bool {
        !self.all && !self.ports && !self.guard && self.links.is_empty()
    }
}

/// A pod that was found, or made, as it has to be.
#[derive(Debug)]
pub struct Settled {
    /// The host's end of its veth pair.
    pub link: Link,
    /// Its routes and neighbours.
    pub ways: Vec<WayTo>,
    /// The bridge that it is on, and its place there.
    pub bridge: Option<(Link, BridgePort)>,
    /// The device that limits what it sends.
    pub ifb: Option<Link>,
    /// It has limits.
    pub is_limited: bool,
}

/// What is known of the pods' links, and doubted.
#[derive(Debug)]
pub struct Watch {
    links: Links,
    /// Who is behind an address, and with which MAC.
    neighbours: BTreeMap<NeighbourKey, Mac>,
    /// Out of which link the route to an address leads.
    routes: BTreeMap<IpNetwork, IfIndex>,
    /// Their places on bridges.
    ports: BTreeMap<IfIndex, Option<BridgePort>>,
    /// All bridges, and the devices that limit what pods send.
    bridges: Links,
    ifbs: Links,
    /// Where on a link something limits.
    limits: BTreeSet<(IfIndex, u32)>,
    /// Everybody was looked at once. Until then events tell of links that nothing is known of.
    seeded: bool,
    suspects: Suspects,
    due: Option<Instant>,
    culprits: Culprits,
}

impl Watch {
    /// Knows nothing yet. Who has a port is asked of `find`.
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

    /// Somebody who asked for one of the changes that are told next.
    pub fn knows(&mut self, caller: Option<Caller>) {
        self.culprits.knows(caller);
    }

    /// When somebody is to be looked at.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Who is to be looked at, and who changed what.
    pub fn take(&mut self) -> (Suspects, Culprits) {
        self.due = None;
        (std::mem::take(&mut self.suspects), self.culprits.take())
    }

    /// These were found, or made, right; `all` there are.
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

    /// Takes note of an event that `port` asked for.
    pub fn hears(&mut self, event: &Event, port: u32, now: Instant) {
        let doubtful = match event {
            Event::Overrun => return self.suspect_all(now),
            Event::Link(change, link) if link.kind == LinkKind::Other("bridge".into()) => {
                return self.bridge(*change, link, now);
            }
            Event::Link(change, link) if is_ifb(link.name.as_str()) => return self.ifb(*change, link, now),
            Event::Link(Change::Put, link) => self.link(link),
            Event::Link(Change::Delete, link) => return self.forget(link),
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

    /// Takes note of what `port` did to the table of host ports, to the guard, or to a link's limits.
    pub fn wakes(&mut self, wake: &Wake, port: u32, now: Instant) {
        let is_doubtful = match wake {
            Wake::Table(guard::TABLE) => {
                self.culprits.woke(wake, port);
                self.suspects.guard = true;
                self.due.get_or_insert(now + DELAY);
                return;
            }
            Wake::Table(_) => true,
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
            self.due.get_or_insert(now + DELAY);
        }
    }

    /// Everybody is to be looked at.
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

    /// What was on the link went with it.
    fn forget(&mut self, link: &Link) {
        if self.links.remove(&link.index).is_none() {
            return;
        }
        self.routes.retain(|_, index| *index != link.index);
        self.neighbours.retain(|key, _| key.link != link.index);
        self.ports.remove(&link.index);
        self.limits.retain(|(of, _)| *of != link.index);
        if self.suspects.links.remove(&link.name) && self.suspects.is_none() {
            drop(self.take());
        }
    }

    fn port(&mut self, link: IfIndex, port: Option<BridgePort>) -> Option<IfIndex> {
        let is_on = self.links.get(&link).is_some_and(|link| link.up);
        let before = self.ports.insert(link, port).flatten();
        // An ADD puts it on the bridge before it is on.
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

    /// All pods on it are doubtful.
    fn suspect_bridge(&mut self, bridge: IfIndex, now: Instant) {
        let on_it = self.ports.iter().filter(|(_, port)| port.is_some_and(|port| port.bridge == bridge));
        let names: Vec<_> = on_it.filter_map(|(link, _)| Some(self.links.get(link)?.name.clone())).collect();
        names.into_iter().for_each(|name| self.suspect(name, now));
    }

    /// A DEL deletes it after the pod's link.
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

    /// What an ADD makes there, it makes once.
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
            // In the place of ours.
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
mod tests {
    use super::*;
    use ferrule_model::{Address, AddressKey, Via};

    const VETH: IfIndex = IfIndex(7);

    fn link(up: bool) -> Link {
        Link {
            index: VETH,
            name: IfName::new("fer0123456789ab").unwrap(),
            mac: Some(Mac::local([1; 6])),
            mtu: 1450,
            up,
            carrier: up,
            alias: None,
            peer: None,
            kind: LinkKind::Veth,
        }
    }

    fn way() -> WayTo {
        WayTo::new(VETH, "10.244.1.5".parse().unwrap(), Mac::local([2; 6]))
    }

    /// What the kernel tells of an ADD.
    fn added() -> Vec<Event> {
        let ((neighbour, value), (dst, route)) = (way().neighbour, way().route);
        vec![
            Event::Link(Change::Put, Link { mtu: 1500, ..link(false) }),
            Event::Link(Change::Put, link(false)),
            Event::Link(Change::Put, link(true)),
            Event::Neighbour(Change::Put, neighbour, value),
            Event::Route(Change::Put, dst, route),
            Event::Link(Change::Put, link(true)),
        ]
    }

    /// Of a link that goes, switched off at first.
    fn off() -> Vec<Event> {
        let ((neighbour, value), (dst, route)) = (way().neighbour, way().route);
        vec![
            Event::Link(Change::Put, link(false)),
            Event::Neighbour(Change::Delete, neighbour, value),
            Event::Route(Change::Delete, dst, route),
        ]
    }

    fn told(watch: &mut Watch, events: &[Event]) {
        events.iter().for_each(|event| watch.hears(event, 0, Instant::now()));
    }

    fn watch() -> Watch {
        let mut watch = Watch::new(|_| None);
        watch.settled(Vec::new(), true);
        watch
    }

    #[test]
    fn what_comes_and_goes_makes_nobody_doubtful() {
        let mut watch = watch();
        told(&mut watch, &added());
        assert_eq!(watch.due(), None, "ADD");
        told(&mut watch, &off());
        let due = watch.due().expect("it may be somebody's doing");
        assert!(due > Instant::now(), "not before it can be gone");
        told(&mut watch, &[Event::Link(Change::Delete, link(false))]);
        assert_eq!((watch.due(), watch.take().0), (None, Suspects::default()), "DEL");
        assert!(watch.links.is_empty() && watch.routes.is_empty() && watch.neighbours.is_empty());
    }

    #[test]
    fn what_others_do_to_what_was_made_is_doubtful() {
        let ((neighbour, value), (dst, route)) = (way().neighbour, way().route);
        let other = Neighbour { mac: Some(Mac::local([9; 6])), permanent: true };
        let events = [
            Event::Link(Change::Put, link(false)),
            Event::Link(Change::Put, Link { mtu: 1400, ..link(true) }),
            Event::Link(Change::Put, Link { mac: None, ..link(true) }),
            Event::Neighbour(Change::Delete, neighbour, value),
            Event::Neighbour(Change::Put, neighbour, Neighbour { permanent: false, ..value }),
            Event::Neighbour(Change::Put, neighbour, other),
            Event::Route(Change::Delete, dst, route),
            Event::Route(Change::Put, dst, Route::ours(Via::Link(IfIndex(2)))),
            Event::Route(Change::Put, dst, Route { protocol: 3, ..route }),
        ];
        for event in events {
            let mut watch = watch();
            told(&mut watch, &added());
            told(&mut watch, std::slice::from_ref(&event));
            let suspects = Suspects { links: BTreeSet::from([link(true).name]), ..Suspects::default() };
            assert_eq!(watch.take().0, suspects, "{event:?}");
        }
        // So too of a pod that was there before.
        let mut watch = watch();
        watch.settled(
            vec![Settled { link: link(true), ways: vec![way()], bridge: None, ifb: None, is_limited: false }],
            false,
        );
        told(&mut watch, &[Event::Route(Change::Delete, dst, route)]);
        assert!(watch.due().is_some());
    }

    #[test]
    fn what_concerns_no_pod_is_not_doubtful() {
        let mut watch = watch();
        told(&mut watch, &added());
        let foreign = Link { index: IfIndex(2), name: IfName::new("eth0").unwrap(), ..link(false) };
        let key = |dst: &str| RouteKey::main(dst.parse().unwrap());
        let (elsewhere, nobody) =
            (Route::ours(Via::Link(IfIndex(2))), NeighbourKey { link: IfIndex(2), ..way().neighbour.0 });
        let learned = NeighbourKey { link: VETH, address: "169.254.9.9".parse().unwrap() };
        let events = [
            Event::Link(Change::Put, foreign.clone()),
            Event::Link(Change::Delete, foreign),
            Event::Link(Change::Put, Link { carrier: false, ..link(true) }),
            Event::Route(Change::Delete, key("10.9.9.9/32"), elsewhere),
            Event::Route(Change::Put, key("10.244.1.0/24"), elsewhere),
            Event::Route(Change::Delete, key("10.244.2.0/24"), elsewhere),
            Event::Neighbour(Change::Delete, nobody, way().neighbour.1),
            Event::Neighbour(Change::Put, learned, Neighbour { mac: None, permanent: false }),
        ];
        for event in events {
            told(&mut watch, std::slice::from_ref(&event));
            assert_eq!(watch.due(), None, "{event:?}");
        }
    }

    #[test]
    fn before_everybody_was_looked_at_and_after_lost_events_everybody_is_doubtful() {
        let mut before = Watch::new(|_| None);
        told(&mut before, &off());
        assert!(before.take().0.all);
        let mut watch = watch();
        told(&mut watch, &added());
        told(&mut watch, &[Event::Overrun, Event::Link(Change::Put, link(false))]);
        assert!(watch.take().0.all);
    }

    #[test]
    fn of_host_ports_only_those_of_living_pods_are_doubtful() {
        let mut watch = watch();
        let now = Instant::now();
        let owner = |digits: &str| Wake::Element(format!("{digits}ffffffffffffffffffff pods"));
        told(&mut watch, &added());
        watch.wakes(&owner("ba9876543210"), 1, now);
        assert_eq!(watch.due(), None, "its link is gone");
        watch.wakes(&owner("0123456789ab"), 1, now);
        assert!(watch.take().0.ports);
        watch.wakes(&Wake::Table("ferrule-hostports"), 1, now);
        assert!(watch.take().0.ports);
        watch.wakes(&Wake::Table("ferrule-guard"), 1, now);
        assert_eq!(watch.take().0, Suspects { guard: true, ..Suspects::default() });
    }

    #[test]
    fn a_bridge_and_the_place_on_it_are_doubtful_once_the_pod_is_on() {
        let index = IfIndex(3);
        let bridge = |up| Link {
            index,
            name: IfName::new("fbr0").unwrap(),
            kind: LinkKind::Other("bridge".into()),
            ..link(up)
        };
        let port = |isolated| Event::Port(VETH, Some(BridgePort { bridge: index, hairpin: true, isolated }));
        let address = AddressKey { link: index, prefix: "10.244.1.1/24".parse().unwrap() };
        let add = [
            Event::Link(Change::Put, bridge(true)),
            Event::Link(Change::Put, link(false)),
            port(false),
            port(true),
            Event::Link(Change::Put, link(true)),
            port(true),
            Event::Address(Change::Put, address, Address::default()),
        ];
        let disturbances = [
            Event::Port(VETH, None),
            port(false),
            Event::Link(Change::Put, bridge(false)),
            Event::Link(Change::Put, Link { mac: None, ..bridge(true) }),
            Event::Address(Change::Delete, address, Address::default()),
        ];
        for event in disturbances {
            let mut watch = watch();
            told(&mut watch, &add);
            assert_eq!(watch.due(), None, "ADD");
            told(&mut watch, std::slice::from_ref(&event));
            assert!(watch.take().0.links.contains(&link(true).name), "{event:?}");
            told(&mut watch, &[Event::Link(Change::Delete, link(false)), event]);
            assert_eq!(watch.due(), None, "nobody is on it any more");
        }
    }

    #[test]
    fn limits_are_doubtful_when_they_go_or_come_a_second_time() {
        let mut watch = watch();
        let now = Instant::now();
        let ifb = |up| Link { index: IfIndex(9), name: IfName::new("fei0123456789ab").unwrap(), ..link(up) };
        let wake = |link, parent, gone| Wake::Traffic { link, parent, gone };
        told(&mut watch, &added());
        told(&mut watch, &[Event::Link(Change::Put, ifb(true))]);
        for (link, parent) in
            [(VETH, PARENTS[0]), (IfIndex(9), PARENTS[0]), (VETH, PARENTS[1]), (VETH, PARENTS[2])]
        {
            watch.wakes(&wake(link, parent, false), 1, now);
        }
        watch.wakes(&wake(IfIndex(2), PARENTS[0], true), 1, now);
        assert_eq!(watch.due(), None, "ADD, and another's");
        for doubt in
            [wake(VETH, PARENTS[0], true), wake(VETH, PARENTS[0], false), wake(IfIndex(9), PARENTS[0], true)]
        {
            watch.wakes(&doubt, 1, now);
            assert!(watch.take().0.links.contains(&link(true).name), "{doubt:?}");
        }
        for event in [Event::Link(Change::Put, ifb(false)), Event::Link(Change::Delete, ifb(true))] {
            told(&mut watch, &[Event::Link(Change::Put, ifb(true)), event]);
            assert!(watch.take().0.links.contains(&link(true).name));
        }
        told(&mut watch, &[Event::Link(Change::Put, ifb(true)), Event::Link(Change::Delete, link(false))]);
        told(&mut watch, &[Event::Link(Change::Delete, ifb(true))]);
        assert_eq!(watch.due(), None, "DEL");
    }
}
