//! A hostile pod harms only itself. The test sends real frames, from a pod that has every right inside its namespace.
//!
//! The plugin and `ipamd` are those built beside `routed`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod attack;
mod bridge;
mod bridge_ports;
mod receiver;
mod share;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use crate::keep::pods::{Ipamd, Pod};
use crate::lab::{Daemon, Node, PATIENCE, within};
use attack::{Ear, Frame, each, frame, sent};
use ferrule_netlink::netns::{self, Netns};
use ferrule_netlink::sysctl;
use nix::sys::signal::Signal;
use serde_json::json;

/// Promised: what someone else changes is back within this time.
const REPAIR: Duration = Duration::from_secs(1);
/// The other end of the node's link has all of these addresses: the other node's, its pod's, and one outside.
const WORLD: [&str; 6] =
    ["192.0.2.2", "2001:db8::2", "10.244.2.7", "fd00:10:244:2::7", "198.51.100.9", "2001:db8:51::9"];
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A node with both daemons, and the world on the other end of its link.
struct Lab {
    node: Node,
    world: Netns,
    daemon: Daemon,
    _ipamd: Ipamd,
}

impl Lab {
    fn new(more: &str) -> Self {
        Self::of("native", "", more)
    }

    /// The same with this backend and these keys of `[routing]`.
    fn of(backend: &'static str, routing: &str, more: &str) -> Self {
        let node = Node::new(backend);
        node.configure_routing(routing, more);
        let world = netns::make().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), world.as_fd().as_raw_fd());
        node.ip(&format!("link set wire netns {path}"));
        let ip = |line: &str| {
            let run = || std::process::Command::new("ip").args(line.split_whitespace()).output().unwrap();
            let output = world.run(run).unwrap();
            assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let lines = "link set lo up
             link set wire up
             addr add 192.0.2.2/24 dev wire
             addr add 2001:db8::2/64 dev wire nodad
             addr add 10.244.2.7/32 dev lo
             addr add fd00:10:244:2::7/128 dev lo
             addr add 198.51.100.9/32 dev lo
             addr add 2001:db8:51::9/128 dev lo
             route add default via 192.0.2.1";
        lines.lines().for_each(ip);
        ip("-6 route add default via 2001:db8::1");
        node.ip("route add default via 192.0.2.2");
        node.ip("-6 route add default via 2001:db8::2");
        node.write_nodes(&[1, 2]);
        let daemon = node.start();
        daemon.wait_until_ready();
        let _ipamd = Ipamd::start(&node);
        Self { node, world, daemon, _ipamd }
    }

    /// The MAC that a pod sends to.
    fn mac(&self, pod: &Pod<'_>) -> String {
        self.mac_of(&pod.veth())
    }

    /// The MAC of a link of the node.
    fn mac_of(&self, name: &str) -> String {
        let link = self.node.ip(&format!("-o link show {name}"));
        link.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
    }

    /// A page of the daemon.
    fn page(&self, path: &str) -> String {
        let mut page = String::new();
        self.node.inside(|| {
            let mut stream = TcpStream::connect("127.0.0.1:9479").unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").unwrap();
            stream.read_to_string(&mut page).unwrap();
        });
        page
    }

    /// Those of this pod's frames that the node, the world or another pod hears.
    fn delivered(&self, pod: &Pod<'_>, other: &Pod<'_>, frames: &[Frame]) -> Vec<Frame> {
        let ears =
            [Ear::new(self.node.netns(), "*"), Ear::new(&self.world, "wire"), Ear::new(&other.netns, "eth0")];
        let own = pod.addresses[0].as_str();
        let honest =
            [NODE[0], WORLD[0], &other.addresses[0]].map(|destination| frame("udp", own, destination));
        let ears: Vec<_> = ears.iter().zip(honest).collect();
        sent((&pod.netns, "eth0", &self.mac(pod)), frames, &ears)
    }
}

/// All combinations of sources that this pod may not use and destinations that it may send to.
fn forged(pod: &Pod<'_>, other: &Pod<'_>) -> Vec<Frame> {
    // The sources: another pod here and elsewhere, a free address of a pod, this node and the other one, the gateway,
    // somebody outside, and addresses that no source can have.
    let v4 = [
        &other.addresses[0],
        "10.244.2.7",
        "10.244.1.200",
        NODE[0],
        WORLD[0],
        "169.254.1.1",
        "198.51.100.9",
        "240.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "127.0.0.1",
    ];
    let v6 = [
        &other.addresses[1],
        "fd00:10:244:2::7",
        "fd00:10:244:1::c8",
        NODE[1],
        WORLD[1],
        "fe80::1",
        "2001:db8:51::9",
        "::",
        "::ffff:192.0.2.2",
        "::1",
        "ff02::1",
    ];
    let mut frames = Vec::new();
    for (sources, first) in [(&v4[..], 0), (&v6[..], 1)] {
        let world = WORLD.iter().skip(first).step_by(2);
        let everybody = world.copied().chain([NODE[first], &other.addresses[first]]);
        for destination in everybody {
            frames.extend(sources.iter().flat_map(|source| each(source, destination)));
        }
    }
    let to_all = ["224.0.0.1", "255.255.255.255"].map(|all| frame("udp", "0.0.0.0", all));
    frames.extend(to_all);
    assert_ne!(pod.addresses, other.addresses);
    frames
}

