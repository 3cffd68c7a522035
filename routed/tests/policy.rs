//! Policy rules of other programs that divert pods' packets. The daemon names them with the remedy, and forgets them
//! when they go.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::lab::{Daemon, Node, PATIENCE, within};
use ferrule_netlink::netns::{self, Netns};

/// Promised: what diverts packets is named within this time.
const NOTICED: Duration = Duration::from_secs(1);
/// An answer comes within microseconds, or never.
const ANSWER: Duration = Duration::from_millis(500);
/// The port on which the node answers.
const PORT: u16 = 7777;

const CLUSTER: &str = "[cluster]\npod_cidrs = [\"10.244.0.0/16\", \"fd00:10:244::/48\"]\n";

fn started() -> (Node, Daemon) {
    let node = Node::new("native");
    node.configure(CLUSTER);
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    (node, daemon)
}

/// A pod of the node, wired as the plugin does it.
fn pod(node: &Node) -> Netns {
    let pod = netns::make().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), pod.as_fd().as_raw_fd());
    for line in [
        &format!("link add fer0123456789ab type veth peer name eth0 netns {path}"),
        "link set fer0123456789ab up",
        "addr add 169.254.1.1/32 dev fer0123456789ab",
        "addr add fe80::1/64 dev fer0123456789ab nodad",
        "route add 10.244.1.5/32 dev fer0123456789ab proto 70",
        "-6 route add fd00:10:244:1::5/128 dev fer0123456789ab proto 70",
    ] {
        node.ip(line);
    }
    for line in [
        "link set eth0 up",
        "addr add 10.244.1.5/32 dev eth0",
        "addr add fd00:10:244:1::5/128 dev eth0 nodad",
        "route add 169.254.1.1/32 dev eth0",
        "route add default via 169.254.1.1",
        "-6 route add default via fe80::1 dev eth0",
    ] {
        let run = || Command::new("ip").args(line.split_whitespace()).status().unwrap();
        assert!(pod.run(run).unwrap().success(), "ip {line}");
    }
    pod
}

/// Makes the node answer every datagram to this address from this address, until the test's process ends.
fn answer(node: &Node, address: IpAddr) {
    let socket = node.inside(|| UdpSocket::bind((address, PORT))).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // An answer that cannot be sent is lost.
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// Sends three datagrams. Returns how many of them the pod has an answer to.
fn answers(pod: &Netns, address: IpAddr) -> usize {
    let own: IpAddr = if address.is_ipv4() { "10.244.1.5" } else { "fd00:10:244:1::5" }.parse().unwrap();
    let socket = pod.run(|| UdpSocket::bind((own, 0))).unwrap().unwrap();
    socket.connect((address, PORT)).unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    let asks = || socket.send(b"?").and_then(|_| socket.recv(&mut [0; 64])).is_ok();
    (0..3).filter(|_| asks()).count()
}

/// What `routed` says on standard output, whatever its exit code.
fn said(node: &Node, command: &str) -> String {
    let output = node.command(env!("CARGO_BIN_EXE_routed"), &format!("{} {command}", node.arguments()));
    String::from_utf8(output.stdout).unwrap()
}

fn is_named(node: &Node, what: &str) -> bool {
    said(node, "nodes").contains(what) && said(node, "status").contains(what)
}

/// The command that the last line about this tells an operator to type.
fn remedy(daemon: &Daemon, what: &str) -> String {
    let log = daemon.log();
    let line = log.lines().rfind(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}:\n{log}"));
    let command = line.split_once("go by the main table first: ip ").unwrap().1;
    command.split(';').next().unwrap().to_owned()
}

/// The rules that nm-cloud-setup makes for the address of each network card.
#[test]
fn a_rule_that_cuts_pods_off_their_own_node_is_named_and_its_remedy_works() {
    let (node, daemon) = started();
    let pod = pod(&node);
    for (family, address, router, network, name) in [
        ("-4", "192.0.2.1", "192.0.2.254", "192.0.2.0/24", "WARN routed::pass::worker: policy rule 30400"),
        (
            "-6",
            "2001:db8::1",
            "2001:db8::fe",
            "2001:db8::/64",
            "WARN routed::pass::worker: IPv6 policy rule 30400",
        ),
    ] {
        let short = name.split_once("worker: ").unwrap().1;
        let to: IpAddr = address.parse().unwrap();
        answer(&node, to);
        assert_eq!(answers(&pod, to), 3, "{family}");

        node.ip(&format!("{family} route add {network} dev eth0 table 30400"));
        node.ip(&format!("{family} route add default via {router} dev eth0 table 30400"));
        node.ip(&format!("{family} rule add from {address} table 30400 priority 30400"));
        let told = within(NOTICED, || daemon.log().contains(name));
        assert!(told.is_some(), "{}", daemon.log());
        assert_eq!(answers(&pod, to), 0, "{family}: the node's answers leave by the table's default route");
        assert!(is_named(&node, short), "{}", said(&node, "nodes"));
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(name)).unwrap();
        for part in [&format!("from this node ({address}) to pods in "), "nm-cloud-setup", "table 30400"] {
            assert!(line.contains(part), "{part}: {line}");
        }

        let remedy = remedy(&daemon, name);
        node.ip(&remedy);
        assert_eq!(answers(&pod, to), 3, "{family}: {remedy}");
        assert!(
            within(NOTICED, || !said(&node, "status").contains(short)).is_some(),
            "{}",
            said(&node, "status")
        );
        assert!(!said(&node, "nodes").contains(short));

        node.ip(&remedy.replace(" add ", " del "));
        assert!(within(NOTICED, || is_named(&node, short)).is_some(), "{}", said(&node, "nodes"));
        node.ip(&format!("{family} rule del priority 30400"));
        assert_eq!(answers(&pod, to), 3, "{family}");
        assert!(
            within(NOTICED, || !said(&node, "status").contains(short)).is_some(),
            "{}",
            said(&node, "status")
        );
    }
}

#[test]
fn a_route_that_comes_into_the_table_of_a_rule_is_noticed_and_one_that_goes() {
    let (node, daemon) = started();
    node.ip("rule add to 10.244.0.0/16 table 7 priority 100");
    node.ip("rule add fwmark 1 table 8 priority 101");
    node.ip("rule add iif wire table 8 priority 102");
    node.ip("route add default via 192.0.2.254 dev eth0 table 8");
    node.ip("route add throw 10.244.3.0/24 table 7");
    node.ip("route add default via 192.0.2.254 dev eth0 table 7");
    let named = || is_named(&node, "policy rule 100: it (from all to 10.244.0.0/16 lookup 7)");
    assert!(within(NOTICED, named).is_some(), "{}\n{}", said(&node, "nodes"), daemon.log());
    let nodes = said(&node, "nodes");
    let state = |name: &str| nodes.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(state("n2 ").contains("policy rule 100"), "{nodes}");
    assert!(state("n3 ").ends_with("well"), "{nodes}");
    node.ip("route del default table 7");
    let is_well = || !said(&node, "status").contains("policy rule");
    assert!(within(NOTICED, is_well).is_some(), "{}", said(&node, "status"));
    node.ip("rule add to 10.244.3.0/24 prohibit priority 103");
    let dropped = || said(&node, "nodes").contains("to pods in 10.244.3.0/24 are dropped; let packets");
    assert!(within(NOTICED, dropped).is_some(), "{}", said(&node, "nodes"));
    let log = daemon.log();
    assert!(!log.contains("policy rule 101") && !log.contains("policy rule 102"), "{log}");
    assert!(within(PATIENCE, || said(&node, "plan").contains("policy rule 103")).is_some());
}
