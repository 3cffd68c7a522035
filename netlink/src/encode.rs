//! Ops and lookups as netlink requests; those about links are in `link`.

use std::net::IpAddr;

use ferrule_model::{
    Address, AddressKey, Family, FdbEntry, FdbKey, IfIndex, Mac, Neighbour, NeighbourKey, Nexthop, NexthopId,
    Op, PROTOCOL, Route, RouteKey, RouteKind, Via,
};
use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use crate::link;
use crate::socket::Request;

/// `RTM_*` of `linux/rtnetlink.h`.
pub(crate) mod rtm {
    pub(crate) const NEWLINK: u16 = 16;
    pub(crate) const DELLINK: u16 = 17;
    pub(crate) const GETLINK: u16 = 18;
    pub(crate) const NEWADDR: u16 = 20;
    pub(crate) const DELADDR: u16 = 21;
    pub(crate) const GETADDR: u16 = 22;
    pub(crate) const NEWROUTE: u16 = 24;
    pub(crate) const DELROUTE: u16 = 25;
    pub(crate) const GETROUTE: u16 = 26;
    pub(crate) const NEWNEIGH: u16 = 28;
    pub(crate) const DELNEIGH: u16 = 29;
    pub(crate) const GETNEIGH: u16 = 30;
    pub(crate) const NEWNETCONF: u16 = 80;
    pub(crate) const NEWNEXTHOP: u16 = 104;
    pub(crate) const DELNEXTHOP: u16 = 105;
    pub(crate) const GETNEXTHOP: u16 = 106;
}

/// `struct nhmsg` and `NHA_*` of `linux/nexthop.h`: the packet crate has no message for nexthop objects.
pub(crate) mod nexthop {
    pub(crate) const HEADER_LEN: usize = 8;
    pub(crate) const ID: u16 = 1;
    pub(crate) const OIF: u16 = 5;
    pub(crate) const GATEWAY: u16 = 6;
    /// `RTNH_F_ONLINK`.
    pub(crate) const ONLINK: u32 = 4;
}

const PUT: u16 = NLM_F_CREATE | NLM_F_REPLACE;
const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;

pub(crate) fn request(kind: u16, flags: u16, message: &impl Emitable) -> Request {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request { kind, flags, payload }
}

/// The request of route netlink that carries out `op`; none for those that it does not carry out.
pub(crate) fn op(op: &Op) -> Option<Request> {
    Some(match op {
        Op::AddVxlan(spec) => link::vxlan(spec),
        Op::SetLink(index, change) => link::change(*index, change),
        Op::DeleteLink(index) => link::delete(*index),
        Op::PutAddress(key, value) => request(rtm::NEWADDR, PUT, &address(key, *value)),
        Op::DeleteAddress(key) => request(rtm::DELADDR, 0, &address(key, Address::default())),
        Op::PutNexthop(id, value) => put_nexthop(*id, value, PUT),
        Op::AddNexthop(id, value) => put_nexthop(*id, value, ADD),
        Op::DeleteNexthop(id) => delete_nexthop(*id),
        Op::PutRoute(key, value) => request(rtm::NEWROUTE, PUT, &put_route(key, value)),
        Op::AddRoute(key, value) => request(rtm::NEWROUTE, ADD, &put_route(key, value)),
        Op::DeleteRoute(key) => request(rtm::DELROUTE, 0, &delete_route(key)),
        Op::PutNeighbour(key, value) => request(rtm::NEWNEIGH, PUT, &neighbour(key, Some(value))),
        Op::DeleteNeighbour(key) => request(rtm::DELNEIGH, 0, &neighbour(key, None)),
        Op::PutFdb(key, value) => request(rtm::NEWNEIGH, PUT, &fdb(key, value)),
        Op::DeleteFdb(key, value) => request(rtm::DELNEIGH, 0, &fdb(key, value)),
        Op::AddWireguard(_) | Op::SetWireguard(..) | Op::PutPeer(..) | Op::DeletePeer(_) => return None,
    })
}

/// The addresses of `link`.
pub(crate) fn addresses_of(link: IfIndex) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = link.0;
    request(rtm::GETADDR, 0, &message)
}

/// The routes of one family with this protocol.
pub(crate) fn routes_of(family: Family, protocol: u8) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.protocol = RouteProtocol::from(protocol);
    request(rtm::GETROUTE, 0, &message)
}

/// The routes of one family in all tables.
#[cfg(test)]
pub(crate) fn all_routes(family: Family) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    request(rtm::GETROUTE, 0, &message)
}

/// The route for `dst`: as the table has it (`fib_match`), or as a packet would take it.
pub(crate) fn route_to(dst: IpAddr, fib_match: bool) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of(dst));
    message.header.destination_prefix_length = if dst.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(dst.into()));
    if fib_match {
        message.header.flags = RouteFlags::FibMatch;
    }
    request(rtm::GETROUTE, 0, &message)
}

/// The neighbours of one family on `link`.
pub(crate) fn neighbours_of(family: Family, link: IfIndex) -> Request {
    neighbour_dump(address_family(family), link)
}

/// The FDB of `link`.
pub(crate) fn fdb_of(link: IfIndex) -> Request {
    neighbour_dump(AddressFamily::Bridge, link)
}

fn neighbour_dump(family: AddressFamily, link: IfIndex) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::IfIndex(link.0));
    request(rtm::GETNEIGH, 0, &message)
}

