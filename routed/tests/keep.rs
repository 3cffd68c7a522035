//! What the plugin made for pods on the host is kept, whatever disturbs it. The real plugin makes the pods, on the real
//! kernel.
//!
//! The plugin and `ipamd` are those built beside `routed`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

pub(crate) mod pods;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::lab::{Daemon, Node, PATIENCE, within};
use crate::repair::with_nft_behind;
use nix::sys::signal::Signal;
use pods::{Ipamd, Pod, connects};
use serde_json::json;

/// Promised: what someone else changes is back within this time.
const REPAIR: Duration = Duration::from_secs(1);

/// A node with both daemons.
fn node() -> (Node, Daemon, Ipamd) {
    let node = Node::new("native");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let ipamd = Ipamd::start(&node);
    (node, daemon, ipamd)
}

fn connected(pod: &Pod<'_>, limit: Duration, after: &str, daemon: &Daemon) {
    let took = within(limit, || pod.is_connected());
    assert!(took.is_some(), "the pod is cut off after {after}:\n{}", daemon.log());
}

/// What others do to a pod's link, and how the log names it.
fn disturbances(pod: &Pod<'_>) -> Vec<(&'static str, String, &'static str)> {
    let (veth, v4, v6) = (pod.veth(), &pod.addresses[0], &pod.addresses[1]);
    vec![
        ("ip", format!("link set {veth} down"), "was switched off by someone else; put right, with its"),
        ("ip", format!("neigh flush dev {veth} nud permanent"), "by someone else (netlink port"),
        ("ip", format!("-6 neigh flush dev {veth} nud permanent"), "by someone else (netlink port"),
        ("ip", format!("route flush proto 70 dev {veth}"), "was deleted by someone else (netlink port"),
        ("ip", format!("-6 route flush proto 70 dev {veth}"), "was deleted by someone else (netlink port"),
        ("ip", format!("route del {v4}"), "was deleted by someone else (netlink port"),
        ("ip", format!("route replace {v4} dev eth0"), "was changed by someone else (netlink port"),
        ("ip", format!("-6 route replace {v6} dev eth0"), "was changed by someone else (netlink port"),
        (
            "ip",
            format!("neigh replace {v4} lladdr 02:00:00:00:00:99 dev {veth} nud permanent"),
            "was changed by someone else (netlink port",
        ),
        ("ip", format!("link set {veth} address 02:00:00:00:00:98"), "was given another MAC by someone else"),
        ("sysctl", format!("-w net.ipv6.conf.{veth}.disable_ipv6=1"), "IPv6 of"),
    ]
}

/// The reference plugin `tuning` does the same behind ours (decision 51).
#[test]
fn a_pod_whose_mac_somebody_set_is_named_with_the_remedy() {
    let (node, daemon, _ipamd) = node();
    let pod = Pod::add(&node, "c0ffee", json!({}));
    connected(&pod, PATIENCE, "ADD", &daemon);
    let flush = format!("neigh flush dev {} nud permanent", pod.veth());
    node.run("ip", &flush);
    connected(&pod, REPAIR, &flush, &daemon);
    assert!(!daemon.log().contains("is no longer"), "{}", daemon.log());
    let set =
        || Command::new("ip").args("link set eth0 address 0a:00:00:00:00:2b".split(' ')).status().unwrap();
    assert!(pod.netns.run(set).unwrap().success());
    // The next look sees it, but nobody has to wait for that here.
    node.run("ip", &flush);
    daemon.wait_for_log("the MAC of eth0 in pod ");
    daemon.wait_for_log("let ferrule do that (capability");
}

