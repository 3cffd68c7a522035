//! `[node] interface`: by which link the other nodes reach this one, with packets between pods.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod fleet;
mod lab;
#[path = "etcd/server.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod server;

use std::fs;

use fleet::{Fleet, Underlay};
use lab::{Node, PATIENCE, within};
use server::Etcd;

/// Two nodes whose default route is on `eth0`, and that have `eth1` on a segment of its own.
fn two_segments(backend: &'static str, underlay: Underlay) -> Fleet {
    let fleet = Fleet::new(2, backend, underlay);
    fleet.second_segment(|number| {
        let mut addresses = vec![format!("2001:db8:b::{number}/64")];
        if underlay == Underlay::Both {
            addresses.push(format!("198.51.100.{number}/24"));
        }
        addresses
    });
    for node in &fleet.nodes {
        if underlay == Underlay::Both {
            node.ip("route add default via 192.0.2.254");
        }
        node.ip("-6 route add default via 2001:db8::ff");
    }
    fleet
}

/// etcd on the first segment.
fn etcd(fleet: &Fleet) -> Etcd {
    let mut etcd = Etcd::new(fleet.nodes[0].directory.path(), 2379).at("192.0.2.250");
    fleet.on_segment(|| {
        for arguments in ["link set lo up", "addr add 192.0.2.250/24 dev br0"] {
            let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "{arguments}");
        }
        etcd.start();
        etcd.put_config(r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48"}"#);
    });
    etcd
}

/// What the nodes find of each other in etcd is at the chosen link, and so are the packets: there is no way from one segment to
/// the other.
#[test]
fn with_etcd_pods_talk_over_the_chosen_link_whatever_the_backend() {
    for (backend, interface) in
        [("vxlan", "198.51.100.0/24"), ("native", "eth1"), ("auto", "2001:db8:b::/64")]
    {
        let mut fleet = two_segments(backend, Underlay::Both);
        let etcd = etcd(&fleet);
        fleet.had_subnets();
        for node in &fleet.nodes {
            let more = format!("[routing.etcd]\nendpoints = [\"{}\"]\n", etcd.url());
            node.configure_routing("source = \"etcd\"\n", &more);
            node.set_interface(interface);
        }
        fleet.start();
        fleet.wait_until_joined();
        let (value, ..) = fleet.on_segment(|| etcd.subnet("10.244.1.0-24&fd00:10:244:1::-64")).unwrap();
        assert!(
            value.contains("\"PublicIP\":\"198.51.100.1\"") && value.contains("2001:db8:b::1"),
            "{value}"
        );
        let node = &fleet.nodes[0];
        if backend == "vxlan" {
            assert!(node.state().contains("dst 198.51.100.2 self permanent"), "{}", node.state());
            let device = node.ip("-d link show ferrule.1");
            assert!(device.contains("local 198.51.100.1 dev eth1"), "{device}");
        } else {
            assert!(node.ip("route show 10.244.2.0/24").contains("via 198.51.100.2 dev eth1"));
            assert!(node.ip("-6 route show fd00:10:244:2::/64").contains("via 2001:db8:b::2 dev eth1"));
        }
    }
}

/// Each node has its address on both links, as where one of two is to be used.
#[test]
fn with_a_nodes_file_the_chosen_one_of_two_links_with_the_address_carries_the_packets() {
    for (backend, underlay) in [("native", Underlay::Both), ("vxlan", Underlay::V6)] {
        let mut fleet = Fleet::new(2, backend, underlay);
        fleet.second_segment(|number| {
            let mut addresses = vec![format!("2001:db8::{number}/64")];
            if underlay == Underlay::Both {
                addresses.push(format!("192.0.2.{number}/24"));
            }
            addresses
        });
        for node in &fleet.nodes {
            node.set_interface("eth1");
            // The kernel would take the first segment.
            node.ip("-6 route del 2001:db8::/64 dev eth1");
            if underlay == Underlay::Both {
                node.ip("route del 192.0.2.0/24 dev eth1");
                node.ip("route append 192.0.2.0/24 dev eth1 scope link metric 900");
            }
            node.ip("-6 route append 2001:db8::/64 dev eth1 metric 900");
        }
        fleet.start();
        fleet.wait_until_joined();
        let node = &fleet.nodes[0];
        if backend == "native" {
            let routes = node.ip("route show 10.244.2.0/24") + &node.ip("-6 route show fd00:10:244:2::/64");
            assert_eq!(routes.matches("dev eth1").count(), 2, "{routes}");
        } else {
            let device = node.ip("-d link show ferrule.1");
            assert!(device.contains("local 2001:db8::1 dev eth1"), "{device}");
        }
    }
}

/// Nothing is lost meanwhile, and nobody has to start anything.
#[test]
fn a_link_that_is_not_there_is_waited_for_and_one_that_changes_is_followed() {
    let node = Node::new("native");
    node.set_interface("eth7");
    node.write_nodes(&[1, 2]);
    let plan = node.inside(|| node.daemon_command().arg("plan").output().unwrap());
    let said = String::from_utf8_lossy(&plan.stderr);
    assert!(!plan.status.success() && said.contains("no link to other nodes is called so"), "{said}");
    let daemon = node.start();
    daemon.wait_for_log(
        "ERROR routed::feed: [node] interface = \"eth7\": no link to other nodes is called so; there are: lo, wire, eth0 \
         (192.0.2.1/24, 2001:db8::1/64). Correct the key, or give the link its address; it is waited for",
    );
    assert_eq!(node.ip("route show proto 70"), "");
    node.ip("link add eth7 type veth peer name wire7");
    node.ip("link set wire7 up");
    node.ip("link set eth7 up");
    daemon.wait_for_log(
        "[node] interface = \"eth7\": the link has no address by which other nodes can reach this one",
    );
    node.ip("addr add 192.0.2.1/24 dev eth7");
    let by = |link: &str| node.ip("route show 10.244.2.0/24").contains(&format!("dev {link}"));
    assert!(within(PATIENCE, || by("eth7")).is_some(), "{}", daemon.log());
    daemon.wait_until_ready();
    // Another address: the nodes file does not say so, and this is said.
    node.ip("addr del 192.0.2.1/24 dev eth7");
    node.ip("addr add 192.0.2.9/24 dev eth7");
    daemon.wait_for_log(
        "the link eth7 of [node] interface does not have the address that the nodes file gives this node",
    );
    assert!(within(PATIENCE, || by("eth7")).is_some(), "{}", daemon.log());
    daemon.wait_for_log("this node is 192.0.2.9 on eth7");
    // A further one changes nothing.
    let log = daemon.log();
    node.ip("addr add 192.0.2.10/32 dev eth7");
    node.ip("link set eth7 mtu 1400");
    let follows = || fs::read_to_string(node.path("run/node.json")).unwrap().contains("1400");
    assert!(within(PATIENCE, follows).is_some(), "{}", daemon.log());
    let starts = |log: &str| log.matches("starts on node").count();
    assert_eq!(starts(&daemon.log()), starts(&log), "{}", daemon.log());
    assert_eq!(starts(&log), 2, "{log}");
}
