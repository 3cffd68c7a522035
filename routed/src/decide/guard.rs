//! The text of the nftables table that keeps pods from sending what they must not.
//!
//! It is a table of its own, for two reasons. The masquerade table can be switched off, and the guard must not go with
//! it. And a program that flushes one of the two tables leaves the other. The rules of the guard are static: a pod that
//! comes or goes changes nothing here (decision 0069).
//!
//! The chain `prerouting` comes before connections are tracked (raw is -300, conntrack -200), so a dropped packet takes
//! no entry of the table of connections. The chain recognises the host's end of a pod's link by its kind and the
//! beginning of its name. The chain `connections` comes right after connections are tracked.

use std::fmt::Write;

use ferrule_config::{Config, SourceCheck};
use ferrule_model::Family;

pub(super) mod receiver;
pub mod share;

/// Name of the table, in the family `inet`, and of the one in the family `bridge` ([`super::bridge_guard`]).
pub const TABLE: &str = "ferrule-guard";

/// The counters. Each counts the dropped packets of one kind.
pub const COUNTERS: [&str; 7] =
    ["forged", "loopback", "routers", "tunnel", "stranger", "inner", "connections"];

/// Those of them that count what came out of the tunnel, or to its port, and not what a pod sent.
pub const OF_TUNNELS: [&str; 2] = ["stranger", "inner"];

/// The chains, in the order in which they name each other.
const CHAINS: [&str; 13] = [
    "tunnels",
    "pods4",
    "pods6",
    "inner4",
    "inner6",
    "senders4",
    "senders6",
    "share_of_link",
    "share_of_pod4",
    "share_of_pod6",
    "connections",
    "input",
    "prerouting",
];

/// The script that makes the table, or what is missing of it, and writes its rules afresh. The counters keep their
/// values.
pub fn script(config: &Config) -> String {
    let [inner4, inner6] = Family::BOTH.map(|family| receiver::inner(config, family));
    let [senders4, senders6] = Family::BOTH.map(|family| receiver::senders(config, family));
    let [share4, share6] = Family::BOTH.map(|family| share::of_pod(config, family));
    let rules = [
        tunnels(config),
        pods4(config),
        pods6(config),
        inner4,
        inner6,
        senders4,
        senders6,
        share::of_link(config),
        share4,
        share6,
        share::connections(config),
        receiver::input(),
        prerouting(config),
    ];
    let chains: Vec<_> = CHAINS.into_iter().zip(rules).map(|(name, rules)| Chain { name, rules }).collect();
    let sets = format!("table inet {TABLE} {{\n{}{}}}\n{}", receiver::sets(), share::sets(), share::forget());
    sets + &table("inet", &COUNTERS, &chains)
}

/// A chain. It has a hook if it is called like one.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) rules: Vec<String>,
}

/// The script of one of the guard's tables.
pub(super) fn table(family: &str, counters: &[&str], chains: &[Chain]) -> String {
    let mut text = format!("table {family} {TABLE} {{\n");
    for counter in counters {
        let _ = writeln!(text, "\tcounter {counter} {{ }}");
    }
    for Chain { name, .. } in chains {
        let hook = match *name {
            "prerouting" | "input" => {
                format!("type filter hook {name} priority -310; policy accept; ")
            }
            "connections" => "type filter hook prerouting priority -190; policy accept; ".to_owned(),
            _ => String::new(),
        };
        let _ = writeln!(text, "\tchain {name} {{ {hook}}}");
    }
    text.push_str("}\n");
    for Chain { name, .. } in chains {
        let _ = writeln!(text, "flush chain {family} {TABLE} {name}");
    }
    let _ = writeln!(text, "table {family} {TABLE} {{");
    for Chain { name, rules } in chains {
        let _ = writeln!(text, "\tchain {name} {{\n\t\t{}\n\t}}", rules.join("\n\t\t"));
    }
    text.push_str("}\n");
    text
}

/// Each family has a chain of its own, so that a packet meets few rules.
fn prerouting(config: &Config) -> Vec<String> {
    let split = "meta nfproto vmap { ipv4 : goto pods4, ipv6 : goto pods6 }";
    vec![format!("iifname \"fer*\" meta iifkind \"veth\" {split}"), receiver::out_of_tunnels(config)]
}

fn ports(config: &Config) -> (u16, u16) {
    (config.routing.vxlan.port, config.routing.wireguard.port)
}

