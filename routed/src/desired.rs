//! What there should be in the kernel, worked out from the configuration, the nodes and the underlay: pure.
//!
//! What is there already has no influence here, so the result depends on the present alone and not on the path to it.
//! Numbers of nexthop objects, which do depend on what is there, are given in [`crate::nexthops`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ferrule_config::{Backend, MTU_MIN, Routing};
use ferrule_model::{
    Address, AddressKey, Family, FdbEntry, FdbKey, IfIndex, IfName, IpNetwork, Mac, Neighbour, NeighbourKey,
    Nexthop, PROTOCOL, RouteKey, Vxlan, VxlanSpec, family, host_prefix,
};

use crate::nodes::Node;
pub use crate::underlay::{Underlay, Uplink};

/// Metric of the route that stops packets to addresses which no pod has. A bridge of pods has a route of its own to the same
/// network, of metric 0 in IPv4, which must win whoever was first.
const LAST_RESORT: u32 = u32::MAX;

/// Outer Ethernet (14), IPv4 (20), UDP (8) and VXLAN (8) headers.
const OVERHEAD_V4: u32 = 50;
/// The same with an IPv6 header (40).
const OVERHEAD_V6: u32 = 70;

/// Where a wanted route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: the destination is refused.
    Unreachable,
    /// To the nexthop of this gateway and link.
    Hop(HopKey),
}

/// A nexthop object without its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HopKey {
    /// The link.
    pub link: IfIndex,
    /// The next hop.
    pub gateway: IpAddr,
}

/// Everything that should be there beside the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Addresses of the VXLAN device.
    pub addresses: BTreeMap<AddressKey, Address>,
    /// FDB entries of the VXLAN device.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// Neighbours on the VXLAN device.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// Nexthop objects.
    pub nexthops: BTreeMap<HopKey, Nexthop>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Target>,
    /// What is left out, and why.
    pub skipped: Vec<Skipped>,
    /// Nodes claim the same: what one of them gets depends on the others.
    pub clashes: bool,
}

/// Pods of another node that cannot be reached with what is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// The node.
    pub node: String,
    /// Its pods' networks that get no route.
    pub cidrs: Vec<IpNetwork>,
    /// Why.
    pub why: Why,
}

/// Why pods of another node get no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The other node has no address of the family that is needed.
    NoAddress(Family),
    /// This node has none.
    NoOwnAddress(Family),
    /// No link has this node's.
    NoUplink(Family),
    /// This node's link is off or disconnected.
    UplinkDown(Family),
    /// This node, or one whose name comes before, claims some of the same.
    Clash,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cidrs = self.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let key = |family: Family| if family == Family::V4 { "address" } else { "address6" };
        write!(f, "no route to {cidrs} of node {}: ", self.node)?;
        match self.why {
            Why::NoAddress(family) => {
                write!(f, "the node has no {family} address; give it `{}` in the nodes file", key(family))
            }
            Why::NoOwnAddress(family) => {
                write!(f, "this node has no {family} address; give it `{}` in the nodes file", key(family))
            }
            Why::NoUplink(family) => {
                write!(f, "no link has this node's {family} address; it follows when one has")
            }
            Why::UplinkDown(family) => {
                write!(
                    f,
                    "the link with this node's {family} address is down; it follows when the link is up"
                )
            }
            Why::Clash => f.write_str(
                "another node has the same pod CIDR, address or VTEP MAC, and comes first by its name; give each node \
                 its own",
            ),
        }
    }
}

/// The VXLAN device that should be there, or `None` if the backend needs none.
pub fn device(routing: &Routing, own: &Node, underlay: &Underlay) -> Option<VxlanSpec> {
    let name = &routing.vxlan.device;
    if routing.vxlan.device6.is_some() {
        let uplink = underlay.v4?;
        return spec(routing, (name, own.vtep_mac), uplink, own_mtu(routing, uplink));
    }
    spec(routing, (name, own.vtep_mac), underlay.tunnel(own)?, pod_mtu(routing, own, underlay)?)
}

