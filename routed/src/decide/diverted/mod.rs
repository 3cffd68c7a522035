//! Finds the pods whose packets do not go the way that our routes say, because another program's route or policy rule
//! comes first: pure.
//!
//! [`shadow`] finds routes in the main table, [`policy`] finds rules that ask another table before the main one. What
//! is found is told and never changed: the others' routes and rules are not ours.

pub mod policy;
pub mod shadow;

use std::collections::{BTreeMap, BTreeSet};

use ferrule_model::{ForeignKind, ForeignRoute, IpNetwork, PolicyRule, Route, RouteKey, TABLE_MAIN, family};

use crate::decide::objects::Links;

/// Something that diverts packets from their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diversion {
    /// The networks of pods whose packets are diverted.
    pub networks: Vec<IpNetwork>,
    /// The object that does not do what it should, as in `route 10.244.2.0/24`.
    pub object: String,
    /// Why, and what a person can do.
    pub reason: String,
}

/// All diversions, and what the next events are compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diverted {
    /// What diverts packets.
    pub all: Vec<Diversion>,
    /// The routes of other programs in the main table that divert packets.
    pub routes: BTreeSet<RouteKey>,
    /// The tables that rules ask before the main one about packets of pods.
    pub tables: BTreeSet<u32>,
    /// These rules, see [`policy::before_main`].
    pub rules: Vec<PolicyRule>,
}

impl Diverted {
    /// The lines that the log gets about it.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.all.iter().map(|one| format!("{}: {}", one.object, one.reason))
    }

    /// Forgets what was found about networks to which none of our routes is left.
    pub fn keep(&mut self, ours: &BTreeMap<RouteKey, Route>) {
        let is_wanted = |network: &IpNetwork| shadow::covering(ours, network).is_some();
        for one in &mut self.all {
            one.networks.retain(is_wanted);
        }
        self.all.retain(|one| !one.networks.is_empty());
    }
}

/// A route as `ip route` accepts and shows it, without its table if that is the main one.
fn text(route: &ForeignRoute, links: &Links) -> String {
    let kind = match route.kind {
        ForeignKind::Unicast => String::new(),
        ForeignKind::Blackhole => "blackhole ".to_owned(),
        ForeignKind::Unreachable => "unreachable ".to_owned(),
        ForeignKind::Prohibit => "prohibit ".to_owned(),
        ForeignKind::Throw => "throw ".to_owned(),
        ForeignKind::Other(number) => format!("type {number} "),
    };
    let RouteKey { dst, table, metric } = route.key;
    let mut text = match dst.prefix() {
        0 => format!("{kind}default"),
        _ => format!("{kind}{dst}"),
    };
    let hops = route.hops.iter().map(|hop| {
        let via = hop.gateway.map(|gateway| match dst.is_ipv4() && gateway.is_ipv6() {
            true => format!(" via inet6 {gateway}"),
            false => format!(" via {gateway}"),
        });
        let name = |link| match links.get(&link) {
            Some(link) => format!(" dev {}", link.name),
            None => format!(" dev if{link}"),
        };
        via.unwrap_or_default() + &hop.link.map(name).unwrap_or_default()
    });
    let hops: Vec<_> = hops.collect();
    match (route.nexthop, &hops[..]) {
        (Some(id), _) => text.push_str(&format!(" nhid {}", id.0)),
        (None, [hop]) => text.push_str(hop),
        (None, _) => {}
    }
    text.push_str(&format!(" proto {}", protocol(route.protocol)));
    if table != TABLE_MAIN {
        text.push_str(&format!(" table {table}"));
    }
    if metric != 0 {
        text.push_str(&format!(" metric {metric}"));
    }
    if let (None, [_, _, ..]) = (route.nexthop, &hops[..]) {
        hops.iter().for_each(|hop| text.push_str(&format!(" nexthop{hop}")));
    }
    text
}

/// The command of iproute2 for the family of `dst`.
fn ip(dst: &IpNetwork) -> &'static str {
    match family(dst) {
        ferrule_model::Family::V4 => "ip",
        ferrule_model::Family::V6 => "ip -6",
    }
}

/// The name that iproute2 has for a protocol without any file, else the protocol's number.
fn protocol(number: u8) -> String {
    let name = match number {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        18 => "keepalived",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        _ => return number.to_string(),
    };
    name.to_owned()
}
