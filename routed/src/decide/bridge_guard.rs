//! The text of the nftables table that keeps pods on a bridge from sending what they must not.
//!
//! The other table, of the family `inet`, does not see what one pod sends to another over a bridge. This one sees every frame
//! that comes by a port of a pod, before the bridge learns where its sender is. What it drops moves no entry of the bridge.
//!
//! The rules are static: a pod that comes or goes changes nothing here (decision 0070).

use ferrule_config::Config;

use super::guard::{Chain, table};

/// What is counted: of each, how many frames were dropped. Reasons that the other table has too mean the same there.
pub const COUNTERS: [&str; 4] = ["frames", "leases", "routers", "tunnel"];

/// The port of a pod on a bridge.
const PORT: &str = "iifname \"fer*\" meta iifkind \"veth\"";
/// Frames to these addresses are for bridges (IEEE 802.1D, table 7-10).
const FOR_BRIDGES: &str = "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name \"frames\" drop";

/// The script that makes what is missing of the table and writes its rules afresh. What was counted stays.
pub fn script(config: &Config) -> String {
    let chains = [
        Chain { name: "ports4", rules: ports4(config) },
        Chain { name: "ports6", rules: ports6(config) },
        Chain { name: "prerouting", rules: prerouting() },
        Chain { name: "input", rules: vec![format!("{PORT} {FOR_BRIDGES}")] },
    ];
    table("bridge", &COUNTERS, &chains)
}

/// What is neither IPv4 nor IPv6 nor ARP has no business on a bridge of pods: tagged frames, other bridges' messages, and all
/// that wraps a packet so that no filter finds it.
fn prerouting() -> Vec<String> {
    vec![
        format!("{PORT} {FOR_BRIDGES}"),
        format!("{PORT} ether type vmap {{ ip : goto ports4, ip6 : goto ports6, arp : accept }}"),
        format!("{PORT} counter name \"frames\" drop"),
    ]
}

const ROUTERS: &str = "counter name \"routers\" drop";

fn tunnel(config: &Config) -> String {
    // WireGuard's port is left alone: whether a packet is for this node is not known here, and WireGuard trusts nobody.
    format!("udp dport {} counter name \"tunnel\" drop", config.routing.vxlan.port)
}

/// Answers of DHCP are known by the port of the client, which takes them from any port.
fn ports4(config: &Config) -> Vec<String> {
    vec![
        tunnel(config),
        "udp dport 68 counter name \"leases\" drop".to_owned(),
        format!("icmp type redirect {ROUTERS}"),
        format!("igmp type membership-query {ROUTERS}"),
    ]
}

fn ports6(config: &Config) -> Vec<String> {
    vec![
        tunnel(config),
        "udp dport 546 counter name \"leases\" drop".to_owned(),
        format!("icmpv6 type {{ mld-listener-query, nd-router-advert, nd-redirect }} {ROUTERS}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_as_they_were_agreed() {
        assert_eq!(script(&Config::default()), include_str!("../../tests/golden/bridge-guard.nft"));
    }
}
