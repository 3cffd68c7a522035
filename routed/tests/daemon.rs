//! The program itself on the real kernel, in a namespace of its own: its whole life, and the repair of whatever is
//! broken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::time::Duration;

use crate::lab::{Node, PATIENCE, within};
use ferrule_config::NodeFile;
use nix::sys::signal::Signal;

/// Promised: what someone else deletes is back within this time.
const REPAIR: Duration = Duration::from_secs(1);

fn life(backend: &'static str) {
    let node = Node::new(backend);
    let empty = node.state();

    let daemon = node.start();
    daemon.wait_for_log("nodes.toml: it does not exist");
    // What pods must not send does not depend on the nodes.
    daemon.wait_for_log("pods on bridges are guarded");
    let guarded = node.state();
    let listed = |family| node.run("nft", &format!("--stateless list table {family} ferrule-guard"));
    let guard = ["inet", "bridge"].map(listed).concat();
    let of_the_guard = |line: &str| guard.lines().any(|of_the_guard| of_the_guard.trim() == line);
    assert!(guarded.lines().all(of_the_guard), "nothing is written before the first snapshot: {guarded}");
    assert!(!node.path("run/node.json").exists());

    node.write_nodes(&[2, 3]);
    daemon.wait_for_log("has no node called n1");
    assert_eq!(node.state(), guarded, "nothing is written before this node is known");

    node.write_nodes(&[1, 2, 3]);
    daemon.wait_until_ready();
    let three = node.state();
    assert!(three.contains("10.244.3.0/24") && three.contains("fd00:10:244:3::/64"), "{three}");
    let file = NodeFile::load(&node.path("run/node.json")).unwrap();
    assert_eq!(file.mtu, if node.is_tunnel() { 1450 } else { 1500 });

    node.write_nodes_text("[[node]]\nname = \"n1\"\naddress = 7\n");
    daemon.wait_for_log("nodes.toml:3:11: ");
    assert_eq!(node.state(), three, "a broken file changes nothing");

    node.write_nodes(&[1, 3, 4]);
    let has = |number: u8| {
        let keeps_source = node.keeps_source(&format!("10.244.{number}.1"));
        keeps_source && node.state().contains(&format!("10.244.{number}.0/24"))
    };
    let is_without = |number: u8| {
        let keeps_source = node.keeps_source(&format!("10.244.{number}.1"));
        !keeps_source && !node.state().contains(&format!("10.244.{number}.0"))
    };
    assert!(within(PATIENCE, || has(4) && is_without(2)).is_some(), "{}", daemon.log());
    node.write_nodes(&[1, 2, 3]);
    assert!(within(PATIENCE, || has(2) && is_without(4)).is_some(), "{}", daemon.log());

    let before = node.state();
    assert!(daemon.signal(Signal::SIGTERM).success());
    assert_eq!(node.state(), before, "stopping leaves everything in place");

    restart(&node);

    let output = node.cleanup();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("removed from the kernel: routes -6"),
        "{output:?}"
    );
    assert_eq!(node.state(), empty, "cleanup leaves nothing");
    assert!(!node.path("run/node.json").exists());
    assert!(node.cleanup().status.success(), "there is nothing to clean up any more, and that is no fault");
}

/// Starts a daemon that finds everything right, and kills it.
fn restart(node: &Node) {
    let before = node.state();
    let listener = node.listen();
    let daemon = node.start();
    daemon.wait_until_ready();
    assert_eq!(node.state(), before, "numbers of nexthop objects are kept");
    let log = daemon.log();
    assert!(!log.contains("applied in") && !log.contains("masquerading is set up"), "{log}");
    assert!(!daemon.signal(Signal::SIGKILL).success());
    let heard = listener.heard();
    let ours = |line: &&str| {
        ["70000", "proto 70", "ferrule.1", "10.244.", "fd00:"].iter().any(|mark| line.contains(mark))
    };
    assert_eq!(heard.lines().find(ours), None, "a restart touches nothing that is right");
}

#[test]
fn a_life_with_tunnels() {
    life("vxlan");
}

#[test]
fn a_life_with_native_routes() {
    life("native");
}

/// Breaks one thing after another by hand, and checks that the repair comes in time.
fn repair(backend: &'static str, breakages: &[&str]) {
    let node = Node::new(backend);
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    // The device's own link-local address comes a moment later, and is not ours.
    let right = node.state();
    for breakage in breakages {
        for command in breakage.split(';') {
            let (program, arguments) = command.trim().split_once(' ').unwrap();
            node.run(program, arguments);
        }
        let took = within(REPAIR, || node.state() == right);
        let now = node.state();
        assert!(took.is_some(), "after `{breakage}`:\n{now}\nand it was\n{right}\nlog:\n{}", daemon.log());
    }
    // One daemon made all repairs. It is still the one that was started, and it ends as it should.
    node.write_nodes(&[1, 2]);
    assert!(within(PATIENCE, || !node.state().contains("10.244.3.0")).is_some());
    assert!(daemon.signal(Signal::SIGTERM).success());
}