/// What a pod sends under its own addresses.
fn honest(pod: &Pod<'_>, other: &Pod<'_>) -> Vec<Frame> {
    let mut frames = Vec::new();
    for first in [0, 1] {
        let world = WORLD.iter().skip(first).step_by(2);
        let everybody = world.copied().chain([NODE[first], &other.addresses[first]]);
        frames.extend(everybody.flat_map(|destination| each(&pod.addresses[first], destination)));
    }
    frames.push(frame("udp", &pod.addresses[0], "224.0.0.1"));
    frames.push(frame("udp", "fe80::5", "ff02::1"));
    frames.push(frame("solicitation", "fe80::5", "ff02::1"));
    frames
}

#[test]
fn a_forged_source_reaches_nobody_and_a_pods_own_reaches_everybody() {
    let lab = Lab::new("");
    let (pod, other) = (Pod::add(&lab.node, "c0ffee", json!({})), Pod::add(&lab.node, "other", json!({})));
    let got = lab.delivered(&pod, &other, &forged(&pod, &other));
    assert!(got.is_empty(), "{} of {} came through: {got:#?}", got.len(), forged(&pod, &other).len());
    let honest = honest(&pod, &other);
    let got = lab.delivered(&pod, &other, &honest);
    let lost: Vec<_> = honest
        .iter()
        .filter(|sent| !got.iter().any(|got| format!("{got:?}") == format!("{sent:?}")))
        .collect();
    assert!(lost.is_empty(), "{lost:#?}");
    // Duplicate address detection asks without an address (RFC 4862, 5.4.2). The node already has this address.
    lab.node.ip(&format!("addr add fe80::77/64 dev {} nodad", pod.veth()));
    assert!(pod.run("ip", "addr add fe80::77/64 dev eth0").status.success());
    let is_found = || {
        let addresses = pod.run("ip", "-6 addr show dev eth0 dadfailed").stdout;
        String::from_utf8(addresses).unwrap().contains("fe80::77/64")
    };
    assert!(within(PATIENCE, is_found).is_some());
    // This shows that it is the guard that keeps them off.
    lab.daemon.send(Signal::SIGSTOP);
    lab.node.run("nft", "flush ruleset");
    let got = lab.delivered(&pod, &other, &forged(&pod, &other));
    assert!(!got.is_empty(), "nothing would have come through anyway");
}

#[test]
fn the_loose_check_takes_the_addresses_of_the_nodes_pods_and_no_others() {
    let lab = Lab::new("[pods]\nsource_check = \"loose\"\n");
    let (pod, other) = (Pod::add(&lab.node, "c0ffee", json!({})), Pod::add(&lab.node, "other", json!({})));
    let (of_other, forged): (Vec<_>, Vec<_>) =
        forged(&pod, &other).into_iter().partition(|frame| other.addresses.contains(&frame.source));
    let got = lab.delivered(&pod, &other, &forged);
    assert!(got.is_empty(), "{got:#?}");
    let honest = honest(&pod, &other);
    assert_eq!(lab.delivered(&pod, &other, &honest).len(), honest.len());
    let to_the_world = |frame: &Frame| WORLD.contains(&frame.destination.as_str());
    let got = lab.delivered(&pod, &other, &of_other);
    assert_eq!(
        got.iter().filter(|frame| to_the_world(frame)).count(),
        of_other.iter().filter(|frame| to_the_world(frame)).count()
    );
}

#[test]
fn without_a_check_every_source_passes_and_the_rest_of_the_guard_stays() {
    let lab = Lab::new("[pods]\nsource_check = \"off\"\n");
    let (pod, other) = (Pod::add(&lab.node, "c0ffee", json!({})), Pod::add(&lab.node, "other", json!({})));
    let forged = forged(&pod, &other);
    // These sources the kernel itself routes.
    let plain = ["10.244.2.7", "10.244.1.200", "fd00:10:244:1::c8"];
    let is_plain = |frame: &&Frame| {
        plain.contains(&frame.source.as_str()) && WORLD[..2].contains(&frame.destination.as_str())
    };
    let plain: Vec<_> = forged.iter().filter(is_plain).cloned().collect();
    assert_eq!(lab.delivered(&pod, &other, &plain).len(), plain.len());
    let tunnel =
        forged.iter().filter(|frame| frame.kind == "udp").map(|frame| Frame { port: 8472, ..frame.clone() });
    let mut rest: Vec<_> = tunnel.collect();
    rest.push(frame("advertisement", "fe80::5", "ff02::1"));
    rest.push(frame("redirect", "fe80::5", "ff02::1"));
    let got = lab.delivered(&pod, &other, &rest);
    assert!(got.is_empty(), "{got:#?}");
}

