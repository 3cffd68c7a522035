//! Turns ops and lookups into netlink requests. Those about links are in `link`.

use std::net::IpAddr;

use ferrule_model::{
    Address, AddressKey, Family, FdbEntry, FdbKey, IfIndex, Neighbour, NeighbourKey, Nexthop, NexthopId, Op,
    PROTOCOL, Route, RouteKey, RouteKind, Via,
};
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

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
    pub(crate) const NEWRULE: u16 = 32;
    pub(crate) const DELRULE: u16 = 33;
    pub(crate) const GETRULE: u16 = 34;
    pub(crate) const NEWNETCONF: u16 = 80;
    pub(crate) const GETNETCONF: u16 = 82;
    pub(crate) const NEWLINKPROP: u16 = 108;
    pub(crate) const NEWNEXTHOP: u16 = 104;
    pub(crate) const DELNEXTHOP: u16 = 105;
    pub(crate) const GETNEXTHOP: u16 = 106;
}

/// `NHA_*` of `linux/nexthop.h`: the packet crate has no message for nexthop objects.
pub(crate) mod nexthop {
    /// Length of `struct nhmsg`.
    pub(crate) const HEADER_LEN: usize = 8;
    pub(crate) const ID: u16 = 1;
    pub(crate) const OIF: u16 = 5;
    pub(crate) const GATEWAY: u16 = 6;
    /// `RTNH_F_ONLINK`.
    pub(crate) const ONLINK: u32 = 4;
}

/// `RTA_*` of `linux/rtnetlink.h`.
pub(crate) mod rta {
    pub(crate) const DST: u16 = 1;
    pub(crate) const OIF: u16 = 4;
    pub(crate) const GATEWAY: u16 = 5;
    pub(crate) const PRIORITY: u16 = 6;
    pub(crate) const PREFSRC: u16 = 7;
    pub(crate) const MULTIPATH: u16 = 9;
    pub(crate) const TABLE: u16 = 15;
    pub(crate) const VIA: u16 = 18;
    pub(crate) const ENCAP_TYPE: u16 = 21;
    pub(crate) const NH_ID: u16 = 30;
}

/// `struct fib_rule_hdr`, `FRA_*` and `FR_ACT_*` of `linux/fib_rules.h`.
pub(crate) mod rule {
    pub(crate) const HEADER_LEN: usize = 12;
    pub(crate) const INVERT: u32 = 2;
    pub(crate) const DST: u16 = 1;
    pub(crate) const SRC: u16 = 2;
    pub(crate) const IIFNAME: u16 = 3;
    pub(crate) const GOTO: u16 = 4;
    pub(crate) const PRIORITY: u16 = 6;
    pub(crate) const FLOW: u16 = 11;
    pub(crate) const SUPPRESS_PREFIXLEN: u16 = 14;
    pub(crate) const TABLE: u16 = 15;
    pub(crate) const PAD: u16 = 18;
    pub(crate) const PROTOCOL: u16 = 21;
    pub(crate) const TO_TABLE: u8 = 1;
    pub(crate) const BLACKHOLE: u8 = 6;
    pub(crate) const UNREACHABLE: u8 = 7;
    pub(crate) const PROHIBIT: u8 = 8;
}

/// `NDA_*` of `linux/neighbour.h`.
pub(crate) mod nda {
    pub(crate) const DST: u16 = 1;
    pub(crate) const LLADDR: u16 = 2;
    pub(crate) const IFINDEX: u16 = 8;
}

/// `IFA_*` and `IFA_F_NODAD` of `linux/if_addr.h`.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const NODAD: u8 = 2;
/// `AF_UNSPEC`, `AF_INET`, `AF_BRIDGE` and `AF_INET6` of `linux/socket.h`.
const ANY: u8 = 0;
const INET: u8 = 2;
const BRIDGE: u8 = 7;
const INET6: u8 = 10;
/// `RTN_*`, `RT_SCOPE_*` and flags of `linux/rtnetlink.h`.
const UNICAST: u8 = 1;
const UNREACHABLE: u8 = 7;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
const ONLINK: u32 = 4;
const FIB_MATCH: u32 = 0x2000;
/// `NTF_SELF`, `NUD_REACHABLE` and `NUD_PERMANENT` of `linux/neighbour.h`.
const SELF: u8 = 2;
const REACHABLE: u16 = 2;
const PERMANENT: u16 = 0x80;
/// Size of most messages in bytes. An IPv6 route by a nexthop object takes 60.
const USUAL: usize = 64;

const PUT: u16 = NLM_F_CREATE | NLM_F_REPLACE;
const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;

