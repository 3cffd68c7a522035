//! Routes and neighbours from events. rtnetlink reads these, in contrast to `decode`, which reads them in place.

use std::net::IpAddr;

use ferrule_model::{IfIndex, NexthopId, Route, RouteKey};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteVia};

use crate::decode::{self, Neigh, RouteHead, RouteParts};

/// A route's key, and the route if it can be expressed.
pub(super) fn route(message: &RouteMessage) -> Option<(RouteKey, Option<Route>)> {
    let header = &message.header;
    let head = RouteHead {
        family: header.address_family,
        dst_len: header.destination_prefix_length,
        table: header.table,
        protocol: header.protocol.into(),
        kind: header.kind,
        onlink: header.flags.contains(RouteFlags::Onlink),
    };
    let parts = parts(message);
    Some((parts.key(&head)?, decode::route_of(&head, &parts).map(|(_, route)| route)))
}

fn parts(message: &RouteMessage) -> RouteParts {
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
            RouteAttribute::Via(RouteVia::Inet(v4)) => parts.gateway = Some((*v4).into()),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => parts.gateway = Some((*v6).into()),
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) | RouteAttribute::EncapType(_) => {
                parts.multipath = true;
            }
            _ => {}
        }
    }
    parts
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

pub(super) fn neigh(message: &NeighbourMessage) -> Option<Neigh> {
    let mut dst = None;
    let mut lladdr = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => dst = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => dst = Some(IpAddr::from(*v6)),
            // In an FDB entry the family of the message is the bridge's, so the length tells the kind of address.
            NeighbourAttribute::Destination(NeighbourAddress::Other(octets)) => {
                dst = decode::address_of(octets);
            }
            NeighbourAttribute::LinkLayerAddress(octets) => lladdr = decode::mac(octets),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    decode::neigh_of(message.header.family, IfIndex(message.header.ifindex), permanent, (dst, lladdr))
}

#[cfg(test)]
mod tests {
    use ferrule_model::{
        Address, AddressKey, Family, LinkChange, Mac, Neighbour, NeighbourKey, Nexthop, Op, Via,
    };
    use netlink_packet_core::Parseable;

    use super::*;
    use crate::encode::{all_routes, neighbours_of};
    use crate::fixtures::a_pair;
    use crate::socket::Socket;
    use crate::{Kernel, Netlink, netns};

    /// Reading in place gives the same as the packet crate, for routes and neighbours of every kind.
    #[test]
    fn both_ways_of_reading_come_to_the_same() {
        let netns = netns::make().unwrap();
        let mut kernel = Netlink::open_in(&netns).unwrap();
        let link = kernel.create_veth(&a_pair(), &netns).unwrap();
        let (link, peer) = (link.index, link.peer.unwrap());
        let key = |text: &str| RouteKey::main(text.parse().unwrap());
        let via =
            |text: &str, onlink| Route::ours(Via::Gateway { address: text.parse().unwrap(), link, onlink });
        let hop = Nexthop { gateway: "192.0.2.9".parse().unwrap(), link, onlink: true, protocol: 70 };
        let address = |text: &str| AddressKey { link, prefix: text.parse().unwrap() };
        let neighbour = |text: &str| NeighbourKey { link, address: text.parse().unwrap() };
        let known = Neighbour { mac: Some(Mac::local([4; 6])), permanent: true };
        let source = Some("192.0.2.1".parse().unwrap());
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        let ops = [
            Op::SetLink(peer, up.clone()),
            Op::SetLink(link, up),
            Op::PutAddress(address("192.0.2.1/24"), Address::default()),
            Op::PutAddress(address("2001:db8::1/64"), Address { nodad: true }),
            Op::PutNexthop(NexthopId(5), hop),
            Op::PutRoute(key("10.1.0.0/24"), Route::ours(Via::Nexthop(NexthopId(5)))),
            Op::PutRoute(key("10.2.0.0/24"), via("192.0.2.7", false)),
            Op::PutRoute(key("10.9.0.0/24"), via("fe80::7", false)),
            Op::PutRoute(key("10.3.0.0/24"), via("203.0.113.7", true)),
            Op::PutRoute(key("10.4.0.0/24"), Route { source, ..Route::ours(Via::Link(link)) }),
            Op::PutRoute(
                RouteKey { table: 1000, metric: 7, ..key("fd00:1::/64") },
                via("2001:db8::7", false),
            ),
            Op::PutRoute(key("fd00:2::/64"), Route::unreachable()),
            Op::PutNeighbour(neighbour("192.0.2.7"), known),
            Op::PutNeighbour(neighbour("2001:db8::7"), known),
        ];
        let answers = kernel.apply(&ops).unwrap();
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let mut socket = Socket::open_in(&netns).unwrap();
        let (mut routes, mut neighbours) = (0, 0);
        for family in Family::BOTH {
            for message in socket.dump(&all_routes(family)).unwrap() {
                let parsed = RouteMessage::parse(&message.payload).unwrap();
                let plain = route(&parsed).and_then(|(key, route)| Some((key, route?)));
                assert_eq!(decode::route(&message.payload), plain, "{parsed:?}");
                routes += usize::from(decode::route(&message.payload).is_some());
            }
            for message in socket.dump(&neighbours_of(family, link)).unwrap() {
                let parsed = NeighbourMessage::parse(&message.payload).unwrap();
                assert_eq!(decode::neigh(&message.payload), neigh(&parsed), "{parsed:?}");
                neighbours += 1;
            }
        }
        assert!(routes >= 6 && neighbours == 2, "{routes} {neighbours}");
    }
}
