//! Finds policy rules that are asked before the main table and send packets of pods elsewhere: pure.
//!
//! A rule is judged by the senders whose packets it picks: this node itself (from one of its addresses), this node's
//! pods, or pods of other nodes whose packets come in. It diverts such packets if it drops them, or if its table has a
//! route for them; a default route is enough. A rule that picks by a mark, a port or the like is somebody's choice of
//! some packets, and is not judged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrule_model::{
    Family, ForeignKind, ForeignRoute, Hop, IfIndex, IpNetwork, LinkKind, PolicyRule, RouteKey, RouteKind,
    RuleAction, TABLE_LOCAL, TABLE_MAIN, Via, family, host_prefix, is_host_veth,
};

use super::{Diversion, ip, shadow, text};
use crate::decide::objects::{Links, Objects};

/// `nm-cloud-setup` numbers its rules and tables in this range, one number for each network card.
const CLOUD_SETUP: std::ops::Range<u32> = 30400..30500;
/// At most so many networks are named in a line.
const NAMED: usize = 3;

/// What the rules are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// This node's addresses.
    pub addresses: &'a [IpAddr],
    /// This node's pod CIDRs.
    pub own: &'a [IpNetwork],
    /// The networks that an operator has given to pods.
    pub given: &'a [IpNetwork],
    /// The objects that should be there.
    pub wanted: &'a Objects,
    /// All links.
    pub links: &'a Links,
    /// The links by which packets of other nodes come in.
    pub ways: &'a [IfIndex],
}

/// Picks the rules that are asked before the main table for every packet, and that select by addresses and links alone.
pub fn before_main(rules: &[PolicyRule]) -> Vec<PolicyRule> {
    let of = |family| {
        let rules = rules.iter().filter(move |rule| rule.family == family);
        rules.take_while(|rule| !is_end(rule)).filter(|rule| !rule.is_narrow).cloned()
    };
    let is_local = |rule: &PolicyRule| rule.action == RuleAction::Lookup(TABLE_LOCAL);
    Family::BOTH.into_iter().flat_map(of).filter(|rule| !is_local(rule)).collect()
}

/// Whether no packet of a pod is left after this rule, because the main table has a route for it.
fn is_end(rule: &PolicyRule) -> bool {
    let picks =
        rule.from.is_some() || rule.to.is_some() || rule.iif.is_some() || rule.is_inverted || rule.is_narrow;
    !picks
        && rule.action == RuleAction::Lookup(TABLE_MAIN)
        && rule.suppressed.is_none_or(|length| length == 0)
}

/// The other tables that these rules ask.
pub fn tables(rules: &[PolicyRule]) -> BTreeSet<u32> {
    let table = |rule: &PolicyRule| match rule.action {
        RuleAction::Lookup(table) if table != TABLE_MAIN => Some(table),
        _ => None,
    };
    rules.iter().filter_map(table).collect()
}

/// Whether a network has addresses in common with the destination of one of `routes`.
pub fn overlaps<V>(routes: &BTreeMap<RouteKey, V>, network: &IpNetwork) -> bool {
    let first = RouteKey { dst: *network, table: 0, metric: 0 };
    let next = routes.range(first..).next();
    next.is_some_and(|(key, _)| network.contains(key.dst.ip())) || shadow::covering(routes, network).is_some()
}

/// A sender of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sender {
    /// The node itself, from this address.
    Node(IpAddr),
    /// Its pods.
    Pods(IpNetwork),
    /// Pods of another node.
    Others(IpNetwork),
}

impl Sender {
    fn network(&self) -> IpNetwork {
        match self {
            Self::Node(address) => host_prefix(*address),
            Self::Pods(network) | Self::Others(network) => *network,
        }
    }
}

