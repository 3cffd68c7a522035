//! Works out what there should be in the kernel, from the configuration, the nodes and the underlay: pure.
//!
//! What is in the kernel already has no influence here, so the result depends on the present inputs alone and not on
//! the path to them. Only the numbers of nexthop objects depend on what is there; [`crate::decide::nexthops`] gives
//! them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ferrule_config::{Backend, IPV4_MTU_MIN, MTU_MIN, Routing, Tunnel};
use ferrule_model::{
    Address, AddressKey, Family, FdbEntry, FdbKey, IfIndex, IfName, IpNetwork, Mac, Neighbour, NeighbourKey,
    RouteKey, Vxlan, VxlanSpec, host_prefix,
};

use crate::decide::nodes::Node;
use crate::decide::taken::Taken;
pub use crate::decide::underlay::{Underlay, Uplink};
use crate::decide::wanted::{HopKey, Pieces, Target, Wanted};
use crate::decide::wireguard::{self, Wg};

/// Metric of the route that stops packets to addresses which no pod has. A bridge of pods has a route of its own to the
/// same network, with metric 0 in IPv4. That route must win, whichever of the two came first.
const LAST_RESORT: u32 = u32::MAX;

/// Outer Ethernet (14), IPv4 (20), UDP (8) and VXLAN (8) headers.
const VXLAN_OVERHEAD: u32 = 50;
/// Bytes by which an IPv6 header is longer than one of IPv4.
const V6_OVERHEAD: u32 = 20;

/// What to do about a pod CIDR that contains something of the machine's.
const OTHER_CIDR: &str = "give it a pod CIDR outside of the nodes' own networks";

/// Pods of another node for which there is no route, because something is missing or in the way.
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
    /// This node has no address of that family.
    NoOwnAddress(Family),
    /// No link has this node's address.
    NoUplink(Family),
    /// This node's link is off or disconnected.
    UplinkDown(Family),
    /// No route leads to the other node.
    NoWay(Family),
    /// The device that the route needs is refused.
    NoDevice,
    /// The tunnel leaves fewer bytes than IPv6 needs: so many.
    SmallMtu(u32),
    /// No source has told the other node's WireGuard key.
    NoKey,
    /// This node, or one whose name comes first, claims some of the same networks.
    Clash,
    /// One of its pod CIDRs holds the next hop of this node's default route.
    Gateway(IpAddr),
    /// One of its pod CIDRs holds an address of this machine.
    OwnAddress(IpAddr),
    /// One of its pod CIDRs overlaps the network that this node's uplink is connected to.
    Connected(IpNetwork),
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
            Why::NoWay(family) => write!(
                f,
                "this machine has no route to the node's {family} address; it follows when a routing protocol, or somebody, has \
                 made one"
            ),
            Why::NoDevice => f.write_str("the tunnel's device is refused; it follows when the device is there"),
            Why::SmallMtu(mtu) => write!(
                f,
                "the links to the other nodes leave pods {mtu} bytes, and IPv6 needs {MTU_MIN}; give these links a larger \
                 MTU"
            ),
            Why::NoKey => f.write_str(
                "its WireGuard key is not known; it is published by the node's own routed, or stands as `wireguard_key` in \
                 the nodes file (`routed wireguard-key` prints it there)",
            ),
            Why::Gateway(gateway) => {
                write!(f, "its pod CIDR holds {gateway}, the gateway of this machine's default route; {OTHER_CIDR}")
            }
            Why::OwnAddress(address) => {
                write!(f, "its pod CIDR holds {address}, an address of this machine; {OTHER_CIDR}")
            }
            Why::Connected(network) => {
                write!(f, "its pod CIDR overlaps {network}, the network of this machine's link to the nodes; {OTHER_CIDR}")
            }
            Why::Clash => f.write_str(
                "another node has the same pod CIDR, address, VTEP MAC or WireGuard key, and comes first by its name; give each node \
                 its own",
            ),
        }
    }
}

/// The VXLAN device that should be there, or `None` if none is needed.
pub fn device(routing: &Routing, own: &Node, underlay: &Underlay) -> Option<VxlanSpec> {
    let name = &routing.vxlan.device;
    if routing.vxlan.device6.is_some() {
        let uplink = underlay.v4?;
        return spec(routing, (name, own.vtep_mac), uplink, own_mtu(routing, uplink));
    }
    spec(routing, (name, own.vtep_mac), underlay.tunnel(own)?, pod_mtu(routing, own, underlay)?)
}

