//! Turns the kernel's messages into values. A message that a value cannot express is `None`, and so is one that cannot
//! be parsed: a device or route of a kind that is newer than this program is none of ours.

use std::net::IpAddr;

use ferrule_model::{
    Address, AddressKey, FdbEntry, FdbKey, IfIndex, IpNetwork, Mac, Neighbour, NeighbourKey, Nexthop,
    NexthopId, Route, RouteKey, RouteKind, Via,
};
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteFlags, RouteType};

use crate::attributes::Attributes;
use crate::encode::{nda, nexthop, rta};
use crate::lookup::Path;

pub(crate) fn address(payload: &[u8]) -> Option<(AddressKey, Address)> {
    address_message(&AddressMessage::parse(payload).ok()?)
}

pub(crate) fn address_message(message: &AddressMessage) -> Option<(AddressKey, Address)> {
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    // For a point-to-point IPv4 address, IFA_ADDRESS is that of the other end.
    let prefix = IpNetwork::new(local.or(address)?, message.header.prefix_len).ok()?;
    let nodad = prefix.is_ipv6() && message.header.flags.contains(AddressHeaderFlags::Nodad);
    Some((AddressKey { link: IfIndex(message.header.index), prefix }, Address { nodad }))
}

/// `struct rtmsg` and `struct ndmsg`.
pub(crate) const ROUTE_HEADER: usize = 12;
const NEIGH_HEADER: usize = 12;
/// Reads a route in place: a table has thousands of routes, and only a few attributes of each matter.
pub(crate) fn route(payload: &[u8]) -> Option<(RouteKey, Route)> {
    let (header, parts) = raw_route(payload)?;
    route_of(&header, &parts)
}

pub(crate) fn raw_route(payload: &[u8]) -> Option<(RouteHead, RouteParts)> {
    let &[family, dst_len, _, _, table, protocol, _, kind, f0, f1, f2, f3] =
        payload.first_chunk::<ROUTE_HEADER>()?;
    let onlink =
        RouteFlags::from_bits_retain(u32::from_ne_bytes([f0, f1, f2, f3])).contains(RouteFlags::Onlink);
    let header = RouteHead { family: family.into(), dst_len, table, protocol, kind: kind.into(), onlink };
    let mut parts = RouteParts::default();
    for attribute in Attributes(&payload[ROUTE_HEADER..]) {
        let (kind, value) = attribute?;
        match kind {
            rta::DST => parts.dst = Some(address_of(value)?),
            rta::TABLE => parts.table = Some(number(value)?),
            rta::PRIORITY => parts.metric = number(value)?,
            rta::PREFSRC => parts.source = Some(address_of(value)?),
            rta::GATEWAY => parts.gateway = Some(address_of(value)?),
            rta::OIF => parts.link = Some(IfIndex(number(value)?)),
            rta::NH_ID => parts.nexthop = Some(NexthopId(number(value)?)),
            rta::VIA => parts.gateway = Some(via_address(value)?),
            rta::MULTIPATH | rta::ENCAP_TYPE => parts.multipath = true,
            _ => {}
        }
    }
    Some((header, parts))
}

/// Reads `struct rtvia`: a next hop of the other family, such as a link-local address in an IPv4 route.
fn via_address(value: &[u8]) -> Option<IpAddr> {
    address_of(value.get(size_of::<u16>()..)?)
}

/// What matters of a route's header.
pub(crate) struct RouteHead {
    pub(crate) family: AddressFamily,
    pub(crate) dst_len: u8,
    pub(crate) table: u8,
    pub(crate) protocol: u8,
    pub(crate) kind: RouteType,
    pub(crate) onlink: bool,
}

/// What matters of a route's attributes.
#[derive(Default)]
pub(crate) struct RouteParts {
    pub(crate) dst: Option<IpAddr>,
    pub(crate) table: Option<u32>,
    pub(crate) metric: u32,
    pub(crate) source: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) link: Option<IfIndex>,
    pub(crate) nexthop: Option<NexthopId>,
    pub(crate) multipath: bool,
}

