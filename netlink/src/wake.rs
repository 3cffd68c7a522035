//! Kernel events that the monitor does not handle: of nexthop objects, policy rules, sysctls of forwarding and reverse
//! path filtering, and of some nftables tables. The removal of a nexthop object silently removes its IPv4 routes
//! (`fib_table_flush` tells nobody).
//!
//! Only so much of an event is read as tells whether it concerns the listener.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ferrule_model::table::OWN_COMMENT;
use ferrule_model::{Change, IfIndex};
use netlink_packet_core::NlasIterator;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};

use crate::Port;
use crate::decode;
use crate::encode::rtm;
use crate::nft;
use crate::own::without;
use crate::socket::{Message, messages};

pub use ferrule_model::{NexthopEvent, Wake};

/// `RTNLGRP_NEXTHOP` (32), `RTNLGRP_TC` (4), `RTNLGRP_IPV4_RULE` (8), `RTNLGRP_IPV6_RULE` (19), `RTNLGRP_IPV4_NETCONF`
/// (24), `RTNLGRP_IPV6_NETCONF` (25) and `NFNLGRP_NFTABLES` (7) as bits of a netlink address.
const GROUP_NEXTHOP: u32 = 1 << 31;
const GROUP_TC: u32 = 1 << 3;
const GROUPS_RULE: u32 = 1 << 7 | 1 << 18;
const GROUPS_NETCONF: u32 = 1 << 23 | 1 << 24;
pub(crate) const GROUP_NFTABLES: u32 = 1 << 6;