/// Finds those among `rules` (see [`before_main`]) that divert packets of pods. `routes` are the routes of their
/// tables.
pub fn find(rules: &[PolicyRule], routes: &[ForeignRoute], place: &Place<'_>) -> Vec<Diversion> {
    let mut found = Vec::new();
    for family in Family::BOTH {
        let mut rescues = Vec::new();
        for rule in rules.iter().filter(|rule| rule.family == family) {
            match rule.action {
                RuleAction::Other => {}
                RuleAction::Lookup(TABLE_MAIN) => rescues.push(rule),
                _ => found.extend(Judged::new(rule, routes, place).against(&rescues)),
            }
        }
    }
    found
}

/// A rule that is judged.
struct Judged<'a> {
    rule: &'a PolicyRule,
    /// The routes of its table.
    routes: Vec<&'a ForeignRoute>,
    place: &'a Place<'a>,
}

impl<'a> Judged<'a> {
    fn new(rule: &'a PolicyRule, routes: &'a [ForeignRoute], place: &'a Place<'a>) -> Self {
        let is_its = |route: &&ForeignRoute| {
            rule.action == RuleAction::Lookup(route.key.table) && family(&route.key.dst) == rule.family
        };
        Self { rule, routes: routes.iter().filter(is_its).collect(), place }
    }

    /// What the rule diverts, apart from the packets that a rule among `rescues` leads to the main table. The `rescues`
    /// are asked before it.
    fn against(&self, rescues: &[&PolicyRule]) -> Option<Diversion> {
        let (mut networks, mut senders, mut by) = (BTreeSet::new(), BTreeSet::new(), None);
        let of_family = |network: &&IpNetwork| family(network) == self.rule.family;
        let own = || self.place.own.iter().filter(of_family);
        let others = || {
            self.place.wanted.routes.iter().filter(|(_, route)| shadow::leads(route)).map(|(key, _)| &key.dst)
        };
        let mut take = |sender: Sender, dst: &IpNetwork| {
            let is_rescued = rescues.iter().any(|rule| rescues_all(rule, &sender.network(), dst));
            if is_rescued || !self.picks(&sender, dst) {
                return;
            }
            if let Some(route) = self.takes(dst) {
                networks.insert(*dst);
                senders.insert(sender);
                by = by.or(Some(route));
            }
        };
        let addresses =
            self.place.addresses.iter().filter(|address| Family::of(**address) == self.rule.family);
        let nodes = addresses.map(|address| Sender::Node(*address));
        for sender in
            nodes.chain(own().map(|network| Sender::Pods(*network))).filter(|sender| self.may_pick(sender))
        {
            own().chain(others().filter(of_family)).for_each(|dst| take(sender, dst));
        }
        for sender in others()
            .filter(of_family)
            .map(|network| Sender::Others(*network))
            .filter(|sender| self.may_pick(sender))
        {
            own().for_each(|dst| take(sender, dst));
        }
        let by = by?;
        let networks: Vec<_> = networks.into_iter().collect();
        let reason = self.reason(&senders, &networks, by);
        Some(Diversion { object: self.object(), reason, networks })
    }

    /// Whether the rule may pick packets of this sender, wherever they go.
    fn may_pick(&self, sender: &Sender) -> bool {
        let rule = self.rule;
        rule.is_inverted
            || (self.may_enter(sender) && rule.from.is_none_or(|from| overlap(&from, &sender.network())))
    }

    /// Whether the rule picks at least some packets of this sender to `dst`.
    fn picks(&self, sender: &Sender, dst: &IpNetwork) -> bool {
        let (rule, src) = (self.rule, sender.network());
        if !rule.is_inverted {
            return self.may_enter(sender)
                && rule.from.is_none_or(|from| overlap(&from, &src))
                && rule.to.is_none_or(|to| overlap(&to, dst));
        }
        let is_all_inside = covers(rule.from.as_ref(), &src) && covers(rule.to.as_ref(), dst);
        let surely_enters = match rule.iif.as_deref() {
            None => true,
            Some(name) => name == "lo" && matches!(sender, Sender::Node(_)),
        };
        !(is_all_inside && surely_enters)
    }