#[test]
fn a_routed_pod_is_connected_again_within_a_second_whatever_is_done_to_its_link() {
    let (node, daemon, _ipamd) = node();
    let pod = Pod::add(&node, "c0ffee", json!({}));
    connected(&pod, PATIENCE, "ADD", &daemon);
    assert!(!daemon.log().contains("someone else"), "{}", daemon.log());
    for (program, arguments, told) in disturbances(&pod) {
        let before = daemon.log().len();
        node.run(program, &arguments);
        connected(&pod, REPAIR, &arguments, &daemon);
        let is_told = || daemon.log()[before..].contains(told);
        assert!(within(PATIENCE, is_told).is_some(), "`{told}` after {arguments}:\n{}", daemon.log());
        // Waits until all of it is over, so that what comes next is not taken for a part of it.
        let is_right = || {
            let state = node.ip(&format!("route show {}", pod.addresses[0]))
                + &node.ip(&format!("-6 route show {}", pod.addresses[1]));
            state.matches(&pod.veth()).count() == 2
        };
        assert!(within(PATIENCE, is_right).is_some(), "{arguments}:\n{}", daemon.log());
    }
    node.ip(&format!("link set {} mtu 1300", pod.veth()));
    let mtu = || node.ip(&format!("link show {}", pod.veth())).contains("mtu 1500");
    assert!(within(REPAIR, mtu).is_some(), "{}", daemon.log());
}

#[test]
fn nothing_comes_back_after_a_del_and_what_comes_and_goes_is_not_noticed() {
    let (node, daemon, _ipamd) = node();
    let stays = Pod::add(&node, "stays", json!({}));
    for _ in 0..10 {
        let pod = Pod::add(&node, "goes", json!({}));
        assert!(pod.is_recorded());
        pod.del();
        assert!(!pod.is_recorded());
        assert!(!node.ip("link show").contains(&pod.veth()));
        assert_eq!(node.ip(&format!("route show {}", pod.addresses[0])), "");
    }
    // A pod that switches its own end off does so on purpose.
    let off = stays.run("ip", "link set eth0 down");
    assert!(off.status.success());
    // The daemon looks into the next disturbance only after all earlier ones.
    let other = Pod::add(&node, "other", json!({}));
    node.ip(&format!("route del {}", other.addresses[0]));
    connected(&other, REPAIR, "route del", &daemon);
    let log = daemon.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("someone else")).collect();
    assert!(told.len() == 1 && told[0].contains(&other.addresses[0]), "{log}");
    let pod_end = String::from_utf8(stays.run("ip", "-o link show eth0").stdout).unwrap();
    assert!(pod_end.contains("state DOWN"), "{pod_end}");
}

#[test]
fn what_was_disturbed_while_nobody_looked_is_right_after_a_restart() {
    let (node, daemon, _ipamd) = node();
    let (pod, gone) = (Pod::add(&node, "c0ffee", json!({})), Pod::add(&node, "gone", json!({})));
    connected(&pod, PATIENCE, "ADD", &daemon);
    assert!(!daemon.signal(Signal::SIGKILL).success());
    node.ip(&format!("link set {} down", pod.veth()));
    node.ip(&format!("link set {} down", gone.veth()));
    gone.del();
    // Pods do not wait for the nodes.
    fs::remove_file(node.path("nodes.toml")).unwrap();
    let daemon = node.start();
    connected(&pod, PATIENCE, "the restart", &daemon);
    let before = daemon.log().len();
    node.ip(&format!("link set {} down", pod.veth()));
    connected(&pod, REPAIR, "link down after the restart", &daemon);
    assert!(!daemon.log()[before..].contains(&gone.veth()), "{}", daemon.log());
    assert!(!node.ip("link show").contains(&gone.veth()));
}

#[test]
fn a_host_end_that_is_deleted_is_named_once_with_the_remedy() {
    let (node, daemon, _ipamd) = node();
    let pod = Pod::add(&node, "c0ffee", json!({}));
    node.ip(&format!("link del {}", pod.veth()));
    let other = Pod::add(&node, "other", json!({}));
    drop(daemon);
    let daemon = node.start();
    daemon.wait_for_log(&format!("link {} was deleted by someone else", pod.veth()));
    daemon.wait_for_log("delete the pod, so that it is made anew");
    assert!(within(PATIENCE, || !pod.is_recorded()).is_some());
    assert!(other.is_recorded());
    pod.del();
}