pub(crate) fn request(kind: u16, flags: u16, message: &impl Emitable) -> Request {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request { kind, flags, payload }
}

/// The request of route netlink that carries out `op`; `None` for ops that route netlink does not carry out.
pub(crate) fn op(op: &Op) -> Option<Request> {
    Some(match op {
        Op::AddVxlan(spec) => link::vxlan(spec),
        Op::SetLink(index, change) => link::change(*index, change),
        Op::DeleteLink(index) => link::delete(*index),
        Op::PutAddress(key, value) => address(key, *value).request(rtm::NEWADDR, PUT),
        Op::DeleteAddress(key) => address(key, Address::default()).request(rtm::DELADDR, 0),
        Op::PutNexthop(id, value) => put_nexthop(*id, value).request(rtm::NEWNEXTHOP, PUT),
        Op::AddNexthop(id, value) => put_nexthop(*id, value).request(rtm::NEWNEXTHOP, ADD),
        Op::DeleteNexthop(id) => only_nexthop(*id).request(rtm::DELNEXTHOP, 0),
        Op::PutRoute(key, value) => put_route(key, value).request(rtm::NEWROUTE, PUT),
        Op::AddRoute(key, value) => put_route(key, value).request(rtm::NEWROUTE, ADD),
        Op::DeleteRoute(key) => delete_route(key).request(rtm::DELROUTE, 0),
        Op::PutNeighbour(key, value) => neighbour(key, Some(value)).request(rtm::NEWNEIGH, PUT),
        Op::DeleteNeighbour(key) => neighbour(key, None).request(rtm::DELNEIGH, 0),
        Op::PutFdb(key, value) => fdb(key, value).request(rtm::NEWNEIGH, PUT),
        Op::DeleteFdb(key, value) => fdb(key, value).request(rtm::DELNEIGH, 0),
        Op::AddWireguard(_) | Op::SetWireguard(..) | Op::PutPeer(..) | Op::DeletePeer(_) => return None,
    })
}

/// The addresses of `link`.
pub(crate) fn addresses_of(link: IfIndex) -> Request {
    Payload::address(ANY, 0, 0, link).request(rtm::GETADDR, 0)
}

/// The routes of one family with this protocol.
pub(crate) fn routes_of(of: Family, protocol: u8) -> Request {
    Payload::route(RouteHeader { family: family(of), protocol, ..RouteHeader::default() })
        .request(rtm::GETROUTE, 0)
}

/// The policy rules of one family.
pub(crate) fn rules_of(of: Family) -> Request {
    // The kernel looks only at the family in `struct fib_rule_hdr`.
    let mut header = [0; rule::HEADER_LEN];
    header[0] = family(of);
    Payload::new(&header).request(rtm::GETRULE, 0)
}

/// The routes of one family in all tables.
pub(crate) fn all_routes(of: Family) -> Request {
    routes_of(of, 0)
}

/// The route for `dst`: as the table has it (`fib_match`), or as a packet would take it.
pub(crate) fn route_to(dst: IpAddr, fib_match: bool) -> Request {
    let (dst_len, flags) = (if dst.is_ipv4() { 32 } else { 128 }, if fib_match { FIB_MATCH } else { 0 });
    Payload::route(RouteHeader { family: family_of(dst), dst_len, flags, ..RouteHeader::default() })
        .ip(rta::DST, dst)
        .request(rtm::GETROUTE, 0)
}

/// The neighbours of one family on `link`.
pub(crate) fn neighbours_of(of: Family, link: IfIndex) -> Request {
    neighbour_dump(family(of), link)
}

/// The FDB of `link`.
pub(crate) fn fdb_of(link: IfIndex) -> Request {
    neighbour_dump(BRIDGE, link)
}

fn neighbour_dump(family: u8, link: IfIndex) -> Request {
    Payload::neighbour(family, IfIndex(0), 0, 0).number(nda::IFINDEX, link.0).request(rtm::GETNEIGH, 0)
}

/// One neighbour.
pub(crate) fn one_neighbour(key: &NeighbourKey) -> Request {
    neighbour(key, None).request(rtm::GETNEIGH, 0)
}

/// One FDB entry of a VXLAN device.
pub(crate) fn one_fdb_entry(key: &FdbKey) -> Request {
    Payload::neighbour(BRIDGE, key.link, 0, SELF)
        .with(nda::LLADDR, key.mac.octets())
        .request(rtm::GETNEIGH, 0)
}

/// One nexthop object.
pub(crate) fn one_nexthop(id: NexthopId) -> Request {
    only_nexthop(id).request(rtm::GETNEXTHOP, 0)
}

