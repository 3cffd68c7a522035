//! Two kinds of kernel events that the monitor has no room for: nexthop objects, whose removal takes IPv4 routes with
//! it without a word (`fib_table_flush` tells nobody), and changes of our nftables table.
//!
//! Only what is needed to tell whether they concern us is read of them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ferrule_model::{Change, IfIndex, Nexthop, NexthopId};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};

use crate::masquerade::TABLE;

/// `RTNLGRP_NEXTHOP` (32) and `NFNLGRP_NFTABLES` (7) as bits of a netlink address.
const GROUP_NEXTHOP: u32 = 1 << 31;
const GROUP_NFTABLES: u32 = 1 << 6;

/// `struct nlmsghdr`, `struct nhmsg`, `struct nfgenmsg`.
const HEADER: usize = 16;
const NEXTHOP_HEADER: usize = 8;
const NFTABLES_HEADER: usize = 4;

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const NHA_ID: u16 = 1;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const RTNH_F_ONLINK: u32 = 4;
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
    /// Our nftables table was changed, by us or by someone else.
    Table,
    /// Events were lost.
    Overrun,
}

/// The two subscriptions.
#[derive(Debug)]
pub struct Wakes {
    nexthops: OwnedFd,
    tables: OwnedFd,
}

impl Wakes {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn open() -> io::Result<Self> {
        let nexthops = subscribe(SockProtocol::NetlinkRoute, GROUP_NEXTHOP)?;
        let tables = subscribe(SockProtocol::NetlinkNetFilter, GROUP_NFTABLES)?;
        Ok(Self { nexthops, tables })
    }

    /// Blocks until there are events that may concern us; at least one.
    ///
    /// # Errors
    /// A socket is broken.
    pub fn wait(&mut self) -> io::Result<Vec<Wake>> {
        loop {
            let mut ready =
                [&self.nexthops, &self.tables].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut wakes = told(&self.nexthops, nexthop_event)?;
            wakes.extend(told(&self.tables, table_event)?);
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
fn told(socket: &OwnedFd, event: impl Fn(u16, &[u8]) -> Option<Wake>) -> io::Result<Vec<Wake>> {
    let mut wakes = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                wakes.extend(messages(&buffer[..length]).filter_map(|(kind, payload)| event(kind, payload)));
            }
            Err(Errno::ENOBUFS) => wakes.push(Wake::Overrun),
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    wakes.dedup();
    Ok(wakes)
}

/// The messages of a datagram: type and payload of each. Ends at the first that is not whole.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    chunks(datagram, |header| {
        let length = u32::from_ne_bytes(header.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?);
        Some((usize::try_from(length).ok()?, kind, HEADER))
    })
}

/// The attributes of a payload: type and value of each.
fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    chunks(payload, |header| {
        let length = u16::from_ne_bytes(header.get(..2)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(header.get(2..4)?.try_into().ok()?);
        Some((length.into(), kind, 4))
    })
}

/// Pieces that say their own length and begin at multiples of four bytes. `head` gives a piece's length, kind and the
/// length of its header.
fn chunks(
    mut rest: &[u8],
    head: impl Fn(&[u8]) -> Option<(usize, u16, usize)>,
) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind, header) = head(rest)?;
        let value = rest.get(header..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn nexthop_event(kind: u16, payload: &[u8]) -> Option<Wake> {
    let change = match kind {
        RTM_NEWNEXTHOP => Change::Put,
        RTM_DELNEXTHOP => Change::Delete,
        _ => return None,
    };
    let protocol = *payload.get(2)?;
    let flags = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let (mut id, mut link, mut gateway) = (None, None, None);
    for (kind, value) in attributes(payload.get(NEXTHOP_HEADER..)?) {
        match kind {
            NHA_ID => id = number(value).map(NexthopId),
            NHA_OIF => link = number(value).map(IfIndex),
            NHA_GATEWAY => gateway = address(value),
            _ => {}
        }
    }
    let onlink = flags & RTNH_F_ONLINK != 0;
    let nexthop = link.zip(gateway).map(|(link, gateway)| Nexthop { gateway, link, onlink, protocol });
    Some(Wake::Nexthop(NexthopEvent { change, id: id?, nexthop }))
}

fn table_event(_: u16, payload: &[u8]) -> Option<Wake> {
    let (_, table) = attributes(payload.get(NFTABLES_HEADER..)?).find(|(kind, _)| *kind == NFTA_TABLE)?;
    (table.strip_suffix(b"\0") == Some(TABLE.as_bytes())).then_some(Wake::Table)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_is_not_whole_ends_the_list() {
        let mut datagram = Vec::new();
        datagram.extend(20u32.to_ne_bytes());
        datagram.extend(104u16.to_ne_bytes());
        datagram.extend([0; 14]);
        datagram.extend(99u32.to_ne_bytes());
        datagram.extend([1; 12]);
        assert_eq!(messages(&datagram).collect::<Vec<_>>(), [(104, &[0; 4][..])]);
        for length in 0..datagram.len() {
            assert!(messages(&datagram[..length]).count() <= 1);
        }
        assert_eq!(attributes(&[0, 0, 1, 0, 0, 0]).count(), 0, "a length of nothing does not go on for ever");
    }

    #[test]
    fn only_our_table_wakes() {
        let message = |name: &[u8]| {
            let mut payload = vec![1, 0, 0, 0];
            payload.extend((4 + u16::try_from(name.len()).unwrap()).to_ne_bytes());
            payload.extend(NFTA_TABLE.to_ne_bytes());
            payload.extend(name);
            payload
        };
        assert_eq!(table_event(0, &message(b"ferrule\0")), Some(Wake::Table));
        assert_eq!(table_event(0, &message(b"ferrule-services\0")), None);
        assert_eq!(table_event(0, &[1, 0]), None);
    }
}