#[test]
fn host_ports_are_open_again_within_a_second_whatever_is_done_to_the_rulesets() {
    let (node, daemon, _ipamd) = node();
    let ask = |host: u16| {
        json!({ "capabilities": { "portMappings": true },
                "runtimeConfig": { "portMappings": [{ "hostPort": host, "containerPort": 80 }] } })
    };
    let (pod, goes) = (Pod::add(&node, "c0ffee", ask(8080)), Pod::add(&node, "goes", ask(8081)));
    pod.serve(80);
    goes.serve(80);
    let is_open =
        |port| ["192.0.2.1", "2001:db8::1", "127.0.0.1"].iter().all(|address| connects(&node, address, port));
    assert!(within(PATIENCE, || is_open(8080) && is_open(8081)).is_some(), "{}", daemon.log());
    let disturbances = [
        (
            "flush ruleset",
            "the nftables table inet ferrule-hostports was deleted by someone else (netlink port",
        ),
        (
            "delete table inet ferrule-hostports",
            "table inet ferrule-hostports was deleted by someone else (netlink port",
        ),
        (
            "flush table inet ferrule-hostports",
            "table inet ferrule-hostports was changed by someone else (netlink port",
        ),
        (
            "flush chain inet ferrule-hostports prerouting",
            "table inet ferrule-hostports was changed by someone else (netlink port",
        ),
        (
            "flush map inet ferrule-hostports every4",
            "host ports tcp 8080 were closed by someone else (netlink port",
        ),
        (
            "flush map inet ferrule-hostports every6",
            "host ports tcp 8080 were closed by someone else (netlink port",
        ),
        (
            "flush set inet ferrule-hostports loopback_every",
            "host ports tcp 8080 were closed by someone else (netlink port",
        ),
        (
            "flush set inet ferrule-hostports own4",
            "the node's addresses in the nftables table inet ferrule-hostports were removed or changed by someone else (netlink port",
        ),
        (
            "flush set inet ferrule-hostports own6",
            "the node's addresses in the nftables table inet ferrule-hostports were removed or changed by someone else (netlink port",
        ),
    ];
    for (command, told) in disturbances {
        let before = daemon.log().len();
        node.run("nft", command);
        assert!(within(REPAIR, || is_open(8080)).is_some(), "after {command}:\n{}", daemon.log());
        let is_told = || daemon.log()[before..].contains(told);
        assert!(within(PATIENCE, is_told).is_some(), "`{told}` after {command}:\n{}", daemon.log());
    }
    // Nothing of a pod that has ended comes back: not at once, not with the next repair, and not after a restart.
    goes.del();
    node.run("nft", "flush ruleset");
    assert!(within(REPAIR, || is_open(8080)).is_some(), "{}", daemon.log());
    assert!(!daemon.signal(Signal::SIGKILL).success());
    node.run("nft", "flush ruleset");
    let daemon = node.start();
    assert!(within(PATIENCE, || is_open(8080)).is_some(), "{}", daemon.log());
    let listed = node.run("nft", "list table inet ferrule-hostports");
    assert!(listed.contains("8080") && !listed.contains("8081"), "{listed}");
    pod.del();
    let listed = node.run("nft", "list table inet ferrule-hostports");
    assert!(!listed.contains("8080"), "{listed}");
}

/// The kernel sends no event when nft can be run again.
#[test]
fn host_ports_are_open_again_within_a_second_after_nft_works_again() {
    let node = Node::new("native");
    node.write_nodes(&[1, 2]);
    let broken = node.path("broken");
    let breaks = format!("[ -e {} ] && {{ echo broken >&2; exit 1; }}", broken.display());
    let daemon = node.start_as(with_nft_behind(&node, &breaks));
    daemon.wait_until_ready();
    let _ipamd = Ipamd::start(&node);
    let ports = json!({ "capabilities": { "portMappings": true },
                        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] } });
    let pod = Pod::add(&node, "c0ffee", ports);
    pod.serve(80);
    let is_open = || connects(&node, "192.0.2.1", 8080);
    assert!(within(PATIENCE, is_open).is_some(), "{}", daemon.log());
    // Until it was seen open and was looked at after the ADD: closed and opened again.
    node.run("nft", "flush map inet ferrule-hostports every4");
    daemon.wait_for_log("host ports tcp 8080 were closed by someone else");
    fs::write(&broken, "").unwrap();
    node.run("nft", "delete table inet ferrule-hostports");
    daemon.wait_for_log("host ports: nft refused the ruleset: broken");
    assert!(!is_open());
    fs::remove_file(&broken).unwrap();
    assert!(within(REPAIR, is_open).is_some(), "{}", daemon.log());
    daemon.wait_for_log("host ports tcp 8080 were closed by someone else; opened again");
}

