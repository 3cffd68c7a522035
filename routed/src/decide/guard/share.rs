//! A pod's share of the node's table of connections.
//!
//! The kernel's `ct count` counts exactly, but each new connection walks a list of all that are counted: with 10,000 of
//! them that takes 15 to 60 times as long as the rest of the packet's way. So only every 32nd connection is counted,
//! chosen by the connection's number, which nobody outside of the kernel can foretell. A pod that is over its share is
//! an element of a set. Then none of its new connections passes, until one that is counted finds it under its share
//! again (decision 0068).

use ferrule_config::Config;
use ferrule_model::Family;

/// One connection of so many is counted. It is a power of two.
const SAMPLE: u32 = 32;
/// How long a pod that tries nothing counts as over its share, as `nft(8)` writes it.
const MEMORY: &str = "10m";
const DROP: &str = "counter name \"connections\" drop";

/// The sets of those that are over their share: host's ends of pods' links, and addresses of pods on a bridge.
pub const OVER: [&str; 3] = ["over_links", "over_pods4", "over_pods6"];
/// The sets in which the kernel counts, in the same order, and the type of their elements.
const COUNTED: [(&str, &str); 3] =
    [("share_links", "ifname"), ("share_pods4", "ipv4_addr"), ("share_pods6", "ipv6_addr")];
/// What an element is, in the same order.
const KEYS: [&str; 3] = ["iifname", "ip saddr", "ip6 saddr"];

/// The sets, in the table that is open. What has been counted is forgotten, because an element keeps the limit with
/// which it was made.
pub(super) fn sets() -> String {
    let set = |((counted, kind), over): ((&str, &str), &str)| {
        format!(
            "\tset {counted} {{ type {kind}; size 65535; flags dynamic; }}\n\
             \tset {over} {{ type {kind}; size 65535; flags dynamic,timeout; timeout {MEMORY}; }}\n"
        )
    };
    COUNTED.into_iter().zip(OVER).map(set).collect()
}

/// Empties the sets.
pub(super) fn forget() -> String {
    let names = COUNTED.into_iter().map(|(name, _)| name).chain(OVER);
    names.map(|name| format!("flush set inet {} {name}\n", super::TABLE)).collect()
}

/// The hook. It comes right after connections are tracked (-200), so that what is dropped takes no entry.
pub(super) fn connections(config: &Config) -> Vec<String> {
    if config.pods.connections == 0 {
        return Vec::new();
    }
    let new = "ct state new iifname \"fer*\" meta iifkind";
    vec![
        format!("{new} \"veth\" goto share_of_link"),
        format!(
            "{new} \"bridge\" meta nfproto vmap {{ ipv4 : goto share_of_pod4, ipv6 : goto share_of_pod6 }}"
        ),
    ]
}

/// A new connection of a pod that has a link of its own.
pub(super) fn of_link(config: &Config) -> Vec<String> {
    rules(config, 0)
}

/// A new connection of a pod on a bridge.
pub(super) fn of_pod(config: &Config, of: Family) -> Vec<String> {
    rules(config, if of == Family::V4 { 1 } else { 2 })
}

fn rules(config: &Config, kind: usize) -> Vec<String> {
    let (key, (counted, _), over) = (KEYS[kind], COUNTED[kind], OVER[kind]);
    let rest = SAMPLE - 1;
    let most = (config.pods.connections / SAMPLE).max(1);
    vec![
        format!("ct id & {rest} != 0 {key} @{over} {DROP}"),
        format!("ct id & {rest} != 0 return"),
        format!("add @{counted} {{ {key} ct count over {most} }} add @{over} {{ {key} }} {DROP}"),
        format!("delete @{over} {{ {key} }}"),
    ]
}
