//! The rules that let this node's pods through if a host firewall drops forwarded packets: pure.
//!
//! Every base chain of the forward hook has to let a packet pass; a chain that accepts it says nothing for the next
//! one. So if iptables has the policy DROP (as Docker sets it), only a rule in that chain helps: a jump to a chain of
//! our own. The jump stands behind everything else, except a last rule that refuses everything. So what the operator or
//! a network policy refuses by a rule of its own stays refused.

use std::fmt::Write;

use ferrule_model::IpNetwork;

/// Our chain in iptables' filter table.
pub const CHAIN: &str = "FERRULE-FORWARD";
/// The table's name in both kinds of iptables, as events of nftables have it.
pub const TABLE: &str = "filter";

/// The script for `iptables-restore --noflush` that makes our rules accept exactly what comes from and goes to `pods`.
/// If there are no pods, it removes the rules. `None` if all is as it should be. `listed` are the rules as
/// `iptables -S` prints them.
pub fn change(listed: &str, pods: &[IpNetwork]) -> Option<String> {
    let wanted: Vec<_> = pods
        .iter()
        .flat_map(|pods| ["-s", "-d"].map(|side| format!("-A {CHAIN} {side} {pods} -j ACCEPT")))
        .collect();
    let ours = format!("-A {CHAIN} ");
    let there: Vec<_> = listed.lines().filter(|line| line.starts_with(&ours)).collect();
    let forward: Vec<_> = listed.lines().filter_map(|line| line.strip_prefix("-A FORWARD ")).collect();
    let jump = format!("-j {CHAIN}");
    let jumps = forward.iter().filter(|rule| **rule == jump).count();
    let others: Vec<_> = forward.iter().filter(|rule| **rule != jump).collect();
    let refuses_all = others.iter().position(|rule| refuses_all(rule));
    let before = forward.iter().position(|rule| refuses_all_or(rule, &jump));
    let has_chain = listed.lines().any(|line| line == format!("-N {CHAIN}"));
    let stands = jumps == 1 && before.is_some_and(|place| forward[place] == jump);
    let right = if wanted.is_empty() { jumps == 0 && !has_chain } else { stands && there == wanted };
    if right {
        return None;
    }
    let mut script = format!("*filter\n:{CHAIN} - [0:0]\n");
    let lines = wanted.iter().cloned().chain((0..jumps).map(|_| format!("-D FORWARD {jump}")));
    let place = match (wanted.is_empty(), refuses_all) {
        (true, _) => format!("-X {CHAIN}"),
        (false, Some(place)) => format!("-I FORWARD {} {jump}", place + 1),
        (false, None) => format!("-A FORWARD {jump}"),
    };
    for line in lines.chain([place]) {
        let _ = writeln!(script, "{line}");
    }
    script.push_str("COMMIT\n");
    Some(script)
}

fn refuses_all_or(rule: &str, jump: &str) -> bool {
    rule == jump || refuses_all(rule)
}

/// Whether a rule has no condition and drops or rejects.
fn refuses_all(rule: &str) -> bool {
    let rule = without_comment(rule);
    rule == "-j DROP" || rule == "-j REJECT" || rule.starts_with("-j REJECT --reject-with ")
}

