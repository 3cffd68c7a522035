//! Other programs' routes and policy rules, put in by `ip`. The fake kernel and the real one return the same.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::process::Command;

use ferrule_model::{
    Family, ForeignKind, ForeignRoute, Hop, IfIndex, IfName, LinkChange, Op, PROTOCOL, PolicyRule, Route,
    RouteKey, RuleAction, TABLE_MAIN, Via,
};
use ferrule_netlink::fake::FakeWorld;
use ferrule_netlink::netns::{self, Netns};
use ferrule_netlink::{Kernel, Netlink, Routes};

fn ip(netns: &Netns, arguments: &str) {
    let mut command = Command::new("ip");
    let output = netns.run(|| command.args(arguments.split_whitespace()).output()).unwrap();
    let output = output.unwrap_or_else(|error| panic!("ip: {error}; install iproute2"));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn key(text: &str) -> RouteKey {
    RouteKey::main(text.parse().unwrap())
}

/// A real namespace with a link that is on, and the link's number.
fn real() -> (Netns, Netlink, IfIndex) {
    let netns = netns::make().unwrap();
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name wire",
        "link set wire up",
        "link set dev eth0 addrgenmode none up",
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
    ] {
        ip(&netns, line);
    }
    let mut kernel = Netlink::open_in(&netns).unwrap();
    let link = kernel.link(&IfName::new("eth0").unwrap()).unwrap().unwrap().index;
    (netns, kernel, link)
}

/// The routes of ours and of others in the pods' networks, and those in table 30400.
fn routes(kernel: &mut impl Kernel) -> Routes {
    let pods = ["10.244.0.0/16", "fd00::/16"].map(|network| key(network).dst);
    let matters = |key: &RouteKey| {
        key.table == 30400
            || (key.table == TABLE_MAIN && pods.iter().any(|network| network.contains(key.dst.ip())))
    };
    kernel.all_routes(PROTOCOL, &BTreeMap::new(), &matters).unwrap()
}

fn hop(gateway: &str, link: IfIndex) -> Hop {
    Hop { gateway: Some(gateway.parse().unwrap()), link: Some(link) }
}

fn foreign(key: RouteKey, protocol: u8, hops: Vec<Hop>) -> ForeignRoute {
    ForeignRoute { key, protocol, kind: ForeignKind::Unicast, nexthop: None, hops, is_first: true }
}

const OURS: [&str; 5] = ["10.244.2.0/24", "10.244.3.0/24", "10.244.4.0/24", "fd00:2::/64", "fd00:3::/64"];

fn ours(link: IfIndex) -> Vec<Op> {
    OURS.map(|dst| Op::PutRoute(key(dst), Route::ours(Via::Link(link)))).into()
}

#[test]
fn the_routes_of_others_are_told_with_their_place() {
    let (netns, mut kernel, link) = real();
    assert!(kernel.apply(&ours(link)).unwrap().iter().all(Result::is_ok));
    for line in [
        "route prepend 10.244.2.0/24 via 192.0.2.99",
        "route append 10.244.3.0/24 via 192.0.2.98 proto static",
        // These apply to only some packets, or to none.
        "route prepend 10.244.4.0/24 tos 8 via 192.0.2.97",
        "route add 10.244.5.0/25 via 192.0.2.96 metric 7",
        "route add blackhole 10.244.6.128/25",
        "route add 10.244.7.0/24 nexthop via 192.0.2.95 nexthop via 192.0.2.94",
        "route add default via 192.0.2.99 table 30400",
        "route add throw 10.244.0.0/16 table 30400",
        "route add 172.16.0.0/12 via 192.0.2.99",
        "-6 route add fd00:2::/64 via 2001:db8::99 metric 512 proto static",
        "-6 route append fd00:3::/64 via 2001:db8::98",
        "-6 route add fd00:4::/80 nexthop via 2001:db8::97 nexthop via 2001:db8::96",
    ] {
        ip(&netns, line);
    }
    let found = routes(&mut kernel);
    assert_eq!(found.beyond.keys().map(|key| key.dst.to_string()).collect::<Vec<_>>(), OURS);
    let other = |dst: &str| RouteKey { table: 30400, ..key(dst) };
    let through = |gateway: &str| vec![hop(gateway, link)];
    let both = |first: &str, second: &str| vec![hop(first, link), hop(second, link)];
    let of_kind = |kind, route| ForeignRoute { kind, ..route };
    let mut expected = vec![
        foreign(key("10.244.2.0/24"), 3, through("192.0.2.99")),
        ForeignRoute { is_first: false, ..foreign(key("10.244.3.0/24"), 4, through("192.0.2.98")) },
        foreign(RouteKey { metric: 7, ..key("10.244.5.0/25") }, 3, through("192.0.2.96")),
        of_kind(ForeignKind::Blackhole, foreign(key("10.244.6.128/25"), 3, vec![])),
        foreign(key("10.244.7.0/24"), 3, both("192.0.2.95", "192.0.2.94")),
        foreign(other("0.0.0.0/0"), 3, through("192.0.2.99")),
        of_kind(ForeignKind::Throw, foreign(other("10.244.0.0/16"), 3, vec![])),
        foreign(RouteKey { metric: 512, ..key("fd00:2::/64") }, 4, through("2001:db8::99")),
        ForeignRoute { is_first: false, ..foreign(key("fd00:3::/64"), 3, through("2001:db8::98")) },
        foreign(key("fd00:4::/80"), 3, both("2001:db8::97", "2001:db8::96")),
    ];
    let in_order = |mut routes: Vec<ForeignRoute>| {
        routes.sort_by_key(|route| route.key);
        routes
    };
    assert_eq!(in_order(found.foreign), in_order(expected.clone()));

    // A packet takes the route that is told as the first.
    let matched = kernel.route_match("10.244.2.9".parse().unwrap()).unwrap().unwrap();
    assert_eq!((matched.0, matched.1.protocol), (key("10.244.2.0/24"), 3));

    let world = FakeWorld::new();
    let netns = world.netns();
    let link = world.add_link(&netns, IfName::new("eth0").unwrap(), 1500);
    let mut kernel = world.kernel(&netns);
    assert!(kernel.apply(&ours(link)).unwrap().iter().all(Result::is_ok));
    for route in &mut expected {
        route.hops.iter_mut().for_each(|hop| hop.link = Some(link));
        world.put_foreign(&netns, route.clone());
    }
    world.put_foreign(&netns, foreign(key("172.16.0.0/12"), 3, through("192.0.2.99")));
    assert_eq!(in_order(routes(&mut kernel).foreign), in_order(expected));
    let matched = kernel.route_match("10.244.2.9".parse().unwrap()).unwrap().unwrap();
    assert_eq!((matched.0, matched.1.protocol), (key("10.244.2.0/24"), 3));
}

