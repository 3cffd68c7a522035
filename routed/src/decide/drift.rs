//! Whether an event of the kernel disagrees with what we believe is in the kernel: pure. Echoes of our own changes
//! agree, so they start nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use ferrule_model::{
    Change, Event, Family, IfIndex, IfName, IpNetwork, Link, NexthopEvent, PROTOCOL, Route, RouteKey,
    VxlanSpec, is_host_veth, last_address, ordinal,
};

use crate::decide::diverted::{Diverted, policy, shadow};
use crate::decide::nodes::Node;
use crate::decide::objects::{Links, Objects};
use crate::decide::owner;
use crate::decide::underlay::only_holds;

/// Everything is compared this often, whatever the events say. This finds what events cannot tell, such as an IPv4
/// route that went with its link.
pub const FULL_DIFF: Duration = Duration::from_secs(30);

/// What we believe is in the kernel.
#[derive(Debug, Clone)]
pub struct Belief {
    /// All links, kept up to date by [`Belief::hears`].
    pub links: Links,
    /// Our devices.
    pub devices: Devices,
    /// The links that hold the node's addresses.
    pub uplinks: Vec<IfIndex>,
    /// The node that we are.
    pub own: Node,
    /// The objects that are ours.
    pub ours: Objects,
    /// Our routes whose place a route of another program has.
    pub blocked: Vec<RouteKey>,
    /// What diverts packets from their way.
    pub diverted: Diverted,
    /// The addresses of other nodes to which other programs decide the way. Our routes follow that way.
    pub followed: BTreeSet<(bool, u128)>,
}

/// What we believe of our devices.
#[derive(Debug, Clone)]
pub struct Devices {
    /// The VXLAN device.
    pub vxlan: VxlanDevice,
    /// The second VXLAN device, if IPv6 has one of its own.
    pub vxlan6: Option<VxlanDevice>,
    /// The number of the WireGuard device.
    pub wireguard: Option<IfIndex>,
    /// The name that the WireGuard device has or would have.
    pub wireguard_name: IfName,
}

/// What we believe of one of our VXLAN devices.
#[derive(Debug, Clone)]
pub struct VxlanDevice {
    /// Its number, if it is there and stays.
    pub index: Option<IfIndex>,
    /// What the device was last told to be.
    pub spec: Option<VxlanSpec>,
    /// The name that it has or would have.
    pub name: IfName,
}

impl Devices {
    /// The VXLAN devices that are there.
    pub fn vxlans(&self) -> impl Iterator<Item = IfIndex> {
        self.vxlan.index.into_iter().chain(self.vxlan6.as_ref().and_then(|second| second.index))
    }

    fn has(&self, link: IfIndex) -> bool {
        self.vxlans().chain(self.wireguard).any(|device| device == link)
    }

    fn has_name(&self, name: &IfName) -> bool {
        let second = self.vxlan6.as_ref().map(|second| &second.name);
        [Some(&self.vxlan.name), second, Some(&self.wireguard_name)].contains(&Some(name))
    }
}

/// What an event means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// The event agrees with what we believe, or does not concern us.
    None,
    /// An object is not as we left it: look again.
    Object,
    /// A route of another program takes packets of ours, or may have stopped to: look again.
    Way,
    /// Something that much depends on has changed: look again, and try again what was refused.
    Ground,
}

