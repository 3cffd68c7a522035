//! What happens to a node, on the real kernel: other programs change or claim what is ours, the daemon is off for a
//! week, the node gets another address, other nodes move.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::{Node, PATIENCE, within};
use nix::sys::signal::Signal;

/// Promised: what someone else changes is back within this time.
const REPAIR: Duration = Duration::from_secs(1);

/// Three nodes; the address of the third in each family.
fn nodes_with_third_at(v4: &str, v6: &str) -> String {
    let node = |number: u8, v4: &str, v6: &str| {
        format!(
            "[[node]]\nname = \"n{number}\"\naddress = \"{v4}\"\naddress6 = \"{v6}\"\n\
             pod_cidrs = [\"10.244.{number}.0/24\", \"fd00:10:244:{number}::/64\"]\n"
        )
    };
    node(1, "192.0.2.1", "2001:db8::1") + &node(2, "192.0.2.2", "2001:db8::2") + &node(3, v4, v6)
}

#[test]
fn a_sysctl_that_someone_changes_is_right_within_a_second() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    node.ip("link add fer0123456789ab type veth peer name pod");
    for (name, wrong, right) in [
        ("net.ipv4.ip_forward", "0", "1"),
        ("net.ipv4.conf.eth0.forwarding", "0", "1"),
        ("net.ipv4.conf.ferrule/1.forwarding", "0", "1"),
        ("net.ipv4.conf.default.forwarding", "0", "1"),
        ("net.ipv4.conf.fer0123456789ab.forwarding", "0", "1"),
        ("net.ipv6.conf.all.forwarding", "0", "1"),
        ("net.ipv4.conf.ferrule/1.rp_filter", "1", "2"),
        ("net.ipv6.conf.eth0.accept_ra", "1", "2"),
    ] {
        node.run("sysctl", &format!("-w {name}={wrong}"));
        let is_right = || node.run("sysctl", &format!("-n {name}")).trim() == right;
        assert!(within(REPAIR, is_right).is_some(), "{name}:\n{}", daemon.log());
    }
}