/// The rule without its comment. A comment is written as a match, in quotes if it has a space in it.
fn without_comment(rule: &str) -> String {
    let Some((before, rest)) = rule.split_once("-m comment --comment ") else { return rule.to_owned() };
    let after = match rest.strip_prefix('"') {
        Some(quoted) => {
            let mut escaped = false;
            let end = quoted.find(|c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or("", |end| &quoted[end + 1..])
        }
        None => rest.split_once(' ').map_or("", |(_, after)| after),
    };
    format!("{before}{}", after.trim_start())
}

/// The base chains of other programs that drop forwarded packets and that no rule of ours reaches, each with what to do
/// about it. `chains` is what `nft list chains` prints.
pub fn out_of_reach(chains: &str) -> Vec<String> {
    let (mut table, mut chain, mut found) = ("", "", Vec::new());
    for line in chains.lines().map(str::trim) {
        let words: Vec<_> = line.trim_end_matches('{').split_whitespace().collect();
        match (words.first(), words.get(1)) {
            (Some(&"table"), _) => table = line.trim_start_matches("table ").trim_end_matches(" {"),
            (Some(&"chain"), Some(name)) => chain = name,
            (Some(&"type"), _) if line.contains(" hook forward ") => found.extend(told(table, chain, line)),
            _ => {}
        }
    }
    found
}

fn told(table: &str, chain: &str, line: &str) -> Option<String> {
    let (family, name) = table.split_once(' ')?;
    if !["ip", "ip6", "inet"].contains(&family) || (family != "inet" && name == TABLE && chain == "FORWARD") {
        return None;
    }
    // firewalld rejects by its last rule, not by policy.
    if name == "firewalld" {
        return Some(
            "firewalld refuses what is forwarded, and only its own rules can accept it: firewall-cmd --permanent \
             --zone=trusted --add-source=NETWORK for the networks of all pods, then firewall-cmd --reload"
                .to_owned(),
        );
    }
    line.contains("policy drop").then(|| {
        format!(
            "the chain {chain} of the nftables table {table} drops what is forwarded, and only its own rules can accept \
             it: add one for the addresses of this node's pods, as source and as destination"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER-USER\n\
                          -A FORWARD -j DOCKER-USER\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n";

    fn pods() -> Vec<IpNetwork> {
        vec!["10.244.1.0/24".parse().unwrap()]
    }

    /// The rules after a script, as far as these tests need iptables.
    fn after(listed: &str, script: &str) -> String {
        let mut lines: Vec<_> = listed.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with(&format!("-A {CHAIN} ")));
        for line in script.lines() {
            let words: Vec<_> = line.splitn(3, ' ').collect();
            match words[0] {
                "-D" => lines.retain(|other| *other != line.replacen("-D", "-A", 1)),
                "-X" => lines.retain(|other| *other != format!("-N {CHAIN}")),
                "-A" => lines.push(line.to_owned()),
                "-I" => {
                    let (place, rule) = words[2].split_once(' ').unwrap();
                    let first = lines.iter().position(|line| line.starts_with("-A FORWARD ")).unwrap();
                    lines.insert(first + place.parse::<usize>().unwrap() - 1, format!("-A FORWARD {rule}"));
                }
                _ if line.starts_with(':') => {
                    lines.retain(|other| *other != format!("-N {CHAIN}"));
                    lines.push(format!("-N {CHAIN}"));
                }
                _ => {}
            }
        }
        lines.join("\n")
    }

    #[test]
    fn our_jump_comes_last_and_a_second_look_changes_nothing() {
        let script = change(DOCKER, &pods()).unwrap();
        assert_eq!(
            script,
            "*filter\n:FERRULE-FORWARD - [0:0]\n-A FERRULE-FORWARD -s 10.244.1.0/24 -j ACCEPT\n\
             -A FERRULE-FORWARD -d 10.244.1.0/24 -j ACCEPT\n-A FORWARD -j FERRULE-FORWARD\nCOMMIT\n"
        );
        let there = after(DOCKER, &script);
        assert_eq!(change(&there, &pods()), None, "{there}");
        let gone = after(&there, &change(&there, &[]).unwrap());
        assert_eq!(gone, DOCKER.trim_end());
        assert_eq!(change(&gone, &[]), None);
    }

    #[test]
    fn our_jump_stands_before_a_rule_that_refuses_all_and_comes_back_there() {
        for last in [
            "-j DROP",
            "-m comment --comment \"the \\\"rest\\\"\" -j REJECT --reject-with icmp-host-prohibited",
        ] {
            let listed = format!("{DOCKER}-A FORWARD {last}\n");
            let script = change(&listed, &pods()).unwrap();
            assert!(script.contains("\n-I FORWARD 3 -j FERRULE-FORWARD\n"), "{script}");
            let there = after(&listed, &script);
            assert_eq!(change(&there, &pods()), None, "{there}");
            // A rule before it refuses everything.
            let earlier = there.replace(
                "-A FORWARD -j FERRULE-FORWARD",
                &format!("-A FORWARD {last}\n-A FORWARD -j FERRULE-FORWARD"),
            );
            let script = change(&earlier, &pods()).unwrap();
            assert!(script.contains("-D FORWARD") && script.contains("-I FORWARD 3 "), "{script}");
        }
        let conditional = format!("{DOCKER}-A FORWARD -s 192.0.2.7/32 -j DROP\n");
        assert!(change(&conditional, &pods()).unwrap().contains("\n-A FORWARD -j FERRULE-FORWARD\n"));
    }

    #[test]
    fn other_pods_are_other_rules() {
        let there = after(DOCKER, &change(DOCKER, &pods()).unwrap());
        assert!(change(&there, &["10.244.2.0/24".parse().unwrap()]).is_some());
        let emptied = there.replace("-A FERRULE-FORWARD -d 10.244.1.0/24 -j ACCEPT", "");
        assert!(change(&emptied, &pods()).is_some());
    }

    #[test]
    fn chains_that_no_rule_of_ours_reaches_are_named() {
        let chains = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                      table inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t}\n\
                      \tchain through {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                      table inet firewalld {\n\tchain filter_FORWARD {\n\t\ttype filter hook forward priority filter + 10; policy accept;\n\t}\n}\n\
                      table bridge b {\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy drop;\n\t}\n}\n";
        let told = out_of_reach(chains);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("the chain through of the nftables table inet filter drops"), "{told:?}");
        assert!(told[1].starts_with("firewalld refuses"), "{told:?}");
    }
}
