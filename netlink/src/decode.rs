//! The kernel's messages as values. What a value cannot express is `None`, and so is what cannot be parsed: a device
//! or route of a kind that is newer than us is none of ours.

use std::net::IpAddr;

use ferrule_model::{
    Address, AddressKey, FdbEntry, FdbKey, IfIndex, IpNetwork, Mac, Neighbour, NeighbourKey, Nexthop,
    NexthopId, Route, RouteKey, RouteKind, Via,
};
use netlink_packet_core::{NlasIterator, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType};

use crate::encode::nexthop;
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
    // On a point-to-point IPv4 address IFA_ADDRESS is the other end's.
    let prefix = IpNetwork::new(local.or(address)?, message.header.prefix_len).ok()?;
    let nodad = prefix.is_ipv6() && message.header.flags.contains(AddressHeaderFlags::Nodad);
    Some((AddressKey { link: IfIndex(message.header.index), prefix }, Address { nodad }))
}

pub(crate) fn route(payload: &[u8]) -> Option<(RouteKey, Route)> {
    route_message(&RouteMessage::parse(payload).ok()?)
}

/// What [`route_message`] collects from the attributes.
#[derive(Default)]
struct RouteParts {
    dst: Option<IpAddr>,
    table: Option<u32>,
    metric: u32,
    source: Option<IpAddr>,
    gateway: Option<IpAddr>,
    link: Option<IfIndex>,
    nexthop: Option<NexthopId>,
    multipath: bool,
}

fn route_parts(message: &RouteMessage) -> RouteParts {
    let mut parts = RouteParts::default();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => parts.dst = ip(address),
            RouteAttribute::Table(table) => parts.table = Some(*table),
            RouteAttribute::Priority(metric) => parts.metric = *metric,
            RouteAttribute::PrefSource(address) => parts.source = ip(address),
            RouteAttribute::Gateway(address) => parts.gateway = ip(address),
            RouteAttribute::Oif(link) => parts.link = Some(IfIndex(*link)),
            RouteAttribute::NhId(id) => parts.nexthop = Some(NexthopId(*id)),
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) | RouteAttribute::EncapType(_) => {
                parts.multipath = true;
            }
            _ => {}
        }
    }
    parts
}

pub(crate) fn route_message(message: &RouteMessage) -> Option<(RouteKey, Route)> {
    let parts = route_parts(message);
    let kind = match message.header.kind {
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Unicast => RouteKind::Unicast(via(message, &parts)?),
        _ => return None,
    };
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let dst = IpNetwork::new(parts.dst.unwrap_or(any), message.header.destination_prefix_length).ok()?;
    let table = parts.table.unwrap_or_else(|| message.header.table.into());
    let key = RouteKey { dst, table, metric: parts.metric };
    Some((key, Route { kind, protocol: message.header.protocol.into(), source: parts.source }))
}

/// The number of a nexthop object comes with the next hop it stands for (`nexthop_compat_mode`): the number wins.
fn via(message: &RouteMessage, parts: &RouteParts) -> Option<Via> {
    if let Some(id) = parts.nexthop {
        return Some(Via::Nexthop(id));
    }
    if parts.multipath {
        return None;
    }
    let link = parts.link?;
    Some(match parts.gateway {
        Some(address) => {
            Via::Gateway { address, link, onlink: message.header.flags.contains(RouteFlags::Onlink) }
        }
        None => Via::Link(link),
    })
}

/// The answer to a lookup of the way that a packet would take.
pub(crate) fn path(payload: &[u8]) -> Option<Path> {
    let message = RouteMessage::parse(payload).ok()?;
    let parts = route_parts(&message);
    Some(Path { link: parts.link?, gateway: parts.gateway, source: parts.source })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// An entry of the ARP or NDP table, or of a VXLAN device's FDB: the kernel tells both with one message type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Neigh {
    Neighbour(NeighbourKey, Neighbour),
    Fdb(FdbKey, FdbEntry),
}

pub(crate) fn neigh(payload: &[u8]) -> Option<Neigh> {
    neigh_message(&NeighbourMessage::parse(payload).ok()?)
}

pub(crate) fn neigh_message(message: &NeighbourMessage) -> Option<Neigh> {
    let mut dst = None;
    let mut lladdr = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => dst = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => dst = Some(IpAddr::from(*v6)),
            // In an FDB entry the family of the message is the bridge's; the length tells the address's.
            NeighbourAttribute::Destination(NeighbourAddress::Other(octets)) => dst = address_of(octets),
            NeighbourAttribute::LinkLayerAddress(octets) => lladdr = mac(octets),
            _ => {}
        }
    }
    let link = IfIndex(message.header.ifindex);
    let permanent = message.header.state == NeighbourState::Permanent;
    match message.header.family {
        AddressFamily::Inet | AddressFamily::Inet6 => {
            Some(Neigh::Neighbour(NeighbourKey { link, address: dst? }, Neighbour { mac: lladdr, permanent }))
        }
        AddressFamily::Bridge => {
            Some(Neigh::Fdb(FdbKey { link, mac: lladdr? }, FdbEntry { dst: dst?, permanent }))
        }
        _ => None,
    }
}

fn mac(octets: &[u8]) -> Option<Mac> {
    octets.try_into().ok().map(Mac::new)
}

/// A nexthop object with a gateway; groups, blackholes and bare links are none.
pub(crate) fn nexthop(payload: &[u8]) -> Option<(NexthopId, Nexthop)> {
    let header = payload.get(..nexthop::HEADER_LEN)?;
    let protocol = header[2];
    let flags = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    let (mut id, mut link, mut gateway) = (None, None, None);
    for attribute in NlasIterator::new(&payload[nexthop::HEADER_LEN..]) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
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
    let mut attributes = NlasIterator::new(payload.get(nexthop::HEADER_LEN..)?).filter_map(Result::ok);
    let id = attributes.find(|attribute| attribute.kind() == nexthop::ID)?;
    number(id.value()).map(NexthopId)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn address_of(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}
