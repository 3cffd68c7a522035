//! What the kernel tells by itself: that something was changed, by whomever.
//!
//! Events say what to look at again, never what to believe: some may be lost, and then there is [`Event::Overrun`] or
//! [`Wake::Overrun`]. Reading them is `ferrule-netlink`'s.

use crate::{
    Address, AddressKey, BridgePort, Change, FdbEntry, FdbKey, IfIndex, Link, Neighbour, NeighbourKey,
    Nexthop, NexthopId, Route, RouteKey,
};

/// Something changed, by whomever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link; `Put` also when it went up or down.
    Link(Change, Link),
    /// The bridge that the host's end of a pod's veth pair is on, and what kind of port it is.
    Port(IfIndex, Option<BridgePort>),
    /// An address of a link.
    Address(Change, AddressKey, Address),
    /// A route.
    Route(Change, RouteKey, Route),
    /// A route of a kind that [`Route`] cannot express, such as one with several next hops, and its protocol. It is not of the
    /// table of the node's own addresses.
    OddRoute(Change, RouteKey, u8),
    /// An entry of the ARP or NDP table.
    Neighbour(Change, NeighbourKey, Neighbour),
    /// An FDB entry.
    Fdb(Change, FdbKey, FdbEntry),
    /// Events were lost (`ENOBUFS`): everything has to be looked at.
    Overrun,
}

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// Of a nexthop object.
    Nexthop(NexthopEvent),
    /// A policy rule was made or removed, by whomever.
    Rule,
    /// A sysctl of forwarding or reverse path filtering was changed, by whomever.
    Sysctl,
    /// This nftables table was changed, by whomever.
    Table(&'static str),
    /// An element of one was removed, which says in its comment whose it is. That such a one was added is not told: whose it is,
    /// did it.
    Element(String),
    /// A queueing discipline or a filter of this link was made, replaced or removed.
    Traffic {
        /// The link.
        link: IfIndex,
        /// What it hangs on there.
        parent: u32,
        /// It was removed.
        gone: bool,
    },
    /// Events were lost.
    Overrun,
}

/// Who changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its netlink port.
    pub port: u32,
    /// The name of the process that has this number here.
    pub process: String,
}
