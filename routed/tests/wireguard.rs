//! The backend `wireguard` on a kernel that has it: three nodes, pods that talk, and everything that can happen to keys
//! and peers. The tests run only if asked for, because not every kernel has WireGuard: `make test-vm` runs them in a
//! virtual machine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod fleet;
mod lab;
#[path = "etcd/server.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod server;
#[path = "unit/systemd.rs"]
mod systemd;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fleet::{Fleet, Underlay, finish};
use lab::{Node, within};
use server::Etcd;
use systemd::Systemd;

/// Time between two echoes of a stream.
const STEP: Duration = Duration::from_millis(100);

/// Promised: what someone does to a peer is found within this time. The rest is for a slow virtual machine.
const REPAIR: Duration = Duration::from_secs(30 + 15);

const WIREGUARD: &str = "accept = \"wireguard\"\n";
const VXLAN: &str = "accept = \"vxlan\"\n";

/// The part of `ferrule.toml` that tells where the key is.
fn settings(fleet: &Fleet, number: usize) -> String {
    let file = fleet.nodes[number - 1].path("state/wireguard.key");
    format!("[routing.wireguard]\nkey_file = \"{}\"\n", file.display())
}

/// Does what the operator does: writes the keys of all nodes into the nodes file of each.
fn spread_keys(fleet: &Fleet, underlay: Underlay) {
    let keys: Vec<_> = fleet.nodes.iter().map(|node| node.wireguard_key()).collect();
    fleet.write_nodes(underlay, |number| format!("wireguard_key = \"{}\"\n", keys[usize::from(number) - 1]));
}

/// Three nodes. Each knows the keys of all.
fn fleet(underlay: Underlay) -> Fleet {
    let mut fleet = Fleet::new(3, "wireguard", underlay);
    for number in 1..=3 {
        fleet.nodes[number - 1].configure(&settings(&fleet, number));
    }
    spread_keys(&fleet, underlay);
    fleet.start();
    fleet.wait_until_joined();
    fleet
}

/// Restarts every node in turn with this configuration.
fn step(fleet: &mut Fleet, backend: &'static str, routing: &str) {
    step_with(fleet, backend, routing, "");
}

/// The same with further tables.
fn step_with(fleet: &mut Fleet, backend: &'static str, routing: &str, more: &str) {
    for number in 1..=3 {
        let more = settings(fleet, number) + more;
        fleet.restart_with(number, backend, routing, &more);
    }
}