impl RouteParts {
    pub(crate) fn key(&self, head: &RouteHead) -> Option<RouteKey> {
        let any: IpAddr = match head.family {
            AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let dst = IpNetwork::new(self.dst.unwrap_or(any), head.dst_len).ok()?;
        let table = self.table.unwrap_or_else(|| head.table.into());
        Some(RouteKey { dst, table, metric: self.metric })
    }
}

pub(crate) fn route_of(head: &RouteHead, parts: &RouteParts) -> Option<(RouteKey, Route)> {
    let kind = match head.kind {
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Unicast => RouteKind::Unicast(via(head, parts)?),
        _ => return None,
    };
    let key = parts.key(head)?;
    Some((key, Route { kind, protocol: head.protocol, source: parts.source }))
}

/// The kernel sends the number of a nexthop object together with the next hop it stands for (`nexthop_compat_mode`).
/// The number wins.
fn via(head: &RouteHead, parts: &RouteParts) -> Option<Via> {
    if let Some(id) = parts.nexthop {
        return Some(Via::Nexthop(id));
    }
    if parts.multipath {
        return None;
    }
    let link = parts.link?;
    Some(match parts.gateway {
        Some(address) => Via::Gateway { address, link, onlink: head.onlink },
        None => Via::Link(link),
    })
}

/// The answer to a lookup of the way that a packet would take.
pub(crate) fn path(payload: &[u8]) -> Option<Path> {
    let (_, parts) = raw_route(payload)?;
    Some(Path { link: parts.link?, gateway: parts.gateway, source: parts.source })
}

/// An entry of the ARP or NDP table, or of a VXLAN device's FDB: the kernel tells both with one message type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Neigh {
    Neighbour(NeighbourKey, Neighbour),
    Fdb(FdbKey, FdbEntry),
}

/// Reads a neighbour in place.
pub(crate) fn neigh(payload: &[u8]) -> Option<Neigh> {
    let &[family, _, _, _, i0, i1, i2, i3, s0, s1, _, _] = payload.first_chunk::<NEIGH_HEADER>()?;
    let (mut dst, mut lladdr) = (None, None);
    for attribute in Attributes(&payload[NEIGH_HEADER..]) {
        let (kind, value) = attribute?;
        match kind {
            nda::DST => dst = address_of(value),
            nda::LLADDR => lladdr = mac(value),
            _ => {}
        }
    }
    let link = IfIndex(u32::from_ne_bytes([i0, i1, i2, i3]));
    let permanent = NeighbourState::from(u16::from_ne_bytes([s0, s1])) == NeighbourState::Permanent;
    neigh_of(family.into(), link, permanent, (dst, lladdr))
}

pub(crate) fn neigh_of(
    family: AddressFamily,
    link: IfIndex,
    permanent: bool,
    (dst, lladdr): (Option<IpAddr>, Option<Mac>),
) -> Option<Neigh> {
    match family {
        AddressFamily::Inet | AddressFamily::Inet6 => {
            Some(Neigh::Neighbour(NeighbourKey { link, address: dst? }, Neighbour { mac: lladdr, permanent }))
        }
        AddressFamily::Bridge => {
            Some(Neigh::Fdb(FdbKey { link, mac: lladdr? }, FdbEntry { dst: dst?, permanent }))
        }
        _ => None,
    }
}

pub(crate) fn mac(octets: &[u8]) -> Option<Mac> {
    octets.try_into().ok().map(Mac::new)
}

/// Reads a nexthop object with a gateway. Groups, blackholes and bare links are none.
pub(crate) fn nexthop(payload: &[u8]) -> Option<(NexthopId, Nexthop)> {
    let header = payload.get(..nexthop::HEADER_LEN)?;
    let protocol = header[2];
    let flags = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    let (mut id, mut link, mut gateway) = (None, None, None);
    for attribute in Attributes(&payload[nexthop::HEADER_LEN..]) {
        let (kind, value) = attribute?;
        match kind {
            nexthop::ID => id = number(value).map(NexthopId),
            nexthop::OIF => link = number(value).map(IfIndex),
            nexthop::GATEWAY => gateway = address_of(value),
            _ => {}
        }
    }
    let onlink = flags & nexthop::ONLINK != 0;
    Some((id?, Nexthop { gateway: gateway?, link: link?, onlink, protocol }))
}

/// The number of a nexthop object of whatever kind.
pub(crate) fn nexthop_id(payload: &[u8]) -> Option<NexthopId> {
    let mut attributes = Attributes(payload.get(nexthop::HEADER_LEN..)?).flatten();
    let (_, id) = attributes.find(|(kind, _)| *kind == nexthop::ID)?;
    number(id).map(NexthopId)
}

pub(crate) fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

pub(crate) fn address_of(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}