#[test]
fn advertisements_redirects_and_frames_for_the_loopback_addresses_do_not_pass_and_are_counted() {
    let lab = Lab::new("[metrics]\nrouted = \"127.0.0.1:9479\"\n");
    let (pod, other) = (Pod::add(&lab.node, "c0ffee", json!({})), Pod::add(&lab.node, "other", json!({})));
    // Somebody has made the node's loopback addresses reachable by its links.
    lab.node.inside(|| sysctl::set(&format!("net/ipv4/conf/{}/route_localnet", pod.veth()), "1").unwrap());
    let mut frames = Vec::from(each(&pod.addresses[0], "127.0.0.1"));
    frames.extend(each(&pod.addresses[1], "::1"));
    frames.push(frame("advertisement", "fe80::5", "ff02::1"));
    frames.push(frame("redirect", "fe80::5", "ff02::1"));
    let got = lab.delivered(&pod, &other, &frames);
    assert!(got.is_empty(), "{got:#?}");
    let page = lab.page("/metrics");
    // The kernel itself drops packets to ::1.
    for counted in ["routers\"} 2", "loopback\"} 3", "forged\"} "] {
        let sample = format!("ferrule_routed_pod_packets_dropped_total{{reason=\"{counted}");
        assert!(page.contains(&sample), "{sample}:\n{page}");
    }
}

#[test]
fn what_is_for_a_tunnel_does_not_leave_a_pod() {
    let lab = Lab::new("");
    let (pod, other) = (Pod::add(&lab.node, "c0ffee", json!({})), Pod::add(&lab.node, "other", json!({})));
    let to = |port: u16| {
        let frames = honest(&pod, &other).into_iter().filter(|frame| frame.kind == "udp");
        frames.map(|frame| Frame { port, ..frame }).collect::<Vec<_>>()
    };
    let got = lab.delivered(&pod, &other, &to(8472));
    assert!(got.is_empty(), "{got:#?}");
    let got = lab.delivered(&pod, &other, &to(8473));
    assert_eq!(got.len(), to(8473).len());
}

/// Both tables of the guard as nft prints them.
fn tables(node: &Node) -> String {
    let listed =
        |family| node.command("nft", &format!("--stateless list table {family} ferrule-guard")).stdout;
    ["inet", "bridge"].map(|family| String::from_utf8(listed(family)).unwrap()).concat()
}

#[test]
fn the_guard_is_back_within_a_second_whatever_is_done_to_it_and_stays_without_the_daemon() {
    // Masquerading belongs to another table.
    let lab = Lab::new("");
    let text = || tables(&lab.node);
    let whole = text();
    assert!(whole.contains("fib saddr . iif oif"), "{whole}");
    for command in [
        "flush ruleset",
        "delete table inet ferrule-guard",
        "flush table inet ferrule-guard",
        "flush chain inet ferrule-guard pods4",
        "delete chain inet ferrule-guard prerouting",
        "insert rule inet ferrule-guard pods4 accept",
        "delete table bridge ferrule-guard",
        "flush chain bridge ferrule-guard ports6",
        "delete chain bridge ferrule-guard input",
        "insert rule bridge ferrule-guard prerouting accept",
    ] {
        let before = lab.daemon.log().len();
        lab.node.command("nft", command);
        assert!(within(REPAIR, || text() == whole).is_some(), "{command}:\n{}\n{}", text(), lab.daemon.log());
        let family = if command.contains("bridge") { "bridge" } else { "inet" };
        let sentence = format!("table {family} ferrule-guard was ");
        let told = || lab.daemon.log()[before..].contains(&sentence);
        assert!(within(PATIENCE, told).is_some(), "{command}:\n{}", lab.daemon.log());
    }
    let Lab { node, daemon, .. } = lab;
    assert!(!daemon.signal(Signal::SIGKILL).success());
    let text = || tables(&node);
    assert_eq!(text(), whole);
    // The guard does not wait for nodes.
    node.run("nft", "flush ruleset");
    std::fs::remove_file(node.path("nodes.toml")).unwrap();
    let daemon = node.start();
    assert!(within(PATIENCE, || text() == whole).is_some(), "{}", daemon.log());
    node.run("nft", "flush ruleset");
    assert!(within(REPAIR, || text() == whole).is_some(), "{}", daemon.log());
    drop(daemon);
    assert!(node.cleanup().status.success());
    assert_eq!(text(), "");
}