#[test]
fn with_tunnels_whatever_is_broken_is_right_within_a_second() {
    repair(
        "vxlan",
        &[
            "ip route del 10.244.2.0/24",
            "ip -6 route del fd00:10:244:2::/64",
            "ip route del unreachable 10.244.1.0/24",
            "ip route replace 10.244.2.0/24 via 192.0.2.99 proto static",
            "ip route add 10.99.0.0/24 via 192.0.2.9 proto 70",
            "ip nexthop flush proto 70",
            "ip neigh del 10.244.2.0 dev ferrule.1",
            "ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:01 dev ferrule.1 nud permanent",
            "bridge fdb add 02:00:00:00:00:02 dev ferrule.1 dst 192.0.2.77 self permanent",
            "ip neigh flush nud permanent dev ferrule.1",
            "ip addr del 10.244.1.0/32 dev ferrule.1",
            "ip addr add 10.77.0.1/32 dev ferrule.1",
            "ip link set ferrule.1 mtu 1300",
            "ip link set ferrule.1 address 02:00:00:00:00:03",
            "ip link set ferrule.1 down",
            "ip link del ferrule.1",
            "nft delete table inet ferrule",
            "nft flush chain inet ferrule postrouting",
            "nft add element inet ferrule keep_source4 { 203.0.113.0/24 }",
        ],
    );
}

#[test]
fn with_native_routes_whatever_is_broken_is_right_within_a_second() {
    repair(
        "native",
        &[
            "ip route del 10.244.2.0/24",
            "ip -6 route del fd00:10:244:2::/64",
            "ip route del unreachable 10.244.1.0/24",
            "ip nexthop flush proto 70",
            "ip link set eth0 down; ip link set eth0 up; ip addr add 2001:db8::1/64 dev eth0 nodad",
            "ip link set wire down; ip link set wire up",
            "ip addr del 192.0.2.1/24 dev eth0; ip addr add 192.0.2.1/24 dev eth0",
            "nft delete table inet ferrule",
        ],
    );
}

#[test]
fn the_underlays_mtu_and_address_are_followed() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let mtu = || NodeFile::load(&node.path("run/node.json")).map(|file| file.mtu).unwrap_or_default();
    node.ip("link set eth0 mtu 1400");
    assert!(within(REPAIR, || mtu() == 1350).is_some());
    assert!(node.ip("link show ferrule.1").contains("mtu 1350"));
    // Another link replaces the link and gets its address. The device goes with the old link.
    node.ip("link del eth0");
    node.ip("link add eth1 type veth peer name wire");
    node.ip("link set wire up");
    node.ip("addr add 192.0.2.1/24 dev eth1");
    node.ip("link set eth1 up");
    let follows = || node.state().contains("dev eth1") && node.state().contains("10.244.2.0/24");
    assert!(within(REPAIR, follows).is_some(), "{}\n{}", node.state(), daemon.log());
}

#[test]
fn a_foreign_link_with_our_name_is_left_alone_and_taken_over_once_it_is_gone() {
    let node = Node::new("vxlan");
    node.ip("link add ferrule.1 type bridge");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_for_log("the link ferrule.1 is not Ferrule's (it is a bridge device)");
    assert!(node.ip("-d link show ferrule.1").contains("bridge"));
    assert!(daemon.signal(Signal::SIGTERM).success());
    assert!(node.cleanup().status.success());
    assert!(node.ip("-d link show ferrule.1").contains("bridge"), "cleanup leaves it alone too");
    let daemon = node.start();
    daemon.wait_for_log("the link ferrule.1 is not Ferrule's (it is a bridge device)");
    node.ip("link del ferrule.1");
    daemon.wait_until_ready();
    assert!(node.state().contains("10.244.2.0/24"));
}

#[test]
fn another_backend_takes_over_without_a_gap_and_leaves_nothing_of_the_old_one() {
    let mut node = Node::new("native");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let native = node.state();
    assert!(daemon.signal(Signal::SIGTERM).success());

    let listener = node.listen();
    node.set_backend("vxlan");
    let daemon = node.start();
    daemon.wait_until_ready();
    let tunnels = node.state();
    assert!(!tunnels.contains("dev eth0 proto 70") && tunnels.contains("fd00:10:244:3::/64"), "{tunnels}");
    assert!(daemon.signal(Signal::SIGTERM).success());
    node.set_backend("native");
    let daemon = node.start();
    daemon.wait_until_ready();
    let heard = listener.heard();
    let is_loss = |line: &&str| line.starts_with("Deleted fd00:10:244:") && line.contains("::/64");
    let lost = heard.lines().find(is_loss);
    assert_eq!(lost, None, "routes are replaced, never deleted");
    let without_ids = |state: &str| {
        let words = state.split_whitespace().filter(|word| !word.starts_with("70000"));
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_ids(&node.state()), without_ids(&native), "{}", daemon.log());
    assert!(!node.command("ip", "link show ferrule.1").status.success());
}

