//! The kernel's events: changes of links, addresses, routes, neighbours and FDB entries, whoever makes them.
//!
//! An event says what to look at again, never what to believe. Some events may be lost, and then there is
//! [`Event::Overrun`]. The events of nexthop objects and nftables are in [`crate::wake`].

mod entry;
mod link;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;

use ferrule_model::{Change, TABLE_LOCAL};
use futures_util::{FutureExt, Stream, StreamExt};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::{AsyncSocket, SocketAddr};

use crate::Port;
use crate::decode::{self, Neigh};
use crate::own::without;

pub use ferrule_model::Event;

/// Bytes for events that wait to be read. If a node leaves a cluster of 5,000, there are some thousand events.
const RECEIVE_BUFFER: usize = 8 << 20;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// The events of the namespace in which it was opened.
pub struct Monitor {
    socket: OwnedFd,
    messages: Pin<Box<Messages>>,
}

/// The stream of messages from rtnetlink.
type Messages = dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send;

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Subscribes in the calling thread's namespace. Every change from here on is told, except for those that `own`
    /// asked for. Must be called within a tokio runtime, on which the reading goes on.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open(own: Option<Port>) -> io::Result<Self> {
        Self::open_with(own, RECEIVE_BUFFER)
    }

    fn open_with(own: Option<Port>, receive_buffer: usize) -> io::Result<Self> {
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_rx_buf_sz(receive_buffer)?;
        own.map_or(Ok(()), |own| without(socket.as_fd(), own))?;
        let socket = socket.as_fd().try_clone_to_owned()?;
        tokio::spawn(connection);
        Ok(Self { socket, messages: Box::pin(messages) })
    }

    /// The socket, so that a caller can wait until something can be read.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for events, and returns all that have come by then. Each comes with the netlink port that asked for the
    /// change (0: the kernel by itself). The list may be empty, if no value can express what came. `None` when the
    /// socket is broken.
    pub async fn swarm(&mut self) -> Option<Vec<(Event, u32)>> {
        let mut swarm = Vec::new();
        let mut next = Some(self.messages.next().await?);
        while let Some((message, _)) = next {
            let told = [event(&message.payload), port(&message.payload)].into_iter().flatten();
            swarm.extend(told.map(|event| (event, message.header.port_number)));
            next = self.messages.next().now_or_never().flatten();
        }
        Some(swarm)
    }
}

fn event(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    use Change::{Delete, Put};
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Event::Overrun),
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => link::told(link).map(|link| Event::Link(Put, link)),
        RouteNetlinkMessage::DelLink(link) => link::told(link).map(|link| Event::Link(Delete, link)),
        RouteNetlinkMessage::NewAddress(address) => {
            decode::address_message(address).map(|(key, value)| Event::Address(Put, key, value))
        }
        RouteNetlinkMessage::DelAddress(address) => {
            decode::address_message(address).map(|(key, value)| Event::Address(Delete, key, value))
        }
        RouteNetlinkMessage::NewRoute(route) => told_route(Put, route),
        RouteNetlinkMessage::DelRoute(route) => told_route(Delete, route),
        RouteNetlinkMessage::NewNeighbour(message) => entry::neigh(message).map(|neigh| told(Put, &neigh)),
        RouteNetlinkMessage::DelNeighbour(message) => entry::neigh(message).map(|neigh| told(Delete, &neigh)),
        _ => None,
    }
}

fn told_route(change: Change, message: &RouteMessage) -> Option<Event> {
    let (key, route) = entry::route(message)?;
    match route {
        Some(route) => Some(Event::Route(change, key, route)),
        None if key.table == TABLE_LOCAL => None,
        None => Some(Event::OddRoute(change, key, message.header.protocol.into())),
    }
}

/// What a message about a link tells apart from the link.
fn port(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    let (link, port) = match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => link::port(link)?,
        // The port leaves its bridge; the link does not go.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) if link::is_of_bridge(link) => {
            (link::port(link)?.0, None)
        }
        _ => return None,
    };
    Some(Event::Port(link, port))
}