/// The number of repairs that Prometheus would read, including those of pods.
fn repaired(node: &Node) -> Option<f64> {
    let page = node.inside(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9479").ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    })?;
    page.lines().find_map(|line| line.strip_prefix("ferrule_routed_repaired_total "))?.parse().ok()
}

#[test]
fn a_plan_tells_what_would_be_put_back_and_cleanup_leaves_what_pods_have() {
    let (node, daemon, _ipamd) = node();
    let ports = json!({ "capabilities": { "portMappings": true },
                        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] } });
    let pod = Pod::add(&node, "c0ffee", ports);
    let plan = || node.run(env!("CARGO_BIN_EXE_routed"), &format!("{} --log warn plan", node.arguments()));
    assert!(
        within(PATIENCE, || plan().starts_with("nothing to do: ")).is_some(),
        "{}\n{}",
        plan(),
        daemon.log()
    );
    assert!(daemon.signal(Signal::SIGTERM).success());
    let (veth, address) = (pod.veth(), &pod.addresses[0]);
    node.ip(&format!("route flush proto 70 dev {veth}"));
    node.run("nft", "flush map inet ferrule-hostports every4");
    let told = plan();
    assert!(
        told.lines()
            .any(|line| line.starts_with(&format!("set route {address}/32")) && line.contains("(pod ")),
        "{told}"
    );
    assert!(told.contains("open host ports tcp 8080 (pod "), "{told}");
    assert_eq!(node.ip(&format!("route show proto 70 dev {veth}")), "", "it only tells");
    // Pods keep what they have until their DEL, and the next daemon keeps it again.
    assert!(node.cleanup().status.success());
    assert!(pod.is_recorded() && !node.ip(&format!("neigh show dev {veth} nud permanent")).is_empty());
    node.configure("[metrics]\nrouted = \"127.0.0.1:9479\"\n");
    let daemon = node.start();
    connected(&pod, PATIENCE, "cleanup", &daemon);
    daemon.wait_until_ready();
    assert!(
        within(PATIENCE, || repaired(&node) >= Some(2.0)).is_some(),
        "{:?}\n{}",
        repaired(&node),
        daemon.log()
    );
    assert!(within(PATIENCE, || plan().starts_with("nothing to do: ")).is_some(), "{}", plan());
    pod.del();
}

