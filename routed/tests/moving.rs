//! A cluster moves from one backend to another, node by node, by restarts of its daemons, while its pods talk.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::time::Instant;

use crate::fleet::{Fleet, STEP, Underlay, finish};

const ACCEPT: &str = "accept = \"vxlan\"\n";

/// Whether anything of the VXLAN backend is left on a node.
fn has_tunnel(fleet: &Fleet, number: usize) -> bool {
    let node = &fleet.nodes[number - 1];
    let links = node.ip("-o -d link show");
    let others =
        node.ip("neigh show nud permanent") + &node.ip("nexthop show") + &node.ip("route show table all");
    links.contains("vxlan") || others.contains("ferrule.1")
}

fn is_plain(fleet: &Fleet, number: usize) -> bool {
    fleet.nodes[number - 1].ip("route show proto 70").lines().all(|line| !line.contains("ferrule.1"))
}

#[test]
fn a_cluster_moves_from_plain_routes_to_tunnels_and_back_without_a_lost_echo() {
    let mut fleet = Fleet::new(2, "native", Underlay::Both);
    fleet.start();
    fleet.wait_until_joined();
    let streams = fleet.streams();
    // Each step is made on one node after another. Between two nodes of one step both ways are in use.
    let steps = [("native", true), ("vxlan", true), ("vxlan", false), ("auto", false), ("native", false)];
    for (backend, accepts) in steps {
        for number in [1, 2] {
            fleet.restart(number, backend, if accepts { ACCEPT } else { "" });
            assert_eq!(has_tunnel(&fleet, number), backend != "native" || accepts, "{backend} {number}");
            assert_eq!(is_plain(&fleet, number), backend != "vxlan", "{backend} {number}");
        }
    }
    let (sent, lost) = finish(streams);
    println!("{sent} echoes, {lost} lost, in 10 restarts");
    assert_eq!(lost, 0, "of {sent}");
}

#[test]
fn nodes_that_change_at_once_lose_only_what_the_other_could_not_take_yet() {
    let mut fleet = Fleet::new(2, "native", Underlay::Both);
    fleet.start();
    fleet.wait_until_joined();
    for (backend, between_tunnels) in [("vxlan", false), ("auto", true), ("vxlan", true), ("native", false)] {
        let streams = fleet.streams();
        let begin = Instant::now();
        fleet.restart(1, backend, "");
        fleet.restart(2, backend, "");
        let disagreed = begin.elapsed();
        fleet.wait_until_joined();
        let count = streams.len();
        let (sent, lost) = finish(streams);
        println!("to {backend}: {lost} of {sent} echoes lost, within {disagreed:?}");
        let most =
            if between_tunnels { 0 } else { count * (disagreed.as_millis() / STEP.as_millis()) as usize };
        assert!(lost <= most, "{lost} of {sent} on the way to {backend}, {most} in {disagreed:?}");
    }
    assert!(!has_tunnel(&fleet, 1) && !has_tunnel(&fleet, 2));
}