/// The second one, of IPv6, where it has one of its own.
pub fn device6(routing: &Routing, own: &Node, underlay: &Underlay) -> Option<VxlanSpec> {
    let (name, uplink) = (routing.vxlan.device6.as_ref()?, underlay.v6?);
    spec(routing, (name, own.vtep_mac6), uplink, own_mtu(routing, uplink))
}

/// The MTU of a device that carries one family: pods that are there since flannel's time may use all of it.
fn own_mtu(routing: &Routing, uplink: Uplink) -> u32 {
    routing.mtu.unwrap_or(inside(uplink).max(MTU_MIN))
}

/// What a tunnel over this uplink leaves.
fn inside(uplink: Uplink) -> u32 {
    let overhead = if uplink.address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    uplink.mtu.saturating_sub(overhead)
}

fn spec(routing: &Routing, (name, mac): (&IfName, Mac), uplink: Uplink, mtu: u32) -> Option<VxlanSpec> {
    (routing.backend != Backend::Native).then(|| VxlanSpec {
        name: name.clone(),
        mac,
        mtu,
        vxlan: Vxlan {
            vni: routing.vxlan.vni,
            port: routing.vxlan.port,
            local: Some(uplink.address),
            underlay: Some(uplink.link),
            learning: false,
        },
    })
}

/// The MTU of the pods: the configured one, or what the underlay leaves. Never less than IPv6 needs; `None` without an
/// underlay.
pub fn pod_mtu(routing: &Routing, own: &Node, underlay: &Underlay) -> Option<u32> {
    let plain = underlay.all().map(|uplink| uplink.mtu).min();
    let tunnelled = if routing.vxlan.device6.is_some() {
        underlay.all().map(inside).min()
    } else {
        underlay.tunnel(own).map(inside)
    };
    let found = match routing.backend {
        Backend::Native => plain?,
        Backend::Vxlan => tunnelled?,
        // A pod has one MTU, whichever way its packets go.
        Backend::Auto => plain?.min(tunnelled?),
    };
    Some(routing.mtu.unwrap_or(found.max(MTU_MIN)))
}

/// All that the objects depend on beside the other nodes. As long as it stands, each node's part is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// How packets travel.
    pub backend: Backend,
    /// The node that we are.
    pub own: Node,
    /// Its uplinks.
    pub underlay: Underlay,
    /// The number of the VXLAN device, if the backend has one and it is there.
    pub device: Option<IfIndex>,
    /// The same of the second one, where IPv6 has one of its own.
    pub device6: Option<Option<IfIndex>>,
}

