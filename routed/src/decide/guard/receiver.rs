//! The rules for what comes by VXLAN: who may send to the port, and which source a packet may have inside.
//!
//! The hook `input` sees a packet right before the device of the tunnel takes it, and no packet that is forwarded. So
//! the port is closed to hosts that are no nodes, and nothing else is touched.
//!
//! What comes out of the device has a source of its own. It is dropped if no node can have sent it (decision 0071).

use ferrule_config::{Backend, Config, Routing};
use ferrule_model::{Family, IfName, IpNetwork, family};

use crate::decide::senders::{NODES, PORTS, STRICT};

const STRANGER: &str = "counter name \"stranger\" drop";
const INNER: &str = "counter name \"inner\" drop";

/// Sources that lead nowhere or no further than one link: none, loopback, link-local, multicast, and what is reserved.
const NOWHERE: [&str; 2] = [
    "ip saddr { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }",
    "ip6 saddr { ::/127, ::ffff:0.0.0.0/96, fe80::/10, ff00::/8 }",
];

fn number(of: Family) -> usize {
    usize::from(of == Family::V6)
}

/// The word for a packet's source.
fn source(of: Family) -> &'static str {
    ["ip saddr", "ip6 saddr"][number(of)]
}

/// The sets, in the table that is open. Elements that they have already stay.
pub(super) fn sets() -> String {
    let [four, six] = NODES;
    format!(
        "\tset {four} {{ type ipv4_addr; }}\n\tset {six} {{ type ipv6_addr; }}\n\
         \tset {PORTS} {{ type inet_service; }}\n\tset {STRICT} {{ type ifname; }}\n"
    )
}

/// The hook for packets to the node itself.
pub(super) fn input() -> Vec<String> {
    let split = "meta nfproto vmap { ipv4 : goto senders4, ipv6 : goto senders6 }";
    vec![format!("udp dport @{PORTS} {split}")]
}

/// Who may send to the port.
pub(super) fn senders(config: &Config, of: Family) -> Vec<String> {
    let mut rules = vec![from_nodes(of)];
    rules.extend(from_networks(&config.routing.vxlan.also_from, of));
    rules.push(STRANGER.to_owned());
    rules
}

fn from_nodes(of: Family) -> String {
    format!("{} @{} return", source(of), NODES[number(of)])
}

/// Lets packets from these networks through.
fn from_networks(networks: &[IpNetwork], of: Family) -> Option<String> {
    let of_family: Vec<_> =
        networks.iter().filter(|network| family(network) == of).map(ToString::to_string).collect();
    // nft takes no network of length 0 for a network.
    let everybody = of_family.iter().any(|network| network.ends_with("/0"));
    match &of_family[..] {
        [] => None,
        _ if everybody => Some("return".to_owned()),
        some => Some(format!("{} {{ {} }} return", source(of), some.join(", "))),
    }
}

/// The devices of VXLAN, as a set.
fn devices(config: &Config) -> String {
    let vxlan = &config.routing.vxlan;
    names([Some(&vxlan.device), vxlan.device6.as_ref(), None])
}

/// The devices of all tunnels, as a set.
pub(super) fn tunnels(config: &Config) -> String {
    let Routing { vxlan, wireguard, .. } = &config.routing;
    names([Some(&vxlan.device), Some(&wireguard.device), vxlan.device6.as_ref()])
}

fn names(devices: [Option<&IfName>; 3]) -> String {
    let names: Vec<_> = devices.into_iter().flatten().map(|name| format!("\"{name}\"")).collect();
    format!("{{ {} }}", names.join(", "))
}

/// What comes out of a device of VXLAN goes to the chains `inner4` and `inner6`.
pub(super) fn out_of_tunnels(config: &Config) -> String {
    format!("iifname {} meta nfproto vmap {{ ipv4 : goto inner4, ipv6 : goto inner6 }}", devices(config))
}

/// Which source a packet may have that comes out of the tunnel. Most packets have a source that the tunnel leads to. They
/// meet two rules.
pub(super) fn inner(config: &Config, of: Family) -> Vec<String> {
    let mut rules = vec![
        format!("{} {INNER}", NOWHERE[number(of)]),
        format!("fib saddr oifname {} return", tunnels(config)),
        format!("fib saddr type {{ local, broadcast, anycast, multicast }} {INNER}"),
        format!("fib saddr oifname \"fer*\" {INNER}"),
    ];
    if is_way_back(&config.routing) {
        // An answer of a node's own, to a pod of this node that it sees under the pod's address.
        rules.push(from_nodes(of));
        rules.extend(from_networks(&config.cluster.non_masquerade_cidrs, of));
        rules.push(format!("iifname @{STRICT} {INNER}"));
    }
    rules
}

/// Whether the way to every other node's pods is the tunnel. It is not if some nodes are reached plainly, or if packets
/// are only taken from the tunnel. And if pods' packets leave the cluster under the pods' addresses, then answers of
/// anybody may come back by way of another node.
pub(in crate::decide) fn is_way_back(routing: &Routing) -> bool {
    routing.backend == Backend::Vxlan && routing.accept.is_none() && routing.masquerade
}
