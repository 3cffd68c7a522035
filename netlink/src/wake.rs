//! Three kinds of kernel events that the monitor has no room for: nexthop objects, whose removal takes IPv4 routes with
//! it without a word (`fib_table_flush` tells nobody), sysctls of forwarding and reverse path filtering, and changes of
//! some nftables tables.
//!
//! Only what is needed to tell whether they concern the listener is read of them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ferrule_model::{Change, Nexthop, NexthopId};
use netlink_packet_core::NlasIterator;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};

use crate::Port;
use crate::decode;
use crate::encode::rtm;
use crate::own::without;
use crate::socket::{Message, messages};

/// `RTNLGRP_NEXTHOP` (32), `RTNLGRP_IPV4_NETCONF` (24), `RTNLGRP_IPV6_NETCONF` (25) and `NFNLGRP_NFTABLES` (7) as bits of
/// a netlink address.
const GROUP_NEXTHOP: u32 = 1 << 31;
const GROUPS_NETCONF: u32 = 1 << 23 | 1 << 24;
const GROUP_NFTABLES: u32 = 1 << 6;

/// `struct nfgenmsg`.
const NFTABLES_HEADER: usize = 4;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE` and so on: 1 in each kind of message.
const NFTA_TABLE: u16 = 1;

/// As long as the longest message that the kernel sends here (`NLMSG_GOODSIZE` is 8 KiB at most).
const BUFFER: usize = 32 << 10;
/// Bytes of events that wait to be read.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A nexthop object was made, changed or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NexthopEvent {
    /// Which.
    pub change: Change,
    /// Its number.
    pub id: NexthopId,
    /// What it says; `None` for a kind that is none of ours.
    pub nexthop: Option<Nexthop>,
}

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Of a nexthop object.
    Nexthop(NexthopEvent),
    /// A sysctl of forwarding or reverse path filtering was changed, by whomever, or a link came or went with its own.
    Sysctl,
    /// One of the nftables tables was changed, by whomever.
    Table,
    /// Events were lost.
    Overrun,
}

/// The two subscriptions.
#[derive(Debug)]
pub struct Wakes {
    routing: OwnedFd,
    tables: OwnedFd,
    names: Vec<&'static str>,
}

impl Wakes {
    /// Subscribes in the calling thread's network namespace, to all nexthop objects but those that `own` makes, changes
    /// and removes, to the sysctls, and to the nftables tables of these names.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn open(tables: &[&'static str], own: Option<Port>) -> io::Result<Self> {
        let names = tables.to_vec();
        let routing = subscribe(SockProtocol::NetlinkRoute, GROUP_NEXTHOP | GROUPS_NETCONF)?;
        own.map_or(Ok(()), |own| without(routing.as_fd(), own))?;
        let tables = subscribe(SockProtocol::NetlinkNetFilter, GROUP_NFTABLES)?;
        Ok(Self { routing, tables, names })
    }

    /// Blocks until there are events that may concern us; at least one, each with the netlink port of who asked for the change
    /// (0: the kernel by itself).
    ///
    /// # Errors
    /// A socket is broken.
    pub fn wait(&mut self) -> io::Result<Vec<(Wake, u32)>> {
        loop {
            let mut ready =
                [&self.routing, &self.tables].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut wakes = told(&self.routing, routing_event)?;
            wakes.extend(told(&self.tables, |message| table_event(message, &self.names))?);
            if !wakes.is_empty() {
                return Ok(wakes);
            }
        }
    }
}

fn subscribe(protocol: SockProtocol, groups: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// The events of all datagrams that wait on `socket`; a datagram holds any number of messages.
fn told(socket: &OwnedFd, event: impl Fn(&Message) -> Option<Wake>) -> io::Result<Vec<(Wake, u32)>> {
    let mut wakes = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                let messages = messages(&buffer[..length]).map_err(io::Error::other)?;
                wakes.extend(messages.iter().filter_map(|message| Some((event(message)?, message.port))));
            }
            Err(Errno::ENOBUFS) => wakes.push((Wake::Overrun, 0)),
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    wakes.dedup();
    Ok(wakes)
}

fn routing_event(message: &Message) -> Option<Wake> {
    let change = match message.kind {
        rtm::NEWNETCONF => return Some(Wake::Sysctl),
        rtm::NEWNEXTHOP => Change::Put,
        rtm::DELNEXTHOP => Change::Delete,
        _ => return None,
    };
    let id = decode::nexthop_id(&message.payload)?;
    let nexthop = decode::nexthop(&message.payload).map(|(_, nexthop)| nexthop);
    Some(Wake::Nexthop(NexthopEvent { change, id, nexthop }))
}

fn table_event(message: &Message, tables: &[&str]) -> Option<Wake> {
    let attributes = NlasIterator::new(message.payload.get(NFTABLES_HEADER..)?).filter_map(Result::ok);
    let name = attributes.into_iter().find(|attribute| attribute.kind() == NFTA_TABLE)?;
    let name = name.value().strip_suffix(b"\0")?;
    tables.iter().any(|table| table.as_bytes() == name).then_some(Wake::Table)
}

#[cfg(test)]
mod tests {
    use ferrule_model::{IfIndex, LinkChange, Op};

    use super::*;
    use crate::{Kernel, Netlink, netns, nft};

    #[test]
    fn a_sysctl_wakes() {
        netns::make()
            .unwrap()
            .run(|| {
                let mut wakes = Wakes::open(&["ferrule"], None).unwrap();
                for name in
                    ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/lo/rp_filter"]
                {
                    crate::sysctl::set(name, "1").unwrap();
                    assert_eq!(wakes.wait().unwrap()[0], (Wake::Sysctl, 0), "{name}");
                }
            })
            .unwrap();
    }

    #[test]
    fn a_nexthop_of_the_named_socket_does_not_wake() {
        netns::make()
            .unwrap()
            .run(|| {
                let [mut ours, mut theirs] = [(); 2].map(|()| Netlink::open().unwrap());
                let mut wakes = Wakes::open(&["ferrule"], Some(ours.port().unwrap())).unwrap();
                let lo = IfIndex(1);
                let up = LinkChange { up: Some(true), ..LinkChange::default() };
                let hop =
                    Nexthop { gateway: "192.0.2.9".parse().unwrap(), link: lo, onlink: true, protocol: 70 };
                let answers = ours.apply(&[Op::SetLink(lo, up), Op::PutNexthop(NexthopId(5), hop)]).unwrap();
                assert!(answers.iter().all(Result::is_ok), "{answers:?}");
                theirs.apply(&[Op::DeleteNexthop(NexthopId(5))]).unwrap();
                let heard = loop {
                    let heard = wakes.wait().unwrap();
                    if let Some((Wake::Nexthop(event), _)) =
                        heard.into_iter().find(|(wake, _)| matches!(wake, Wake::Nexthop(_)))
                    {
                        break event;
                    }
                };
                assert_eq!((heard.change, heard.id), (Change::Delete, NexthopId(5)));
            })
            .unwrap();
    }

    #[test]
    fn only_the_table_asked_for_wakes() {
        netns::make()
            .unwrap()
            .run(|| {
                let mut wakes = Wakes::open(&["ferrule"], None).unwrap();
                nft::apply("add table inet ferrule-services").unwrap();
                assert_eq!(told(&wakes.tables, |message| table_event(message, &["ferrule"])).unwrap(), []);
                nft::apply("add table inet ferrule").unwrap();
                let told = wakes.wait().unwrap();
                assert!(told[0].0 == Wake::Table && told[0].1 != 0, "{told:?}");
            })
            .unwrap();
    }
}
