//! Shows with packets under which address pods are seen: in the cluster, on the node, outside. The rules of kube-proxy,
//! firewalld and Docker stand beside ours and stay as they are.
//!
//! `rules/` has the rules as these programs write them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::lab::{Node, PATIENCE, within};
use ferrule_netlink::netns::{self, Netns};
use nix::sys::signal::Signal;

/// The port on which everybody answers with the address that they see.
const PORT: u16 = 7777;
/// Promised: what someone else changes is right again within this time.
const REPAIR: Duration = Duration::from_secs(1);
/// The port from which a pod asks.
const OWN_PORT: u16 = 4000;
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const POD: [&str; 2] = ["10.244.1.5", "fd00:10:244:1::5"];

const CLUSTER: &str = "[cluster]\npod_cidrs = [\"10.244.2.0/23\", \"fd00:10:244:2::/63\"]\n\
                       non_masquerade_cidrs = [\"203.0.113.0/24\", \"2001:db8:113::/48\"]\n";

/// A node with two pods, and the world on the other end of its link: the other node, its pods, and hosts outside.
struct Lab {
    node: Node,
    world: Netns,
    pods: [Netns; 2],
}

fn path(netns: &Netns) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd())
}

fn ip(netns: &Netns, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let run = || Command::new("ip").args(line.split_whitespace()).output().unwrap();
        let output = netns.run(run).unwrap();
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Answers each datagram to this address with its source address, until the test's process ends.
fn answer(netns: &Netns, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    let socket = netns.run(|| UdpSocket::bind((address, PORT))).unwrap().unwrap();
    if let (IpAddr::V4(group), true) = (address, address.is_multicast()) {
        socket.join_multicast_v4(&group, &[192, 0, 2, 2].into()).unwrap();
    }
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(from.to_string().as_bytes(), from);
        }
    });
}

impl Lab {
    fn new(routing: &str) -> Self {
        let node = Node::new("native");
        let world = netns::make().unwrap();
        node.configure_routing(routing, CLUSTER);
        node.ip(&format!("link set wire netns {}", path(&world)));
        ip(
            &world,
            "link set lo up
             link set wire up
             addr add 192.0.2.2/24 dev wire
             addr add 198.51.100.9/32 dev lo
             addr add 203.0.113.9/32 dev lo
             addr add 10.244.2.7/32 dev lo
             addr add 169.254.169.254/16 dev wire
             route add 10.244.1.0/24 via 192.0.2.1
             addr add 2001:db8::2/64 dev wire nodad
             addr add 2001:db8:51::9/128 dev lo
             addr add 2001:db8:113::9/128 dev lo
             addr add fd00:10:244:2::7/128 dev lo
             route add fd00:10:244:1::/64 via 2001:db8::1",
        );
        node.ip("route add default via 192.0.2.2");
        node.ip("route add 169.254.0.0/16 dev eth0");
        node.ip("-6 route add default via 2001:db8::2");
        let pods = [5, 6].map(|number| pod(&node, number));
        let hosts = ["198.51.100.9", "203.0.113.9", "10.244.2.7", "169.254.169.254"];
        let hosts = hosts.into_iter().chain(["2001:db8:51::9", "2001:db8:113::9", "fd00:10:244:2::7"]);
        hosts.for_each(|host| answer(&world, host));
        ["10.244.1.6", "fd00:10:244:1::6"].iter().for_each(|pod| answer(&pods[1], pod));
        let own = node.inside(Netns::current).unwrap();
        NODE.iter().for_each(|address| answer(&own, address));
        node.write_nodes(&[1, 2]);
        Self { node, world, pods }
    }

    /// The address and port under which the first pod is seen there; `None` if nothing comes back.
    fn seen_at(&self, target: &str) -> Option<SocketAddr> {
        seen(&self.pods[0], (None, OWN_PORT), target.parse().unwrap())
    }

    /// Checks this in both families.
    fn seen_as(&self, targets: [&str; 2], expected: [&str; 2]) {
        for (target, expected) in targets.into_iter().zip(expected) {
            let seen = self.seen_at(target);
            assert_eq!(seen.map(|seen| seen.ip()), Some(expected.parse().unwrap()), "at {target}");
        }
    }

