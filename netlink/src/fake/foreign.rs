//! Other programs' routes and rules on maps.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrule_model::{
    Family, ForeignKind, ForeignRoute, Hop, PolicyRule, Route, RouteKey, RouteKind, RuleAction, TABLE_LOCAL,
    TABLE_MAIN, Via,
};

use super::{FakeNetns, FakeWorld, State};
use crate::Routes;

/// `RT_TABLE_DEFAULT`.
const TABLE_DEFAULT: u32 = 253;

impl FakeWorld {
    /// Puts a route of another program beside the others. If it says that it is first, it goes before one with the same
    /// key, else after it.
    pub fn put_foreign(&self, netns: &FakeNetns, route: ForeignRoute) {
        self.lock().namespaces[netns.0].foreign.push(route);
    }

    /// Removes all such routes.
    pub fn forget_foreign(&self, netns: &FakeNetns) {
        self.lock().namespaces[netns.0].foreign.clear();
    }

    /// Puts a policy rule of another program.
    pub fn put_rule(&self, netns: &FakeNetns, rule: PolicyRule) {
        self.lock().namespaces[netns.0].rules.push(rule);
    }
}

impl State {
    pub(super) fn all_routes(&self, protocol: u8, matters: &dyn Fn(&RouteKey) -> bool) -> Routes {
        let (beyond, others): (BTreeMap<_, _>, BTreeMap<_, _>) = self
            .routes
            .iter()
            .map(|(key, route)| (*key, *route))
            .partition(|(_, route)| route.protocol == protocol);
        let mut foreign: Vec<_> = others.iter().map(|(key, route)| as_foreign(*key, route)).collect();
        foreign.extend(self.foreign.iter().cloned());
        foreign.retain(|route| matters(&route.key));
        foreign.sort_by_key(|route| (route.key, Reverse(route.is_first)));
        Routes { met: 0, beyond, foreign }
    }

    pub(super) fn route_match(&self, dst: IpAddr) -> Option<(RouteKey, Route)> {
        let plain = self.routes.iter().map(|(key, route)| (*key, Some(*route), 1));
        let foreign =
            self.foreign.iter().map(|route| (route.key, as_plain(route), if route.is_first { 2 } else { 0 }));
        let matching =
            plain.chain(foreign).filter(|(key, ..)| key.table == TABLE_MAIN && key.dst.contains(dst));
        let best = matching.max_by_key(|(key, _, place)| (key.dst.prefix(), Reverse(key.metric), *place));
        best.and_then(|(key, route, _)| Some((key, route?)))
    }
}

fn as_foreign(key: RouteKey, route: &Route) -> ForeignRoute {
    let (kind, nexthop, hops) = match route.kind {
        RouteKind::Unreachable => (ForeignKind::Unreachable, None, vec![]),
        RouteKind::Unicast(Via::Nexthop(id)) => (ForeignKind::Unicast, Some(id), vec![]),
        RouteKind::Unicast(Via::Gateway { address, link, .. }) => {
            (ForeignKind::Unicast, None, vec![Hop { gateway: Some(address), link: Some(link) }])
        }
        RouteKind::Unicast(Via::Link(link)) => {
            (ForeignKind::Unicast, None, vec![Hop { gateway: None, link: Some(link) }])
        }
    };
    ForeignRoute { key, protocol: route.protocol, kind, nexthop, hops, is_first: true }
}

/// The route as a [`Route`]; `None` if that cannot express it.
fn as_plain(route: &ForeignRoute) -> Option<Route> {
    let kind = match (route.kind, route.nexthop, &route.hops[..]) {
        (ForeignKind::Unreachable, ..) => RouteKind::Unreachable,
        (ForeignKind::Unicast, Some(id), _) => RouteKind::Unicast(Via::Nexthop(id)),
        (ForeignKind::Unicast, None, [Hop { gateway: Some(address), link: Some(link) }]) => {
            RouteKind::Unicast(Via::Gateway { address: *address, link: *link, onlink: false })
        }
        (ForeignKind::Unicast, None, [Hop { gateway: None, link: Some(link) }]) => {
            RouteKind::Unicast(Via::Link(*link))
        }
        _ => return None,
    };
    Some(Route { kind, protocol: route.protocol, source: None })
}

/// These rules and those that every kernel has, in the order in which they are asked.
pub(super) fn rules(more: &[PolicyRule]) -> Vec<PolicyRule> {
    let rule = |family, priority, table| PolicyRule {
        family,
        priority,
        from: None,
        to: None,
        iif: None,
        is_inverted: false,
        is_narrow: false,
        suppressed: None,
        action: RuleAction::Lookup(table),
    };
    let both = |priority, table| Family::BOTH.map(|family| rule(family, priority, table));
    let mut rules = [both(0, TABLE_LOCAL), both(32766, TABLE_MAIN)].concat();
    rules.push(rule(Family::V4, 32767, TABLE_DEFAULT));
    rules.extend(more.iter().cloned());
    rules.sort_by_key(|rule| (rule.family, rule.priority));
    rules
}