    /// Whether packets of this sender may come in by the rule's link.
    fn may_enter(&self, sender: &Sender) -> bool {
        let Some(name) = self.rule.iif.as_deref() else { return true };
        let link = || self.place.links.values().find(|link| link.name.as_str() == name);
        match sender {
            Sender::Node(_) => name == "lo",
            Sender::Pods(_) => {
                is_host_veth(name) || link().is_some_and(|link| link.kind == LinkKind::Other("bridge".into()))
            }
            Sender::Others(_) => link().is_some_and(|link| self.place.ways.contains(&link.index)),
        }
    }

    /// What the rule does with packets to `dst`, if that is not what our routes do. `Some(None)` means that it drops
    /// them.
    fn takes(&self, dst: &IpNetwork) -> Option<Option<&'a ForeignRoute>> {
        if !matches!(self.rule.action, RuleAction::Lookup(_)) {
            return Some(None);
        }
        let counts = |route: &&&ForeignRoute| {
            let is_suppressed =
                self.rule.suppressed.is_some_and(|length| u32::from(route.key.dst.prefix()) <= length);
            route.kind != ForeignKind::Throw && !is_suppressed && !self.is_right(route, dst)
        };
        let covering = self.routes.iter().filter(|route| covers(Some(&route.key.dst), dst));
        // Of several such routes, the one with the lowest metric comes first.
        let best = covering.rev().max_by_key(|route| route.key.dst.prefix()).filter(counts);
        let is_inside = |route: &&&ForeignRoute| {
            route.key.dst.prefix() > dst.prefix() && dst.contains(route.key.dst.ip())
        };
        best.or_else(|| self.routes.iter().filter(is_inside).find(counts)).map(|route| Some(*route))
    }

    /// Whether a route of the table leads where ours does.
    fn is_right(&self, route: &ForeignRoute, dst: &IpNetwork) -> bool {
        let Objects { routes, nexthops, .. } = self.place.wanted;
        let ours = shadow::covering(routes, dst).map(|(_, route)| route.kind);
        match ours {
            Some(RouteKind::Unicast(Via::Nexthop(id))) => {
                let hop =
                    nexthops.get(&id).map(|hop| Hop { gateway: Some(hop.gateway), link: Some(hop.link) });
                route.nexthop == Some(id) || hop.is_some_and(|hop| route.hops == [hop])
            }
            Some(RouteKind::Unicast(Via::Link(link) | Via::Gateway { link, .. })) => {
                matches!(route.hops[..], [hop] if hop.link == Some(link))
            }
            // The ways to this node's own pods. A rule that names them does so on purpose, unless it leads off the
            // node.
            Some(RouteKind::Unreachable) | None => {
                let leaves = |hop: &Hop| hop.link.is_none_or(|link| self.place.ways.contains(&link));
                covers(Some(dst), &route.key.dst) && !route.hops.iter().any(leaves) && !route.hops.is_empty()
            }
        }
    }

    fn object(&self) -> String {
        match self.rule.family {
            Family::V4 => format!("policy rule {}", self.rule.priority),
            Family::V6 => format!("IPv6 policy rule {}", self.rule.priority),
        }
    }

    fn reason(
        &self,
        senders: &BTreeSet<Sender>,
        networks: &[IpNetwork],
        by: Option<&ForeignRoute>,
    ) -> String {
        let own: Vec<_> = senders
            .iter()
            .filter_map(|sender| match sender {
                Sender::Node(address) => Some(address.to_string()),
                Sender::Pods(_) | Sender::Others(_) => None,
            })
            .collect();
        let mut from = Vec::new();
        if !own.is_empty() {
            from.push(format!("this node ({})", own.join(", ")));
        }
        if senders.iter().any(|sender| matches!(sender, Sender::Pods(_))) {
            from.push("its pods".to_owned());
        }
        if senders.iter().any(|sender| matches!(sender, Sender::Others(_))) {
            from.push("pods of other nodes".to_owned());
        }
        let to: Vec<_> = networks.iter().take(NAMED).map(ToString::to_string).collect();
        let more = match networks.len().saturating_sub(NAMED) {
            0 => String::new(),
            1 => " and one more network".to_owned(),
            more => format!(" and {more} more networks"),
        };
        let fate = match by {
            Some(route) => format!("go by its route {}", text(route, self.place.links)),
            None => "are dropped".to_owned(),
        };
        format!(
            "it ({}) comes before the main table, and packets from {} to pods in {}{more} {fate}; {}",
            self.as_text(),
            from.join(", "),
            to.join(", "),
            self.remedy(networks)
        )
    }

    /// The rule as `ip rule` accepts and shows it.
    fn as_text(&self) -> String {
        let rule = self.rule;
        let mut words = Vec::new();
        if rule.is_inverted {
            words.push("not".to_owned());
        }
        words.push(rule.from.map_or("from all".to_owned(), |from| format!("from {}", short(&from))));
        words.extend(rule.to.map(|to| format!("to {}", short(&to))));
        words.extend(rule.iif.as_ref().map(|name| format!("iif {name}")));
        words.push(match rule.action {
            RuleAction::Lookup(table) => format!("lookup {table}"),
            RuleAction::Blackhole => "blackhole".to_owned(),
            RuleAction::Unreachable => "unreachable".to_owned(),
            RuleAction::Prohibit => "prohibit".to_owned(),
            RuleAction::Other => "nop".to_owned(),
        });
        words.extend(rule.suppressed.map(|length| format!("suppress_prefixlength {length}")));
        words.join(" ")
    }

    fn remedy(&self, networks: &[IpNetwork]) -> String {
        let (rule, place) = (self.rule, self.place);
        let Some(before) = rule.priority.checked_sub(1).filter(|before| *before > 0) else {
            return format!(
                "remove it, or let it be asked after the main table: {} rule del priority 0",
                ip(&networks[0])
            );
        };
        // The network that an operator has given to pods stands for all nodes at once.
        let widest = |network: &IpNetwork| {
            place.given.iter().find(|given| covers(Some(given), network)).copied().unwrap_or(*network)
        };
        let all: BTreeSet<_> = networks.iter().map(widest).collect();
        let commands = all
            .iter()
            .take(NAMED)
            .map(|network| format!("{} rule add to {network} lookup main priority {before}", ip(network)));
        let commands: Vec<_> = commands.collect();
        let more = if all.len() > NAMED { ", and so for the other networks of pods" } else { "" };
        let origin = match CLOUD_SETUP.contains(&rule.priority) {
            true => {
                "; if nm-cloud-setup has made it and nothing needs it: systemctl disable --now nm-cloud-setup.timer \
                 nm-cloud-setup.service, and remove the rule"
            }
            false => "",
        };
        format!("let packets to pods go by the main table first: {}{more}{origin}", commands.join("; "))
    }
}

/// Whether a rule leads all packets of this kind to the main table, in which our routes are.
fn rescues_all(rule: &PolicyRule, src: &IpNetwork, dst: &IpNetwork) -> bool {
    !rule.is_inverted
        && rule.iif.is_none()
        && rule.suppressed.is_none_or(|length| length < u32::from(dst.prefix()))
        && covers(rule.from.as_ref(), src)
        && covers(rule.to.as_ref(), dst)
}

/// Whether all of `network` is in `selector`; `None` is everything.
fn covers(selector: Option<&IpNetwork>, network: &IpNetwork) -> bool {
    selector.is_none_or(|selector| selector.prefix() <= network.prefix() && selector.contains(network.ip()))
}

fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// An address alone without its length, as `ip rule` shows it.
fn short(network: &IpNetwork) -> String {
    if *network == host_prefix(network.ip()) { network.ip().to_string() } else { network.to_string() }
}

#[cfg(test)]
mod tests;