fn told(change: Change, neigh: &Neigh) -> Event {
    match neigh {
        Neigh::Neighbour(key, value) => Event::Neighbour(change, *key, *value),
        Neigh::Fdb(key, value) => Event::Fdb(change, *key, *value),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ferrule_model::{
        Address, AddressKey, FdbEntry, FdbKey, IfName, Link, LinkChange, LinkKind, Mac, Neighbour,
        NeighbourKey, Op, Route, RouteKey, Via, Vxlan, VxlanSpec,
    };

    use super::*;
    use crate::fixtures::a_pair;
    use crate::{Kernel, Netlink, netns};

    /// The first event that is wanted. Events that came with it are dropped.
    async fn until(monitor: &mut Monitor, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let search = async {
            loop {
                let swarm = monitor.swarm().await.unwrap();
                if let Some((event, _)) = swarm.into_iter().find(|(event, _)| wanted(event)) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), search).await.expect("the event comes within 5 s")
    }

    /// The test runs on one thread, which moves to a namespace for good.
    fn in_a_namespace(test: impl Future<Output = ()>) {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn kernel_with_a_link() -> (Netlink, Link) {
        let mut kernel = Netlink::open().unwrap();
        let link = kernel.create_veth(&a_pair(), &netns::Netns::current().unwrap()).unwrap();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        kernel.apply(&[link.peer.unwrap(), link.index].map(|end| Op::SetLink(end, up.clone()))).unwrap();
        (kernel, link)
    }

    /// An expected event, and how to recognise it.
    type Expected = (&'static str, Box<dyn Fn(&Event) -> bool>);

    fn expected(
        address: AddressKey,
        dst: RouteKey,
        neighbour: NeighbourKey,
        fdb: FdbKey,
        entry: FdbEntry,
    ) -> Vec<Expected> {
        vec![
            (
                "address put",
                Box::new(move |e| matches!(e, Event::Address(Change::Put, k, _) if *k == address)),
            ),
            ("route put", Box::new(move |e| matches!(e, Event::Route(Change::Put, k, _) if *k == dst))),
            (
                "neighbour put",
                Box::new(
                    move |e| matches!(e, Event::Neighbour(Change::Put, k, v) if *k == neighbour && v.permanent),
                ),
            ),
            // The kernel first tells a deleted neighbour as failed, and then as deleted.
            (
                "neighbour deleted",
                Box::new(move |e| matches!(e, Event::Neighbour(_, k, v) if *k == neighbour && !v.permanent)),
            ),
            (
                "fdb put",
                Box::new(move |e| matches!(e, Event::Fdb(Change::Put, k, v) if *k == fdb && *v == entry)),
            ),
            ("fdb deleted", Box::new(move |e| matches!(e, Event::Fdb(Change::Delete, k, _) if *k == fdb))),
            (
                "route deleted",
                Box::new(move |e| matches!(e, Event::Route(Change::Delete, k, _) if *k == dst)),
            ),
            (
                "link deleted",
                Box::new(move |e| matches!(e, Event::Link(Change::Delete, l) if l.index == fdb.link)),
            ),
        ]
    }

    #[test]
    fn every_kind_of_change_is_told() {
        in_a_namespace(async {
            let mut monitor = Monitor::open(None).unwrap();
            let (mut kernel, link) = kernel_with_a_link();
            until(&mut monitor, |event| matches!(event, Event::Link(Change::Put, l) if l.name == link.name))
                .await;

            let spec = VxlanSpec {
                name: IfName::new("ferrule.1").unwrap(),
                mac: Mac::local([3; 6]),
                mtu: 1450,
                vxlan: Vxlan { vni: 1, port: 8472, local: None, underlay: None, learning: false, gbp: false },
            };
            kernel.apply(&[Op::AddVxlan(spec.clone())]).unwrap();
            let told = until(
                &mut monitor,
                |event| matches!(event, Event::Link(Change::Put, l) if l.name == spec.name && matches!(l.kind, LinkKind::Vxlan(_))),
            );
            let Event::Link(_, device) = told.await else { unreachable!() };

            let dst = RouteKey::main("10.1.0.0/24".parse().unwrap());
            let neighbour = NeighbourKey { link: device.index, address: "10.1.0.0".parse().unwrap() };
            let fdb = FdbKey { link: device.index, mac: Mac::local([4; 6]) };
            let entry = FdbEntry { dst: "192.0.2.2".parse().unwrap(), permanent: true };
            let address = AddressKey { link: device.index, prefix: "10.0.0.0/32".parse().unwrap() };
            kernel
                .apply(&[
                    Op::PutAddress(address, Address::default()),
                    Op::PutRoute(dst, Route::ours(Via::Link(device.index))),
                    Op::PutNeighbour(neighbour, Neighbour { mac: Some(fdb.mac), permanent: true }),
                    Op::PutFdb(fdb, entry),
                    Op::DeleteFdb(fdb, entry),
                    Op::DeleteNeighbour(neighbour),
                    Op::DeleteRoute(dst),
                    Op::DeleteLink(device.index),
                ])
                .unwrap();
            let own = kernel.port().unwrap();
            let mut missing = expected(address, dst, neighbour, fdb, entry);
            while !missing.is_empty() {
                let next = tokio::time::timeout(Duration::from_secs(5), monitor.swarm()).await;
                let names: Vec<_> = missing.iter().map(|(name, _)| name).collect();
                for (event, port) in
                    next.unwrap_or_else(|_| panic!("no event within 5 s of: {names:?}")).unwrap()
                {
                    assert!(
                        port == own.0 || matches!(event, Event::Fdb(..)) || port == 0,
                        "{event:?} by {port}"
                    );
                    missing.retain(|(_, is)| !is(&event));
                }
            }
        });
    }

    #[test]
    fn what_the_named_socket_did_itself_is_not_told() {
        in_a_namespace(async {
            let (mut kernel, link) = kernel_with_a_link();
            let mut monitor = Monitor::open(Some(kernel.port().unwrap())).unwrap();
            let key = |third: u8| RouteKey::main(format!("10.1.{third}.0/24").parse().unwrap());
            let neighbour = NeighbourKey { link: link.index, address: "10.1.0.9".parse().unwrap() };
            let route = |third| Op::PutRoute(key(third), Route::ours(Via::Link(link.index)));
            let known = Neighbour { mac: Some(Mac::local([4; 6])), permanent: true };
            kernel.apply(&[route(1), Op::PutNeighbour(neighbour, known), Op::DeleteRoute(key(1))]).unwrap();
            Netlink::open().unwrap().apply(&[route(2)]).unwrap();
            // The kernel's own route to the link's link-local addresses comes at an arbitrary time.
            let of_ours = |event: &Event| match event {
                Event::Route(_, key, _) => key.dst.is_ipv4(),
                Event::Neighbour(..) => true,
                _ => false,
            };
            let first = until(&mut monitor, of_ours).await;
            assert!(matches!(first, Event::Route(Change::Put, found, _) if found == key(2)), "{first:?}");
        });
    }

    /// There are more events than the buffer holds, while nobody reads.
    #[test]
    fn lost_events_are_told_as_an_overrun() {
        in_a_namespace(async {
            let mut monitor = Monitor::open_with(None, 4096).unwrap();
            let (mut kernel, link) = kernel_with_a_link();
            let routes = (0..2_000_u16).map(|n| {
                let [a, b] = n.to_be_bytes();
                let dst = ferrule_model::host_prefix([10, 1, a, b].into());
                Op::PutRoute(RouteKey::main(dst), Route::ours(Via::Link(link.index)))
            });
            kernel.apply(&routes.collect::<Vec<_>>()).unwrap();
            until(&mut monitor, |event| *event == Event::Overrun).await;
        });
    }
}