/// Packets to a port of a tunnel. They are dropped whatever the backend here is: other nodes may accept frames by
/// VXLAN.
fn tunnels(config: &Config) -> Vec<String> {
    let (vxlan, wireguard) = ports(config);
    let drop = "counter name \"tunnel\" drop";
    vec![format!("udp dport {vxlan} {drop}"), format!("udp dport {wireguard} fib daddr type local {drop}")]
}

fn to_tunnels(config: &Config) -> String {
    let (vxlan, wireguard) = ports(config);
    // An operator may give both the same port, but a set must name each port once.
    let ports = if vxlan == wireguard { vxlan.to_string() } else { format!("{{ {vxlan}, {wireguard} }}") };
    format!("udp dport {ports} jump tunnels")
}

pub(super) const FORGED: &str = "counter name \"forged\" drop";

fn pods4(config: &Config) -> Vec<String> {
    let mut rules =
        vec![to_tunnels(config), "ip daddr 127.0.0.0/8 counter name \"loopback\" drop".to_owned()];
    if config.pods.source_check != SourceCheck::Off {
        // The kernel accepts a packet without a source if it goes to everybody, and so does the check below.
        rules.push(format!("ip saddr 0.0.0.0/8 meta l4proto != igmp {FORGED}"));
    }
    rules.extend(check(config));
    rules
}

fn pods6(config: &Config) -> Vec<String> {
    let mut rules = vec![
        to_tunnels(config),
        "ip6 daddr ::1 counter name \"loopback\" drop".to_owned(),
        "icmpv6 type { nd-router-advert, nd-redirect } counter name \"routers\" drop".to_owned(),
    ];
    if config.pods.source_check != SourceCheck::Off {
        rules.extend([
            // The gateway's address belongs to no pod. Other link-local addresses reach no further than the link, which
            // is the pod's own.
            format!("ip6 saddr fe80::1 {FORGED}"),
            "ip6 saddr fe80::/10 return".to_owned(),
            // Duplicate address detection (RFC 4862, 5.4.2) and reports of multicast listeners (RFC 3810, 5.2.13) have
            // no source yet.
            "ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, 131, 132, 143 } return"
                .to_owned(),
        ]);
    }
    rules.extend(check(config));
    rules
}

/// Whether the node itself would send to this source by a pod's link.
fn check(config: &Config) -> Vec<String> {
    match config.pods.source_check {
        SourceCheck::Strict => vec![format!("fib saddr . iif oif missing {FORGED}")],
        SourceCheck::Loose => {
            vec![
                format!("fib saddr oifname {} {FORGED}", receiver::tunnels(config)),
                format!("fib saddr oifname != \"fer*\" {FORGED}"),
            ]
        }
        SourceCheck::Off => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_rules_are_as_they_were_agreed() {
        assert_eq!(script(&Config::default()), include_str!("../../tests/golden/guard.nft"));
    }

    #[test]
    fn what_an_operator_lets_in_is_let_in() {
        let text = "[cluster]\nnon_masquerade_cidrs = [\"172.16.0.0/12\"]\n[routing]\nbackend = \"auto\"\n\
                    [routing.vxlan]\nalso_from = [\"203.0.113.0/24\", \"::/0\"]\n";
        let script = script(&Config::parse(text, Path::new("f")).unwrap());
        assert!(script.contains("\t\tip saddr { 203.0.113.0/24 } return\n"), "{script}");
        assert!(script.contains("ip6 saddr @nodes6 return\n\t\treturn\n"), "{script}");
        assert!(!script.contains("172.16.0.0") && !script.contains("@strict"), "{script}");
        let script = super::script(&Config::parse(&text.replace("auto", "vxlan"), Path::new("f")).unwrap());
        assert!(
            script.contains(
                "ip saddr { 172.16.0.0/12 } return\n\t\tiifname @strict counter name \"inner\" drop\n"
            ),
            "{script}"
        );
    }

    #[test]
    fn a_tunnel_that_is_called_as_a_pods_link_is_no_pod() {
        let text = "[pods]\nsource_check = \"loose\"\n[routing.vxlan]\ndevice = \"fernet\"\nport = 4789\n";
        let script = script(&Config::parse(text, Path::new("f")).unwrap());
        assert!(script.contains("oifname { \"fernet\", \"ferrule-wg\" } counter"), "{script}");
        assert!(script.contains("udp dport 4789 ") && script.contains("{ 4789, 51820 }"), "{script}");
    }
}
