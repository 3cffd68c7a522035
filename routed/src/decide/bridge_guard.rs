//! The text of the nftables table that keeps pods on a bridge from sending what they must not.
//!
//! The other table, of the family `inet`, does not see what one pod sends to another over a bridge. This one sees every frame
//! that comes by a port of a pod, before the bridge learns where its sender is. What it drops moves no entry of the bridge.
//!
//! The rules are static (decision 0070). What a port may send under stands in sets, with some elements for each port
//! ([`super::bridge_ports`], decision 0084).

use ferrule_config::{Config, SourceCheck};

use super::guard::{Chain, FORGED, TABLE, table};

/// What is counted: of each, how many frames were dropped. Reasons that the other table has too mean the same there.
pub const COUNTERS: [&str; 7] = ["floods", "forged", "frames", "isolation", "leases", "routers", "tunnel"];

/// The sets with elements for each port, and what each holds. The kernel's types know neither the target of a neighbour
/// solicitation nor the MAC in an option: nft sees them as bits, and calls the type by the place of some such bits.
pub const SETS: [(&str, &str); 9] = [
    ("ports", "type ifname"),
    ("macs", "typeof iifname . ether saddr"),
    ("addresses4", "typeof iifname . ip saddr"),
    ("addresses6", "typeof iifname . ip6 saddr"),
    ("targets", "typeof iifname . @th,64,128"),
    ("options", "typeof iifname . @th,208,48"),
    ("isolated", "type ifname"),
    ("isolated4", "type ipv4_addr"),
    ("isolated6", "type ipv6_addr"),
];

/// The set in which the kernel counts what each port sends to many. A port that is gone is forgotten.
const SENDERS: (&str, &str) = ("senders", "type ifname; size 65535; flags dynamic, timeout; timeout 1m");
/// What one port may send to many. Each such frame goes to every other port, so that a hundred pods get half a million a
/// second. A stream of 50 Mbit/s in frames of 1,500 bytes has 4,200 a second.
const FLOOD: &str = "limit rate over 5000/second burst 5000 packets";

/// Frames to these addresses are for bridges (IEEE 802.1D, table 7-10).
const FOR_BRIDGES: &str = "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name \"frames\" drop";
/// The port of a pod on a bridge.
const PORT: &str = "iifname \"fer*\" meta iifkind \"veth\"";

/// The script that makes what is missing of the table and writes its rules afresh. What was counted stays, and so do
/// the elements.
pub fn script(config: &Config) -> String {
    let check = config.pods.source_check;
    let rules: [(&str, Vec<String>); 10] = [
        ("unspecified", unspecified()),
        ("neighbours", neighbours()),
        ("own4", own4(check)),
        ("own6", own6(check)),
        ("ports4", ports4(config)),
        ("ports6", ports6(config)),
        ("resolution", resolution(check)),
        ("port", port(check)),
        ("prerouting", vec![format!("{PORT} goto port")]),
        ("input", vec![format!("{PORT} {FOR_BRIDGES}")]),
    ];
    let chains = rules.map(|(name, rules)| Chain { name, rules });
    sets() + &table("bridge", &COUNTERS, &chains)
}

/// The sets, empty. Elements that they have already stay.
fn sets() -> String {
    let all = SETS.into_iter().chain([SENDERS]);
    let lines: String = all.map(|(set, of)| format!("\tset {set} {{ {of}; }}\n")).collect();
    format!("table bridge {TABLE} {{\n{lines}}}\n")
}

fn rules<const N: usize>(rules: [&str; N]) -> Vec<String> {
    rules.map(ToOwned::to_owned).into()
}

/// What is neither IPv4 nor IPv6 nor ARP has no business on a bridge of pods: tagged frames, other bridges' messages, and all
/// that wraps a packet so that no filter finds it.
fn port(check: SourceCheck) -> Vec<String> {
    let mut rules = rules([FOR_BRIDGES]);
    if check != SourceCheck::Off {
        rules.push(format!("iifname @ports iifname . ether saddr != @macs {FORGED}"));
    }
    rules.extend([
        format!(
            "meta pkttype {{ broadcast, multicast }} update @senders {{ iifname {FLOOD} }} counter name \"floods\" drop"
        ),
        "ether type vmap { ip : goto ports4, ip6 : goto ports6, arp : goto resolution }".to_owned(),
        "counter name \"frames\" drop".to_owned(),
    ]);
    rules
}

const ROUTERS: &str = "counter name \"routers\" drop";

fn tunnel(config: &Config) -> String {
    // WireGuard's port is left alone: whether a packet is for this node is not known here, and WireGuard trusts nobody.
    format!("udp dport {} counter name \"tunnel\" drop", config.routing.vxlan.port)
}

