//! The text of the nftables table that keeps pods from sending what they must not.
//!
//! It is a table of its own. The masquerade table can be switched off, and the guard must not go with it; and what flushes one
//! of the two leaves the other. Its rules are static: a pod that comes or goes changes nothing here (decision 0069).
//!
//! The chain `prerouting` comes before connections are tracked (raw is -300, conntrack -200), so what is dropped takes no entry
//! of that table. The host's end of a pod's link is told by its kind and the beginning of its name.

use std::fmt::Write;

use ferrule_config::{Config, SourceCheck};

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "ferrule-guard";

/// What is counted: of each, how many packets were dropped.
pub const COUNTERS: [&str; 4] = ["forged", "loopback", "routers", "tunnel"];

/// The script that makes the table, or what of it is missing, and writes its rules afresh; what was counted stays.
pub fn script(config: &Config) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    for counter in COUNTERS {
        let _ = writeln!(text, "\tcounter {counter} {{ }}");
    }
    text.push_str("\tchain pods { }\n\tchain prerouting { type filter hook prerouting priority -310; policy accept; }\n}\n");
    for chain in ["pods", "prerouting"] {
        let _ = writeln!(text, "flush chain inet {TABLE} {chain}");
    }
    let _ = writeln!(text, "table inet {TABLE} {{\n\tchain prerouting {{");
    text.push_str("\t\tiifname \"fer*\" meta iifkind \"veth\" jump pods\n\t}\n\tchain pods {\n");
    for rule in pods(config) {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text.push_str("\t}\n}\n");
    text
}

/// The rules for what comes by a pod's link.
fn pods(config: &Config) -> Vec<String> {
    let (vxlan, wireguard) = (config.routing.vxlan.port, config.routing.wireguard.port);
    let mut rules = vec![
        // Whatever the backend here is: other nodes may take frames by this port.
        format!("udp dport {vxlan} counter name \"tunnel\" drop"),
        format!("udp dport {wireguard} fib daddr type local counter name \"tunnel\" drop"),
        "ip daddr 127.0.0.0/8 counter name \"loopback\" drop".to_owned(),
        "ip6 daddr ::1 counter name \"loopback\" drop".to_owned(),
        "icmpv6 type { nd-router-advert, nd-redirect } counter name \"routers\" drop".to_owned(),
    ];
    let forged = "counter name \"forged\" drop";
    let check = match config.pods.source_check {
        SourceCheck::Strict => vec![format!("fib saddr . iif oif missing {forged}")],
        SourceCheck::Loose => {
            let routing = &config.routing;
            let mut tunnels =
                vec![format!("\"{}\"", routing.vxlan.device), format!("\"{}\"", routing.wireguard.device)];
            tunnels.extend(routing.vxlan.device6.as_ref().map(|device| format!("\"{device}\"")));
            vec![
                format!("fib saddr oifname {{ {} }} {forged}", tunnels.join(", ")),
                format!("fib saddr oifname != \"fer*\" {forged}"),
            ]
        }
        SourceCheck::Off => return rules,
    };
    rules.extend([
        // The gateway is nobody's address. Other link-local ones lead no further than the link, which is the pod's own.
        format!("ip6 saddr fe80::1 {forged}"),
        "ip6 saddr fe80::/10 return".to_owned(),
        // Duplicate address detection (RFC 4862, 5.4.2) and multicast listeners (RFC 3810, 5.2.13) have no source yet.
        "ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, 131, 132, 143 } return"
            .to_owned(),
        // The kernel lets a packet without a source through if it is for all, and the check below does, too.
        format!("ip saddr 0.0.0.0/8 meta l4proto != igmp {forged}"),
    ]);
    rules.extend(check);
    rules
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
    fn a_tunnel_that_is_called_as_a_pods_link_is_no_pod() {
        let text = "[pods]\nsource_check = \"loose\"\n[routing.vxlan]\ndevice = \"fernet\"\nport = 4789\n";
        let script = script(&Config::parse(text, Path::new("f")).unwrap());
        assert!(script.contains("oifname { \"fernet\", \"ferrule-wg\" } counter"), "{script}");
        assert!(script.contains("udp dport 4789 "), "{script}");
    }
}
