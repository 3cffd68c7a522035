//! `[node] interface`, the link by which the other nodes reach this one, with packets between pods.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::fs;
use std::time::Duration;

use crate::etcd::server::Etcd;
use crate::fleet::{Fleet, Underlay};
use crate::lab::{Node, PATIENCE, within};
use ferrule_config::NodeFile;

/// Promised: another way to a node counts within this time.
const SOON: Duration = Duration::from_secs(1);

/// Two nodes with their default route on `eth0`, and with `eth1` on a separate segment.
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

/// In etcd the nodes find each other's addresses on the chosen link, and packets take that link: there is no way from
/// one segment to the other.
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

/// Each node has its address on both links, of which only one is to be used.
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
            // By itself the kernel would choose the first segment.
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

/// Nothing is lost meanwhile, and nobody has to restart anything.
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
    // The link gets another address. The nodes file does not have it, and the daemon says so.
    node.ip("addr del 192.0.2.1/24 dev eth7");
    node.ip("addr add 192.0.2.9/24 dev eth7");
    daemon.wait_for_log(
        "the link eth7 of [node] interface does not have the address that the nodes file gives this node",
    );
    assert!(within(PATIENCE, || by("eth7")).is_some(), "{}", daemon.log());
    daemon.wait_for_log("this node is 192.0.2.9 on eth7");
    // A further address changes nothing.
    let log = daemon.log();
    node.ip("addr add 192.0.2.10/32 dev eth7");
    node.ip("link set eth7 mtu 1400");
    let follows = || fs::read_to_string(node.path("run/node.json")).unwrap().contains("1400");
    assert!(within(PATIENCE, follows).is_some(), "{}", daemon.log());
    let starts = |log: &str| log.matches("starts on node").count();
    assert_eq!(starts(&daemon.log()), starts(&log), "{}", daemon.log());
    assert_eq!(starts(&log), 2, "{log}");
}

/// Nodes on two segments whose addresses are on `lo`, because a routing protocol announces them by each link.
fn addresses_on_lo(backend: &'static str) -> Fleet {
    let fleet = Fleet::new(2, backend, Underlay::Both);
    fleet
        .second_segment(|number| vec![format!("198.51.100.{number}/24"), format!("2001:db8:b::{number}/64")]);
    for (node, number) in fleet.nodes.iter().zip(1..) {
        let other = 3 - number;
        node.ip("addr flush dev eth0 scope global");
        node.ip("link set eth0 mtu 1400");
        for (address, link) in [("203.0.113", "/24"), ("2001:db8:a:", "/64")] {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            let dot = if address.contains(':') { ":" } else { "." };
            node.ip(&format!("addr add {address}{dot}{number}{link} dev eth0 {nodad}"));
        }
        node.ip(&format!("addr add 192.0.2.{number}/32 dev lo"));
        node.ip(&format!("addr add 2001:db8::{number}/128 dev lo nodad"));
        let hops = |first: &str, second: &str| {
            format!("nexthop via {first}{other} dev eth0 nexthop via {second}{other} dev eth1")
        };
        node.ip(&format!(
            "route add 192.0.2.{other}/32 proto bgp src 192.0.2.{number} {}",
            hops("203.0.113.", "198.51.100.")
        ));
        node.ip(&format!(
            "-6 route add 2001:db8::{other}/128 proto bgp src 2001:db8::{number} {}",
            hops("2001:db8:a::", "2001:db8:b::")
        ));
    }
    fleet
}

/// The kernel accepts no route by way of an address that is itself behind a next hop. So our routes take the next hop
/// of the node's address.
#[test]
fn with_the_address_on_lo_pods_talk_by_the_ways_that_the_nodes_own_packets_take() {
    for (backend, mtu) in [("vxlan", 1350), ("native", 1400), ("auto", 1350)] {
        let mut fleet = addresses_on_lo(backend);
        fleet.start();
        fleet.wait_until_joined();
        let file = NodeFile::load(&fleet.nodes[0].path("run/node.json")).unwrap();
        assert_eq!(file.mtu, mtu, "{backend}");
    }
}

#[test]
fn plain_routes_follow_the_ways_to_the_other_nodes() {
    let mut fleet = addresses_on_lo("native");
    fleet.start();
    fleet.wait_until_joined();
    let by = |link: &str| {
        let node = &fleet.nodes[0];
        let routes = node.ip("route show 10.244.2.0/24") + &node.ip("-6 route show fd00:10:244:2::/64");
        routes.matches(&format!("dev {link} ")).count() == 2
    };
    // The routing protocol removes one way, and adds another one.
    for (link, v4, v6) in [("eth1", "198.51.100", "b"), ("eth0", "203.0.113", "a")] {
        let node = &fleet.nodes[0];
        node.ip(&format!("route replace 192.0.2.2/32 proto bgp src 192.0.2.1 via {v4}.2 dev {link}"));
        node.ip(&format!(
            "-6 route replace 2001:db8::2/128 proto bgp src 2001:db8::1 via 2001:db8:{v6}::2 dev {link}"
        ));
        assert!(within(SOON, || by(link)).is_some(), "{link}: {}\n{}", node.state(), fleet.log(1));
        assert!(within(PATIENCE, || fleet.reaches(1, 2)).is_some(), "{}", fleet.log(1));
    }
    let node = &fleet.nodes[0];
    // Two next hops at once, which are not told as a single one.
    let both =
        |link: &str| format!("nexthop via 198.51.100.2 dev {link} nexthop via 198.51.100.2 dev {link}");
    node.ip(&format!("route replace 192.0.2.2/32 proto bgp {}", both("eth1")));
    let v4_by_eth1 = || node.ip("route show 10.244.2.0/24").contains("via 198.51.100.2 dev eth1");
    assert!(within(SOON, v4_by_eth1).is_some(), "{}", fleet.log(1));
    // BGP without addresses on the links uses link-local next hops.
    let other = fleet.nodes[1].ip("-6 -o addr show dev eth1 scope link");
    let gateway = other.split_whitespace().find(|word| word.starts_with("fe80")).unwrap();
    let gateway = gateway.split('/').next().unwrap();
    node.ip(&format!("route replace 192.0.2.2/32 proto bgp src 192.0.2.1 via inet6 {gateway} dev eth1"));
    let unnumbered =
        || node.ip("route show 10.244.2.0/24").contains(&format!("via inet6 {gateway} dev eth1"));
    assert!(within(SOON, unnumbered).is_some(), "{}\n{}", node.state(), fleet.log(1));
    assert!(within(PATIENCE, || fleet.reaches(1, 2)).is_some(), "{}", fleet.log(1));
    // The log names the missing way, and would name the next one, too. Our route is removed, because it would lead
    // nowhere.
    node.ip("route del 192.0.2.2/32");
    let none = || {
        fleet.log(1).contains(
            "no route to 10.244.2.0/24 of node n2: this machine has no route to the node's IPv4 address",
        )
    };
    assert!(within(PATIENCE, none).is_some(), "{}", fleet.log(1));
}