/// etcd on the first node, with a lease for each of the three, and the part of the configuration about it.
fn with_etcd(fleet: &Fleet) -> (Etcd, String) {
    let mut etcd = Etcd::new(fleet.nodes[0].directory.path(), 2379).at("192.0.2.1");
    fleet.nodes[0].inside(|| {
        etcd.start();
        etcd.put_config(r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48"}"#);
        for number in 1..=3 {
            let name = format!("/coreos.com/network/subnets/10.244.{number}.0-24&fd00:10:244:{number}::-64");
            etcd.ctl(&["put", &name, &format!("{{\"PublicIP\":\"192.0.2.{number}\"}}")]);
        }
    });
    for node in &fleet.nodes {
        // The nodes find their own addresses by this route.
        node.ip("route add default via 192.0.2.254");
        node.ip("-6 route add default via 2001:db8::ff");
    }
    let more = format!("[routing.etcd]\nendpoints = [\"{}\"]\n", etcd.url());
    (etcd, more)
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn pods_talk_in_both_families_over_either_and_nothing_of_it_can_be_read_on_the_wire() {
    for (underlay, mtu) in [(Underlay::Both, "mtu 1440"), (Underlay::V6, "mtu 1420")] {
        let fleet = fleet(underlay);
        let node = &fleet.nodes[0];
        assert!(node.ip("link show ferrule-wg").contains(mtu), "{}", node.ip("link show ferrule-wg"));
        for route in ["10.244.2.0/24 dev ferrule-wg", "10.244.3.0/24 dev ferrule-wg"] {
            assert!(node.ip("route show proto 70").contains(route), "{}", node.ip("route"));
        }
        assert_eq!(node.run("wg", "show ferrule-wg peers").lines().count(), 2);
        // There are as many handshakes as peers, so all of it went through the device.
        let handshakes = node.run("wg", "show ferrule-wg latest-handshakes");
        assert!(handshakes.lines().all(|line| !line.ends_with("\t0")), "{handshakes}");
        let mode = fs::metadata(node.path("state/wireguard.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(node.ip("-d link show ferrule-wg").contains("alias ferrule"));
        assert!(!node.ip("link show type vxlan").contains("ferrule"));
    }
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn a_restart_keeps_the_key_and_loses_no_echo() {
    let mut fleet = fleet(Underlay::Both);
    let keys: Vec<_> = fleet.nodes.iter().map(|node| node.wireguard_key()).collect();
    let state = fleet.nodes[0].run("wg", "showconf ferrule-wg");
    let streams = fleet.streams_every(STEP);
    step(&mut fleet, "wireguard", "");
    let (sent, lost) = finish(streams);
    println!("{lost} of {sent} echoes lost in three restarts");
    assert_eq!(lost, 0, "of {sent}");
    assert_eq!(fleet.nodes.iter().map(|node| node.wireguard_key()).collect::<Vec<_>>(), keys);
    assert_eq!(fleet.nodes[0].run("wg", "showconf ferrule-wg"), state);
    assert!(!fleet.log(3).contains("applied in"), "{}", fleet.log(3));
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn a_node_with_a_new_key_is_reached_as_soon_as_the_others_know_it() {
    let mut fleet = fleet(Underlay::Both);
    let old = fleet.nodes[1].wireguard_key();
    fs::remove_file(fleet.nodes[1].path("state/wireguard.key")).unwrap();
    let more = settings(&fleet, 2);
    fleet.restart_with(2, "wireguard", "", &more);
    let new = fleet.nodes[1].wireguard_key();
    assert_ne!(old, new);
    assert!(fleet.log(2).contains(&format!("write wireguard_key = \"{new}\"")), "{}", fleet.log(2));
    assert!(!fleet.reaches(1, 2) && fleet.reaches(1, 3), "the others go on");
    spread_keys(&fleet, Underlay::Both);
    fleet.wait_until_joined();
    let peers = fleet.nodes[0].run("wg", "show ferrule-wg peers");
    assert!(peers.contains(&new) && !peers.contains(&old), "{peers}");
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn whatever_someone_does_to_device_and_peers_is_put_right() {
    let fleet = fleet(Underlay::Both);
    let node = &fleet.nodes[0];
    let state = || {
        // The kernel lists peers in its own order.
        let text = String::from_utf8(node.command("wg", "showconf ferrule-wg").stdout).unwrap();
        let mut peers: Vec<_> = text.split("\n\n").map(|part| part.trim().to_owned()).collect();
        peers.sort();
        peers.join("\n") + &node.ip("route show proto 70")
    };
    let right = state();
    let peer = fleet.nodes[1].wireguard_key();
    for (program, arguments) in [
        ("wg", format!("set ferrule-wg peer {peer} remove")),
        ("wg", format!("set ferrule-wg peer {peer} allowed-ips 10.244.99.0/24")),
        ("wg", "set ferrule-wg listen-port 1234".to_owned()),
        ("ip", "link set ferrule-wg down".to_owned()),
        ("ip", "link set ferrule-wg mtu 1300".to_owned()),
        ("ip", "route del 10.244.2.0/24".to_owned()),
        ("ip", "link del ferrule-wg".to_owned()),
    ] {
        node.run(program, &arguments);
        let took = within(REPAIR, || state() == right);
        assert!(took.is_some(), "after {program} {arguments}:\n{}\n{right}\n{}", state(), fleet.log(1));
        println!("{program} {arguments}: right again after {took:?}");
    }
    fleet.wait_until_joined();
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn a_cluster_moves_from_vxlan_to_wireguard_and_back_without_a_lost_echo() {
    let mut fleet = Fleet::new(3, "vxlan", Underlay::Both);
    fleet.start();
    fleet.wait_until_joined();
    let streams = fleet.streams_every(STEP);
    step(&mut fleet, "vxlan", WIREGUARD);
    spread_keys(&fleet, Underlay::Both);
    let known = |fleet: &Fleet| {
        fleet.nodes.iter().all(|node| node.run("wg", "show ferrule-wg peers").lines().count() == 2)
    };
    assert!(within(lab::PATIENCE, || known(&fleet)).is_some(), "{}", fleet.log(1));
    step(&mut fleet, "wireguard", VXLAN);
    step(&mut fleet, "wireguard", "");
    for node in &fleet.nodes {
        assert!(!node.ip("-d link show").contains("vxlan"));
        assert!(node.ip("nexthop show").is_empty(), "{}", node.ip("nexthop show"));
    }
    step(&mut fleet, "wireguard", VXLAN);
    step(&mut fleet, "vxlan", WIREGUARD);
    step(&mut fleet, "vxlan", "");
    let (sent, lost) = finish(streams);
    println!("{lost} of {sent} echoes lost in eighteen restarts");
    assert_eq!(lost, 0, "of {sent}");
    for node in &fleet.nodes {
        assert!(!node.command("ip", "link show ferrule-wg").status.success());
        assert!(!node.ip("route show table all").contains("ferrule-wg"));
    }
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn with_etcd_keys_travel_by_themselves_and_the_cluster_moves_to_vxlan_without_a_lost_echo() {
    const SOURCE: &str = "source = \"etcd\"\n";
    let mut fleet = Fleet::new(3, "wireguard", Underlay::Both);
    let (_etcd, more) = with_etcd(&fleet);
    for (node, number) in fleet.nodes.iter().zip(1..) {
        node.configure_routing(SOURCE, &(settings(&fleet, number) + &more));
    }
    fleet.start();
    fleet.wait_until_joined();

    let old = fleet.nodes[1].wireguard_key();
    fs::remove_file(fleet.nodes[1].path("state/wireguard.key")).unwrap();
    let tables = settings(&fleet, 2) + &more;
    fleet.restart_with(2, "wireguard", SOURCE, &tables);
    fleet.wait_until_joined();
    let peers = fleet.nodes[0].run("wg", "show ferrule-wg peers");
    assert!(peers.contains(&fleet.nodes[1].wireguard_key()) && !peers.contains(&old), "{peers}");

    let streams = fleet.streams_every(STEP);
    step_with(&mut fleet, "wireguard", &format!("{SOURCE}{VXLAN}"), &more);
    step_with(&mut fleet, "vxlan", &format!("{SOURCE}{WIREGUARD}"), &more);
    step_with(&mut fleet, "vxlan", SOURCE, &more);
    let (sent, lost) = finish(streams);
    println!("{lost} of {sent} echoes lost in nine restarts with etcd");
    assert_eq!(lost, 0, "of {sent}");
    assert!(!fleet.nodes[0].command("ip", "link show ferrule-wg").status.success());
}

/// The whole unit: its filter of system calls, its one capability, its directory for the key.
#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn under_systemd_with_the_whole_unit_the_key_is_kept_and_the_device_is_set_up() {
    let other = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let node = Node::new("wireguard");
    node.configure_routing("accept_forward = true\n", "");
    let entry = |number: u8, key: &str| {
        format!(
            "[[node]]\nname = \"n{number}\"\naddress = \"192.0.2.{number}\"\nwireguard_key = \"{key}\"\n\
             pod_cidrs = [\"10.244.{number}.0/24\"]\n"
        )
    };
    // The node's own key is not known yet, so any key stands there.
    node.write_nodes_text(&(entry(1, &other.replace('w', "g")) + &entry(2, other)));
    let systemd = Systemd::start(&node);
    assert_eq!(node.run("wg", "show ferrule-wg peers").trim(), other, "{}", systemd.log());
    assert!(node.ip("route show proto 70").contains("10.244.2.0/24 dev ferrule-wg"), "{}", node.ip("route"));
    let told = systemd.command(&node.path("routed").display().to_string(), "wireguard-key");
    let own = String::from_utf8(told.stdout).unwrap();
    assert_eq!(node.run("wg", "show ferrule-wg public-key"), own);
    let file = systemd.command("stat", "--format %a:%U /var/lib/ferrule/wireguard.key");
    assert_eq!(String::from_utf8_lossy(&file.stdout).trim(), "600:ferrule");
    node.write_nodes_text(&(entry(1, own.trim()) + &entry(2, other)));
    node.ip("link del ferrule-wg");
    let is_back = || node.command("wg", "show ferrule-wg peers").stdout.starts_with(other.as_bytes());
    assert!(within(lab::PATIENCE, is_back).is_some(), "{}", systemd.log());
    assert_eq!(
        (systemd.property("ActiveState"), systemd.property("NRestarts")),
        ("active".into(), "0".into())
    );
}

/// In etcd the nodes find each other's addresses on the chosen link, and there is no way from one segment to the other.
#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn encrypted_packets_go_to_the_addresses_of_the_chosen_link() {
    let mut fleet = Fleet::new(3, "wireguard", Underlay::Both);
    fleet
        .second_segment(|number| vec![format!("198.51.100.{number}/24"), format!("2001:db8:b::{number}/64")]);
    fleet.had_subnets();
    let mut etcd = Etcd::new(fleet.nodes[0].directory.path(), 2379).at("192.0.2.1");
    fleet.nodes[0].inside(|| {
        etcd.start();
        etcd.put_config(r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48"}"#);
    });
    let more = format!("[routing.etcd]\nendpoints = [\"{}\"]\n", etcd.url());
    for (node, number) in fleet.nodes.iter().zip(1..) {
        node.configure_routing("source = \"etcd\"\n", &(settings(&fleet, number) + &more));
        node.set_interface("198.51.100.0/24");
    }
    fleet.start();
    fleet.wait_until_joined();
    let endpoints = fleet.nodes[0].run("wg", "show ferrule-wg endpoints");
    assert_eq!(endpoints.matches("\t198.51.100.").count(), 2, "{endpoints}");
}

/// The same as `refusals.rs` shows for VXLAN: what does not need the device goes on, and the device comes once the port
/// is free.
#[test]
#[ignore = "needs a kernel with WireGuard: make test-vm"]
fn a_port_that_is_taken_is_named_with_who_has_it_and_taken_once_it_is_free() {
    let mut node = Node::new("wireguard");
    node.set_backend("wireguard");
    let key_file = node.path("state/wireguard.key");
    let more = format!("[routing.wireguard]\nkey_file = \"{}\"\n", key_file.display());
    node.configure(&more);
    let keys = [node.wireguard_key(), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned()];
    let entry = |(number, key): (usize, &String)| {
        format!(
            "[[node]]\nname = \"n{number}\"\naddress = \"192.0.2.{number}\"\npod_cidrs = [\"10.244.{number}.0/24\"]\n\
             wireguard_key = \"{key}\"\n"
        )
    };
    node.write_nodes_text(&(1..).zip(&keys).map(entry).collect::<String>());
    let taken = node.inside(|| std::net::UdpSocket::bind("0.0.0.0:51820").unwrap());
    let daemon = node.start();
    daemon.wait_for_log("has UDP port 51820");
    let own = format!("process {} (", std::process::id());
    assert!(daemon.log().contains(&own), "{}", daemon.log());
    // The route that keeps pods' packets in is there already, and the node's own subnet is refused nowhere else.
    let has_own = || node.ip("route show table main type unreachable").contains("10.244.1.0/24");
    assert!(within(REPAIR, has_own).is_some(), "{}", daemon.log());
    assert_eq!(node.ip("route show 10.244.2.0/24"), "", "{}", daemon.log());
    drop(taken);
    daemon.wait_until_ready();
    assert!(node.ip("route show 10.244.2.0/24").contains("dev ferrule-wg"), "{}", daemon.log());
}