/// All nexthop objects.
pub(crate) fn all_nexthops() -> Request {
    Payload::nexthop(ANY, 0, 0).request(rtm::GETNEXTHOP, 0)
}

fn family(of: Family) -> u8 {
    match of {
        Family::V4 => INET,
        Family::V6 => INET6,
    }
}

fn family_of(address: IpAddr) -> u8 {
    family(Family::of(address))
}

/// A family's header and the attributes behind it. They are written straight into one buffer, because there are
/// thousands.
struct Payload(Vec<u8>);

/// The fields of `struct rtmsg` that are not 0.
#[derive(Clone, Copy, Default)]
struct RouteHeader {
    family: u8,
    dst_len: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

impl Payload {
    fn new(header: &[u8]) -> Self {
        let mut payload = Vec::with_capacity(USUAL);
        payload.extend_from_slice(header);
        Self(payload)
    }

    /// `struct rtmsg`.
    fn route(header: RouteHeader) -> Self {
        let RouteHeader { family, dst_len, protocol, scope, kind, flags } = header;
        let [f0, f1, f2, f3] = flags.to_ne_bytes();
        Self::new(&[family, dst_len, 0, 0, 0, protocol, scope, kind, f0, f1, f2, f3])
    }

    /// `struct ndmsg`.
    fn neighbour(family: u8, link: IfIndex, state: u16, flags: u8) -> Self {
        let ([l0, l1, l2, l3], [s0, s1]) = (link.0.to_ne_bytes(), state.to_ne_bytes());
        Self::new(&[family, 0, 0, 0, l0, l1, l2, l3, s0, s1, flags, 0])
    }

    /// `struct ifaddrmsg`.
    fn address(family: u8, prefix_len: u8, flags: u8, link: IfIndex) -> Self {
        let [l0, l1, l2, l3] = link.0.to_ne_bytes();
        Self::new(&[family, prefix_len, flags, 0, l0, l1, l2, l3])
    }

    /// `struct nhmsg`.
    fn nexthop(family: u8, protocol: u8, flags: u32) -> Self {
        let [f0, f1, f2, f3] = flags.to_ne_bytes();
        Self::new(&[family, 0, protocol, 0, f0, f1, f2, f3])
    }

    fn with<const LENGTH: usize>(mut self, kind: u16, value: [u8; LENGTH]) -> Self {
        /// `struct nlattr`.
        const HEADER_LEN: usize = 4;
        let payload = &mut self.0;
        // All values here are shorter than a few bytes.
        payload.extend_from_slice(&((HEADER_LEN + LENGTH) as u16).to_ne_bytes());
        payload.extend_from_slice(&kind.to_ne_bytes());
        payload.extend_from_slice(&value);
        payload.extend_from_slice(&[0; HEADER_LEN][..LENGTH.next_multiple_of(4) - LENGTH]);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.with(kind, value.to_ne_bytes())
    }

    fn ip(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.with(kind, v4.octets()),
            IpAddr::V6(v6) => self.with(kind, v6.octets()),
        }
    }

    fn request(self, kind: u16, flags: u16) -> Request {
        Request { kind, flags, payload: self.0 }
    }
}

fn address(key: &AddressKey, value: Address) -> Payload {
    let ip = key.prefix.ip();
    let flags = if value.nodad && ip.is_ipv6() { NODAD } else { 0 };
    let payload = Payload::address(family_of(ip), key.prefix.prefix(), flags, key.link);
    let payload = payload.ip(IFA_LOCAL, ip).ip(IFA_ADDRESS, ip);
    if flags == 0 { payload } else { payload.number(IFA_FLAGS, flags.into()) }
}

fn route(key: &RouteKey, header: RouteHeader) -> Payload {
    let dst = key.dst.network();
    Payload::route(RouteHeader { family: family_of(dst), dst_len: key.dst.prefix(), ..header })
        .number(rta::TABLE, key.table)
        .ip(rta::DST, dst)
        .number(rta::PRIORITY, key.metric)
}