/// The daemon with an nft that first runs these shell commands.
pub(crate) fn with_nft_behind(node: &Node, commands: &str) -> Command {
    let bin = node.path("bin");
    fs::create_dir(&bin).unwrap();
    let script = format!("#!/bin/sh\n{commands}\nPATH=\"${{PATH#*:}}\" exec nft \"$@\"\n");
    fs::write(bin.join("nft"), script).unwrap();
    fs::set_permissions(bin.join("nft"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = node.daemon_command();
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    command
}

/// A comparison of everything asks only the kernel whether any ruleset has changed. Here an event starts the
/// comparison, as the clock does otherwise.
#[test]
fn nft_lists_the_table_only_after_a_change_of_some_ruleset() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let calls = node.path("calls");
    let is_ours = "*'list table inet ferrule') echo list;; -f*) echo put;;";
    let note = format!("case $* in {is_ours} esac >>{}", calls.display());
    let daemon = node.start_as(with_nft_behind(&node, &note));
    daemon.wait_until_ready();
    let are = |wanted: &str| {
        let found = || {
            fs::read_to_string(&calls).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let came = within(PATIENCE, || found() == wanted);
        assert!(came.is_some(), "{wanted} wanted, {} found\n{}", found(), daemon.log());
    };
    let compare = || {
        node.ip("route del 10.244.2.0/24");
        let is_back = || node.ip("route show proto 70").contains("10.244.2.0/24");
        assert!(within(REPAIR, is_back).is_some(), "{}", daemon.log());
    };
    // The two tables of the guard and then the table are made, because the kernel itself says that they are missing.
    // nft then lists once.
    are("put put put list");
    compare();
    compare();
    node.run("nft", "delete table inet ferrule");
    are("put put put list put list");
    // The table is another program's, and no event tells of it.
    node.run("nft", "add table inet other");
    compare();
    are("put put put list put list list");
}

#[test]
fn routes_do_not_wait_for_nft() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let (hold, held) = (node.path("hold"), node.path("held"));
    let wait = format!("while [ -e {} ]; do : >{}; sleep 0.02; done", hold.display(), held.display());
    let daemon = node.start_as(with_nft_behind(&node, &wait));
    daemon.wait_until_ready();

    fs::write(&hold, "").unwrap();
    node.write_nodes(&[1, 2, 3]);
    assert!(within(PATIENCE, || held.exists()).is_some(), "{}", daemon.log());
    node.write_nodes(&[1, 2, 3, 4]);
    let is_there = || node.ip("route show proto 70").contains("10.244.4.0/24");
    assert!(within(REPAIR, is_there).is_some(), "{}", daemon.log());
    fs::remove_file(&hold).unwrap();
    let is_kept = || node.run("nft", "list table inet ferrule").contains("10.244.4.0/24");
    assert!(within(PATIENCE, is_kept).is_some(), "{}", daemon.log());
}

#[test]
fn after_a_week_off_orphans_go_and_nothing_else_does() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let right = node.state();
    assert!(!daemon.signal(Signal::SIGKILL).success());

    // Other programs' objects, in the ranges of ours and with our numbers.
    node.ip("nexthop add id 70000500 via 192.0.2.50 dev eth0 proto static");
    node.ip("nexthop add id 70000501 blackhole");
    node.ip("nexthop add id 70000502 group 70000500");
    node.ip("route add 10.244.77.0/24 via 192.0.2.50 proto static");
    node.ip("route add 10.244.2.128/25 via 192.0.2.50 proto static");
    let theirs = || node.ip("route show proto static") + &node.ip("nexthop show id 70000502");
    let before = theirs();
    // Objects of a node that has left the cluster meanwhile.
    node.ip("nexthop add id 70000900 via 10.244.9.0 dev ferrule.1 onlink proto 70");
    node.ip("route add 10.244.9.0/24 nhid 70000900 proto 70");
    node.ip("-6 route add unreachable fd00:10:244:9::/64 proto 70");
    node.ip("neigh add 10.244.9.0 lladdr 02:00:00:00:00:09 dev ferrule.1 nud permanent");
    node.run("bridge", "fdb add 02:00:00:00:00:09 dev ferrule.1 dst 192.0.2.9 self permanent");
    node.ip("route del 10.244.3.0/24");

    let daemon = node.start();
    daemon.wait_until_ready();
    assert_eq!(node.state(), right, "{}", daemon.log());
    assert_eq!(theirs(), before);
    // Numbers that are taken are not given out again.
    node.write_nodes(&[1, 2, 3, 4]);
    assert!(within(PATIENCE, || node.state().contains("10.244.4.0/24")).is_some(), "{}", daemon.log());
    assert_eq!(theirs(), before);
}

#[test]
fn a_foreign_route_in_the_place_of_ours_is_left_alone_named_and_followed() {
    let node = Node::new("native");
    node.ip("route add 10.244.2.0/24 via 192.0.2.50 proto static");
    node.ip("-6 route add fd00:10:244:2::/64 via 2001:db8::50 proto static metric 1024");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    daemon.wait_for_log("cannot set route 10.244.2.0/24: a route of protocol 4 has the same destination");
    daemon
        .wait_for_log("cannot set route fd00:10:244:2::/64: a route of protocol 4 has the same destination");
    assert!(node.ip("route show 10.244.2.0/24").contains("via 192.0.2.50"));
    assert!(node.state().contains("10.244.3.0/24"), "the others are not held up");
    node.ip("route del 10.244.2.0/24");
    let ours = || node.ip("route show 10.244.2.0/24").contains("192.0.2.2");
    assert!(within(REPAIR, ours).is_some(), "{}", daemon.log());
}

#[test]
fn a_node_on_another_segment_is_refused_by_name_without_a_tunnel() {
    let node = Node::new("native");
    node.write_nodes_text(&nodes_with_third_at("198.51.100.3", "2001:db8::3"));
    let daemon = node.start();
    daemon.wait_until_ready();
    daemon.wait_for_log("via 198.51.100.3 on eth0: Nexthop has invalid gateway");
    daemon.wait_for_log("a node has to be on this node's segment");
    let state = node.state();
    assert!(!state.contains("10.244.3.0/24") && state.contains("fd00:10:244:3::/64"), "{state}");
}

