//! What comes by VXLAN: only nodes send it, and only what a node can have sent comes out of it.

use ferrule_netlink::nft::{Netfilter, NetfilterSocket};
use nix::sys::signal::Signal;
use serde_json::json;

use super::attack::{Ear, Frame, each, frame, sent};
use super::{Lab, NODE, REPAIR, WORLD};
use crate::keep::pods::Pod;
use crate::lab::{PATIENCE, within};

/// IPv6 pods have a device of their own, whose packets are IPv6.
const BOTH: &str = "[routing.vxlan]\ndevice6 = \"tunnel6\"\n";
/// Hosts that are no nodes: one on the segment, and one far away.
const STRANGERS: [[&str; 2]; 2] = [["192.0.2.77", "2001:db8::77"], ["198.51.100.9", "2001:db8:51::9"]];
/// The other node, and its pod.
const OTHER: [&str; 2] = [WORLD[0], WORLD[1]];
const OTHERS_POD: [&str; 2] = [WORLD[2], WORLD[3]];

impl Lab {
    /// Puts frames into packets of VXLAN from these two addresses.
    fn wrapped(&self, from: [&str; 2], frames: Vec<Frame>) -> Vec<Frame> {
        let macs = ["ferrule.1", "tunnel6"].map(|name| self.mac_of(name));
        let wrap = |frame: Frame| {
            let family = usize::from(frame.source.contains(':'));
            let outer = [from[family].to_owned(), NODE[family].to_owned(), macs[family].clone()];
            Frame { outer: Some(outer), ..frame }
        };
        frames.into_iter().map(wrap).collect()
    }

    /// Those of the world's frames that the node, its pod or the world hears.
    fn heard(&self, pod: &Pod<'_>, frames: &[Frame]) -> Vec<Frame> {
        let ears = [Ear::new(self.node.netns(), "*"), Ear::new(&pod.netns, "eth0")];
        let honest = [NODE[0], &pod.addresses[0]].map(|destination| frame("udp", WORLD[0], destination));
        let ears: Vec<_> = ears.iter().zip(honest).collect();
        sent((&self.world, "wire", &self.mac_of("eth0")), frames, &ears)
    }

    /// How many of the frames from these two addresses are heard, and how many there are.
    fn count(&self, from: [&str; 2], pod: &Pod<'_>) -> (usize, usize) {
        let frames = self.wrapped(from, from_pod(OTHERS_POD, pod));
        (self.heard(pod, &frames).len(), frames.len())
    }
}

/// What these two inner sources send to the pod, and to the node.
fn from_pod(sources: [&str; 2], pod: &Pod<'_>) -> Vec<Frame> {
    let to = |family: usize| [pod.addresses[family].as_str(), NODE[family]];
    let of = |family: usize| to(family).into_iter().flat_map(move |to| each(sources[family], to));
    [0, 1].into_iter().flat_map(of).collect()
}

/// How many elements the sets have.
fn elements(lab: &Lab) -> usize {
    let count = |set| {
        let found = NetfilterSocket::open().unwrap().elements("ferrule-guard", set);
        found.map_or(0, |elements| elements.len())
    };
    lab.node.inside(|| ["nodes4", "nodes6", "node_ports", "strict"].map(count).into_iter().sum())
}

#[test]
fn only_nodes_send_into_the_tunnel() {
    let lab = Lab::of("vxlan", "", &format!("{BOTH}[metrics]\nrouted = \"127.0.0.1:9479\"\n"));
    let pod = Pod::add(&lab.node, "c0ffee", json!({}));
    let (heard, all) = lab.count(OTHER, &pod);
    assert_eq!(heard, all, "{}", lab.daemon.log());
    for stranger in STRANGERS {
        assert_eq!(lab.count(stranger, &pod), (0, all));
    }
    let counted = format!("ferrule_routed_tunnel_packets_dropped_total{{reason=\"stranger\"}} {}", 2 * all);
    assert!(lab.page("/metrics").contains(&counted), "{}", lab.page("/metrics"));
    // What was a stranger joins the cluster, and leaves it.
    lab.node.write_nodes(&[1, 2, 77]);
    assert!(within(PATIENCE, || elements(&lab) == 7).is_some(), "{}", lab.daemon.log());
    assert_eq!(lab.count(STRANGERS[0], &pod), (all, all));
    lab.node.write_nodes(&[1, 2]);
    assert!(within(PATIENCE, || elements(&lab) == 5).is_some(), "{}", lab.daemon.log());
    assert_eq!(lab.count(STRANGERS[0], &pod), (0, all));
    // What somebody takes out is back.
    for command in
        ["flush set inet ferrule-guard nodes4", "flush set inet ferrule-guard strict", "flush ruleset"]
    {
        lab.node.run("nft", command);
        assert!(within(REPAIR, || elements(&lab) == 5).is_some(), "{command}: {}", lab.daemon.log());
    }
    assert_eq!(lab.count(STRANGERS[0], &pod), (0, all));
    assert_eq!(lab.count(OTHER, &pod), (all, all));
}