impl Ground {
    /// Everything beside the device. Of nodes that claim the same, the first by name gets it.
    pub fn objects<'a>(&self, others: impl Iterator<Item = &'a Node>) -> Wanted {
        let mut wanted = self.own_part();
        for node in others {
            wanted.take(node, self.part(node));
        }
        wanted
    }

    fn own_part(&self) -> Wanted {
        let mut wanted = Wanted::default();
        // A packet to an address that no pod has must not leave by the default route and come back.
        for cidr in &self.own.pod_cidrs {
            let key = RouteKey { metric: LAST_RESORT, ..RouteKey::main(*cidr) };
            wanted.routes.insert(key, Target::Unreachable);
        }
        for family in Family::BOTH {
            if let (Some(link), Some(_), Some(vtep)) =
                (self.device_of(family), self.tunnel_of(family), self.own.vtep(family))
            {
                let key = AddressKey { link, prefix: host_prefix(vtep) };
                wanted.addresses.insert(key, Address { nodad: vtep.is_ipv6() });
            }
        }
        wanted
    }

    /// What the pods of another node need.
    pub fn part(&self, node: &Node) -> Wanted {
        let mut wanted = Wanted::default();
        for family in Family::BOTH {
            let Some(vtep) = node.vtep(family) else { continue };
            let is_plain = match self.backend {
                Backend::Native => true,
                Backend::Vxlan => false,
                Backend::Auto => self.is_on_link(node, family),
            };
            let reached = match (is_plain, self.device_of(family), self.tunnel_of(family)) {
                (true, _, _) => self.plain(&mut wanted, node, family),
                (false, Some(link), Some(tunnel)) => {
                    let mac = if self.is_apart(family) { node.vtep_mac6 } else { node.vtep_mac };
                    tunnelled(&mut wanted, node, (vtep, mac), link, tunnel)
                }
                // Without an address of this family there never is a second device.
                (false, _, None) if self.device6.is_some() && self.own.address(family).is_none() => {
                    Err(Why::NoOwnAddress(family))
                }
                // The device is refused or goes: a pass that is to change that says so.
                (false, _, _) => Ok(()),
            };
            if let Err(why) = reached {
                wanted.skip(node, family, why);
            }
        }
        wanted
    }

    /// The device for IPv6 is another than that for IPv4, and `family` is IPv6.
    fn is_apart(&self, family: Family) -> bool {
        self.device6.is_some() && family == Family::V6
    }

    /// The device that carries the pods' packets of `family`.
    fn device_of(&self, family: Family) -> Option<IfIndex> {
        match self.device6 {
            Some(device6) if family == Family::V6 => device6,
            _ => self.device,
        }
    }

    /// The family of the outer packets.
    fn tunnel_of(&self, family: Family) -> Option<Family> {
        let uplink = match self.device6 {
            Some(_) => self.underlay.of(family),
            None => self.underlay.tunnel(&self.own),
        };
        uplink.map(|uplink| Family::of(uplink.address))
    }

    fn is_on_link(&self, node: &Node, family: Family) -> bool {
        let (uplink, address) = (self.underlay.of(family), node.address(family));
        uplink.zip(address).is_some_and(|(uplink, address)| uplink.has_on_link(address))
    }

    fn plain(&self, wanted: &mut Wanted, node: &Node, family: Family) -> Result<(), Why> {
        match (node.address(family), self.underlay.of(family)) {
            (_, None) if self.own.address(family).is_some() => Err(Why::NoUplink(family)),
            (_, None) => Err(Why::NoOwnAddress(family)),
            (_, Some(uplink)) if !uplink.usable => Err(Why::UplinkDown(family)),
            (None, Some(_)) => Err(Why::NoAddress(family)),
            (Some(gateway), Some(uplink)) => {
                // Not onlink: the kernel then refuses a node that is not on the segment, and says so.
                wanted.reach(node, family, HopKey { link: uplink.link, gateway }, false);
                Ok(())
            }
        }
    }
}

fn tunnelled(
    wanted: &mut Wanted,
    node: &Node,
    (vtep, mac): (IpAddr, Mac),
    link: IfIndex,
    tunnel: Family,
) -> Result<(), Why> {
    let dst = node.address(tunnel).ok_or(Why::NoAddress(tunnel))?;
    let gateway = tunnel_gateway(vtep, mac);
    wanted.fdb.insert(FdbKey { link, mac }, FdbEntry { dst, permanent: true });
    let neighbour = Neighbour { mac: Some(mac), permanent: true };
    wanted.neighbours.insert(NeighbourKey { link, address: gateway }, neighbour);
    wanted.reach(node, Family::of(vtep), HopKey { link, gateway }, true);
    Ok(())
}

/// The next hop of a tunnel. In IPv4 the other device's address. In IPv6 its link-local one, the EUI-64 of its MAC
/// (RFC 4291, appendix A): the kernel refuses a global one as soon as any other route covers it
/// (`ip6_route_check_nh_onlink`), such as the route of another backend that is to be replaced.
fn tunnel_gateway(vtep: IpAddr, mac: Mac) -> IpAddr {
    match vtep {
        IpAddr::V4(_) => vtep,
        IpAddr::V6(_) => {
            let [a, b, c, d, e, f] = mac.octets();
            let interface = u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]);
            Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(interface)).into()
        }
    }
}

impl Wanted {
    fn reach(&mut self, node: &Node, family: Family, hop: HopKey, onlink: bool) {
        let HopKey { link, gateway } = hop;
        self.nexthops.insert(hop, Nexthop { gateway, link, onlink, protocol: PROTOCOL });
        for cidr in node.pod_cidrs_of(family) {
            self.routes.insert(RouteKey::main(cidr), Target::Hop(hop));
        }
    }

