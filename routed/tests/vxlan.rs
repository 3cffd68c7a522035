//! The settings of `[routing.vxlan]`, in the kernel and on the wire.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::time::Duration;

use crate::fleet::{Fleet, Underlay};
use crate::lab::{Node, PATIENCE, within};
use ferrule_model::IfName;
use ferrule_netlink::{Netlink, Tunnels};
use nix::sys::signal::Signal;

/// Promised: what someone else changes is back within this time.
const REPAIR: Duration = Duration::from_secs(1);

const ALL: &str = "[routing.vxlan]\ndevice = \"tunnel.7\"\nvni = 4097\nport = 4789\ngbp = true\n\
                   checksum_offload = false\n";

fn details(node: &Node, device: &str) -> String {
    let output = node.command("ip", &format!("-d link show {device}"));
    String::from_utf8(output.stdout).unwrap()
}

fn offloads(node: &Node, device: &str) -> bool {
    let name = IfName::new(device).unwrap();
    Netlink::open_in(node.netns()).unwrap().tx_checksum(&name).unwrap()
}

#[test]
fn every_setting_of_the_device_is_in_the_kernel_and_what_the_old_ones_made_is_gone() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let before = details(&node, "ferrule.1");
    for expected in ["vxlan id 1 local 192.0.2.1 dev eth0", "dstport 8472", "nolearning", "mtu 1450"] {
        assert!(before.contains(expected), "{expected} is not in\n{before}");
    }
    assert!(!before.contains("gbp") && offloads(&node, "ferrule.1"));
    assert!(daemon.signal(Signal::SIGTERM).success());

    node.configure_routing("mtu = 1400\n", ALL);
    let daemon = node.start();
    daemon.wait_until_ready();
    let now = details(&node, "tunnel.7");
    for expected in
        ["vxlan id 4097 local 192.0.2.1 dev eth0", "dstport 4789", "nolearning", "gbp", "mtu 1400"]
    {
        assert!(now.contains(expected), "{expected} is not in\n{now}");
    }
    assert!(!offloads(&node, "tunnel.7"), "{}", daemon.log());
    assert!(node.ip("route show 10.244.2.0/24").contains("tunnel.7"));
}

#[test]
fn a_device_whose_settings_someone_changes_is_right_within_a_second() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let right = node.state();
    node.ip("link set ferrule.1 type vxlan learning");
    let is_right = || node.state() == right && details(&node, "ferrule.1").contains("nolearning");
    assert!(within(REPAIR, is_right).is_some(), "{}\n{}", node.state(), daemon.log());
    // Another device of the same name, which is ours by its VNI.
    let replace = || {
        node.command("ip", "link del ferrule.1");
        // The daemon may have been faster.
        let add = "link add ferrule.1 type vxlan id 1 dstport 8472 gbp local 192.0.2.1 dev eth0";
        node.command("ip", add).status.success()
    };
    assert!(within(PATIENCE, replace).is_some(), "{}", daemon.log());
    assert!(within(REPAIR, is_right).is_some(), "{}\n{}", node.state(), daemon.log());
}

#[test]
fn checksums_are_the_operators_unless_they_are_configured() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let name = IfName::new("ferrule.1").unwrap();
    let set = |on| Netlink::open_in(node.netns()).unwrap().set_tx_checksum(&name, on).unwrap();
    set(false);
    node.ip("link set ferrule.1 mtu 1300");
    assert!(within(REPAIR, || details(&node, "ferrule.1").contains("mtu 1450")).is_some());
    assert!(!offloads(&node, "ferrule.1"), "a pass that compares everything has left it");
    assert!(daemon.signal(Signal::SIGTERM).success());
    for on in [true, false] {
        node.configure(&format!("[routing.vxlan]\nchecksum_offload = {on}\n"));
        let daemon = node.start();
        daemon.wait_until_ready();
        assert_eq!(offloads(&node, "ferrule.1"), on);
        set(!on);
        node.ip("link set ferrule.1 mtu 1300");
        assert!(within(PATIENCE, || offloads(&node, "ferrule.1") == on).is_some(), "{}", daemon.log());
        assert!(daemon.signal(Signal::SIGTERM).success());
    }
}

/// Pods reach each other with every possible setting, over each underlay.
#[test]
fn pods_reach_each_other_with_every_setting_and_over_ipv6() {
    for (underlay, overhead) in [(Underlay::Both, 50), (Underlay::V6, 70)] {
        let mut fleet = Fleet::new(2, "vxlan", underlay);
        fleet.nodes.iter().for_each(|node| node.configure(ALL));
        fleet.start();
        fleet.wait_until_joined();
        let mtu = format!("mtu {}", 1500 - overhead);
        assert!(details(&fleet.nodes[0], "tunnel.7").contains(&mtu), "{}", fleet.log(1));
    }
}
