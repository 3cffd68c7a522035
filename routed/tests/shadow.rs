//! Routes of other programs that the kernel prefers to ours. The daemon names and shows them, and forgets them when
//! they go.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::time::Duration;

use crate::lab::{Daemon, Node, PATIENCE, within};

/// Promised: what diverts packets is named within this time.
const NOTICED: Duration = Duration::from_secs(1);

fn started(backend: &'static str) -> (Node, Daemon) {
    let node = Node::new(backend);
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    (node, daemon)
}

/// What `routed` says on standard output, whatever its exit code.
fn said(node: &Node, command: &str) -> String {
    let output = node.command(env!("CARGO_BIN_EXE_routed"), &format!("{} {command}", node.arguments()));
    String::from_utf8(output.stdout).unwrap()
}

/// What `routed nodes` says of one node.
fn state(node: &Node, name: &str) -> String {
    let all = said(node, "nodes");
    all.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default().to_owned()
}

fn is_well(node: &Node, name: &str) -> bool {
    state(node, name).ends_with("well")
}

/// The command that the last such line of the log tells an operator to type.
fn remedy(daemon: &Daemon, object: &str) -> String {
    let log = daemon.log();
    let line = log.lines().rfind(|line| line.contains(object)).unwrap();
    line.rsplit_once("remove it: ip ").unwrap().1.to_owned()
}

#[test]
fn a_route_that_the_kernel_takes_before_ours_is_named_shown_and_forgotten() {
    let (node, daemon) = started("vxlan");
    let before = node.state();
    for (network, other, route, told) in [
        (
            "10.244.2.0/24",
            "n2",
            "route prepend 10.244.2.0/24 via 192.0.2.99",
            "its packets go by a route of another program, which the kernel takes first: 10.244.2.0/24 via 192.0.2.99 dev eth0",
        ),
        (
            "10.244.3.0/24",
            "n3",
            "route add 10.244.3.128/25 via 192.0.2.99 proto static",
            "its packets to 10.244.3.128/25 go by",
        ),
        (
            "10.244.2.0/24",
            "n2",
            "route add 10.244.2.64/26 nexthop via 192.0.2.98 nexthop via 192.0.2.99",
            "nexthop via 192.0.2.98 dev eth0 nexthop via 192.0.2.99 dev eth0",
        ),
        (
            "10.244.3.0/24",
            "n3",
            "route prepend 10.244.3.0/24 nexthop via 192.0.2.98 nexthop via 192.0.2.99",
            "nexthop via 192.0.2.98 dev eth0 nexthop via 192.0.2.99 dev eth0",
        ),
        ("10.244.2.0/24", "n2", "route add blackhole 10.244.2.7/32", "blackhole 10.244.2.7/32"),
        (
            "fd00:10:244:2::/64",
            "n2",
            "-6 route add fd00:10:244:2::/64 via 2001:db8::99 metric 512",
            "via 2001:db8::99 dev eth0 proto boot metric 512",
        ),
        (
            "fd00:10:244:3::/64",
            "n3",
            "-6 route add fd00:10:244:3::/80 nexthop via 2001:db8::98 nexthop via 2001:db8::99",
            "its packets to fd00:10:244:3::/80 go by",
        ),
    ] {
        let lines =
            || daemon.log().lines().filter(|line| line.contains("WARN") && line.contains(told)).count();
        let had = lines();
        node.ip(route);
        assert!(within(NOTICED, || lines() > had).is_some(), "{route}:\n{}", daemon.log());
        let shows = || state(&node, other).contains(&format!("route {network}: its packets"));
        assert!(within(PATIENCE, shows).is_some(), "{route}: {}", said(&node, "nodes"));
        let status = said(&node, "status");
        assert!(status.contains(&format!("route {network}: its packets")), "{status}");
        node.ip(&remedy(&daemon, &format!("route {network}: its packets")));
        assert!(within(NOTICED, || is_well(&node, other)).is_some(), "{route}: {}", said(&node, "nodes"));
        assert_eq!(node.state(), before, "{route}: nothing of ours was changed");
    }
}

