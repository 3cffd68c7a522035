//! The kernel's objects as values. Each kind has a key, by which the kernel tells one object from another, and the
//! rest.
//!
//! What the kernel fills in by itself (flags, timers, counters) is not here. Two values are equal when a packet could
//! not tell them apart.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::foreign::TABLE_MAIN;
use crate::prefix::{canonical, ordinal};
use crate::{Family, IfName, Mac, PROTOCOL, family};

/// `ifi_index`: the number of a link in its network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(pub u32);

impl std::fmt::Display for IfIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A link as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: IfIndex,
    /// Its name.
    pub name: IfName,
    /// Its Ethernet address, if it is an Ethernet device.
    pub mac: Option<Mac>,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// `IFF_UP`: switched on.
    pub up: bool,
    /// `IFF_LOWER_UP`: the other end is there and switched on.
    pub carrier: bool,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// `IFLA_LINK`. For a veth, the index of its peer in the peer's namespace. For a VXLAN device, its underlay.
    pub peer: Option<IfIndex>,
    /// What kind of link it is.
    pub kind: LinkKind,
}

/// `IFLA_INFO_KIND`, with those data of the kind that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// The loopback device.
    Loopback,
    /// One end of a veth pair.
    Veth,
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// A WireGuard device.
    Wireguard,
    /// Any other kind. The text is empty for a hardware device.
    Other(String),
}

/// What distinguishes one VXLAN device from another. If any of it changes, a new device has to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port to which packets are sent and on which the device listens.
    pub port: u16,
    /// Source address of the outer packets.
    pub local: Option<IpAddr>,
    /// Link that carries the outer packets.
    pub underlay: Option<IfIndex>,
    /// Whether the device learns from packets where a MAC is. Ferrule's devices never do.
    pub learning: bool,
    /// Whether it carries the group policy mark of packets (the GBP extension).
    pub gbp: bool,
}

/// A VXLAN device to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Name.
    pub name: IfName,
    /// Ethernet address. The other nodes have it in their FDB.
    pub mac: Mac,
    /// MTU in bytes: that of the underlay, less the encapsulation.
    pub mtu: u32,
    /// The properties of the VXLAN.
    pub vxlan: Vxlan,
}

impl VxlanSpec {
    /// The device as it is once it is made with this index.
    pub fn link(&self, index: IfIndex) -> Link {
        Link {
            index,
            name: self.name.clone(),
            mac: Some(self.mac),
            mtu: self.mtu,
            up: true,
            carrier: true,
            alias: None,
            peer: self.vxlan.underlay,
            kind: LinkKind::Vxlan(self.vxlan.clone()),
        }
    }
}

/// A veth pair to be made, with one end in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethSpec {
    /// Name of the host's end.
    pub host_name: IfName,
    /// Ethernet address of the host's end.
    pub host_mac: Mac,
    /// `IFLA_IFALIAS` of the host's end. It tells people which pod the link serves.
    pub alias: Option<String>,
    /// Name of the pod's end.
    pub pod_name: IfName,
    /// Ethernet address of the pod's end.
    pub pod_mac: Mac,
}

/// A bridge to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Name.
    pub name: IfName,
    /// Ethernet address. It stays the same whatever links join the bridge.
    pub mac: Mac,
}

/// A link's place on a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgePort {
    /// The bridge.
    pub bridge: IfIndex,
    /// Whether frames may leave by the port through which they came (`IFLA_BRPORT_MODE`). So a pod reaches itself by
    /// another address.
    pub hairpin: bool,
    /// Whether it exchanges frames only with ports that are not isolated (`IFLA_BRPORT_ISOLATED`).
    pub isolated: bool,
}

/// What tells one address of a link from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressKey {
    /// The link it is on.
    pub link: IfIndex,
    /// Address and prefix length. The host bits are part of it.
    pub prefix: IpNetwork,
}

/// The rest of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Address {
    /// Whether it can be used at once, without duplicate address detection (`IFA_F_NODAD`). Only IPv6 has this.
    pub nodad: bool,
}

