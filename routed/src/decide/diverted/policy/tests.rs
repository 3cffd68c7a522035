use ferrule_model::{IfName, Link, Nexthop, NexthopId, Route};

use super::*;

const ETH0: IfIndex = IfIndex(2);
const POD: IfIndex = IfIndex(7);

fn link(index: IfIndex, name: &str) -> Link {
    Link {
        index,
        name: IfName::new(name).unwrap(),
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
        alias: None,
        peer: None,
        kind: LinkKind::Veth,
    }
}

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn key(text: &str) -> RouteKey {
    RouteKey::main(network(text))
}

/// The lines about these rules, on a node with 10.244.1.0/24 and fd00:1::/64 that has three other nodes beside it.
fn judged(rules: &[PolicyRule], routes: &[ForeignRoute]) -> Vec<String> {
    let mut wanted = Objects::default();
    for own in ["10.244.1.0/24", "fd00:1::/64"] {
        wanted.routes.insert(RouteKey { metric: u32::MAX, ..key(own) }, Route::unreachable());
    }
    for number in 2..5 {
        for (id, dst, gateway) in [
            (number, format!("10.244.{number}.0/24"), format!("192.0.2.{number}")),
            (10 + number, format!("fd00:{number}::/64"), format!("2001:db8::{number}")),
        ] {
            wanted.routes.insert(key(&dst), Route::ours(Via::Nexthop(NexthopId(id))));
            let hop = Nexthop { gateway: gateway.parse().unwrap(), link: ETH0, onlink: false, protocol: 70 };
            wanted.nexthops.insert(NexthopId(id), hop);
        }
    }
    let links = Links::from([(ETH0, link(ETH0, "eth0")), (POD, link(POD, "fer0123456789ab"))]);
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
    let place = Place {
        addresses: &addresses,
        own: &["10.244.1.0/24", "fd00:1::/64"].map(network),
        given: &[],
        wanted: &wanted,
        links: &links,
        ways: &[ETH0],
    };
    let mut rules = [rules, &[main()]].concat();
    rules.sort_by_key(|rule| rule.priority);
    let rules = before_main(&rules);
    let diversions = find(&rules, routes, &place);
    diversions.iter().map(|one| format!("{}: {}", one.object, one.reason)).collect()
}

fn rule(priority: u32, table: u32) -> PolicyRule {
    PolicyRule {
        family: Family::V4,
        priority,
        from: None,
        to: None,
        iif: None,
        is_inverted: false,
        is_narrow: false,
        suppressed: None,
        action: RuleAction::Lookup(table),
    }
}

fn main() -> PolicyRule {
    rule(32766, TABLE_MAIN)
}

fn from(source: &str, rule: PolicyRule) -> PolicyRule {
    let source = network(source);
    PolicyRule { from: Some(source), family: family(&source), ..rule }
}

fn to(dst: &str, rule: PolicyRule) -> PolicyRule {
    PolicyRule { to: Some(network(dst)), ..rule }
}

fn route(dst: &str, table: u32, hops: &[(&str, IfIndex)]) -> ForeignRoute {
    let hop = |(gateway, link): &(&str, IfIndex)| Hop { gateway: gateway.parse().ok(), link: Some(*link) };
    let key = RouteKey { table, ..key(dst) };
    let hops = hops.iter().map(hop).collect();
    ForeignRoute { key, protocol: 3, kind: ForeignKind::Unicast, nexthop: None, hops, is_first: true }
}

fn default(table: u32) -> ForeignRoute {
    route("0.0.0.0/0", table, &[("192.0.2.254", ETH0)])
}

/// The rules that nm-cloud-setup makes for the address of a network card.
#[test]
fn a_rule_for_the_nodes_own_address_is_named_with_what_it_takes_and_the_remedy() {
    let routes = [default(30400), route("192.0.2.0/24", 30400, &[("", ETH0)])];
    assert_eq!(
        judged(&[from("192.0.2.1/32", rule(30400, 30400))], &routes),
        [
            "policy rule 30400: it (from 192.0.2.1 lookup 30400) comes before the main table, and packets from this node \
          (192.0.2.1) to pods in 10.244.1.0/24, 10.244.2.0/24, 10.244.3.0/24 and one more network go by its route default \
          via 192.0.2.254 dev eth0 proto boot table 30400; let packets to pods go by the main table first: ip rule add to \
          10.244.1.0/24 lookup main priority 30399; ip rule add to 10.244.2.0/24 lookup main priority 30399; ip rule add \
          to 10.244.3.0/24 lookup main priority 30399, and so for the other networks of pods; if nm-cloud-setup has made \
          it and nothing needs it: systemctl disable --now nm-cloud-setup.timer nm-cloud-setup.service, and remove the \
          rule"
        ]
    );
    let v6 = ForeignRoute { key: RouteKey { table: 7, ..key("::/0") }, ..default(7) };
    let told = judged(&[from("2001:db8::1/128", rule(100, 7))], &[v6]);
    assert!(told[0].starts_with("IPv6 policy rule 100: it (from 2001:db8::1 lookup 7)"), "{told:?}");
    assert!(told[0].contains("ip -6 rule add to fd00:1::/64 lookup main priority 99"), "{told:?}");
}