impl Belief {
    /// The names of the uplinks, and that of our device if there is one.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        let name = |index: &IfIndex| self.links.get(index).map(|link| link.name.to_string());
        let mut uplinks: Vec<_> = self.uplinks.iter().filter_map(name).collect();
        // One link may hold both addresses.
        uplinks.dedup();
        let tunnels = [self.devices.vxlan.index, self.devices.wireguard].into_iter().flatten();
        (uplinks, tunnels.filter_map(|index| name(&index)).collect())
    }

    /// Updates the belief by an event, and says what the event means.
    pub fn hears(&mut self, event: &Event) -> Concern {
        let differs = match event {
            Event::Overrun => return Concern::Ground,
            // This concerns a pod only.
            Event::Port(..) => false,
            Event::Route(_, key, Route { protocol, .. }) | Event::OddRoute(_, key, protocol)
                if *protocol != PROTOCOL && self.leads_to_followed(&key.dst) =>
            {
                return Concern::Ground;
            }
            Event::Link(change, link) => return self.hears_link(*change, link),
            Event::Address(change, key, _) => {
                let known = self.ours.addresses.contains_key(key);
                if self.is_own(key.prefix.ip()) && !self.is_device(key.link) {
                    return Concern::Ground;
                }
                let mine = self.is_device(key.link) && owner::is_our_address(key);
                mine && known != (*change == Change::Put)
            }
            Event::OddRoute(change, key, protocol) if *protocol != PROTOCOL => {
                return self.hears_foreign(*change, key);
            }
            Event::OddRoute(..) => false,
            Event::Route(change, key, route) if self.is_foreign(*change, key, route) => {
                return self.hears_foreign(*change, key);
            }
            Event::Route(Change::Put, key, route) => {
                let ours = owner::is_ours(route, |index| self.links.get(&index));
                let known = self.ours.routes.get(key);
                (ours || known.is_some()) && known != Some(route)
            }
            Event::Route(Change::Delete, key, route) => {
                self.blocked.contains(key)
                    || (route.protocol == PROTOCOL && self.ours.routes.contains_key(key))
            }
            Event::Neighbour(Change::Put, key, value) => {
                self.is_device(key.link) && self.ours.neighbours.get(key) != Some(value)
            }
            Event::Neighbour(Change::Delete, key, _) => self.ours.neighbours.contains_key(key),
            Event::Fdb(Change::Put, key, value) => {
                self.is_device(key.link) && self.ours.fdb.get(key) != Some(value)
            }
            Event::Fdb(Change::Delete, key, _) => self.ours.fdb.contains_key(key),
        };
        if differs { Concern::Object } else { Concern::None }
    }

    /// Whether it is a route of another program that takes packets of ours, or that does not stand where ours should.
    fn is_foreign(&self, change: Change, key: &RouteKey, route: &Route) -> bool {
        let has_place = self.ours.routes.contains_key(key) || self.blocked.contains(key);
        let gives_back = change == Change::Delete && self.diverted.routes.contains(key);
        route.protocol != PROTOCOL && (gives_back || !has_place)
    }

    fn hears_foreign(&self, change: Change, key: &RouteKey) -> Concern {
        let takes =
            || shadow::taken_from(&self.ours.routes, key).is_some_and(|(_, ours)| shadow::leads(ours));
        let concerns = self.diverted.routes.contains(key)
            || (self.diverted.tables.contains(&key.table) && policy::overlaps(&self.ours.routes, &key.dst))
            || (change == Change::Put && takes());
        if concerns { Concern::Way } else { Concern::None }
    }

    /// Says what an event of a nexthop object means.
    pub fn hears_nexthop(&self, event: &NexthopEvent) -> Concern {
        let known = self.ours.nexthops.get(&event.id);
        // A group of several next hops may have lost one, which no event of a route tells.
        if known.is_none() && !self.followed.is_empty() {
            return Concern::Ground;
        }
        let differs = match event.change {
            Change::Put => match event.nexthop {
                Some(nexthop) => (nexthop.protocol == PROTOCOL || known.is_some()) && known != Some(&nexthop),
                None => known.is_some(),
            },
            Change::Delete => known.is_some(),
        };
        if differs { Concern::Object } else { Concern::None }
    }

    fn hears_link(&mut self, change: Change, link: &Link) -> Concern {
        let before = match change {
            Change::Put => self.links.insert(link.index, link.clone()),
            Change::Delete => self.links.remove(&link.index),
        };
        // If the node's address is on a link that carries nothing, any other link may be the one that carries packets.
        let is_way = !is_host_veth(link.name.as_str())
            && self.uplinks.iter().any(|index| self.links.get(index).is_some_and(only_holds));
        let matters = is_way
            || self.is_device(link.index)
            || self.uplinks.contains(&link.index)
            || self.devices.has_name(&link.name);
        let same = change == Change::Put && before.as_ref() == Some(link);
        if matters && !same { Concern::Ground } else { Concern::None }
    }

    fn is_device(&self, link: IfIndex) -> bool {
        self.devices.has(link)
    }

    /// Notes that in these families other programs decide the ways to these nodes.
    pub fn follow<'a>(
        &mut self,
        families: impl Iterator<Item = Family>,
        nodes: &(impl Iterator<Item = &'a Node> + Clone),
    ) {
        for family in families {
            self.followed.extend(nodes.clone().filter_map(|node| node.address(family)).map(ordinal));
        }
    }

    fn leads_to_followed(&self, dst: &IpNetwork) -> bool {
        let range = ordinal(dst.network())..=ordinal(last_address(dst));
        !self.followed.is_empty() && self.followed.range(range).next().is_some()
    }

    fn is_own(&self, address: std::net::IpAddr) -> bool {
        self.own.address(Family::of(address)) == Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::{
        Address, AddressKey, LinkKind, Neighbour, NeighbourKey, Nexthop, NexthopId, Via, vtep_mac,
    };

    const ETH0: IfIndex = IfIndex(2);
    const POD: IfIndex = IfIndex(3);
    const DEVICE: IfIndex = IfIndex(9);

    fn link(index: IfIndex, name: &str) -> Link {
        Link {
            index,
            name: IfName::new(name).unwrap(),
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            alias: None,
            peer: None,
            kind: LinkKind::Veth,
        }
    }

    fn key(text: &str) -> RouteKey {
        RouteKey::main(text.parse().unwrap())
    }

    fn neighbour() -> (NeighbourKey, Neighbour) {
        let key = NeighbourKey { link: DEVICE, address: "10.244.2.0".parse().unwrap() };
        (key, Neighbour { mac: Some(vtep_mac("b")), permanent: true })
    }

    fn nexthop() -> Nexthop {
        Nexthop { gateway: "10.244.2.0".parse().unwrap(), link: DEVICE, onlink: true, protocol: PROTOCOL }
    }

    fn belief() -> Belief {
        let links = [link(ETH0, "eth0"), link(POD, "fer0123456789ab"), link(DEVICE, "ferrule.1")];
        let mut ours = Objects::default();
        ours.routes.insert(key("10.244.2.0/24"), Route::ours(Via::Nexthop(NexthopId(5))));
        ours.nexthops.insert(NexthopId(5), nexthop());
        ours.neighbours.extend([neighbour()]);
        Belief {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            devices: Devices {
                vxlan: VxlanDevice {
                    index: Some(DEVICE),
                    spec: None,
                    name: IfName::new("ferrule.1").unwrap(),
                },
                vxlan6: None,
                wireguard: None,
                wireguard_name: IfName::new("ferrule-wg").unwrap(),
            },
            uplinks: vec![ETH0],
            own: Node {
                name: "a".into(),
                v4: Some([192, 0, 2, 1].into()),
                v6: None,
                pod_cidrs: vec![],
                vtep_mac: vtep_mac("a"),
                wireguard_key: None,
                vtep_mac6: vtep_mac("a/6"),
                further: Vec::new(),
            },
            ours,
            blocked: vec![key("10.244.3.0/24")],
            diverted: Diverted {
                routes: [key("10.244.2.9/32"), key("10.244.2.0/24")].into(),
                ..Diverted::default()
            },
            followed: BTreeSet::new(),
        }
    }

    fn heard(event: &Event) -> Concern {
        belief().hears(event)
    }

    #[test]
    fn another_way_to_a_node_whose_way_is_followed_is_ground_and_another_route_is_not() {
        let mut belief = belief();
        let theirs = Route { protocol: 186, ..Route::ours(Via::Link(ETH0)) };
        let events = |dst: &str| {
            let key = key(dst);
            [Event::Route(Change::Delete, key, theirs), Event::OddRoute(Change::Put, key, 186)]
        };
        assert!(events("192.0.2.0/24").iter().all(|event| belief.hears(event) == Concern::None));
        let followed: std::net::IpAddr = "192.0.2.2".parse().unwrap();
        belief.followed = BTreeSet::from([ordinal(followed)]);
        for (dst, concern) in [
            ("192.0.2.2/32", Concern::Ground),
            ("192.0.2.0/24", Concern::Ground),
            ("0.0.0.0/0", Concern::Ground),
            ("192.0.2.3/32", Concern::None),
            ("::/0", Concern::None),
        ] {
            for event in events(dst) {
                assert_eq!(belief.hears(&event), concern, "{event:?}");
            }
        }
    }

    #[test]
    fn an_echo_of_our_own_change_is_no_concern() {
        let route = Route::ours(Via::Nexthop(NexthopId(5)));
        let (neighbour_key, value) = neighbour();
        let echoes = [
            Event::Route(Change::Put, key("10.244.2.0/24"), route),
            Event::Route(Change::Delete, key("10.244.7.0/24"), route),
            Event::Neighbour(Change::Put, neighbour_key, value),
            Event::Link(Change::Put, link(DEVICE, "ferrule.1")),
        ];
        for event in echoes {
            assert_eq!(heard(&event), Concern::None, "{event:?}");
        }
        let made = NexthopEvent { change: Change::Put, id: NexthopId(5), nexthop: Some(nexthop()) };
        assert_eq!(belief().hears_nexthop(&made), Concern::None);
    }

    #[test]
    fn what_others_do_to_our_objects_is_a_concern() {
        let route = Route::ours(Via::Nexthop(NexthopId(5)));
        let theirs = Route { protocol: 4, ..Route::unreachable() };
        let (neighbour_key, value) = neighbour();
        let events = [
            Event::Route(Change::Delete, key("10.244.2.0/24"), route),
            Event::Route(Change::Put, key("10.244.2.0/24"), theirs),
            Event::Route(Change::Put, key("10.244.9.0/24"), Route::unreachable()),
            Event::Route(Change::Delete, key("10.244.3.0/24"), theirs),
            Event::Neighbour(Change::Delete, neighbour_key, value),
            Event::Neighbour(Change::Put, neighbour_key, Neighbour { mac: None, ..value }),
        ];
        for event in events {
            assert_eq!(heard(&event), Concern::Object, "{event:?}");
        }
        for (change, id) in [(Change::Delete, 5), (Change::Put, 6)] {
            let event = NexthopEvent { change, id: NexthopId(id), nexthop: Some(nexthop()) };
            assert_eq!(belief().hears_nexthop(&event), Concern::Object);
        }
    }

    #[test]
    fn a_route_of_another_program_that_takes_packets_of_ours_is_a_concern_when_it_comes_and_when_it_goes() {
        let theirs = Route { protocol: 4, ..Route::unreachable() };
        for event in [
            Event::Route(Change::Put, key("10.244.2.128/25"), theirs),
            Event::OddRoute(Change::Put, key("10.244.2.128/25"), 3),
            Event::OddRoute(Change::Put, key("10.244.2.0/24"), 3),
            Event::Route(Change::Delete, key("10.244.2.9/32"), theirs),
            Event::Route(Change::Delete, key("10.244.2.0/24"), theirs),
            Event::OddRoute(Change::Delete, key("10.244.2.9/32"), 3),
        ] {
            assert_eq!(heard(&event), Concern::Way, "{event:?}");
        }
        for event in [
            Event::Route(Change::Delete, key("10.244.2.128/25"), theirs),
            Event::OddRoute(Change::Put, key("10.244.9.0/24"), 3),
            Event::OddRoute(Change::Put, key("10.244.0.0/16"), 3),
        ] {
            assert_eq!(heard(&event), Concern::None, "{event:?}");
        }
    }

    #[test]
    fn pods_and_other_programs_are_no_concern() {
        let address = AddressKey { link: POD, prefix: "10.9.9.9/32".parse().unwrap() };
        let foreign = Nexthop { protocol: 4, ..nexthop() };
        let events = [
            Event::Link(Change::Put, link(IfIndex(77), "fer00000000ffff")),
            Event::Route(Change::Put, key("10.244.1.5/32"), Route::ours(Via::Link(POD))),
            Event::Route(Change::Delete, key("10.244.1.5/32"), Route::ours(Via::Link(POD))),
            Event::Route(Change::Put, key("0.0.0.0/0"), Route { protocol: 4, ..Route::unreachable() }),
            Event::Address(Change::Put, address, Address::default()),
            Event::Neighbour(Change::Put, NeighbourKey { link: ETH0, ..neighbour().0 }, neighbour().1),
        ];
        for event in events {
            assert_eq!(heard(&event), Concern::None, "{event:?}");
        }
        let event = NexthopEvent { change: Change::Put, id: NexthopId(8), nexthop: Some(foreign) };
        assert_eq!(belief().hears_nexthop(&event), Concern::None);
    }

    #[test]
    fn what_moves_the_ground_tries_the_refused_again() {
        let own = AddressKey { link: ETH0, prefix: "192.0.2.1/24".parse().unwrap() };
        let events = [
            Event::Overrun,
            Event::Link(Change::Delete, link(DEVICE, "ferrule.1")),
            Event::Link(Change::Put, Link { carrier: false, ..link(ETH0, "eth0") }),
            Event::Link(Change::Put, link(IfIndex(12), "ferrule.1")),
            Event::Address(Change::Delete, own, Address::default()),
        ];
        for event in events {
            assert_eq!(heard(&event), Concern::Ground, "{event:?}");
        }
    }
}