/// `struct netconfmsg`, padded to four bytes. The attributes after it begin with the link's number.
const NETCONF_HEADER: usize = 4;
/// `struct nfgenmsg`.
const NFTABLES_HEADER: usize = 4;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE` and so on. The number is 1 in each kind of message.
const NFTA_TABLE: u16 = 1;
/// `RTM_NEWQDISC` and the others of `linux/rtnetlink.h`.
const NEWQDISC: u16 = 36;
const DELQDISC: u16 = 37;
const NEWTFILTER: u16 = 44;
const DELTFILTER: u16 = 45;
/// `NFT_MSG_NEWSETELEM`, `NFT_MSG_DELSETELEM`.
const NEWSETELEM: u8 = 12;
const DELSETELEM: u8 = 14;

/// Length of the longest message that the kernel sends here, with room to spare (`NLMSG_GOODSIZE` is 8 KiB at most).
pub(crate) const BUFFER: usize = 32 << 10;
/// Bytes of events that wait to be read.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The two subscriptions.
#[derive(Debug)]
pub struct Wakes {
    routing: OwnedFd,
    tables: OwnedFd,
    names: Vec<&'static str>,
}

impl Wakes {
    /// Subscribes in the calling thread's network namespace to five things: all nexthop objects (but not to the changes
    /// that `own` makes), link limits, policy rules, sysctls, and the nftables tables of these names.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn open(tables: &[&'static str], own: Option<Port>) -> io::Result<Self> {
        let names = tables.to_vec();
        let groups = GROUP_NEXTHOP | GROUP_TC | GROUPS_RULE | GROUPS_NETCONF;
        let routing = subscribe(SockProtocol::NetlinkRoute, groups)?;
        own.map_or(Ok(()), |own| without(routing.as_fd(), own))?;
        let tables = subscribe(SockProtocol::NetlinkNetFilter, GROUP_NFTABLES)?;
        Ok(Self { routing, tables, names })
    }

    /// The sockets, so that a caller can wait until something can be read.
    pub fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        [self.routing.as_fd(), self.tables.as_fd()]
    }

    /// What has come by now and may concern the listener. Each event comes with the netlink port that asked for the
    /// change (0: the kernel by itself).
    ///
    /// # Errors
    /// A socket is broken.
    pub fn swarm(&mut self) -> io::Result<Vec<(Wake, u32)>> {
        let mut wakes = told(&self.routing, routing_event, |_| None)?;
        wakes.extend(told(&self.tables, |message| table_event(message, &self.names), put_again)?);
        Ok(wakes)
    }
}

pub(crate) fn subscribe(protocol: SockProtocol, groups: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// The events of all datagrams that wait on `socket`; a datagram holds any number of messages. If one transaction
/// removes an element and puts it back (`put`), the element was never gone, because a transaction is told as a whole.
fn told(
    socket: &OwnedFd,
    event: impl Fn(&Message) -> Option<Wake>,
    put: impl Fn(&Message) -> Option<String>,
) -> io::Result<Vec<(Wake, u32)>> {
    let mut wakes = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                let messages = messages(&buffer[..length]).map_err(io::Error::other)?;
                for message in &messages {
                    wakes.extend(event(message).map(|wake| (wake, message.port)));
                    if let Some(owner) = put(message) {
                        let again = (Wake::Element(owner), message.port);
                        wakes.retain(|wake| *wake != again);
                    }
                }
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
        rtm::NEWNETCONF => return is_one_setting(message).then_some(Wake::Sysctl),
        rtm::NEWRULE | rtm::DELRULE => return Some(Wake::Rule),
        NEWQDISC | NEWTFILTER => return traffic(message, false),
        DELQDISC | DELTFILTER => return traffic(message, true),
        rtm::NEWNEXTHOP => Change::Put,
        rtm::DELNEXTHOP => Change::Delete,
        _ => return None,
    };
    let id = decode::nexthop_id(&message.payload)?;
    let nexthop = decode::nexthop(&message.payload).map(|(_, nexthop)| nexthop);
    Some(Wake::Nexthop(NexthopEvent { change, id, nexthop }))
}

/// `struct tcmsg`: family, link, handle, parent.
fn traffic(message: &Message, gone: bool) -> Option<Wake> {
    let field = |at: usize| message.payload.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    Some(Wake::Traffic { link: IfIndex(field(4)?), parent: field(12)?, gone })
}

/// Whether a message tells of a single sysctl. The kernel tells all settings of a new link together, and a sysctl that
/// is written separately. Every pod brings a link, and its settings concern nobody. The monitor tells of links that
/// matter.
fn is_one_setting(message: &Message) -> bool {
    let attributes = message.payload.get(NETCONF_HEADER..).unwrap_or_default();
    NlasIterator::new(attributes).filter_map(Result::ok).count() <= 2
}

/// The node's own addresses are always put as a whole, whatever was there.
fn put_again(message: &Message) -> Option<String> {
    let [_, NEWSETELEM] = message.kind.to_be_bytes() else { return None };
    nft::owners(message).into_iter().find(|owner| owner == OWN_COMMENT)
}

/// Whether the message is about this table, or about something in it.
pub(crate) fn is_of_table(message: &Message, table: &str) -> bool {
    let attributes = message.payload.get(NFTABLES_HEADER..).unwrap_or_default();
    let mut attributes = NlasIterator::new(attributes).filter_map(Result::ok);
    attributes
        .find(|attribute| attribute.kind() == NFTA_TABLE)
        .is_some_and(|name| name.value().strip_suffix(b"\0").is_some_and(|name| name == table.as_bytes()))
}

fn table_event(message: &Message, tables: &[&'static str]) -> Option<Wake> {
    let table = tables.iter().find(|table| is_of_table(message, table))?;
    let owner = || nft::owners(message).into_iter().find(|owner| !owner.is_empty());
    match message.kind.to_be_bytes() {
        [_, NEWSETELEM] => owner().is_none().then_some(Wake::Table(table)),
        [_, DELSETELEM] => Some(owner().map_or(Wake::Table(table), Wake::Element)),
        _ => Some(Wake::Table(table)),
    }
}

#[cfg(test)]
mod tests {
    use ferrule_model::{IfIndex, LinkChange, Nexthop, NexthopId, Op};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::fixtures::a_pair;
    use crate::{Kernel, Netlink, netns, nft};

    /// The next events, after a wait of at most 5 s.
    fn next(wakes: &mut Wakes) -> Vec<(Wake, u32)> {
        loop {
            let mut ready = wakes.sockets().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let answered = poll(&mut ready, PollTimeout::from(5_000_u16)).unwrap();
            assert!(answered > 0, "nothing is told within 5 s");
            let told = wakes.swarm().unwrap();
            if !told.is_empty() {
                return told;
            }
        }
    }

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
                    assert_eq!(next(&mut wakes)[0], (Wake::Sysctl, 0), "{name}");
                }
            })
            .unwrap();
    }

    #[test]
    fn a_rule_that_comes_or_goes_wakes() {
        netns::make()
            .unwrap()
            .run(|| {
                let mut wakes = Wakes::open(&[], None).unwrap();
                for family in ["-4", "-6"] {
                    for verb in ["add", "del"] {
                        let rule = [family, "rule", verb, "priority", "30400", "table", "30400"];
                        assert!(std::process::Command::new("ip").args(rule).status().unwrap().success());
                        assert_eq!(next(&mut wakes)[0].0, Wake::Rule, "{family} {verb}");
                    }
                }
            })
            .unwrap();
    }

    #[test]
    fn a_link_that_comes_or_goes_with_its_settings_does_not_wake() {
        netns::make()
            .unwrap()
            .run(|| {
                let mut wakes = Wakes::open(&["ferrule"], None).unwrap();
                let mut kernel = Netlink::open().unwrap();
                let link = kernel.create_veth(&a_pair(), &netns::Netns::current().unwrap()).unwrap();
                kernel.apply(&[Op::DeleteLink(link.index)]).unwrap();
                assert_eq!(wakes.swarm().unwrap(), []);
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
                    let heard = next(&mut wakes);
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
                assert_eq!(
                    told(&wakes.tables, |message| table_event(message, &["ferrule"]), put_again).unwrap(),
                    []
                );
                nft::apply("add table inet ferrule").unwrap();
                let told = next(&mut wakes);
                assert!(told[0].0 == Wake::Table("ferrule") && told[0].1 != 0, "{told:?}");
            })
            .unwrap();
    }

    #[test]
    fn an_element_that_says_whose_it_is_wakes_when_it_goes_and_not_when_it_comes() {
        netns::make()
            .unwrap()
            .run(|| {
                let mut wakes = Wakes::open(&["ferrule"], None).unwrap();
                let set = "table inet ferrule {\n set s {\n type inet_service;\n }\n}\n";
                nft::apply(set).unwrap();
                next(&mut wakes);
                nft::apply("add element inet ferrule s { 80 comment \"whose it is\" }").unwrap();
                nft::apply("add element inet ferrule s { 81 }").unwrap();
                nft::apply("delete element inet ferrule s { 80 }").unwrap();
                let told: Vec<_> = next(&mut wakes).into_iter().map(|(wake, _)| wake).collect();
                assert_eq!(told, [Wake::Table("ferrule"), Wake::Element("whose it is".into())]);
            })
            .unwrap();
    }

    #[test]
    fn the_nodes_addresses_that_are_put_anew_are_no_news_and_ones_that_are_gone_are() {
        netns::make()
            .unwrap()
            .run(|| {
                let mut wakes = Wakes::open(&["ferrule"], None).unwrap();
                nft::apply("table inet ferrule {\n set s {\n type inet_service;\n }\n}\n").unwrap();
                next(&mut wakes);
                let add = format!("add element inet ferrule s {{ 80 comment \"{OWN_COMMENT}\" }}");
                nft::apply(&add).unwrap();
                nft::apply(&format!("flush set inet ferrule s\n{add}")).unwrap();
                assert_eq!(wakes.swarm().unwrap(), []);
                nft::apply("flush set inet ferrule s").unwrap();
                assert_eq!(next(&mut wakes)[0].0, Wake::Element(OWN_COMMENT.into()));
            })
            .unwrap();
    }
}
