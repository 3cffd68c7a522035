//! The nftables table that gives the node's address to traffic from this node's pods to the outside. Its text is made
//! purely, and compared with what the kernel has.
//!
//! Traffic inside the cluster keeps the pod's address; between pods of this node it always does. So does traffic that
//! never leaves the link (link-local), and traffic that no single host answers (multicast). Traffic to the node itself
//! never comes to this hook.
//!
//! Packets that kube-proxy has marked are left to kube-proxy. Only the first chain that masquerades a connection sees
//! it, and kube-proxy removes its mark as it masquerades. If the mark stayed on, the tunnel's packet, which bears the
//! same mark in the kernel, would be masqueraded as well.

use std::fmt::Write;

use ferrule_model::{Family, IpNetwork, family, host_prefix, in_order};

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "ferrule";

/// The mark of packets that kube-proxy will masquerade (KUBE-MARK-MASQ; `masqueradeBit` 14, its default).
const MASQUERADED_BY_OTHERS: &str = "0x00004000";

/// Link-local and multicast (RFC 3927, RFC 5771).
const NEVER_V4: [&str; 2] = ["169.254.0.0/16", "224.0.0.0/4"];
/// The same (RFC 4291).
const NEVER_V6: [&str; 2] = ["fe80::/10", "ff00::/8"];

/// The table's text as `nft --numeric list` prints it (100 is `srcnat`). `unchanged` are the networks that see pods'
/// own addresses.
pub fn table(own_pods: &[IpNetwork], unchanged: &[IpNetwork]) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    for (of, never) in [(Family::V4, NEVER_V4), (Family::V6, NEVER_V6)] {
        let constants = never.iter().filter_map(|text| text.parse().ok());
        let all = unchanged.iter().chain(own_pods).copied().chain(constants);
        set(&mut text, "own_pods", of, own_pods.iter().copied());
        set(&mut text, "keep_source", of, all);
    }
    text.push_str("\tchain postrouting {\n\t\ttype nat hook postrouting priority 100; policy accept;\n");
    let _ = writeln!(text, "\t\tmeta mark & {MASQUERADED_BY_OTHERS} == {MASQUERADED_BY_OTHERS} return");
    for of in Family::BOTH {
        let (protocol, number) = names(of);
        let _ = writeln!(
            text,
            "\t\t{protocol} saddr @own_pods{number} {protocol} daddr != @keep_source{number} masquerade fully-random"
        );
    }
    text.push_str("\t}\n}\n");
    text
}

fn names(of: Family) -> (&'static str, char) {
    match of {
        Family::V4 => ("ip", '4'),
        Family::V6 => ("ip6", '6'),
    }
}

fn set(text: &mut String, name: &str, of: Family, networks: impl Iterator<Item = IpNetwork>) {
    let (protocol, number) = (if of == Family::V4 { "ipv4_addr" } else { "ipv6_addr" }, names(of).1);
    let elements = disjoint(networks.filter(|network| family(network) == of).collect());
    let _ = writeln!(text, "\tset {name}{number} {{\n\t\ttype {protocol}\n\t\tflags interval");
    let mut between = "\t\telements = { ";
    for network in &elements {
        // nft prints a single address without its length.
        let _ = match network.prefix() {
            whole if whole == host_prefix(network.ip()).prefix() => write!(text, "{between}{}", network.ip()),
            _ => write!(text, "{between}{network}"),
        };
        between = ", ";
    }
    if !elements.is_empty() {
        text.push_str(" }\n");
    }
    text.push_str("\t}\n\n");
}

/// Sorts networks and drops those inside others, because an interval set refuses overlapping ones.
fn disjoint(networks: Vec<IpNetwork>) -> Vec<IpNetwork> {
    let mut kept: Vec<IpNetwork> = Vec::new();
    for network in in_order(networks) {
        if kept.last().is_none_or(|last| !last.contains(network.network())) {
            kept.push(network);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_netlink::{netns, nft};

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn example() -> String {
        let own = networks(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        let unchanged = [
            "10.244.0.0/16",
            "10.244.7.0/24",
            "10.245.0.0/16",
            "192.0.2.7/32",
            "fd00:10:244::/48",
            "172.16.0.0/12",
            "2001:db8::1/128",
        ];
        table(&own, &networks(&unchanged))
    }

    #[test]
    fn the_table_is_as_it_was_agreed() {
        assert_eq!(example(), include_str!("../../tests/golden/masquerade.nft"));
    }

    /// If they differed, the table would be put back for ever.
    #[test]
    fn the_kernel_tells_the_table_as_it_was_given() {
        let listed = netns::make().unwrap().run(|| {
            for text in [example(), table(&[], &[]), example()] {
                nft::apply(&nft::replacement(TABLE, &text)).unwrap();
                let listed = nft::list_table("inet", TABLE).unwrap().unwrap();
                assert!(nft::same(&listed, &text), "given:\n{text}\nlisted:\n{listed}");
            }
            nft::apply(&nft::removal("inet", TABLE)).unwrap();
            nft::apply(&nft::removal("inet", TABLE)).unwrap();
            nft::list_table("inet", TABLE).unwrap()
        });
        assert_eq!(listed.unwrap(), None);
    }

    #[test]
    fn a_change_by_hand_is_another_text() {
        let changed = example().replace("masquerade fully-random", "masquerade");
        assert!(!nft::same(&example(), &changed));
        assert!(!nft::same(&example(), &example().replace("172.16.0.0/12, ", "")));
        assert!(nft::same(&example(), &example().replace(", ", ",\n\t\t\t")));
    }
}