/// The second VXLAN device, if IPv6 has one of its own.
pub fn device6(routing: &Routing, own: &Node, underlay: &Underlay) -> Option<VxlanSpec> {
    let (name, uplink) = (routing.vxlan.device6.as_ref()?, underlay.v6?);
    spec(routing, (name, own.vtep_mac6), uplink, own_mtu(routing, uplink))
}

/// The MTU of a device that carries one family. Pods that were made under flannel may use all of it.
fn own_mtu(routing: &Routing, uplink: Uplink) -> u32 {
    let found = inside(uplink).max(IPV4_MTU_MIN);
    routing.mtu.map_or(found, |mtu| mtu.min(found))
}

/// The MTU that a tunnel over this uplink leaves, if its headers take `overhead` bytes in IPv4.
fn left(uplink: Uplink, overhead: u32) -> u32 {
    let outer = if uplink.address.is_ipv4() { overhead } else { overhead + V6_OVERHEAD };
    uplink.mtu.saturating_sub(outer)
}

/// The MTU that VXLAN leaves.
fn inside(uplink: Uplink) -> u32 {
    left(uplink, VXLAN_OVERHEAD)
}

fn spec(routing: &Routing, (name, mac): (&IfName, Mac), uplink: Uplink, mtu: u32) -> Option<VxlanSpec> {
    routing.has(Tunnel::Vxlan).then(|| VxlanSpec {
        name: name.clone(),
        mac,
        mtu,
        vxlan: Vxlan {
            vni: routing.vxlan.vni,
            port: routing.vxlan.port,
            local: Some(uplink.address),
            underlay: Some(uplink.link),
            learning: false,
            gbp: routing.vxlan.gbp,
        },
    })
}

/// The MTU of the pods: what the underlay leaves, or the configured MTU if that is less. `None` without an underlay.
pub fn pod_mtu(routing: &Routing, own: &Node, underlay: &Underlay) -> Option<u32> {
    let plain = underlay.all().map(|uplink| uplink.mtu).min()?;
    let vxlan = if routing.vxlan.device6.is_some() {
        underlay.all().map(inside).min()
    } else {
        underlay.tunnel(own).map(inside)
    };
    // A pod has one MTU, whichever way its packets go. It must also suit the other backends, so that an operator can
    // change the backend.
    let ways = [
        matches!(routing.backend, Backend::Native | Backend::Auto).then_some(Some(plain)),
        routing.has(Tunnel::Vxlan).then_some(vxlan),
        routing.has(Tunnel::Wireguard).then(|| Some(left(underlay.tunnel(own)?, wireguard::OVERHEAD))),
    ];
    let found = ways.into_iter().flatten().collect::<Option<Vec<_>>>()?.into_iter().min()?;
    Some(routing.mtu.map_or(found, |mtu| mtu.min(found)).max(IPV4_MTU_MIN))
}

/// Why this node's pods get no address at all: the links to the other nodes are too small for the pods' only family.
pub fn without_any_family(own: &Node, mtu: u32) -> Option<String> {
    let has = |of| own.pod_cidrs_of(of).next().is_some();
    (mtu < MTU_MIN && has(Family::V6) && !has(Family::V4)).then(|| {
        format!(
            "the links to the other nodes leave pods {mtu} bytes, and IPv6, the only family that they have, needs {MTU_MIN}; \
             give these links a larger MTU"
        )
    })
}

/// What an operator should know about the MTU.
pub fn mtu_warnings(routing: &Routing, own: &Node, underlay: &Underlay) -> Vec<String> {
    let plain = Routing { mtu: None, ..routing.clone() };
    let Some(found) = pod_mtu(&plain, own, underlay) else { return Vec::new() };
    let mut warnings = Vec::new();
    if let Some(mtu) = routing.mtu.filter(|mtu| *mtu > found) {
        warnings.push(format!(
            "[routing] mtu = {mtu} is more than the {found} bytes that the links to the other nodes leave: pods get {found}; \
             give these links a larger MTU, or remove the key"
        ));
    }
    if found < MTU_MIN {
        warnings.push(format!(
            "the links to the other nodes leave pods {found} bytes, and IPv6 needs {MTU_MIN}: pods have IPv4 only; give these \
             links an MTU of {} or more",
            underlay.all().map(|uplink| uplink.mtu).min().unwrap_or_default() + MTU_MIN - found
        ));
    }
    warnings
}

