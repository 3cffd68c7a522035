//! What other programs have told the kernel about ways: their routes, and the policy rules. Ferrule reads these values
//! and never writes them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{Family, IfIndex, NexthopId, RouteKey};

/// A route of another program, of any kind. [`crate::Route`] expresses only what Ferrule makes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRoute {
    /// Destination, table and metric.
    pub key: RouteKey,
    /// Who made it: `rtm_protocol`.
    pub protocol: u8,
    /// What it does with packets.
    pub kind: ForeignKind,
    /// The nexthop object it goes by.
    pub nexthop: Option<NexthopId>,
    /// Its next hops; several share the packets.
    pub hops: Vec<Hop>,
    /// The kernel lists no route with this key and the protocol that was asked for before this one. If there is such a
    /// route, this one takes its packets.
    pub is_first: bool,
}

/// What a route does with packets: `rtm_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignKind {
    /// It sends them on.
    Unicast,
    /// It drops them silently.
    Blackhole,
    /// It answers that the host is unreachable.
    Unreachable,
    /// It answers that the way is prohibited.
    Prohibit,
    /// It ends the search in its table, and the next rule decides.
    Throw,
    /// Another type, by its number.
    Other(u8),
}

/// One next hop of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The next hop's address; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link.
    pub link: Option<IfIndex>,
}

/// A policy rule (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Whose packets it is about.
    pub family: Family,
    /// Rules are asked in the order of this number.
    pub priority: u32,
    /// Packets from here; `None` means from everywhere.
    pub from: Option<IpNetwork>,
    /// Packets to here; `None` means to everywhere.
    pub to: Option<IpNetwork>,
    /// Packets that came in by this link; those that the node itself sends have come in by `lo`.
    pub iif: Option<String>,
    /// It picks the packets that do not match.
    pub is_inverted: bool,
    /// It picks by something else too: a mark, a port, a protocol, a type of service, a user, a VRF, the link of a
    /// bound socket.
    pub is_narrow: bool,
    /// Routes with a prefix of at most this length do not count (`suppress_prefixlength`).
    pub suppressed: Option<u32>,
    /// What happens to the packets.
    pub action: RuleAction,
}

/// What a policy rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// It asks this table.
    Lookup(u32),
    /// It drops the packets silently.
    Blackhole,
    /// It answers that the host is unreachable.
    Unreachable,
    /// It answers that the way is prohibited.
    Prohibit,
    /// It does nothing, or goes on at another rule.
    Other,
}

/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`: the node's own addresses.
pub const TABLE_LOCAL: u32 = 255;