#[test]
fn whose_packets_a_rule_takes_is_told() {
    let cases = [
        (from("10.244.1.0/24", rule(9, 7)), "packets from its pods to pods in 10.244.1.0/24, 10.244.2.0/24"),
        (from("10.244.1.5/32", rule(9, 7)), "packets from its pods to"),
        (from("10.244.3.0/24", rule(9, 7)), "packets from pods of other nodes to pods in 10.244.1.0/24 go"),
        (
            to("10.244.3.0/24", rule(9, 7)),
            "packets from this node (192.0.2.1), its pods to pods in 10.244.3.0/24 go",
        ),
        (
            PolicyRule { iif: Some("lo".to_owned()), ..to("10.244.3.0/24", rule(9, 7)) },
            "packets from this node (192.0.2.1) to pods in 10.244.3.0/24 go",
        ),
        (
            PolicyRule { iif: Some("fer0123456789ab".to_owned()), ..to("10.244.3.0/24", rule(9, 7)) },
            "packets from its pods to pods in 10.244.3.0/24 go",
        ),
        (
            PolicyRule { iif: Some("eth0".to_owned()), ..rule(9, 7) },
            "packets from pods of other nodes to pods in 10.244.1.0/24 go",
        ),
        (
            PolicyRule { action: RuleAction::Prohibit, ..to("10.244.3.0/24", rule(9, 7)) },
            "to pods in 10.244.3.0/24 are dropped; ",
        ),
        (
            PolicyRule { is_inverted: true, ..from("10.244.0.0/16", rule(9, 7)) },
            "(not from 10.244.0.0/16 lookup 7) comes before the main table, and packets from this node (192.0.2.1) to",
        ),
    ];
    for (rule, told) in cases {
        let lines = judged(std::slice::from_ref(&rule), &[default(7)]);
        assert!(lines.len() == 1 && lines[0].contains(told), "{rule:?}: {lines:?}");
    }
}

#[test]
fn what_its_table_does_with_the_packets_counts() {
    let rules = [to("10.244.3.0/24", rule(9, 7))];
    let taken = |routes: &[ForeignRoute]| !judged(&rules, routes).is_empty();
    let throw = |dst| ForeignRoute { kind: ForeignKind::Throw, ..route(dst, 7, &[]) };
    assert!(!taken(&[]), "it has no route");
    assert!(!taken(&[default(8)]), "another table's");
    assert!(!taken(&[route("172.16.0.0/12", 7, &[("192.0.2.254", ETH0)])]));
    assert!(taken(&[route("10.244.3.128/25", 7, &[("192.0.2.254", ETH0)])]));
    assert!(!taken(&[default(7), throw("10.244.0.0/16")]), "the search goes on in the next table");
    assert!(!taken(&[default(7), route("10.244.3.0/24", 7, &[("192.0.2.3", ETH0)])]), "our own way");
    assert!(taken(&[default(7), route("10.244.3.0/24", 7, &[("192.0.2.2", ETH0)])]), "another node's");
    let own = [to("10.244.1.0/24", rule(9, 7))];
    let pod = route("10.244.1.5/32", 7, &[("", POD)]);
    assert_eq!(judged(&own, &[pod]), [""; 0], "the way to a pod of this node");
    let suppressed = [PolicyRule { suppressed: Some(0), ..rules[0].clone() }];
    assert_eq!(judged(&suppressed, &[default(7)]), [""; 0]);
}

#[test]
fn a_rule_that_takes_no_packet_of_a_pod_is_not_named() {
    let harmless = [
        PolicyRule { is_narrow: true, ..rule(9, 7) },
        PolicyRule { iif: Some("eth7".to_owned()), ..rule(9, 7) },
        from("198.51.100.0/24", rule(9, 7)),
        to("172.16.0.0/12", rule(9, 7)),
        rule(32767, 7),
        rule(0, TABLE_LOCAL),
        PolicyRule { action: RuleAction::Other, ..rule(9, 7) },
        PolicyRule { is_inverted: true, ..rule(9, 7) },
    ];
    for rule in harmless {
        assert_eq!(judged(std::slice::from_ref(&rule), &[default(7)]), [""; 0], "{rule:?}");
    }
}

#[test]
fn a_rule_before_it_that_asks_the_main_table_is_the_remedy() {
    let bad = from("192.0.2.1/32", rule(30400, 30400));
    let taken = |rescue: PolicyRule| !judged(&[rescue, bad.clone()], &[default(30400)]).is_empty();
    assert!(!taken(to("10.244.0.0/16", rule(30399, TABLE_MAIN))));
    assert!(!taken(from("192.0.2.0/24", to("10.244.0.0/16", rule(30399, TABLE_MAIN)))));
    assert!(!taken(PolicyRule { suppressed: Some(0), ..rule(30399, TABLE_MAIN) }), "as wg-quick makes it");
    assert!(taken(to("10.244.1.0/24", rule(30399, TABLE_MAIN))), "the other nodes' pods are still without");
    assert!(taken(PolicyRule { is_narrow: true, ..to("10.244.0.0/16", rule(30399, TABLE_MAIN)) }));
    assert!(taken(PolicyRule { suppressed: Some(24), ..to("10.244.0.0/16", rule(30399, TABLE_MAIN)) }));
}

#[test]
fn tables_that_rules_ask_are_looked_into_for_what_concerns_pods() {
    let rules = [rule(9, 7), to("10.244.3.0/24", rule(10, TABLE_MAIN)), main(), rule(32767, 8)];
    assert_eq!(tables(&before_main(&rules)), BTreeSet::from([7]));
    let routes = BTreeMap::from([(key("10.244.2.0/24"), ()), (key("fd00:2::/64"), ())]);
    for dst in ["0.0.0.0/0", "10.244.0.0/16", "10.244.2.0/24", "10.244.2.128/25", "10.0.0.0/8", "::/0"] {
        assert!(overlaps(&routes, &network(dst)), "{dst}");
    }
    for dst in ["10.244.3.0/24", "10.244.1.0/24", "192.0.2.0/24", "fd00:3::/64"] {
        assert!(!overlaps(&routes, &network(dst)), "{dst}");
    }
}
