//! The local route of an IPv6 address, put together with the address.
//!
//! Without that route the node does not accept packets to the address. For IPv4 the kernel puts it before it answers.
//! For IPv6 the kernel leaves it to a workqueue (`addrconf_dad_start`), even if there is no duplicate address detection
//! to wait for. So the answer to RTM_NEWADDR promises nothing yet. A route of the same kind, put right after the
//! address, makes sure. The kernel then finds the place of its own route taken, and drops that route silently.

use std::net::IpAddr;

use ferrule_model::{AddressKey, Op};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::errno::Errno;

use crate::Refusal;
use crate::encode::{request, rtm};
use crate::socket::Request;

/// `RT_TABLE_LOCAL`.
const TABLE_LOCAL: u8 = 255;

/// The request that has to follow the one for `op`, if there is one.
pub(crate) fn companion(op: &Op) -> Option<Request> {
    match op {
        op if !has_companion(op) => None,
        Op::PutAddress(key, _) => {
            Some(request(rtm::NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route(key, RouteScope::Universe)))
        }
        Op::DeleteAddress(key) => Some(request(rtm::DELROUTE, 0, &route(key, RouteScope::NoWhere))),
        _ => None,
    }
}

/// Whether there is such a request.
pub(crate) fn has_companion(op: &Op) -> bool {
    match op {
        Op::PutAddress(key, address) => address.nodad && key.prefix.is_ipv6(),
        Op::DeleteAddress(key) => key.prefix.is_ipv6(),
        _ => false,
    }
}

/// What the answer to the companion means for the op. The kernel may have been quicker, with putting as with deleting.
/// On a link that is down the kernel puts the route itself when the link goes up.
pub(crate) fn folded(op: Result<(), Refusal>, companion: Result<(), Refusal>) -> Result<(), Refusal> {
    op?;
    match companion {
        Err(refusal) if !matches!(refusal.errno, Errno::EEXIST | Errno::ESRCH | Errno::ENETDOWN) => {
            Err(refusal)
        }
        _ => Ok(()),
    }
}

fn route(key: &AddressKey, scope: RouteScope) -> RouteMessage {
    let address: IpAddr = key.prefix.ip();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet6,
        destination_prefix_length: 128,
        table: TABLE_LOCAL,
        protocol: RouteProtocol::Kernel,
        scope,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(address.into()), RouteAttribute::Oif(key.link.0)];
    message
}

#[cfg(test)]
mod tests {
    use ferrule_model::{Address, IfIndex, LinkChange};
    use netlink_packet_core::Parseable;

    use super::*;
    use crate::encode::all_routes;
    use crate::socket::Socket;
    use crate::{Kernel, Netlink, netns};

    fn is_local(socket: &mut Socket, key: &AddressKey) -> bool {
        let listed = socket.dump(&all_routes(ferrule_model::Family::V6)).unwrap();
        let mut routes = listed.iter().filter_map(|message| RouteMessage::parse(&message.payload).ok());
        routes.any(|route| {
            route.header.kind == RouteType::Local
                && route.attributes.contains(&RouteAttribute::Destination(key.prefix.ip().into()))
        })
    }

    /// Without the companion the kernel is quick enough most of the time, by chance. So the test tries it often.
    #[test]
    fn an_ipv6_address_receives_as_soon_as_it_is_put_and_no_longer_than_it_is_there() {
        let netns = netns::make().unwrap();
        let mut kernel = Netlink::open_in(&netns).unwrap();
        let mut socket = Socket::open_in(&netns).unwrap();
        let link = IfIndex(1);
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        kernel.apply(&[Op::SetLink(link, up)]).unwrap().remove(0).unwrap();
        for n in 1..=200_u16 {
            let key = AddressKey { link, prefix: format!("fd00::{n:x}/128").parse().unwrap() };
            kernel.apply(&[Op::PutAddress(key, Address { nodad: true })]).unwrap().remove(0).unwrap();
            assert!(is_local(&mut socket, &key), "attempt {n}");
            kernel.apply(&[Op::DeleteAddress(key)]).unwrap().remove(0).unwrap();
            assert!(!is_local(&mut socket, &key), "attempt {n}");
        }
    }
}