/// Answers of DHCP are known by the port of the client, which takes them from any port.
///
/// The bridge itself keeps isolated pods apart, but the node routes between them if one of them sends to the node's MAC.
fn ports4(config: &Config) -> Vec<String> {
    vec![
        tunnel(config),
        "udp dport 68 counter name \"leases\" drop".to_owned(),
        format!("icmp type redirect {ROUTERS}"),
        format!("igmp type membership-query {ROUTERS}"),
        "iifname @isolated ip daddr @isolated4 counter name \"isolation\" drop".to_owned(),
        "iifname @ports goto own4".to_owned(),
    ]
}

fn ports6(config: &Config) -> Vec<String> {
    vec![
        tunnel(config),
        "udp dport 546 counter name \"leases\" drop".to_owned(),
        format!("icmpv6 type {{ mld-listener-query, nd-router-advert, nd-redirect }} {ROUTERS}"),
        "iifname @isolated ip6 daddr @isolated6 counter name \"isolation\" drop".to_owned(),
        "iifname @ports goto own6".to_owned(),
    ]
}

/// ARP tells neighbours by the sender's two fields. A probe has no sender's address yet (RFC 5227, section 2.1.1).
fn resolution(check: SourceCheck) -> Vec<String> {
    if check == SourceCheck::Off {
        return Vec::new();
    }
    vec![
        "iifname != @ports accept".to_owned(),
        format!("iifname . arp saddr ether != @macs {FORGED}"),
        "iifname . arp saddr ip @addresses4 accept".to_owned(),
        "arp saddr ip 0.0.0.0 arp operation request iifname . arp daddr ip @addresses4 accept".to_owned(),
        FORGED.to_owned(),
    ]
}

/// A client of DHCP has no address yet (RFC 2131, section 4.1), and a report of multicast groups needs none (RFC 3376,
/// section 4.2.13).
fn own4(check: SourceCheck) -> Vec<String> {
    if check != SourceCheck::Strict {
        return Vec::new();
    }
    let own = [
        "iifname . ip saddr @addresses4 accept",
        "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp dport 67 accept",
        "ip saddr 0.0.0.0 meta l4proto igmp accept",
        FORGED,
    ];
    rules(own)
}

fn own6(check: SourceCheck) -> Vec<String> {
    if check == SourceCheck::Off {
        return Vec::new();
    }
    let mut all =
        rules(["icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } goto neighbours"]);
    if check == SourceCheck::Strict {
        // Reports of multicast listeners have no source before an address is the pod's (RFC 3810, section 5.2.13).
        all.extend(rules([
            "iifname . ip6 saddr @addresses6 accept",
            "ip6 saddr :: icmpv6 type { 131, 132, 143 } accept",
            FORGED,
        ]));
    }
    all
}

/// A neighbour believes three things: the source of a solicitation, the target of an advertisement, and the MAC in
/// the option. The kernel takes the first option that names a MAC, wherever it stands. So there may be none besides, and
/// no other header may stand before the message.
///
/// A router solicitation has its options behind 8 bytes, the other two have them behind 24 (RFC 4861, section 4).
fn neighbours() -> Vec<String> {
    vec![
        format!("ip6 nexthdr != icmpv6 {FORGED}"),
        "ip6 saddr :: goto unspecified".to_owned(),
        format!("iifname . ip6 saddr != @addresses6 {FORGED}"),
        format!("icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @targets {FORGED}"),
        "icmpv6 type nd-router-solicit ip6 length 8 accept".to_owned(),
        "icmpv6 type nd-router-solicit ip6 length 16 @th,64,16 0x0101 iifname . @th,80,48 @options accept".to_owned(),
        "icmpv6 type nd-neighbor-solicit ip6 length 24 accept".to_owned(),
        "icmpv6 type nd-neighbor-solicit ip6 length 32 @th,192,16 0x0101 iifname . @th,208,48 @options accept"
            .to_owned(),
        "icmpv6 type nd-neighbor-advert ip6 length 24 accept".to_owned(),
        "icmpv6 type nd-neighbor-advert ip6 length 32 @th,192,16 0x0201 iifname . @th,208,48 @options accept"
            .to_owned(),
        FORGED.to_owned(),
    ]
}

/// Without a source nobody is told of a neighbour (RFC 4861, section 7.2.3). But a solicitation for another's address
/// would look as if both were about to take it (RFC 4862, section 5.4.3).
fn unspecified() -> Vec<String> {
    rules([
        "icmpv6 type nd-router-solicit accept",
        "icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @targets accept",
        FORGED,
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_rules_are_as_they_were_agreed() {
        assert_eq!(script(&Config::default()), include_str!("../../tests/golden/bridge-guard.nft"));
    }

    #[test]
    fn a_check_that_is_switched_off_leaves_isolation_and_the_limit() {
        let config = Config::parse("[pods]\nsource_check = \"off\"\n", Path::new("f")).unwrap();
        let script = script(&config);
        assert!(!script.contains("@macs") && !script.contains("@addresses4"), "{script}");
        assert!(script.contains("ip daddr @isolated4") && script.contains("update @senders"), "{script}");
    }
}