/// What matters of the bridge `fbr0` and of the place of `veth` there.
fn bridge_state(node: &Node, veth: &str) -> [String; 3] {
    let text = |program: &str, arguments: &str| {
        let output = node.command(program, arguments).stdout;
        String::from_utf8_lossy(&output).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let words = |text: &str, wanted: &[&str]| {
        wanted.iter().filter(|word| text.contains(*word)).copied().collect::<Vec<_>>().join(", ")
    };
    let mac = ferrule_model::bridge_mac(&ferrule_model::IfName::new("fbr0").unwrap()).to_string();
    let place = text("bridge", &format!("-d link show dev {veth}"));
    [
        words(
            &text("ip", "addr show dev fbr0 scope global"),
            &["inet 10.244.1.1/24", "inet6 fd00:10:244:1::1/64"],
        ),
        words(&place, &["master fbr0", "isolated on", "hairpin on", ",UP"]),
        words(&text("ip", "-o link show fbr0"), &[",UP", &mac]),
    ]
}

#[test]
fn a_pod_on_a_bridge_is_connected_again_within_a_second_whatever_is_done_to_its_place_there() {
    let (node, daemon, _ipamd) = node();
    let on_a_bridge = json!({ "mode": "bridge", "bridge": "fbr0", "isolation": true });
    let pod = Pod::add(&node, "c0ffee", on_a_bridge.clone());
    connected(&pod, PATIENCE, "ADD", &daemon);
    assert!(!daemon.log().contains("someone else"), "{}", daemon.log());
    let veth = pod.veth();
    let (v4, v6) = ("10.244.1.1/24", "fd00:10:244:1::1/64");
    let disturbances = [
        ("ip", format!("link set {veth} nomaster"), "was taken from bridge fbr0 by someone else"),
        (
            "bridge",
            format!("link set dev {veth} isolated off hairpin off"),
            "was given another kind of place on",
        ),
        ("ip", format!("link set {veth} down"), "was switched off by someone else"),
        ("ip", "link set fbr0 down".into(), "link fbr0 was switched off by someone else"),
        ("ip", format!("addr del {v4} dev fbr0"), "was deleted by someone else (netlink port"),
        // For IPv6 addresses the kernel does not tell who deleted them.
        ("ip", format!("addr del {v6} dev fbr0"), "on fbr0 was deleted by someone else; put back"),
        (
            "ip",
            "link set fbr0 address 02:00:00:00:00:97".into(),
            "link fbr0 was given another MAC by someone else",
        ),
        ("ip", "link del fbr0".into(), "bridge fbr0 was deleted by someone else"),
    ];
    let state = || bridge_state(&node, &veth);
    let right = state();
    assert!(right.iter().all(|part| part.contains(", ")), "{right:?}");
    for (program, arguments, told) in disturbances {
        let before = daemon.log().len();
        node.run(program, &arguments);
        assert!(
            within(REPAIR, || state() == right).is_some(),
            "{arguments}: {:?} {right:?}\n{}",
            state(),
            daemon.log()
        );
        // A program that asked for a MAC in vain meanwhile asks again a second later.
        connected(&pod, PATIENCE, &arguments, &daemon);
        let is_told = || daemon.log()[before..].contains(told);
        assert!(within(PATIENCE, is_told).is_some(), "`{told}` after {arguments}:\n{}", daemon.log());
    }
    // Other pods that come and go on the same bridge are not noticed.
    let before = daemon.log().len();
    for _ in 0..5 {
        Pod::add(&node, "goes", on_a_bridge.clone()).del();
    }
    node.ip(&format!("link set {veth} nomaster"));
    assert!(within(REPAIR, || state() == right).is_some(), "{}", daemon.log());
    // The log names it once it is done.
    let told = || daemon.log()[before..].matches("someone else").count();
    assert!(within(PATIENCE, || told() > 0).is_some(), "{}", daemon.log());
    assert_eq!(told(), 1, "{}", daemon.log());
    pod.del();
    assert!(!node.ip("link show").contains(&veth));
}

#[test]
fn limits_are_right_again_within_a_second_whatever_is_done_to_them() {
    let (node, daemon, _ipamd) = node();
    let rate = 8_000_000;
    let limits = json!({ "ingressRate": rate, "ingressBurst": rate / 10, "egressRate": rate, "egressBurst": rate / 10 });
    let ask = json!({ "capabilities": { "bandwidth": true }, "runtimeConfig": { "bandwidth": limits } });
    let pod = Pod::add(&node, "c0ffee", ask.clone());
    let right = pod.limits();
    assert!(right.is_some());
    let (veth, ifb) = (pod.veth(), pod.ifb());
    for (program, arguments) in [
        ("tc", format!("qdisc del dev {veth} root")),
        ("tc", format!("qdisc replace dev {veth} root pfifo")),
        ("tc", format!("qdisc change dev {veth} root tbf rate 1gbit burst 1mb limit 10mb")),
        ("tc", format!("qdisc del dev {veth} ingress")),
        ("tc", format!("filter del dev {veth} ingress")),
        ("tc", format!("qdisc del dev {ifb} root")),
        ("ip", format!("link set {ifb} down")),
        ("ip", format!("link del {ifb}")),
    ] {
        let before = daemon.log().len();
        node.run(program, &arguments);
        assert_ne!(pod.limits(), right, "{arguments}");
        assert!(within(REPAIR, || pod.limits() == right).is_some(), "after {arguments}:\n{}", daemon.log());
        let is_told = || daemon.log()[before..].contains("was removed or changed by someone else; put back");
        assert!(within(PATIENCE, is_told).is_some(), "after {arguments}:\n{}", daemon.log());
    }
    let before = daemon.log().len();
    for _ in 0..5 {
        Pod::add(&node, "goes", ask.clone()).del();
    }
    node.ip(&format!("link del {ifb}"));
    assert!(within(REPAIR, || pod.limits() == right).is_some(), "{}", daemon.log());
    // The log names it once it is done.
    let told = || daemon.log()[before..].matches("someone else").count();
    assert!(within(PATIENCE, || told() > 0).is_some(), "{}", daemon.log());
    assert_eq!(told(), 1, "{}", daemon.log());
    pod.del();
    assert!(!node.ip("link show").contains(&ifb), "{}", node.ip("link show"));
}