#[test]
fn nodes_without_an_ipv4_address_tunnel_both_families_over_ipv6() {
    let node = Node::new("vxlan");
    let text = [1, 2].map(|number| {
        format!(
            "[[node]]\nname = \"n{number}\"\naddress6 = \"2001:db8::{number}\"\n\
             pod_cidrs = [\"10.244.{number}.0/24\", \"fd00:10:244:{number}::/64\"]\n"
        )
    });
    node.write_nodes_text(&text.concat());
    let daemon = node.start();
    daemon.wait_until_ready();
    let state = node.state();
    for expected in [
        "local 2001:db8::1",
        "mtu 1430",
        "dst 2001:db8::2 self permanent",
        "10.244.2.0/24",
        "fd00:10:244:2::/64",
    ] {
        assert!(state.contains(expected), "{expected} is not in\n{state}");
    }
    assert!(daemon.signal(Signal::SIGTERM).success());
}

#[test]
fn a_pods_route_is_the_plugins_and_survives_everything() {
    let node = Node::new("native");
    node.ip("link add fer0123456789ab type veth peer name pod");
    node.ip("link set pod up");
    node.ip("link set fer0123456789ab up");
    node.ip("route add 10.244.1.7/32 dev fer0123456789ab proto 70");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    node.ip("route add 10.244.1.8/32 dev fer0123456789ab proto 70");
    node.ip("route del 10.244.2.0/24");
    assert!(within(REPAIR, || node.state().contains("10.244.2.0/24")).is_some());
    let both = |state: String| state.contains("10.244.1.7") && state.contains("10.244.1.8");
    assert!(both(node.state()));
    assert!(daemon.signal(Signal::SIGTERM).success());
    assert!(node.cleanup().status.success());
    assert!(both(node.state()), "{}", node.state());
}

#[test]
fn sighup_makes_it_read_again_and_another_configuration_counts_at_once() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let (before, pid) = (node.state(), daemon.pid());
    daemon.send(Signal::SIGHUP);
    daemon.wait_for_log("nothing in it changed");

    node.configure_routing("mtu = 17\n", "");
    daemon.send(Signal::SIGHUP);
    daemon.wait_for_log("the last good one stays");
    assert!(daemon.log().contains("ferrule.toml:5:7: "), "{}", daemon.log());
    assert_eq!(node.state(), before, "what cannot be used changes nothing");

    node.configure_routing("mtu = 1400\n", "");
    daemon.send(Signal::SIGHUP);
    // A signal that comes while the daemon starts over waits.
    daemon.send(Signal::SIGHUP);
    daemon.wait_until_ready();
    let mtu = || NodeFile::load(&node.path("run/node.json")).map(|file| file.mtu).ok();
    assert!(within(PATIENCE, || mtu() == Some(1400)).is_some(), "{}", daemon.log());
    assert_eq!(daemon.pid(), pid);
    assert_eq!(node.state().replace("mtu 1400", "mtu 1450"), before, "nothing else is another");
    assert!(daemon.signal(Signal::SIGTERM).success());
}

#[test]
fn without_nft_the_routes_are_there_and_one_line_says_what_is_not() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    // A path that is no regular file is no program. So /dev/null hides nft wherever it is looked for, in a mount
    // namespace of the daemon's own.
    let hide = "for nft in $(which --all nft) /usr/sbin/nft /sbin/nft; do ! test -f $nft || mount --bind /dev/null $nft; done";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &format!("{hide}; exec \"$@\""), "sh"]);
    command.arg(env!("CARGO_BIN_EXE_routed")).args(node.arguments().split(' '));
    let daemon = node.start_as(command);
    daemon.wait_until_ready();
    daemon.wait_for_log("cannot run nft");
    assert!(node.state().contains("10.244.2.0/24"));
    // The daemon tries again with each change.
    node.write_nodes(&[1, 2, 3]);
    assert!(within(PATIENCE, || node.state().contains("10.244.3.0/24")).is_some());
    assert!(daemon.signal(Signal::SIGTERM).success());
    let log = std::fs::read_to_string(node.path("log")).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("nft")).collect();
    for said in ["pods are not guarded", "masquerade = false"] {
        assert_eq!(lines.iter().filter(|line| line.contains(said)).count(), 1, "{said}: {lines:#?}");
    }
    assert_eq!(lines.len(), 2, "{lines:#?}");
}