#[test]
fn a_route_that_takes_none_of_our_packets_is_not_named() {
    let (node, daemon) = started("native");
    for route in [
        "route append 10.244.2.0/24 via 192.0.2.99",
        "route prepend 10.244.3.0/24 tos 8 via 192.0.2.99",
        "route add 10.244.0.0/16 via 192.0.2.99",
        "-6 route prepend fd00:10:244:2::/64 via 2001:db8::99",
        "-6 route add fd00:10:244:3::/64 via 2001:db8::99 metric 2048",
        // These are ways to this node's own pods, whoever made them.
        "route add 10.244.1.5/32 dev eth0",
        "route add 10.244.2.0/25 via 192.0.2.99 table 7",
    ] {
        node.ip(route);
    }
    // The line for this later route shows that all earlier ones have been looked at.
    node.ip("route add 10.244.3.9/32 via 192.0.2.99");
    let named = || state(&node, "n3").contains("10.244.3.9/32");
    assert!(within(NOTICED, named).is_some(), "{}\n{}", said(&node, "nodes"), daemon.log());
    assert!(is_well(&node, "n2"), "{}", said(&node, "nodes"));
    let log = daemon.log();
    assert_eq!(log.lines().filter(|line| line.contains("which the kernel takes first")).count(), 1, "{log}");
}

#[test]
fn a_route_that_stood_there_before_the_start_is_named_and_one_of_a_node_that_leaves_is_forgotten() {
    let node = Node::new("native");
    node.write_nodes(&[1, 2, 3]);
    node.ip("route add 10.244.2.128/25 via 192.0.2.99 proto static");
    node.ip("-6 route add fd00:10:244:3::/64 via 2001:db8::99 metric 512");
    let plan = said(&node, "plan");
    for told in
        ["route 10.244.2.0/24: its packets to 10.244.2.128/25", "route fd00:10:244:3::/64: its packets"]
    {
        assert!(plan.contains(told), "{plan}");
    }
    let daemon = node.start();
    daemon.wait_until_ready();
    daemon.wait_for_log("WARN routed::pass::worker: route 10.244.2.0/24: its packets to 10.244.2.128/25");
    daemon.wait_for_log("route fd00:10:244:3::/64: its packets go by");
    assert!(said(&node, "status").contains("route fd00:10:244:3::/64"));
    node.write_nodes(&[1, 2]);
    let forgotten = || !said(&node, "status").contains("route fd00:10:244:3::/64");
    assert!(within(PATIENCE, forgotten).is_some(), "{}", said(&node, "status"));
    assert!(said(&node, "status").contains("route 10.244.2.0/24"));
}

/// The kernel replaces the first route with the given key.
#[test]
fn a_route_before_ours_outlives_a_change_of_ours() {
    let at = |address: &str| {
        let node = |number: u8, address: &str| {
            format!(
                "[[node]]\nname = \"n{number}\"\naddress = \"{address}\"\npod_cidrs = [\"10.244.{number}.0/24\"]\n"
            )
        };
        node(1, "192.0.2.1") + &node(2, address)
    };
    let node = Node::new("native");
    node.write_nodes_text(&at("192.0.2.2"));
    let daemon = node.start();
    daemon.wait_until_ready();
    node.ip("route prepend 10.244.2.0/24 via 192.0.2.99");
    let named = || said(&node, "status").contains("route 10.244.2.0/24: its packets go by");
    assert!(within(NOTICED, named).is_some(), "{}", daemon.log());
    let has = |way: &str| node.ip("route show 10.244.2.0/24").contains(way);
    for (address, compares) in [("192.0.2.22", false), ("192.0.2.23", true)] {
        node.write_nodes_text(&at(address));
        let follows = || node.ip("nexthop show").contains(&format!("via {address}"));
        assert!(within(PATIENCE, follows).is_some(), "{}", daemon.log());
        let told = || said(&node, "status").contains("a route of protocol 3 has the same destination");
        assert!(within(PATIENCE, told).is_some(), "{}", said(&node, "status"));
        if compares {
            // A comparison of everything does not replace it either.
            node.ip("route del unreachable 10.244.1.0/24 metric 4294967295");
            let compared = || !node.ip("route show type unreachable").is_empty();
            assert!(within(NOTICED, compared).is_some(), "{}", daemon.log());
        }
        assert!(has("via 192.0.2.99"), "{}", node.ip("route show"));
        assert!(!named(), "one line is enough: {}", said(&node, "status"));
    }
    node.ip("route del 10.244.2.0/24 via 192.0.2.99");
    assert!(within(NOTICED, || has("via 192.0.2.23")).is_some(), "{}", daemon.log());
    assert!(within(NOTICED, || is_well(&node, "n2")).is_some(), "{}", said(&node, "nodes"));
}