/// One neighbour.
pub(crate) fn one_neighbour(key: &NeighbourKey) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(key.address));
    message.header.ifindex = key.link.0;
    message.attributes.push(NeighbourAttribute::Destination(neighbour_address(key.address)));
    request(rtm::GETNEIGH, 0, &message)
}

/// One FDB entry of a VXLAN device.
pub(crate) fn one_fdb_entry(key: &FdbKey) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = key.link.0;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![link_layer_address(key.mac)];
    request(rtm::GETNEIGH, 0, &message)
}

/// One nexthop object.
pub(crate) fn one_nexthop(id: NexthopId) -> Request {
    Request { kind: rtm::GETNEXTHOP, ..delete_nexthop(id) }
}

/// All nexthop objects.
pub(crate) fn all_nexthops() -> Request {
    Request { kind: rtm::GETNEXTHOP, flags: 0, payload: nexthop_header(0, 0, 0) }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn neighbour_address(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}

fn address(key: &AddressKey, value: Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    let ip = key.prefix.ip();
    message.header.family = address_family(Family::of(ip));
    message.header.prefix_len = key.prefix.prefix();
    message.header.index = key.link.0;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    if value.nodad && ip.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn route(key: &RouteKey) -> RouteMessage {
    let mut message = RouteMessage::default();
    let dst = key.dst.network();
    message.header.address_family = address_family(Family::of(dst));
    message.header.destination_prefix_length = key.dst.prefix();
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.attributes = vec![
        RouteAttribute::Table(key.table),
        RouteAttribute::Destination(dst.into()),
        RouteAttribute::Priority(key.metric),
    ];
    message
}

fn put_route(key: &RouteKey, value: &Route) -> RouteMessage {
    let mut message = route(key);
    message.header.protocol = RouteProtocol::from(value.protocol);
    match value.kind {
        RouteKind::Unicast(via) => {
            message.header.kind = RouteType::Unicast;
            via_attributes(&mut message, via);
        }
        RouteKind::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    message.attributes.extend(value.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

fn via_attributes(message: &mut RouteMessage, via: Via) {
    match via {
        Via::Nexthop(id) => message.attributes.push(RouteAttribute::NhId(id.0)),
        Via::Gateway { address, link, onlink } => {
            message.attributes.push(RouteAttribute::Gateway(address.into()));
            message.attributes.push(RouteAttribute::Oif(link.0));
            if onlink {
                message.header.flags = RouteFlags::Onlink;
            }
        }
        Via::Link(link) => {
            // IPv4 wants a route without a next hop to say that it ends on the link; IPv6 has no scopes here.
            message.header.scope = RouteScope::Link;
            message.attributes.push(RouteAttribute::Oif(link.0));
        }
    }
}

/// A deletion matches any type and scope (`RTN_UNSPEC`, `RT_SCOPE_NOWHERE`), but only routes of ours.
fn delete_route(key: &RouteKey) -> RouteMessage {
    let mut message = route(key);
    message.header.scope = RouteScope::NoWhere;
    message
}

fn neighbour(key: &NeighbourKey, value: Option<&Neighbour>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(key.address));
    message.header.ifindex = key.link.0;
    message.attributes.push(NeighbourAttribute::Destination(neighbour_address(key.address)));
    if let Some(value) = value {
        message.header.state = state(value.permanent);
        message.attributes.extend(value.mac.map(link_layer_address));
    }
    message
}

fn fdb(key: &FdbKey, value: &FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = key.link.0;
    message.header.flags = NeighbourFlags::Own;
    message.header.state = state(value.permanent);
    message.attributes =
        vec![link_layer_address(key.mac), NeighbourAttribute::Destination(neighbour_address(value.dst))];
    message
}

fn state(permanent: bool) -> NeighbourState {
    if permanent { NeighbourState::Permanent } else { NeighbourState::Reachable }
}

fn link_layer_address(mac: Mac) -> NeighbourAttribute {
    NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())
}

fn put_nexthop(id: NexthopId, value: &Nexthop, flags: u16) -> Request {
    let family = match value.gateway {
        IpAddr::V4(_) => libc_family(AddressFamily::Inet),
        IpAddr::V6(_) => libc_family(AddressFamily::Inet6),
    };
    let onlink = if value.onlink { nexthop::ONLINK } else { 0 };
    let mut payload = nexthop_header(family, value.protocol, onlink);
    let gateway = match value.gateway {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    attribute(&mut payload, nexthop::ID, id.0.to_ne_bytes().to_vec());
    attribute(&mut payload, nexthop::OIF, value.link.0.to_ne_bytes().to_vec());
    attribute(&mut payload, nexthop::GATEWAY, gateway);
    Request { kind: rtm::NEWNEXTHOP, flags, payload }
}

fn delete_nexthop(id: NexthopId) -> Request {
    let mut payload = nexthop_header(0, 0, 0);
    attribute(&mut payload, nexthop::ID, id.0.to_ne_bytes().to_vec());
    Request { kind: rtm::DELNEXTHOP, flags: 0, payload }
}

fn libc_family(family: AddressFamily) -> u8 {
    family.into()
}

fn nexthop_header(family: u8, protocol: u8, flags: u32) -> Vec<u8> {
    let mut header = vec![family, 0, protocol, 0];
    header.extend_from_slice(&flags.to_ne_bytes());
    header
}

fn attribute(payload: &mut Vec<u8>, kind: u16, value: Vec<u8>) {
    let attribute = DefaultNla::new(kind, value);
    let start = payload.len();
    payload.resize(start + attribute.buffer_len(), 0);
    attribute.emit(&mut payload[start..]);
}