#[test]
fn with_auto_a_node_that_moves_behind_a_router_and_back_keeps_its_routes() {
    let node = Node::new("auto");
    let (near, far) = (("192.0.2.3", "2001:db8::3"), ("198.51.100.3", "2001:db8:9::3"));
    node.write_nodes_text(&nodes_with_third_at(near.0, near.1));
    let daemon = node.start();
    daemon.wait_until_ready();
    let route = |family: &str, to: &str| node.ip(&format!("{family} route show {to}"));
    let leaves_by = |link: &str| {
        let dev = format!("dev {link} ");
        let routes = [route("-4", "10.244.3.0/24"), route("-6", "fd00:10:244:3::/64")];
        routes.iter().all(|route| route.contains(&dev))
    };
    assert!(leaves_by("eth0"), "{}", node.state());
    let before = node.state();
    let listener = node.listen();
    node.write_nodes_text(&nodes_with_third_at(far.0, far.1));
    assert!(within(PATIENCE, || leaves_by("ferrule.1")).is_some(), "{}", daemon.log());
    assert!(node.state().contains("dst 198.51.100.3"));
    node.write_nodes_text(&nodes_with_third_at(near.0, near.1));
    assert!(within(PATIENCE, || leaves_by("eth0")).is_some(), "{}", daemon.log());
    let plain = |state: &str| {
        let line = |line: &str| {
            line.split_whitespace().filter(|word| !word.starts_with("70000")).collect::<Vec<_>>().join(" ")
        };
        state.lines().map(line).collect::<std::collections::BTreeSet<_>>()
    };
    let same = || plain(&node.state()) == plain(&before);
    assert!(within(REPAIR, same).is_some(), "{}\n{before}", node.state());
    let heard = listener.heard();
    let is_loss = |line: &&str| {
        line.starts_with("Deleted 10.244.3.0/24") || line.starts_with("Deleted fd00:10:244:3::/64")
    };
    assert_eq!(heard.lines().find(is_loss), None, "routes are replaced, never deleted");
}

#[test]
fn a_node_that_gets_another_address_moves_its_tunnel() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    node.ip("addr add 192.0.2.100/24 dev eth0");
    let text = nodes_with_third_at("192.0.2.3", "2001:db8::3").replace("\"192.0.2.1\"", "\"192.0.2.100\"");
    node.write_nodes_text(&text);
    let moved = || {
        let state = node.state();
        state.contains("local 192.0.2.100")
            && state.contains("10.244.2.0/24")
            && state.contains("10.244.3.0/24")
    };
    assert!(within(PATIENCE, moved).is_some(), "{}\n{}", node.state(), daemon.log());
}

#[test]
fn a_device_under_another_name_leaves_nothing_of_the_old_one() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    assert!(daemon.signal(Signal::SIGTERM).success());
    node.configure("[routing.vxlan]\ndevice = \"tunnel.7\"\n");
    let daemon = node.start();
    daemon.wait_until_ready();
    assert!(!node.command("ip", "link show ferrule.1").status.success(), "{}", daemon.log());
    assert!(node.ip("route show 10.244.2.0/24").contains("tunnel.7"));
    assert!(daemon.signal(Signal::SIGTERM).success());
    // Cleanup recognises the device by what it is, whatever the configuration says now.
    node.configure("");
    assert!(node.cleanup().status.success());
    assert!(!node.command("ip", "link show tunnel.7").status.success());
}

#[test]
fn a_number_that_another_program_takes_meanwhile_is_given_up() {
    let node = Node::new("native");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    for id in 70_000_000..70_000_020 {
        // Some of these numbers are ours.
        node.command("ip", &format!("nexthop add id {id} blackhole"));
    }
    let theirs = node.ip("nexthop show").matches("blackhole").count();
    node.write_nodes(&[1, 2, 3]);
    assert!(within(PATIENCE, || node.state().contains("10.244.3.0/24")).is_some(), "{}", daemon.log());
    assert_eq!(node.ip("nexthop show").matches("blackhole").count(), theirs);
}