#[test]
fn a_next_hop_by_a_link_that_is_off_is_not_told() {
    let (netns, mut kernel, link) = real();
    ip(&netns, "link add eth1 type veth peer name other");
    ip(&netns, "link set other up");
    ip(&netns, "link set eth1 up");
    ip(&netns, "addr add 198.51.100.1/24 dev eth1");
    ip(&netns, "route add 10.244.2.0/25 nexthop via 192.0.2.99 nexthop via 198.51.100.9");
    let down = kernel.link(&IfName::new("eth1").unwrap()).unwrap().unwrap().index;
    assert_eq!(routes(&mut kernel).foreign[0].hops.len(), 2);
    let off = LinkChange { up: Some(false), ..LinkChange::default() };
    kernel.apply(&[Op::SetLink(down, off)]).unwrap();
    assert_eq!(routes(&mut kernel).foreign[0].hops, [hop("192.0.2.99", link)]);
}

#[test]
fn rules_are_told_in_the_order_in_which_they_are_asked() {
    let (netns, mut kernel, _) = real();
    let world = FakeWorld::new();
    let mut fake = world.kernel(&world.netns());
    assert_eq!(kernel.rules().unwrap(), fake.rules().unwrap(), "those that every kernel has");
    for line in [
        "rule add from 192.0.2.1 table 30400 priority 30400",
        "rule add not from 192.0.2.0/24 to 10.244.0.0/16 iif lo table 7 suppress_prefixlength 0 priority 20",
        "rule add fwmark 0x1 table 8 priority 21",
        "rule add ipproto tcp dport 80 table 8 priority 22",
        "rule add oif eth0 table 8 priority 23",
        "rule add to 10.244.9.0/24 prohibit priority 24",
        "rule add to 10.244.9.0/24 goto 30400 priority 25",
        "-6 rule add from fd00::/16 blackhole priority 26",
        "-6 rule add tos 8 table 8 priority 27",
    ] {
        ip(&netns, line);
    }
    let rule = |priority, action| PolicyRule {
        family: Family::V4,
        priority,
        from: None,
        to: None,
        iif: None,
        is_inverted: false,
        is_narrow: false,
        suppressed: None,
        action,
    };
    let network = |text: &str| Some(text.parse().unwrap());
    let narrow = |priority| PolicyRule { is_narrow: true, ..rule(priority, RuleAction::Lookup(8)) };
    let expected = [
        PolicyRule {
            from: network("192.0.2.0/24"),
            to: network("10.244.0.0/16"),
            iif: Some("lo".to_owned()),
            is_inverted: true,
            suppressed: Some(0),
            ..rule(20, RuleAction::Lookup(7))
        },
        narrow(21),
        narrow(22),
        narrow(23),
        PolicyRule { to: network("10.244.9.0/24"), ..rule(24, RuleAction::Prohibit) },
        PolicyRule { to: network("10.244.9.0/24"), ..rule(25, RuleAction::Other) },
        PolicyRule { from: network("192.0.2.1/32"), ..rule(30400, RuleAction::Lookup(30400)) },
        PolicyRule { family: Family::V6, from: network("fd00::/16"), ..rule(26, RuleAction::Blackhole) },
        PolicyRule { family: Family::V6, ..narrow(27) },
    ];
    let mut found = kernel.rules().unwrap();
    assert!(found.is_sorted_by_key(|rule| (rule.family, rule.priority)), "{found:?}");
    found.retain(|rule| (20..32766).contains(&rule.priority));
    assert_eq!(found, expected);
}
