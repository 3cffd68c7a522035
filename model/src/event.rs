//! What the kernel tells without being asked: something was changed, by whomever.
//!
//! An event says what to look at again. It is not to be believed by itself, because some events may be lost. Then there
//! is [`Event::Overrun`] or [`Wake::Overrun`]. `ferrule-netlink` reads the events.

use crate::{
    Address, AddressKey, BridgePort, Change, FdbEntry, FdbKey, IfIndex, Link, Neighbour, NeighbourKey,
    Nexthop, NexthopId, Route, RouteKey,
};

/// Something was changed, by whomever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link. `Put` also means that it went up or down.
    Link(Change, Link),
    /// The bridge to which the host's end of a pod's veth pair belongs, and the kind of port that it is there.
    Port(IfIndex, Option<BridgePort>),
    /// An address of a link.
    Address(Change, AddressKey, Address),
    /// A route.
    Route(Change, RouteKey, Route),
    /// A route that [`Route`] cannot express, such as one with several next hops, and its protocol. Routes of the table
    /// of the node's own addresses are not told.
    OddRoute(Change, RouteKey, u8),
    /// An entry of the ARP or NDP table.
    Neighbour(Change, NeighbourKey, Neighbour),
    /// An FDB entry.
    Fdb(Change, FdbKey, FdbEntry),
    /// Events were lost (`ENOBUFS`), so everything has to be looked at.
    Overrun,
}

/// A nexthop object was made, changed or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NexthopEvent {
    /// What was done.
    pub change: Change,
    /// Its number.
    pub id: NexthopId,
    /// The object's content. `None` if it is of a kind that Ferrule does not make.
    pub nexthop: Option<Nexthop>,
}

/// What the kernel told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// A nexthop object was changed.
    Nexthop(NexthopEvent),
    /// A policy rule was made or removed, by whomever.
    Rule,
    /// A sysctl of forwarding or reverse path filtering was changed, by whomever.
    Sysctl,
    /// This nftables table was changed, by whomever.
    Table(&'static str),
    /// An element of a table was removed. The text is its comment, which says who owned it. Added elements are not
    /// told, because only their owners add them.
    Element(String),
    /// A queueing discipline or a filter of this link was made, replaced or removed.
    Traffic {
        /// The link.
        link: IfIndex,
        /// The place on the link where it is attached.
        parent: u32,
        /// Whether it was removed.
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
    /// The name of the process that has this number in our PID namespace.
    pub process: String,
}