/// All that the objects depend on, apart from the other nodes. While it stays the same, each node's part depends on
/// that node alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// How packets travel.
    pub backend: Backend,
    /// The node that we are.
    pub own: Node,
    /// Its uplinks.
    pub underlay: Underlay,
    /// The pods' MTU.
    pub mtu: u32,
    /// The number of the VXLAN device, if one is wanted and it is there.
    pub device: Option<IfIndex>,
    /// The WireGuard device, if one is wanted and it is there.
    pub wireguard: Option<Wg>,
    /// The number of the second VXLAN device, in the same way. The outer `None`: IPv6 has no device of its own.
    pub device6: Option<Option<IfIndex>>,
    /// What no pod CIDR may contain.
    pub taken: Taken,
    /// The next hops to the other nodes, if this node's address is on a link that only holds it.
    pub ways: Ways,
}

/// The next hop by which packets to each address leave.
pub type Ways = BTreeMap<IpAddr, HopKey>;

/// The families in which plain routes follow the ways of packets to the other nodes' addresses, instead of leading
/// straight to the nodes.
pub fn following(backend: Backend, underlay: &Underlay) -> impl Iterator<Item = Family> {
    let holders = underlay.all().filter(move |uplink| uplink.holds && backend == Backend::Native);
    holders.map(|uplink| Family::of(uplink.address))
}

impl Ground {
    /// The families in which this node's routes follow the ways to the others.
    pub fn follows(&self) -> impl Iterator<Item = Family> {
        following(self.backend, &self.underlay)
    }

