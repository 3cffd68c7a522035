//! The kernel refuses a tunnel's device, or links are too small for it. What does not need the device goes on, and the
//! daemon says what is wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use crate::lab::{Daemon, Node, PATIENCE, within};
use ferrule_config::NodeFile;

const ADDRESS: &str = "127.0.0.1:9479";

/// One node is on the segment, and one is behind a router.
const NODES: &str = "[[node]]\nname = \"n1\"\naddress = \"192.0.2.1\"\npod_cidrs = [\"10.244.1.0/24\"]\n\
                     [[node]]\nname = \"n2\"\naddress = \"192.0.2.2\"\npod_cidrs = [\"10.244.2.0/24\"]\n\
                     [[node]]\nname = \"n3\"\naddress = \"198.51.100.3\"\npod_cidrs = [\"10.244.3.0/24\"]\n";

fn get(node: &Node, page: &str) -> Option<String> {
    node.inside(|| {
        let mut stream = TcpStream::connect(ADDRESS).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {page} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}

fn says(node: &Node, daemon: &Daemon, page: &str, texts: &[&str]) {
    let all = || get(node, page).is_some_and(|said| texts.iter().all(|text| said.contains(text)));
    assert!(within(PATIENCE, all).is_some(), "{texts:?}: {:?}\n{}", get(node, page), daemon.log());
}

fn node_file(node: &Node) -> Option<NodeFile> {
    NodeFile::load(&node.path("run/node.json")).ok()
}

fn has_route(node: &Node, number: u8) -> bool {
    !node.ip(&format!("route show 10.244.{number}.0/24")).is_empty()
}

#[test]
fn a_port_that_is_taken_stops_only_what_needs_it() {
    let node = Node::new("auto");
    node.configure(&format!("[metrics]\nrouted = \"{ADDRESS}\"\n"));
    node.write_nodes_text(NODES);
    let taken = node.inside(|| UdpSocket::bind("0.0.0.0:8472").unwrap());
    let daemon = node.start();
    let own = format!("process {} (", std::process::id());
    says(&node, &daemon, "/readyz", &["503", "EADDRINUSE", &own, "has UDP port 8472"]);
    says(&node, &daemon, "/healthz", &["200"]);
    assert!(
        within(PATIENCE, || has_route(&node, 2) && node_file(&node).is_some()).is_some(),
        "{}",
        daemon.log()
    );
    assert!(!has_route(&node, 3));
    let log = daemon.log();
    assert!(log.contains("no route to 10.244.3.0/24 of node n3: the tunnel's device is refused"), "{log}");
    assert!(!log.contains("nothing is changed"), "{log}");

    // Nodes go and come, and others break things.
    let second = NODES.replace("n2", "n4").replace("10.244.2.", "10.244.4.");
    node.write_nodes_text(&second);
    assert!(within(PATIENCE, || has_route(&node, 4) && !has_route(&node, 2)).is_some(), "{}", daemon.log());
    node.ip("route del 10.244.4.0/24");
    assert!(within(Duration::from_secs(1), || has_route(&node, 4)).is_some(), "{}", daemon.log());

    drop(taken);
    daemon.wait_until_ready();
    assert!(has_route(&node, 3), "{}", daemon.log());
    says(&node, &daemon, "/readyz", &["200"]);
}

#[test]
fn another_vxlan_device_with_the_port_is_named() {
    let node = Node::new("vxlan");
    node.configure(&format!("[metrics]\nrouted = \"{ADDRESS}\"\n"));
    node.write_nodes_text(NODES);
    node.ip("link add theirs type vxlan external dstport 8472");
    node.ip("link set theirs up");
    let daemon = node.start();
    says(&node, &daemon, "/readyz", &["503", "the VXLAN device theirs has UDP port 8472"]);
    node.ip("link del theirs");
    daemon.wait_until_ready();
    assert!(has_route(&node, 3));
}

#[test]
fn links_too_small_for_ipv6_in_the_tunnel_carry_ipv4() {
    let node = Node::new("vxlan");
    node.ip("link set eth0 mtu 1300");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let file = node_file(&node).unwrap();
    assert_eq!((file.mtu, file.pod_cidrs.len()), (1250, 1), "{file:?}");
    assert!(node.ip("link show ferrule.1").contains("mtu 1250") && has_route(&node, 2));
    let log = daemon.log();
    assert!(log.contains("leave pods 1250 bytes, and IPv6 needs 1280"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    node.ip("link set eth0 mtu 1500");
    let is_whole = || node_file(&node).is_some_and(|file| (file.mtu, file.pod_cidrs.len()) == (1450, 2));
    assert!(within(PATIENCE, is_whole).is_some(), "{}", daemon.log());
    let has_v6 = || !node.ip("-6 route show fd00:10:244:2::/64").is_empty();
    assert!(within(PATIENCE, has_v6).is_some(), "{}", daemon.log());
}

/// If the outer packets are IPv6 alone, pods of both families keep IPv4. Pods that have IPv6 alone get nothing, and the
/// daemon says so.
#[test]
fn an_ipv6_underlay_too_small_for_ipv6_in_the_tunnel_carries_ipv4() {
    let node = Node::bare(1, "vxlan");
    node.configure(&format!("[metrics]\nrouted = \"{ADDRESS}\"\n"));
    node.ip("link add eth0 mtu 1340 type veth peer name wire");
    node.ip("addr add 2001:db8::1/64 dev eth0 nodad");
    node.ip("link set wire up");
    node.ip("link set eth0 up");
    let entry = |number: u8, cidrs: &str| {
        format!("[[node]]\nname = \"n{number}\"\naddress6 = \"2001:db8::{number}\"\npod_cidrs = [{cidrs}]\n")
    };
    let both =
        |number: u8| entry(number, &format!("\"10.244.{number}.0/24\", \"fd00:10:244:{number}::/64\""));
    node.write_nodes_text(&(both(1) + &both(2)));
    let daemon = node.start();
    daemon.wait_until_ready();
    let file = node_file(&node).unwrap();
    assert_eq!((file.mtu, file.pod_cidrs.len()), (1270, 1), "{file:?}");
    assert!(node.ip("link show ferrule.1").contains("mtu 1270") && has_route(&node, 2));
    assert_eq!(node.ip("-6 route show fd00:10:244:2::/64"), "");
    daemon.wait_for_log("leave pods 1270 bytes, and IPv6 needs 1280: pods have IPv4 only; give these links an MTU of 1350 or more");
    // These pods have no IPv4.
    let v6 = |number: u8| entry(number, &format!("\"fd00:10:244:{number}::/64\""));
    node.write_nodes_text(&(v6(1) + &v6(2)));
    says(
        &node,
        &daemon,
        "/readyz",
        &["503", "leave pods 1270 bytes, and IPv6, the only family that they have, needs 1280"],
    );
    node.ip("link set eth0 mtu 1350");
    says(&node, &daemon, "/readyz", &["200"]);
    let has_v6 = || !node.ip("-6 route show fd00:10:244:2::/64").is_empty();
    assert!(within(PATIENCE, has_v6).is_some(), "{}", daemon.log());
    let is_whole = || node_file(&node).is_some_and(|file| (file.mtu, file.pod_cidrs.len()) == (1280, 1));
    assert!(within(PATIENCE, is_whole).is_some(), "{:?}\n{}", node_file(&node), daemon.log());
}

#[test]
fn a_configured_mtu_above_the_links_is_the_links_with_a_warning() {
    for (backend, found) in [("vxlan", 1450), ("native", 1500)] {
        let node = Node::new(backend);
        node.configure_routing("mtu = 9000\n", "");
        node.write_nodes(&[1, 2]);
        let daemon = node.start();
        daemon.wait_until_ready();
        assert_eq!(node_file(&node).map(|file| file.mtu), Some(found));
        daemon.wait_for_log(&format!(
            "WARN routed::pass::worker: [routing] mtu = 9000 is more than the {found} bytes"
        ));
    }
}

#[test]
fn native_on_a_small_link_is_ipv4_with_a_warning() {
    let node = Node::new("native");
    node.ip("link set eth0 mtu 1200");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    assert_eq!(node_file(&node).map(|file| (file.mtu, file.pod_cidrs.len())), Some((1200, 1)));
    daemon.wait_for_log("leave pods 1200 bytes, and IPv6 needs 1280: pods have IPv4 only");
}

/// Another link has the node's address, and is off.
#[test]
fn the_uplink_is_the_link_that_works() {
    let node = Node::new("native");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let by = |link: &str| node.ip("route show 10.244.2.0/24").contains(&format!("dev {link}"));
    assert!(by("eth0"));
    node.ip("link add spare type veth peer name spare-wire");
    node.ip("addr add 192.0.2.1/24 dev spare");
    node.write_nodes(&[1, 2, 3]);
    let has_third = || has_route(&node, 3);
    assert!(within(PATIENCE, has_third).is_some() && by("eth0"), "{}", daemon.log());
    drop(daemon);
    let daemon = node.start();
    daemon.wait_until_ready();
    assert!(by("eth0") && has_third(), "{}", daemon.log());
    // Now the other link is the one that works.
    node.ip("link set spare-wire up");
    node.ip("link set spare up");
    node.ip("link set eth0 down");
    assert!(within(PATIENCE, || by("spare")).is_some(), "{}", daemon.log());
}

/// A routing protocol announces the node's address by each of its links.
#[test]
fn an_address_on_lo_has_the_mtu_of_the_links_that_packets_leave_by() {
    for (backend, least) in [("vxlan", 1350), ("native", 1400)] {
        let node = Node::bare(1, backend);
        for (link, mtu, number) in [("up1", 1400, 1), ("up2", 9000, 2)] {
            node.ip(&format!("link add {link} mtu {mtu} type veth peer name {link}-wire"));
            node.ip(&format!("link set {link}-wire up"));
            node.ip(&format!("link set {link} up"));
            node.ip(&format!("addr add 198.51.100.{number}/32 peer 198.51.100.10{number} dev {link}"));
        }
        node.ip("addr add 192.0.2.1/32 dev lo");
        let paths = "nexthop via 198.51.100.101 dev up1 nexthop via 198.51.100.102 dev up2";
        node.ip(&format!("route add 192.0.2.0/24 {paths}"));
        let others = (1..30).map(|number| {
            format!("[[node]]\nname = \"n{number}\"\naddress = \"192.0.2.{number}\"\npod_cidrs = [\"10.244.{number}.0/24\"]\n")
        });
        node.write_nodes_text(&others.collect::<String>());
        let daemon = node.start();
        let has = |mtu: u32| move |file: NodeFile| file.mtu == mtu;
        let is = |mtu: u32| within(PATIENCE, || node_file(&node).is_some_and(has(mtu))).is_some();
        assert!(is(least), "{backend}: {:?}\n{}", node_file(&node), daemon.log());
        // A change of a link that is not the uplink by its address counts at once, too.
        node.ip("link set up1 mtu 1390");
        let follows = || node_file(&node).is_some_and(has(least - 10));
        assert!(within(Duration::from_secs(10), follows).is_some(), "{}", daemon.log());
    }
}

/// Both links have the address, and both are up.
#[test]
fn of_two_links_that_work_the_uplink_is_the_one_with_the_route_to_the_others() {
    let node = Node::bare(1, "native");
    for link in ["first", "second"] {
        node.ip(&format!("link add {link} type veth peer name {link}-wire"));
        node.ip(&format!("link set {link}-wire up"));
        node.ip(&format!("link set {link} up"));
        node.ip(&format!("addr add 192.0.2.1/24 dev {link} noprefixroute"));
    }
    node.ip("route add 192.0.2.0/24 dev first");
    let by = |link: &str| node.ip("route show 10.244.2.0/24").contains(&format!("dev {link}"));
    node.write_nodes(&[1, 2]);
    for link in ["second", "first"] {
        node.ip(&format!("route replace 192.0.2.0/24 dev {link}"));
        let daemon = node.start();
        assert!(within(PATIENCE, || by(link)).is_some(), "{link}\n{}", daemon.log());
    }
}

#[test]
fn a_pod_cidr_that_takes_what_is_the_machines_is_left_out_by_name() {
    let node = Node::new("native");
    node.ip("addr add 198.51.100.9/24 dev eth0");
    node.ip("route add default via 198.51.100.1");
    node.ip("link add docker0 type veth peer name docker0-wire");
    node.ip("addr add 172.17.0.1/16 dev docker0");
    let entry = |number: u8, cidr: &str| {
        format!("[[node]]\nname = \"n{number}\"\naddress = \"192.0.2.{number}\"\npod_cidrs = [\"{cidr}\"]\n")
    };
    let clashing = [(3, "192.0.2.64/26"), (4, "198.51.100.0/29"), (5, "172.17.0.0/24")];
    let text = [(1, "10.244.1.0/24"), (2, "10.244.2.0/24")].iter().chain(&clashing);
    node.write_nodes_text(&text.map(|(number, cidr)| entry(*number, cidr)).collect::<String>());
    let daemon = node.start();
    daemon.wait_until_ready();
    assert!(has_route(&node, 2));
    for (number, reason) in [
        (3, "overlaps 192.0.2.0/24, the network of this machine's link"),
        (4, "holds 198.51.100.1, the gateway"),
        (5, "holds 172.17.0.1, an address of this machine"),
    ] {
        let cidr = clashing[number - 3].1;
        daemon.wait_for_log(&format!("no route to {cidr} of node n{number}: its pod CIDR {reason}"));
        assert_eq!(node.ip(&format!("route show {cidr}")), "");
    }
    drop(daemon);

    // The CIDR contains this node's own address. Nothing of its network is cut off.
    node.write_nodes_text(&(entry(1, "192.0.2.64/26") + &entry(2, "10.244.2.0/24")));
    let daemon = node.start();
    daemon.wait_for_log("no route to 192.0.2.64/26 of node n1: its pod CIDR overlaps 192.0.2.0/24");
    assert!(within(PATIENCE, || has_route(&node, 2)).is_some(), "{}", daemon.log());
    assert_eq!(node.ip("route show 192.0.2.64/26"), "");
}