fn put_route(key: &RouteKey, value: &Route) -> Payload {
    let header = RouteHeader { protocol: value.protocol, kind: UNICAST, ..RouteHeader::default() };
    let payload = match value.kind {
        RouteKind::Unreachable => route(key, RouteHeader { kind: UNREACHABLE, ..header }),
        RouteKind::Unicast(Via::Nexthop(id)) => route(key, header).number(rta::NH_ID, id.0),
        RouteKind::Unicast(Via::Gateway { address, link, onlink }) => {
            let flags = if onlink { ONLINK } else { 0 };
            let payload = route(key, RouteHeader { flags, ..header });
            let payload = match address {
                // `struct rtvia`.
                IpAddr::V6(other) if key.dst.is_ipv4() => {
                    let mut via = [0; 18];
                    let (family, octets) = via.split_at_mut(size_of::<u16>());
                    family.copy_from_slice(&u16::from(family_of(address)).to_ne_bytes());
                    octets.copy_from_slice(&other.octets());
                    payload.with(rta::VIA, via)
                }
                _ => payload.ip(rta::GATEWAY, address),
            };
            payload.number(rta::OIF, link.0)
        }
        // An IPv4 route without a next hop has to say that it ends on the link. IPv6 has no such scopes.
        RouteKind::Unicast(Via::Link(link)) => {
            route(key, RouteHeader { scope: SCOPE_LINK, ..header }).number(rta::OIF, link.0)
        }
    };
    match value.source {
        Some(source) => payload.ip(rta::PREFSRC, source),
        None => payload,
    }
}

/// A deletion matches any type and scope (`RTN_UNSPEC`, `RT_SCOPE_NOWHERE`), but only our own routes.
fn delete_route(key: &RouteKey) -> Payload {
    route(key, RouteHeader { protocol: PROTOCOL, scope: SCOPE_NOWHERE, ..RouteHeader::default() })
}

fn neighbour(key: &NeighbourKey, value: Option<&Neighbour>) -> Payload {
    let state = value.map_or(0, |value| state(value.permanent));
    let payload = Payload::neighbour(family_of(key.address), key.link, state, 0).ip(nda::DST, key.address);
    match value.and_then(|value| value.mac) {
        Some(mac) => payload.with(nda::LLADDR, mac.octets()),
        None => payload,
    }
}

fn fdb(key: &FdbKey, value: &FdbEntry) -> Payload {
    Payload::neighbour(BRIDGE, key.link, state(value.permanent), SELF)
        .with(nda::LLADDR, key.mac.octets())
        .ip(nda::DST, value.dst)
}

fn state(permanent: bool) -> u16 {
    if permanent { PERMANENT } else { REACHABLE }
}

fn put_nexthop(id: NexthopId, value: &Nexthop) -> Payload {
    let onlink = if value.onlink { nexthop::ONLINK } else { 0 };
    Payload::nexthop(family_of(value.gateway), value.protocol, onlink)
        .number(nexthop::ID, id.0)
        .number(nexthop::OIF, value.link.0)
        .ip(nexthop::GATEWAY, value.gateway)
}

fn only_nexthop(id: NexthopId) -> Payload {
    Payload::nexthop(ANY, 0, 0).number(nexthop::ID, id.0)
}

#[cfg(test)]
mod tests {
    use ferrule_model::Mac;
    use netlink_packet_core::Parseable;
    use netlink_packet_route::neighbour::NeighbourMessage;
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    /// The packet crate reads everything that is written here, and writes the same bytes.
    #[test]
    fn the_packet_crate_would_write_the_same() {
        let key = |text: &str| RouteKey { metric: 7, ..RouteKey::main(text.parse().unwrap()) };
        let (link, mac) = (IfIndex(9), Mac::local([4; 6]));
        let via = |text: &str| Via::Gateway { address: text.parse().unwrap(), link, onlink: true };
        let source = Some("192.0.2.1".parse().unwrap());
        for (key, route) in [
            (key("10.1.0.0/24"), Route { source, ..Route::ours(via("192.0.2.7")) }),
            (key("fd00:1::/64"), Route::ours(via("fe80::1"))),
            (key("10.2.0.0/24"), Route::ours(Via::Nexthop(NexthopId(5)))),
            (key("fd00:2::/63"), Route::ours(Via::Link(link))),
            (key("0.0.0.0/0"), Route::unreachable()),
        ] {
            for payload in [put_route(&key, &route), delete_route(&key)].map(|payload| payload.0) {
                let parsed = RouteMessage::parse(&payload).unwrap();
                assert_eq!(request(rtm::NEWROUTE, 0, &parsed).payload, payload, "{parsed:?}");
            }
        }
        let entry = FdbEntry { dst: "2001:db8::2".parse().unwrap(), permanent: true };
        let neighbours = ["10.1.0.0", "fe80::2"].map(|text| {
            let key = NeighbourKey { link, address: text.parse().unwrap() };
            neighbour(&key, Some(&Neighbour { mac: Some(mac), permanent: false }))
        });
        for payload in neighbours.into_iter().chain([fdb(&FdbKey { link, mac }, &entry)]) {
            let parsed = NeighbourMessage::parse(&payload.0).unwrap();
            assert_eq!(request(rtm::NEWNEIGH, 0, &parsed).payload, payload.0, "{parsed:?}");
        }
    }
}