/// What tells one route from another. Ordered by destination, table and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Destination, host bits zero.
    pub dst: IpNetwork,
    /// Routing table; 254 is `main`.
    pub table: u32,
    /// `RTA_PRIORITY`. A message with 0 asks for the kernel's default, which is 1024 for IPv6.
    pub metric: u32,
}

impl Ord for RouteKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |key: &Self| (ordinal(key.dst.ip()), key.dst.prefix(), key.table, key.metric);
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for RouteKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `IP6_RT_PRIO_USER`: the metric that the kernel gives an IPv6 route that asks for 0.
const METRIC_V6: u32 = 1024;

impl RouteKey {
    /// The route to `dst` in the main table with the default metric of its family.
    pub fn main(dst: IpNetwork) -> Self {
        let metric = match family(&dst) {
            Family::V4 => 0,
            Family::V6 => METRIC_V6,
        };
        Self { dst: canonical(dst), table: TABLE_MAIN, metric }
    }
}

/// The rest of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What happens to its packets.
    pub kind: RouteKind,
    /// Who made it: `rtm_protocol`.
    pub protocol: u8,
    /// `RTA_PREFSRC`: the source address of packets that the node itself sends by this route.
    pub source: Option<IpAddr>,
}

/// What happens to packets that a route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// They are sent on.
    Unicast(Via),
    /// They are refused with ICMP "host unreachable" (`RTN_UNREACHABLE`).
    Unreachable,
}

/// Where a unicast route sends its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// To the next hop of a nexthop object (`RTA_NH_ID`).
    Nexthop(NexthopId),
    /// To a next hop on a link.
    Gateway {
        /// The next hop.
        address: IpAddr,
        /// The link it is on.
        link: IfIndex,
        /// Whether the kernel takes it for granted that the next hop is on the link (`RTNH_F_ONLINK`).
        onlink: bool,
    },
    /// Straight to the destination, on this link.
    Link(IfIndex),
}

impl Route {
    /// A unicast route of Ferrule's.
    pub const fn ours(via: Via) -> Self {
        Self { kind: RouteKind::Unicast(via), protocol: PROTOCOL, source: None }
    }

    /// An unreachable route of Ferrule's.
    pub const fn unreachable() -> Self {
        Self { kind: RouteKind::Unreachable, protocol: PROTOCOL, source: None }
    }

    /// The link by which its packets leave, if the route itself names one.
    pub const fn link(&self) -> Option<IfIndex> {
        match self.kind {
            RouteKind::Unicast(Via::Gateway { link, .. } | Via::Link(link)) => Some(link),
            RouteKind::Unicast(Via::Nexthop(_)) | RouteKind::Unreachable => None,
        }
    }
}

/// `NHA_ID`: the number of a nexthop object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexthopId(pub u32);

/// A nexthop object: a next hop that many routes share. The kernel then compares next hops by a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nexthop {
    /// The next hop.
    pub gateway: IpAddr,
    /// The link it is on.
    pub link: IfIndex,
    /// Whether the kernel takes it for granted that the next hop is on the link.
    pub onlink: bool,
    /// Who made it: `nh_protocol`.
    pub protocol: u8,
}

/// What tells one neighbour from another. Ordered by link and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NeighbourKey {
    /// The link it is on.
    pub link: IfIndex,
    /// Its address.
    pub address: IpAddr,
}

impl Ord for NeighbourKey {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.link, ordinal(self.address)).cmp(&(other.link, ordinal(other.address)))
    }
}

impl PartialOrd for NeighbourKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An entry of the ARP or NDP table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its Ethernet address. `None` while the kernel is asking for it.
    pub mac: Option<Mac>,
    /// `NUD_PERMANENT`: the kernel never asks for it and never forgets it. All neighbours that Ferrule makes are
    /// permanent.
    pub permanent: bool,
}

/// What tells one FDB entry of a VXLAN device from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbKey {
    /// The VXLAN device.
    pub link: IfIndex,
    /// Ethernet address behind the tunnel.
    pub mac: Mac,
}

/// Where a VXLAN device sends frames for a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// Underlay address of the node that has the MAC.
    pub dst: IpAddr,
    /// Whether the entry stays for ever. Others age out.
    pub permanent: bool,
}