#[test]
fn what_was_closed_stays_closed_over_a_restart_and_what_was_open_stays_open_until_the_nodes_are_known() {
    let Lab { node, world, daemon, _ipamd } = Lab::of("vxlan", "", BOTH);
    assert!(daemon.signal(Signal::SIGTERM).success());
    node.write_nodes_text("not a nodes file");
    let daemon = node.start();
    daemon.wait_for_log("nodes.toml");
    let lab = Lab { node, world, daemon, _ipamd };
    let pod = Pod::add(&lab.node, "c0ffee", json!({}));
    let (heard, all) = lab.count(OTHER, &pod);
    assert_eq!(heard, all, "{}", lab.daemon.log());
    assert_eq!(lab.count(STRANGERS[0], &pod), (0, all));
    lab.node.run("nft", "flush ruleset");
    let is_back = || lab.node.command("nft", "list chain inet ferrule-guard input").status.success();
    assert!(within(REPAIR, is_back).is_some(), "{}", lab.daemon.log());
    assert_eq!(lab.count(STRANGERS[0], &pod), (all, all), "nothing tells yet who is a node");
    lab.node.write_nodes(&[1, 2]);
    assert!(within(PATIENCE, || elements(&lab) == 5).is_some(), "{}", lab.daemon.log());
    assert_eq!(lab.count(STRANGERS[0], &pod), (0, all));
}

#[test]
fn networks_that_an_operator_names_send_into_the_tunnel() {
    let more = format!("{BOTH}also_from = [\"198.51.100.0/24\", \"2001:db8:51::/48\"]\n");
    let lab = Lab::of("vxlan", "", &more);
    let pod = Pod::add(&lab.node, "c0ffee", json!({}));
    let (heard, all) = lab.count(STRANGERS[1], &pod);
    assert_eq!(heard, all, "{}", lab.daemon.log());
    assert_eq!(lab.count(STRANGERS[0], &pod), (0, all));
}

/// Sources that no packet out of the tunnel can have, in pairs.
fn impossible<'a>(other: &'a Pod<'_>) -> [[&'a str; 2]; 7] {
    [
        [&other.addresses[0], &other.addresses[1]],
        NODE,
        ["169.254.1.1", "fe80::1"],
        ["127.0.0.1", "::1"],
        ["224.0.0.1", "ff02::1"],
        ["0.0.0.0", "::"],
        ["255.255.255.255", "::ffff:192.0.2.2"],
    ]
}

/// Sources to which the way is not the tunnel: a free address of this node's pods, a pod CIDR that no node has, and
/// somebody outside.
const ELSEWHERE: [[&str; 2]; 3] = [
    ["10.244.1.200", "fd00:10:244:1::c8"],
    ["10.244.9.9", "fd00:10:244:9::9"],
    ["198.51.100.9", "2001:db8:51::9"],
];
/// What another node sends by the tunnel: its pods, the device itself, and the node (an answer to a pod that it sees
/// under the pod's address, or one of its programs on the host's network).
const PROPER: [[&str; 2]; 3] = [OTHERS_POD, ["10.244.2.0", "fd00:10:244:2::"], OTHER];

fn heard_of(lab: &Lab, pod: &Pod<'_>, sources: &[[&str; 2]]) -> (Vec<Frame>, usize) {
    let frames = sources.iter().flat_map(|sources| from_pod(*sources, pod)).collect();
    let frames = lab.wrapped(OTHER, frames);
    (lab.heard(pod, &frames), frames.len())
}

#[test]
fn what_comes_out_of_the_tunnel_has_a_source_to_which_the_tunnel_leads() {
    let lab = Lab::of("vxlan", "", BOTH);
    let (pod, other) = (Pod::add(&lab.node, "c0ffee", json!({})), Pod::add(&lab.node, "other", json!({})));
    for forged in [&impossible(&other)[..], &ELSEWHERE] {
        let (heard, all) = heard_of(&lab, &pod, forged);
        assert!(heard.is_empty(), "{} of {all}: {heard:#?}", heard.len());
    }
    let (heard, all) = heard_of(&lab, &pod, &PROPER);
    assert_eq!(heard.len(), all, "{heard:#?}");
    // A table that was made anew is as strict.
    lab.node.run("nft", "flush ruleset");
    assert!(within(REPAIR, || elements(&lab) == 5).is_some(), "{}", lab.daemon.log());
    let (heard, all) = heard_of(&lab, &pod, &ELSEWHERE);
    assert!(heard.is_empty(), "{} of {all}: {heard:#?}", heard.len());
    // This shows that it is the guard that keeps the others off.
    lab.daemon.send(Signal::SIGSTOP);
    lab.node.run("nft", "flush ruleset");
    let (heard, _) = heard_of(&lab, &pod, &ELSEWHERE);
    assert!(!heard.is_empty(), "nothing would have come through anyway");
}

#[test]
fn what_has_another_way_back_comes_out_of_the_tunnel_where_that_is_meant() {
    let networks = "[cluster]\nnon_masquerade_cidrs = [\"198.51.100.0/24\", \"2001:db8:51::/48\"]\n";
    for (backend, routing, more) in [
        // Nodes are reached plainly, and packets are still taken from the tunnel.
        ("native", "accept = \"vxlan\"\n", ""),
        // Nodes on the segment are reached plainly.
        ("auto", "", ""),
        // Pods' packets leave the cluster under the pods' addresses, so answers may come by way of any node.
        ("vxlan", "masquerade = false\n", ""),
        ("vxlan", "", networks),
    ] {
        let lab = Lab::of(backend, routing, &format!("{BOTH}{more}"));
        let (pod, other) =
            (Pod::add(&lab.node, "c0ffee", json!({})), Pod::add(&lab.node, "other", json!({})));
        let (heard, _) = heard_of(&lab, &pod, &impossible(&other));
        assert!(heard.is_empty(), "{backend} {routing}: {heard:#?}");
        let proper: Vec<_> = PROPER.into_iter().chain([ELSEWHERE[2]]).collect();
        let (heard, all) = heard_of(&lab, &pod, &proper);
        assert_eq!(heard.len(), all, "{backend} {routing}: {heard:#?}: {}", lab.daemon.log());
    }
}
