//! Other programs' routes and policy rules, read from the kernel's messages.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;

use ferrule_model::{
    Family, ForeignKind, ForeignRoute, Hop, IfIndex, IpNetwork, PolicyRule, Route, RouteKey, RuleAction,
    TABLE_LOCAL,
};

use crate::attributes::Attributes;
use crate::decode::{self, ROUTE_HEADER, address_of, number, raw_route};
use crate::encode::{rta, rule};

/// All routes of a kernel, as one pass over its list found them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// How many of the first known routes are as they were known.
    pub met: usize,
    /// The other routes of the protocol that was asked for.
    pub beyond: BTreeMap<RouteKey, Route>,
    /// The routes of other programs that matter, in the kernel's order.
    pub foreign: Vec<ForeignRoute>,
}

/// `RTN_*` of `linux/rtnetlink.h`.
const UNICAST: u8 = 1;
const BLACKHOLE: u8 = 6;
const UNREACHABLE: u8 = 7;
const PROHIBIT: u8 = 8;
const THROW: u8 = 9;
/// `RTNH_F_DEAD`: the link of the next hop is off.
const DEAD: u32 = 1;
/// `struct rtnexthop`.
const HOP_HEADER: usize = 8;

/// A list of all routes while it comes in. It may be begun anew at the end of a family, so a clone is cheap at that
/// point.
#[derive(Clone)]
pub(crate) struct Reading<'a> {
    known: Peekable<btree_map::Iter<'a, RouteKey, Route>>,
    met: usize,
    /// Collecting everything into a map at once takes a fraction of the time of thousands of insertions.
    beyond: Vec<(RouteKey, Route)>,
    foreign: Vec<ForeignRoute>,
    /// The last route with the protocol that is asked for. The kernel lists routes with the same key one after another.
    last: Option<RouteKey>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(known: &'a BTreeMap<RouteKey, Route>) -> Self {
        let known = known.iter().peekable();
        Self { known, met: 0, beyond: Vec::new(), foreign: Vec::new(), last: None }
    }

    /// Takes in one message of the list.
    pub(crate) fn take(&mut self, payload: &[u8], protocol: u8, matters: &dyn Fn(&RouteKey) -> bool) {
        let Some(&[_, _, _, _, table, its_protocol, ..]) = payload.first_chunk::<ROUTE_HEADER>() else {
            return;
        };
        if its_protocol == protocol {
            let Some(found) = decode::route(payload) else { return };
            self.last = Some(found.0);
            match self.known.next_if(|(key, route)| (**key, **route) == found) {
                Some(_) => self.met += 1,
                None => self.beyond.push(found),
            }
        } else if u32::from(table) != TABLE_LOCAL
            && let Some(found) = route(payload).filter(|found| matters(&found.key))
        {
            let is_first = self.last != Some(found.key);
            self.foreign.push(ForeignRoute { is_first, ..found });
        }
    }

    pub(crate) fn end(self) -> Routes {
        Routes { met: self.met, beyond: self.beyond.into_iter().collect(), foreign: self.foreign }
    }
}

/// Reads a route of whatever kind, if it applies to packets of any type of service and any source.
pub(crate) fn route(payload: &[u8]) -> Option<ForeignRoute> {
    let &[_, _, src_len, tos, _, protocol, _, kind, f0, f1, f2, f3] =
        payload.first_chunk::<ROUTE_HEADER>()?;
    let is_dead = u32::from_ne_bytes([f0, f1, f2, f3]) & DEAD != 0;
    if src_len != 0 || tos != 0 || is_dead {
        return None;
    }
    let (head, parts) = raw_route(payload)?;
    let key = parts.key(&head)?;
    let mut hops = Vec::new();
    if parts.link.is_some() || parts.gateway.is_some() {
        hops.push(Hop { gateway: parts.gateway, link: parts.link });
    }
    for attribute in Attributes(&payload[ROUTE_HEADER..]) {
        let (kind, value) = attribute?;
        if kind == rta::MULTIPATH {
            hops.extend(Hops(value).flatten());
        }
    }
    let kind = match kind {
        UNICAST => ForeignKind::Unicast,
        BLACKHOLE => ForeignKind::Blackhole,
        UNREACHABLE => ForeignKind::Unreachable,
        PROHIBIT => ForeignKind::Prohibit,
        THROW => ForeignKind::Throw,
        other => ForeignKind::Other(other),
    };
    Some(ForeignRoute { key, protocol, kind, nexthop: parts.nexthop, hops, is_first: true })
}

/// The next hops of a route with several. A next hop whose link is off is `None`.
struct Hops<'a>(&'a [u8]);

impl Iterator for Hops<'_> {
    type Item = Option<Hop>;

    fn next(&mut self) -> Option<Self::Item> {
        let &[l0, l1, flags, _, i0, i1, i2, i3] = self.0.first_chunk::<HOP_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let attributes = self.0.get(HOP_HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let mut gateway = None;
        for (kind, value) in Attributes(attributes).flatten() {
            match kind {
                rta::GATEWAY => gateway = address_of(value),
                // The value begins with the family, because the next hop of an IPv4 route may be an IPv6 address.
                rta::VIA => gateway = value.get(2..).and_then(address_of),
                _ => {}
            }
        }
        let link = Some(IfIndex(u32::from_ne_bytes([i0, i1, i2, i3])));
        Some((u32::from(flags) & DEAD == 0).then_some(Hop { gateway, link }))
    }
}

/// A policy rule.
pub(crate) fn rule(family: Family, payload: &[u8]) -> Option<PolicyRule> {
    let &[_, dst_len, src_len, tos, table, _, _, action, f0, f1, f2, f3] =
        payload.first_chunk::<{ rule::HEADER_LEN }>()?;
    let mut found = PolicyRule {
        family,
        priority: 0,
        from: None,
        to: None,
        iif: None,
        is_inverted: u32::from_ne_bytes([f0, f1, f2, f3]) & rule::INVERT != 0,
        is_narrow: tos != 0,
        suppressed: None,
        action: RuleAction::Other,
    };
    let mut table = u32::from(table);
    for attribute in Attributes(&payload[rule::HEADER_LEN..]) {
        let (kind, value) = attribute?;
        match kind {
            rule::SRC => found.from = IpNetwork::new(address_of(value)?, src_len).ok(),
            rule::DST => found.to = IpNetwork::new(address_of(value)?, dst_len).ok(),
            rule::IIFNAME => {
                let name = value.strip_suffix(b"\0").unwrap_or(value);
                found.iif = Some(String::from_utf8_lossy(name).into_owned());
            }
            rule::PRIORITY => found.priority = number(value)?,
            // -1 means none.
            rule::SUPPRESS_PREFIXLEN => found.suppressed = number(value).filter(|length| *length != u32::MAX),
            rule::TABLE => table = number(value)?,
            rule::GOTO | rule::FLOW | rule::PAD | rule::PROTOCOL => {}
            // These are marks, ports, users, VRFs, and what later kernels know.
            _ => found.is_narrow = true,
        }
    }
    found.action = match action {
        rule::TO_TABLE => RuleAction::Lookup(table),
        rule::BLACKHOLE => RuleAction::Blackhole,
        rule::UNREACHABLE => RuleAction::Unreachable,
        rule::PROHIBIT => RuleAction::Prohibit,
        _ => RuleAction::Other,
    };
    Some(found)
}