    /// Loads another program's rules with the program that they are for.
    fn load(&self, program: &str, file: &str) {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules").join(file);
        let stdin = Stdio::from(fs::File::open(rules).unwrap());
        let arguments: &[&str] = if program == "nft" { &["-f", "-"] } else { &["--noflush"] };
        let run = || Command::new(program).args(arguments).stdin(stdin).output();
        let output =
            self.node.inside(run).unwrap_or_else(|error| panic!("{program}: {error}; type tests/setup"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// All rules except for our tables.
    fn rules(&self) -> String {
        let nft = self.node.run("nft", "--stateless list ruleset");
        let (mut rules, mut ours) = (String::new(), false);
        for line in nft.lines() {
            let begins = ["inet ferrule {", "inet ferrule-guard {", "bridge ferrule-guard {"];
            ours |= line.strip_prefix("table ").is_some_and(|table| begins.contains(&table));
            if !ours {
                rules.push_str(line);
                rules.push('\n');
            }
            ours &= line != "}";
        }
        for family in ["ip", "ip6"] {
            // The older iptables makes the tables that it is asked for.
            let names = self.node.run("cat", &format!("/proc/thread-self/net/{family}_tables_names"));
            for table in names.split_whitespace() {
                rules.push_str(&self.node.run(&format!("{family}tables-legacy"), &format!("-t {table} -S")));
            }
        }
        rules
    }
}

fn seen(from: &Netns, (source, port): (Option<IpAddr>, u16), target: IpAddr) -> Option<SocketAddr> {
    let any = if target.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    // A process that another test is just starting has, for a moment, a copy of the descriptors of the last call.
    let bind = || from.run(|| UdpSocket::bind((source.unwrap_or(any), port))).unwrap().ok();
    let socket = crate::lab::wait::get(PATIENCE, bind).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut buffer = [0; 64];
    // The first datagrams may be lost while neighbours are being resolved.
    for _ in 0..4 {
        if socket.send_to(b"who", (target, PORT)).is_err() {
            continue;
        }
        match socket.recv(&mut buffer) {
            Ok(length) => return Some(str::from_utf8(&buffer[..length]).unwrap().parse().unwrap()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("{error}"),
        }
    }
    None
}

/// A pod as the plugin makes one.
fn pod(node: &Node, number: u8) -> Netns {
    let pod = netns::make().unwrap();
    let host = format!("fer00000000000{number}");
    let (mac, host_mac) = (format!("02:00:00:00:01:0{number}"), format!("02:00:00:00:02:0{number}"));
    let place = path(&pod);
    node.ip(&format!(
        "link add {host} address {host_mac} type veth peer name eth0 address {mac} netns {place}"
    ));
    node.ip(&format!("link set {host} up"));
    for address in [format!("10.244.1.{number}"), format!("fd00:10:244:1::{number}")] {
        node.ip(&format!("route add {address} dev {host} proto 70"));
        node.ip(&format!("neigh add {address} lladdr {mac} dev {host} nud permanent"));
    }
    ip(
        &pod,
        &format!(
            "link set lo up
             link set eth0 up
             addr add 10.244.1.{number}/32 dev eth0
             route add 169.254.1.1 dev eth0
             neigh add 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent
             route add default via 169.254.1.1
             addr add fd00:10:244:1::{number}/128 dev eth0 nodad
             neigh add fe80::1 lladdr {host_mac} dev eth0 nud permanent
             route add default via fe80::1 dev eth0"
        ),
    );
    pod
}

#[test]
fn a_pod_is_seen_under_its_own_address_in_the_cluster_and_under_the_nodes_outside() {
    let lab = Lab::new("");
    let daemon = lab.node.start();
    daemon.wait_until_ready();
    let outside = ["198.51.100.9", "2001:db8:51::9"];
    lab.seen_as(outside, NODE);
    lab.seen_as(["10.244.2.7", "fd00:10:244:2::7"], POD);
    // These are not among the configured pod_cidrs, which leave out this node's own.
    lab.seen_as(["10.244.1.6", "fd00:10:244:1::6"], POD);
    lab.seen_as(["203.0.113.9", "2001:db8:113::9"], POD);
    lab.seen_as(NODE, POD);
    assert_eq!(lab.seen_at("169.254.169.254").unwrap().ip().to_string(), POD[0], "link-local");
    for target in outside {
        assert_ne!(lab.seen_at(target).unwrap().port(), OWN_PORT, "the port is chosen at random");
    }
    // Multicast is not forwarded to the world. So the node sends it, under an address like a pod's.
    lab.node.ip("addr add 10.244.1.99/32 dev eth0");
    lab.node.ip("route add 224.0.0.0/4 dev eth0");
    answer(&lab.world, "224.0.0.99");
    let from = lab.node.inside(Netns::current).unwrap();
    let from_pods_address = |target: &str| {
        let source = Some("10.244.1.99".parse().unwrap());
        seen(&from, (source, OWN_PORT), target.parse().unwrap()).unwrap().ip().to_string()
    };
    assert_eq!(from_pods_address("224.0.0.99"), "10.244.1.99", "multicast");
    assert_eq!(from_pods_address("198.51.100.9"), NODE[0]);
    // Packets with this mark, whichever program masquerades them.
    lab.load("nft", "mark.nft");
    let marked = seen(&lab.pods[0], (None, OWN_PORT + 1), outside[0].parse().unwrap()).unwrap();
    assert_eq!(marked.to_string(), format!("{}:{}", POD[0], OWN_PORT + 1));
    drop(daemon);
}

/// Runs the daemon beside existing rules, checks `traffic`, and compares the rules.
fn beside(lab: &Lab, traffic: impl Fn(&Lab)) {
    let before = lab.rules();
    assert!(!before.is_empty());
    let daemon = lab.node.start();
    daemon.wait_until_ready();
    traffic(lab);
    let without_us = |rules: &str| {
        let lines = rules.lines().filter(|line| !line.contains("FERRULE-FORWARD"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    if !lab.rules().contains("FERRULE-FORWARD") {
        assert_eq!(lab.rules(), before, "{}", daemon.log());
    }
    assert!(daemon.signal(Signal::SIGTERM).success());
    assert!(lab.node.cleanup().status.success());
    assert_eq!(without_us(&lab.rules()), without_us(&before));
    assert_eq!(lab.rules(), before, "cleanup leaves their rules as they were");
}

/// Checks what a pod sees of Services, whichever program makes them.
fn services(lab: &Lab) {
    let seen = |target: &str| lab.seen_at(target).map(|seen| seen.ip().to_string());
    assert_eq!(seen("10.96.0.20").as_deref(), Some(POD[0]), "a service of the cluster");
    assert_eq!(seen("10.96.0.21").as_deref(), Some(NODE[0]), "a service outside");
    lab.seen_as(["198.51.100.9", "2001:db8:51::9"], NODE);
    lab.seen_as(["10.244.2.7", "fd00:10:244:2::7"], POD);
}

#[test]
fn beside_kube_proxy_with_iptables_of_either_kind() {
    for program in ["iptables-nft-restore", "iptables-legacy-restore"] {
        let lab = Lab::new("");
        lab.load(program, "kube-proxy.v4");
        beside(&lab, |lab| {
            services(lab);
            let program = program.trim_end_matches("-restore");
            let counted = lab.node.run(program, "-t nat -L KUBE-POSTROUTING -v -x -n");
            let masqueraded = counted.lines().find(|line| line.contains("MASQUERADE")).unwrap();
            let packets: u64 = masqueraded.split_whitespace().next().unwrap().parse().unwrap();
            assert!(packets >= 1, "what kube-proxy has marked, it masquerades itself:\n{counted}");
        });
    }
}

#[test]
fn beside_kube_proxy_with_nftables_and_firewalld_that_trusts_the_pods() {
    let lab = Lab::new("");
    lab.load("nft", "kube-proxy.nft");
    lab.load("nft", "firewalld.nft");
    trust(&lab);
    beside(&lab, services);
}

/// As `firewall-cmd --zone=trusted --add-source=` writes it.
fn trust(lab: &Lab) {
    for source in ["ip saddr 10.244.0.0/16", "ip6 saddr fd00:10:244::/48"] {
        lab.node.run(
            "nft",
            &format!("insert rule inet firewalld filter_FORWARD_ZONES {source} goto filter_FWD_trusted"),
        );
    }
}

/// Docker's policy drops what pods send and receive, until the daemon is told to let it through.
#[test]
fn beside_docker_with_iptables_of_either_kind() {
    for kind in ["nft", "legacy"] {
        let lab = Lab::new("");
        lab.load(&format!("iptables-{kind}-restore"), "docker.v4");
        lab.load(&format!("ip6tables-{kind}-restore"), "docker.v6");
        beside(&lab, |lab| assert_eq!(lab.seen_at("198.51.100.9"), None, "nobody asked for it"));

        let lab = Lab::new("accept_forward = true\n");
        lab.load(&format!("iptables-{kind}-restore"), "docker.v4");
        lab.load(&format!("ip6tables-{kind}-restore"), "docker.v6");
        beside(&lab, |lab| {
            lab.seen_as(["198.51.100.9", "2001:db8:51::9"], NODE);
            lab.seen_as(["10.244.2.7", "fd00:10:244:2::7"], POD);
            lab.seen_as(["10.244.1.6", "fd00:10:244:1::6"], POD);
        });
    }
}

#[test]
fn what_lets_pods_through_is_kept_comes_with_a_late_firewall_and_goes_when_it_is_not_wanted() {
    let lab = Lab::new("accept_forward = true\n");
    let daemon = lab.node.start();
    daemon.wait_until_ready();
    assert!(!lab.rules().contains("FORWARD"), "no table is made for it:\n{}", lab.rules());
    lab.load("iptables-nft-restore", "docker.v4");
    let lets_through = || lab.node.run("iptables-nft", "-S FORWARD").ends_with("-j FERRULE-FORWARD\n");
    assert!(within(REPAIR, lets_through).is_some(), "{}", daemon.log());
    lab.seen_as(["198.51.100.9", "2001:db8:51::9"], NODE);
    for breakage in ["-D FORWARD -j FERRULE-FORWARD", "-F FERRULE-FORWARD", "-F FORWARD"] {
        lab.node.run("iptables-nft", breakage);
        let right = || {
            lets_through() && lab.node.run("iptables-nft", "-S FERRULE-FORWARD").contains("-d 10.244.1.0/24")
        };
        assert!(within(REPAIR, right).is_some(), "after {breakage}:\n{}", daemon.log());
    }
    // The rule that refuses everything stays last.
    lab.node.run("iptables-nft", "-I FORWARD 1 -j REJECT");
    let first =
        || lab.node.run("iptables-nft", "-S FORWARD").lines().nth(1) == Some("-A FORWARD -j FERRULE-FORWARD");
    assert!(within(REPAIR, first).is_some(), "{}", daemon.log());
    assert!(daemon.signal(Signal::SIGTERM).success());

    lab.node.configure(CLUSTER);
    let daemon = lab.node.start();
    daemon.wait_until_ready();
    assert!(!lab.rules().contains("FERRULE-FORWARD"), "{}\n{}", lab.rules(), daemon.log());
}

#[test]
fn a_firewall_that_no_rule_of_ours_passes_is_named_with_the_remedy_that_helps() {
    let lab = Lab::new("accept_forward = true\n");
    lab.load("nft", "firewalld.nft");
    let daemon = lab.node.start();
    daemon.wait_until_ready();
    daemon.wait_for_log("firewall-cmd --permanent --zone=trusted --add-source=NETWORK");
    assert_eq!(lab.seen_at("198.51.100.9"), None);
    trust(&lab);
    assert!(within(PATIENCE, || lab.seen_at("198.51.100.9").is_some()).is_some());
    lab.node.run("nft", "add table inet filter");
    lab.node.run(
        "nft",
        "add chain inet filter forward { type filter hook forward priority filter ; policy drop ; }",
    );
    daemon.wait_for_log("the chain forward of the nftables table inet filter drops what is forwarded");
}