    /// Takes the part of `node`, unless some of it is taken.
    fn take(&mut self, node: &Node, part: Self) {
        let is_taken = part.fdb.keys().any(|key| self.fdb.contains_key(key))
            || part.neighbours.keys().any(|key| self.neighbours.contains_key(key))
            || part.nexthops.keys().any(|key| self.nexthops.contains_key(key))
            || part.routes.keys().any(|key| self.routes.contains_key(key));
        if is_taken {
            self.clashes = true;
            self.skipped.push(Skipped {
                node: node.name.clone(),
                cidrs: node.pod_cidrs.clone(),
                why: Why::Clash,
            });
            return;
        }
        self.fdb.extend(part.fdb);
        self.neighbours.extend(part.neighbours);
        self.nexthops.extend(part.nexthops);
        self.routes.extend(part.routes);
        self.skipped.extend(part.skipped);
    }

    fn skip(&mut self, node: &Node, of: Family, why: Why) {
        let cidrs = node.pod_cidrs.iter().copied().filter(|cidr| family(cidr) == of).collect();
        self.skipped.push(Skipped { node: node.name.clone(), cidrs, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Cluster;
    use crate::nodes::vtep_mac6;
    use ferrule_model::vtep_mac;

    const ETH0: IfIndex = IfIndex(2);
    const DEVICE: IfIndex = IfIndex(9);

    fn node(name: &str, number: u8) -> Node {
        Node {
            name: name.into(),
            v4: Some([192, 0, 2, number].into()),
            v6: Some(format!("2001:db8::{number}").parse().unwrap()),
            pod_cidrs: [format!("10.244.{number}.0/24"), format!("fd00:{number}::/64")]
                .map(|cidr| cidr.parse().unwrap())
                .into(),
            vtep_mac: vtep_mac(name),
            vtep_mac6: vtep_mac6(name),
        }
    }

    fn cluster() -> Cluster {
        Cluster { own: node("a", 1), others: BTreeMap::from([("b".into(), node("b", 2).into())]) }
    }

    fn underlay() -> Underlay {
        let uplink = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let prefix_len = if address.is_ipv4() { 24 } else { 64 };
            Some(Uplink { link: ETH0, address, prefix_len, mtu: 1500, usable: true })
        };
        Underlay { v4: uplink("192.0.2.1"), v6: uplink("2001:db8::1") }
    }

    fn objects(backend: Backend, cluster: &Cluster, underlay: &Underlay, device: Option<IfIndex>) -> Wanted {
        let ground = Ground { backend, own: cluster.own.clone(), underlay: *underlay, device, device6: None };
        ground.objects(cluster.others.values().map(AsRef::as_ref))
    }

    fn hops(wanted: &Wanted) -> Vec<(String, String)> {
        let hop = |(key, target): (&RouteKey, &Target)| {
            let to = match target {
                Target::Unreachable => "unreachable".to_owned(),
                Target::Hop(hop) => format!("{} dev {}", hop.gateway, hop.link),
            };
            (key.dst.to_string(), to)
        };
        wanted.routes.iter().map(hop).collect()
    }

    #[test]
    fn native_routes_lead_to_the_other_nodes_address_of_the_same_family() {
        let wanted = objects(Backend::Native, &cluster(), &underlay(), None);
        let expected = [
            ("10.244.1.0/24", "unreachable"),
            ("10.244.2.0/24", "192.0.2.2 dev 2"),
            ("fd00:1::/64", "unreachable"),
            ("fd00:2::/64", "2001:db8::2 dev 2"),
        ];
        assert_eq!(hops(&wanted), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(wanted.neighbours.is_empty() && wanted.fdb.is_empty() && wanted.addresses.is_empty());
        assert!(wanted.nexthops.values().all(|nexthop| !nexthop.onlink), "the kernel checks the segment");
    }

    #[test]
    fn a_network_that_cannot_be_reached_is_left_out_and_named() {
        let mut cluster = cluster();
        let without = Node { v6: None, ..node("b", 2) };
        cluster.others.insert("b".into(), without.into());
        let wanted = objects(Backend::Native, &cluster, &underlay(), None);
        let told: Vec<_> = wanted.skipped.iter().map(ToString::to_string).collect();
        let expected = "no route to fd00:2::/64 of node b: the node has no IPv6 address; give it `address6` in the nodes file";
        assert_eq!(told, [expected]);
        assert_eq!(hops(&wanted).len(), 3);
    }

    #[test]
    fn a_link_that_is_down_has_no_routes_and_an_address_that_is_gone_neither() {
        let mut underlay = underlay();
        underlay.v4.as_mut().unwrap().usable = false;
        underlay.v6 = None;
        let wanted = objects(Backend::Native, &cluster(), &underlay, None);
        let why: Vec<_> = wanted.skipped.iter().map(|skipped| skipped.why).collect();
        assert_eq!(why, [Why::UplinkDown(Family::V4), Why::NoUplink(Family::V6)]);
        assert_eq!(wanted.nexthops.len(), 0);
    }

    #[test]
    fn a_tunnel_has_an_entry_of_each_kind_a_node_and_one_underlay_for_both_families() {
        let wanted = objects(Backend::Vxlan, &cluster(), &underlay(), Some(DEVICE));
        let mac = vtep_mac("b");
        let addresses: Vec<_> = wanted.addresses.keys().map(|key| key.prefix.to_string()).collect();
        assert_eq!(addresses, ["10.244.1.0/32", "fd00:1::/128"]);
        let fdb: Vec<_> = wanted.fdb.iter().map(|(key, entry)| (key.mac, entry.dst.to_string())).collect();
        assert_eq!(fdb, [(mac, "192.0.2.2".to_owned())]);
        assert_eq!(wanted.neighbours.len(), 2);
        assert!(wanted.neighbours.values().all(|n| n.mac == Some(mac) && n.permanent));
        let gateways: Vec<_> = wanted.nexthops.keys().map(|key| key.gateway).collect();
        let neighbours: Vec<_> = wanted.neighbours.keys().map(|key| key.address).collect();
        assert_eq!(gateways, neighbours, "each next hop is resolved");
        assert_eq!(gateways[0].to_string(), "10.244.2.0");
        assert!(matches!(gateways[1], IpAddr::V6(v6) if v6.is_unicast_link_local()));
    }

    #[test]
    fn with_a_device_for_ipv6_each_family_travels_in_its_own() {
        let ground = |underlay: Underlay| Ground {
            backend: Backend::Vxlan,
            own: node("a", 1),
            underlay,
            device: Some(DEVICE),
            device6: Some(underlay.v6.map(|_| IfIndex(10))),
        };
        let other = node("b", 2);
        let part = ground(underlay()).part(&other);
        let fdb: Vec<_> =
            part.fdb.iter().map(|(key, entry)| (key.link, key.mac, entry.dst.to_string())).collect();
        let expected = [(DEVICE, other.vtep_mac, "192.0.2.2"), (IfIndex(10), other.vtep_mac6, "2001:db8::2")];
        assert_eq!(fdb, expected.map(|(link, mac, dst)| (link, mac, dst.to_owned())));
        assert!(part.nexthops.keys().all(|hop| (hop.link == DEVICE) == hop.gateway.is_ipv4()));
        let addresses = ground(underlay()).objects(std::iter::empty()).addresses;
        assert!(
            addresses.keys().all(|key| (key.link == DEVICE) == key.prefix.is_ipv4()) && addresses.len() == 2
        );

        let mut routing = Routing::default();
        routing.vxlan.device6 = Some(IfName::new("two").unwrap());
        let (first, second) =
            (device(&routing, &node("a", 1), &underlay()), device6(&routing, &node("a", 1), &underlay()));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!((first.vxlan.local, first.mac), (Some([192, 0, 2, 1].into()), vtep_mac("a")));
        assert_eq!((second.vxlan.local.map(|ip| ip.is_ipv6()), second.mac), (Some(true), vtep_mac6("a")));
        assert_eq!((first.mtu, second.mtu), (1450, 1430));
        assert_eq!(pod_mtu(&routing, &node("a", 1), &underlay()), Some(1430), "a pod has one MTU");

        let one = Underlay { v6: None, ..underlay() };
        assert_eq!(device6(&routing, &node("a", 1), &one), None);
        let part = ground(one).part(&other);
        assert!(part.routes.keys().all(|key| key.dst.is_ipv4()) && part.routes.len() == 1);
    }

    #[test]
    fn auto_goes_plainly_to_what_is_on_the_link_and_through_the_tunnel_to_the_rest_in_each_family() {
        let mut cluster = cluster();
        let far = Node { v4: Some([198, 51, 100, 3].into()), ..node("c", 3) };
        cluster.others.insert("c".into(), far.into());
        let wanted = objects(Backend::Auto, &cluster, &underlay(), Some(DEVICE));
        let expected = [
            ("10.244.1.0/24", "unreachable"),
            ("10.244.2.0/24", "192.0.2.2 dev 2"),
            ("10.244.3.0/24", "10.244.3.0 dev 9"),
            ("fd00:1::/64", "unreachable"),
            ("fd00:2::/64", "2001:db8::2 dev 2"),
            ("fd00:3::/64", "2001:db8::3 dev 2"),
        ];
        assert_eq!(hops(&wanted), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(wanted.fdb.len(), 1, "only where there is a tunnel");
        let routing = Routing { backend: Backend::Auto, ..Routing::default() };
        assert_eq!(pod_mtu(&routing, &cluster.own, &underlay()), Some(1450), "the smaller of the two");
        let mut jumbo = underlay();
        jumbo.v4.as_mut().unwrap().mtu = 9000;
        assert_eq!(pod_mtu(&routing, &cluster.own, &jumbo), Some(1500), "the other family's link is smaller");
    }

    #[test]
    fn of_nodes_that_claim_the_same_the_first_by_name_gets_it_and_the_other_is_named() {
        let mut cluster = cluster();
        let twin = Node { pod_cidrs: node("b", 2).pod_cidrs, ..node("c", 3) };
        cluster.others.insert("c".into(), twin.into());
        let wanted = objects(Backend::Native, &cluster, &underlay(), None);
        assert!(wanted.clashes);
        assert_eq!(hops(&wanted)[1], ("10.244.2.0/24".to_owned(), "192.0.2.2 dev 2".to_owned()));
        let told: Vec<_> = wanted.skipped.iter().map(ToString::to_string).collect();
        assert!(
            told[0].starts_with("no route to 10.244.2.0/24, fd00:2::/64 of node c: another node"),
            "{told:?}"
        );
    }

    #[test]
    fn the_link_local_next_hop_is_the_address_that_the_other_device_gives_itself() {
        let mac: Mac = "b2:fb:bf:b8:bd:de".parse().unwrap();
        let gateway = tunnel_gateway("fd00::".parse().unwrap(), mac);
        assert_eq!(gateway.to_string(), "fe80::b0fb:bfff:feb8:bdde");
    }

    #[test]
    fn the_tunnels_family_goes_by_what_the_node_has_and_not_by_what_is_up() {
        let (routing, mut own) = (Routing::default(), node("a", 1));
        let without_v4 = Underlay { v4: None, ..underlay() };
        assert_eq!(device(&routing, &own, &without_v4), None, "it waits rather than moves to IPv6");
        own.v4 = None;
        let spec = device(&routing, &own, &without_v4).unwrap();
        assert_eq!(spec.vxlan.local, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(spec.mtu, 1430);
    }

    #[test]
    fn the_mtu_is_what_the_underlay_leaves_and_never_below_what_ipv6_needs() {
        let (mut routing, own, mut underlay) = (Routing::default(), node("a", 1), underlay());
        assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1450));
        underlay.v4.as_mut().unwrap().mtu = 1300;
        assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1280));
        routing.mtu = Some(1400);
        assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1400));
        routing = Routing { backend: Backend::Native, ..Routing::default() };
        assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1300), "the least of the two links'");
    }
}