#[test]
fn who_changed_it_is_told_where_the_kernel_tells() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    // The process has to stay, so that its name can be seen: `ip` waits for more on its standard input.
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut ip = node.inside(|| command.spawn()).unwrap();
    let port = ip.id();
    let by_ip = format!("by someone else (netlink port {port}; process {port} is ip); ");
    for (line, told) in [
        ("route del 10.244.2.0/24", format!("route 10.244.2.0/24 was deleted {by_ip}put back")),
        (
            "neigh del 10.244.3.0 dev ferrule.1",
            format!("neighbour 10.244.3.0 on ferrule.1 was deleted {by_ip}put back"),
        ),
        (
            "addr del 10.244.1.0/32 dev ferrule.1",
            format!("address 10.244.1.0/32 on ferrule.1 was deleted {by_ip}put back"),
        ),
        ("nexthop del id 70000000", format!("via 10.244.2.0 on ferrule.1 was deleted {by_ip}put back")),
        // For these the kernel does not tell who made the change.
        (
            "link set ferrule.1 mtu 1300",
            "link ferrule.1 was given another MTU by someone else; put right".to_owned(),
        ),
        ("link del ferrule.1", "link ferrule.1 was deleted by someone else; made again".to_owned()),
    ] {
        writeln!(ip.stdin.as_mut().unwrap(), "{line}").unwrap();
        daemon.wait_for_log(&told);
    }
    drop(ip.stdin.take());
    assert!(ip.wait().unwrap().success());
    node.run("nft", "delete table inet ferrule");
    daemon.wait_for_log("the nftables table inet ferrule was deleted by someone else (netlink port ");
}

/// Stops the daemon, causes more events than its sockets hold, and then changes something of ours.
#[test]
fn what_is_lost_in_a_storm_of_events_is_found_at_once() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let right = node.state();
    daemon.send(Signal::SIGSTOP);
    let storm: String = (0..50_000_u32)
        .map(|n| format!("route add 172.{}.{}.{}/28 dev eth0\n", 16 + (n >> 12), n >> 4 & 255, (n & 15) << 4))
        .collect();
    fs::write(node.path("storm"), storm).unwrap();
    node.ip(&format!("-batch {}", node.path("storm").display()));
    for breakage in [
        "route del 10.244.2.0/24",
        "-6 route del fd00:10:244:3::/64",
        "neigh flush nud permanent dev ferrule.1",
    ] {
        node.ip(breakage);
    }
    node.run("nft", "delete table inet ferrule");
    let lost = drops(&node);
    assert!(lost > 0, "no event was lost: the storm proves nothing");
    daemon.send(Signal::SIGCONT);
    let took = within(REPAIR, || node.state() == right);
    assert!(took.is_some(), "{}\n{}", node.state(), daemon.log());
    assert!(daemon.signal(Signal::SIGTERM).success());
}

/// The number of events that sockets of the namespace have lost.
fn drops(node: &Node) -> u64 {
    let sockets = node.run("cat", "/proc/thread-self/net/netlink");
    let drops =
        sockets.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    drops.sum()
}

/// A table that changes while it is listed is listed again (`NLM_F_DUMP_INTR`).
#[test]
fn while_everything_around_changes_ours_is_kept_and_theirs_stays() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let right = node.state();
    let churn: String = (0..300)
        .map(|n| {
            let n = n % 50;
            format!(
                "link add churn{n} type bridge\nnexthop add id {} blackhole\naddr add 198.18.{n}.1/24 dev eth0\n\
                 link del churn{n}\nnexthop del id {}\naddr del 198.18.{n}.1/24 dev eth0\n",
                n + 1,
                n + 1
            )
        })
        .collect();
    fs::write(node.path("churn"), churn).unwrap();
    let mut command = Command::new("sh");
    let script = "while ip -batch \"$1\"; do :; done";
    command.args(["-c", script, "sh"]).arg(node.path("churn")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut churn = node.inside(|| command.spawn()).unwrap();
    for _ in 0..5 {
        node.ip("route del 10.244.2.0/24");
        node.ip("-6 route del fd00:10:244:3::/64");
        let back = || {
            let state = node.state();
            state.contains("10.244.2.0/24") && state.contains("fd00:10:244:3::/64")
        };
        assert!(within(PATIENCE, back).is_some(), "{}\n{}", node.state(), daemon.log());
    }
    // The loop ends when its file is gone.
    fs::remove_file(node.path("churn")).unwrap();
    churn.wait().unwrap();
    assert!(within(PATIENCE, || node.state() == right).is_some(), "{}\n{}", node.state(), daemon.log());
    assert!(daemon.signal(Signal::SIGTERM).success());
}
