//! A pod has a share of the node's table of connections, and no more.

use std::fs;
use std::process::Command;

use ferrule_model::Family;
use ferrule_netlink::nft::{Netfilter, NetfilterSocket};
use ferrule_netlink::sysctl;
use serde_json::{Value, json};

use super::{Lab, honest};
use crate::keep::pods::Pod;

/// Sends packets of so many UDP connections of each family, to hosts outside that do not answer.
const FLOOD: &str = "
import socket, sys
v4, v6 = (socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6))
first, count = int(sys.argv[1]), int(sys.argv[2])
for number in range(first, first + count):
    host, port = number % 250 + 1, 2000 + number // 250
    v4.sendto(b'x', (f'203.0.113.{host}', port))
    v6.sendto(b'x', (f'2001:db8:77::{host:x}', port))
";
/// The share, and how far from it the count of a sample may be: with 32 in the sample, 6 is the standard deviation.
const SHARE: usize = 1024;
const LEAST: usize = SHARE / 3;
const MOST: usize = SHARE * 2;

/// The number of connections that the node tracks.
fn tracked(lab: &Lab) -> usize {
    let read = || fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    lab.node.inside(read).unwrap().trim().parse().unwrap()
}

fn forget(lab: &Lab) {
    let forget = |family| NetfilterSocket::open().unwrap().forget_udp(family, None, &|_| true).unwrap();
    lab.node.inside(|| Family::BOTH.map(forget));
}

/// Begins twice so many connections.
fn flood(pod: &Pod<'_>, first: usize, count: usize) {
    let mut command = Command::new("python3");
    command.args(["-c", FLOOD, &first.to_string(), &count.to_string()]);
    let status = pod.netns.run(|| command.status()).unwrap();
    assert!(status.expect("python3 is needed: install the package python3").success());
}

fn check(fields: &Value) {
    let lab = Lab::new(&format!("[pods]\nconnections = {SHARE}\n[metrics]\nrouted = \"127.0.0.1:9479\"\n"));
    // No connection ends by itself while the test looks.
    lab.node.inside(|| sysctl::set("net/netfilter/nf_conntrack_udp_timeout", "600").unwrap());
    let greedy = Pod::add(&lab.node, "c0ffee", fields.clone());
    let modest = Pod::add(&lab.node, "other", fields.clone());
    flood(&greedy, 0, 100);
    let few = tracked(&lab);
    assert!((200..LEAST).contains(&few), "{few}: nothing is dropped of what is in the share");
    // In mode `bridge` each of the pod's addresses has a share.
    let shares = if fields["mode"] == "bridge" { 2 } else { 1 };
    flood(&greedy, 100, 5000);
    let tracked_now = tracked(&lab);
    assert!((LEAST..shares * MOST).contains(&tracked_now), "{tracked_now}: {fields}");
    let page = lab.page("/metrics");
    let dropped = page.split_once("reason=\"connections\"} ").unwrap().1.lines().next().unwrap();
    assert!(dropped.parse::<usize>().unwrap() > 10_000 - shares * MOST, "{dropped}");
    // The kernel tells of nothing, so the log names the pod with the next look at all pods.
    lab.daemon.wait_for_log("has more connections than its share");
    assert!(lab.daemon.log().contains("pod pods/c0ffee/eth0 (fer"), "{}", lab.daemon.log());
    assert!(!lab.daemon.log().contains("pods/other/eth0"), "{}", lab.daemon.log());
    // Others notice nothing.
    if shares == 1 {
        let frames = honest(&modest, &greedy);
        assert_eq!(lab.delivered(&modest, &greedy, &frames).len(), frames.len());
    }
    let before = tracked(&lab);
    flood(&modest, 0, 100);
    assert!(tracked(&lab) >= before + 200, "{before}");
    // When its connections have ended, the pod has its share again.
    forget(&lab);
    let before = tracked(&lab);
    assert!(before < LEAST, "{before}");
    flood(&greedy, 6000, 1000);
    let after = tracked(&lab);
    assert!(after > before + LEAST, "{before} to {after}");
}

#[test]
fn a_pod_has_its_share_of_the_connections_and_others_have_theirs() {
    check(&json!({}));
}

#[test]
fn a_pod_on_a_bridge_has_its_share_too() {
    check(&json!({ "mode": "bridge" }));
}

#[test]
fn without_shares_a_pod_has_as_many_connections_as_it_likes() {
    let lab = Lab::new("[pods]\nconnections = 0\n");
    let pod = Pod::add(&lab.node, "c0ffee", json!({}));
    flood(&pod, 0, 2000);
    assert!(tracked(&lab) >= 4000, "{}", tracked(&lab));
}