    /// All objects beside the device. If several nodes claim the same, the first by name gets it.
    pub fn objects<'a>(&self, others: impl Iterator<Item = &'a Node> + Clone) -> Wanted {
        let mut all = Pieces::default();
        others.clone().for_each(|node| self.pieces(node, &mut all));
        let mut wanted = self.own_part();
        all.routes.extend(std::mem::take(&mut wanted.routes));
        if let Some(mut all) = all.distinct() {
            all.skipped.append(&mut wanted.skipped);
            return Wanted { addresses: wanted.addresses, ..all };
        }
        wanted = self.own_part();
        for node in others {
            wanted.take(node, self.part(node));
        }
        wanted
    }

    fn own_part(&self) -> Wanted {
        let mut wanted = Wanted::default();
        // A packet to an address that no pod has must not leave by the default route and come back.
        for cidr in &self.own.pod_cidrs {
            if let Some(why) = self.taken.clash([cidr].into_iter()) {
                wanted.skipped.push(Skipped { node: self.own.name.clone(), cidrs: vec![*cidr], why });
                continue;
            }
            let key = RouteKey { metric: LAST_RESORT, ..RouteKey::main(*cidr) };
            wanted.routes.insert(key, Target::Unreachable);
        }
        let wireguard = self.wireguard.as_ref().map(|wg| wg.link).filter(|_| self.tunnel().is_some());
        for family in Family::BOTH {
            let vxlan = self.device_of(family).filter(|_| self.tunnel_of(family).is_some());
            let Some(vtep) = self.own.vtep(family).filter(|_| self.fits(family)) else { continue };
            for link in [vxlan, wireguard].into_iter().flatten() {
                let key = AddressKey { link, prefix: host_prefix(vtep) };
                wanted.addresses.insert(key, Address { nodad: vtep.is_ipv6() });
            }
        }
        wanted
    }

    /// What the kernel needs for the pods of another node.
    pub fn part(&self, node: &Node) -> Wanted {
        let mut pieces = Pieces::default();
        self.pieces(node, &mut pieces);
        pieces.sorted()
    }

    /// The same, added to `pieces`.
    fn pieces(&self, node: &Node, pieces: &mut Pieces) {
        if let Some(why) = self.taken.clash(node.pod_cidrs.iter()) {
            let (node, cidrs) = (node.name.clone(), node.pod_cidrs.clone());
            return pieces.skipped.push(Skipped { node, cidrs, why });
        }
        let first = pieces.routes.len();
        for family in Family::BOTH {
            let Some(vtep) = node.vtep(family) else { continue };
            let reached = match self.backend {
                _ if !self.fits(family) => Err(Why::SmallMtu(self.mtu)),
                Backend::Native => self.plain(pieces, node, family),
                Backend::Auto if self.is_on_link(node, family) => self.plain(pieces, node, family),
                Backend::Vxlan | Backend::Auto => self.tunnelled(pieces, node, vtep),
                Backend::Wireguard => self.encrypted(pieces, node, family),
            };
            if let Err(why) = reached {
                pieces.skip(node, family, why);
            }
        }
        if let (Some(wg), Some(tunnel)) = (&self.wireguard, self.tunnel()) {
            // Claims of another node to the same networks are found by the routes, which have the same networks.
            let networks = pieces.routes[first..].iter().map(|(key, _)| key.dst).collect();
            pieces.peers.extend(wg.peer(node, tunnel, networks));
        }
    }

    /// Whether `family` is IPv6 and IPv6 has a device of its own.
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

    /// The family of the outer packets, if both families share one tunnel.
    fn tunnel(&self) -> Option<Family> {
        self.underlay.tunnel(&self.own).map(|uplink| Family::of(uplink.address))
    }

    /// Whether the pods' MTU suffices for `family`. The kernel switches IPv6 off on a link that has less than it needs.
    fn fits(&self, family: Family) -> bool {
        family == Family::V4 || self.mtu >= MTU_MIN
    }

    fn is_on_link(&self, node: &Node, family: Family) -> bool {
        let (uplink, address) = (self.underlay.of(family), node.address(family));
        uplink.zip(address).is_some_and(|(uplink, address)| uplink.has_on_link(address))
    }

    fn plain(&self, pieces: &mut Pieces, node: &Node, family: Family) -> Result<(), Why> {
        match (node.address(family), self.underlay.of(family)) {
            (_, None) if self.own.address(family).is_some() => Err(Why::NoUplink(family)),
            (_, None) => Err(Why::NoOwnAddress(family)),
            (_, Some(uplink)) if !uplink.usable => Err(Why::UplinkDown(family)),
            (None, Some(_)) => Err(Why::NoAddress(family)),
            (Some(address), Some(uplink)) if uplink.holds => {
                let hop = self.ways.get(&address).ok_or(Why::NoWay(family))?;
                let via = |cidr| (RouteKey::main(cidr), Target::Via(*hop));
                pieces.routes.extend(node.pod_cidrs_of(family).map(via));
                Ok(())
            }
            (Some(gateway), Some(uplink)) => {
                // Not `onlink`: without it the kernel refuses a node that is not on the segment, and says so.
                pieces.reach(node, family, HopKey { link: uplink.link, gateway }, false);
                Ok(())
            }
        }
    }

    fn tunnelled(&self, pieces: &mut Pieces, node: &Node, vtep: IpAddr) -> Result<(), Why> {
        let family = Family::of(vtep);
        let (link, tunnel) = match (self.device_of(family), self.tunnel_of(family)) {
            (Some(link), Some(tunnel)) => (link, tunnel),
            // Without an address of this family there is never a second device.
            (_, None) if self.device6.is_some() && self.own.address(family).is_none() => {
                return Err(Why::NoOwnAddress(family));
            }
            (None, Some(_)) => return Err(Why::NoDevice),
            // This node's address is on no link now. The pass that finds that out says so.
            (_, None) => return Ok(()),
        };
        let dst = node.address(tunnel).ok_or(Why::NoAddress(tunnel))?;
        let mac = if self.is_apart(family) { node.vtep_mac6 } else { node.vtep_mac };
        let gateway = tunnel_gateway(vtep, mac);
        // Both families share one entry.
        let entry = (FdbKey { link, mac }, FdbEntry { dst, permanent: true });
        if pieces.fdb.last() != Some(&entry) {
            pieces.fdb.push(entry);
        }
        let neighbour = Neighbour { mac: Some(mac), permanent: true };
        pieces.neighbours.push((NeighbourKey { link, address: gateway }, neighbour));
        pieces.reach(node, family, HopKey { link, gateway }, true);
        Ok(())
    }

    fn encrypted(&self, pieces: &mut Pieces, node: &Node, family: Family) -> Result<(), Why> {
        let Some(tunnel) = self.tunnel() else { return Ok(()) };
        let wg = self.wireguard.as_ref().ok_or(Why::NoDevice)?;
        wg.reaches(node, tunnel)?;
        for cidr in node.pod_cidrs_of(family) {
            pieces.routes.push((RouteKey::main(cidr), Target::Link(wg.link)));
        }
        Ok(())
    }
}

/// The next hop of a tunnel. In IPv4 it is the other device's address. In IPv6 it is that device's link-local address.
/// The kernel refuses a global address as soon as any other route covers it (`ip6_route_check_nh_onlink`), such as the
/// route of another backend that is to be replaced.
fn tunnel_gateway(vtep: IpAddr, mac: Mac) -> IpAddr {
    match vtep {
        IpAddr::V4(_) => vtep,
        IpAddr::V6(_) => mac.link_local().into(),
    }
}

#[cfg(test)]
mod tests;
