//! A hostile pod on a bridge harms no other pod there, and not the node.

use std::collections::BTreeSet;

use ferrule_model::{IfName, bridge_mac};
use nix::sys::signal::Signal;
use serde_json::json;

use super::attack::{Ear, Frame, frame, sent};
use super::{Lab, NODE, WORLD};
use crate::keep::pods::Pod;
use crate::lab::{Node, PATIENCE, within};

pub(super) const EVERYBODY: &str = "ff:ff:ff:ff:ff:ff";

/// A pod on the bridge, whose port is guarded.
pub(super) fn add<'a>(lab: &'a Lab, id: &'static str) -> Pod<'a> {
    guarded(lab, Pod::add(&lab.node, id, json!({ "mode": "bridge" })))
}

/// The pod, once it may send only under what its ADD gave it.
pub(super) fn guarded<'a>(lab: &Lab, pod: Pod<'a>) -> Pod<'a> {
    let is_guarded = || set(&lab.node, "ports").contains(&pod.veth());
    assert!(within(PATIENCE, is_guarded).is_some(), "{}", lab.daemon.log());
    pod
}

/// The elements of a set of the guard's table for bridges, as nft prints them.
pub(super) fn set(node: &Node, name: &str) -> String {
    String::from_utf8(node.command("nft", &format!("list set bridge ferrule-guard {name}")).stdout).unwrap()
}

/// The MAC that frames for the node go to.
pub(super) fn gateway() -> String {
    bridge_mac(&IfName::new("ferrule0").unwrap()).to_string()
}

pub(super) fn own_mac(pod: &Pod<'_>) -> String {
    let link = String::from_utf8(pod.run("ip", "-o link show eth0").stdout).unwrap();
    link.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
}

pub(super) fn to(mac: &str, frame: Frame) -> Frame {
    Frame { to: Some(mac.to_owned()), ..frame }
}

/// The frames of this pod's that anybody hears: the node, the world, another pod.
pub(super) fn delivered(lab: &Lab, pod: &Pod<'_>, other: &Pod<'_>, frames: &[Frame]) -> Vec<Frame> {
    let ears = [
        Ear::new(lab.node.netns(), "*"),
        Ear::new(lab.node.netns(), "ferrule0"),
        Ear::new(&lab.world, "wire"),
        Ear::new(&other.netns, "eth0"),
    ];
    let own = pod.addresses[0].as_str();
    let honest = [
        frame("udp", own, NODE[0]),
        frame("udp", own, NODE[0]),
        frame("udp", own, WORLD[0]),
        to(&own_mac(other), frame("udp", own, &other.addresses[0])),
    ];
    let ears: Vec<_> = ears.iter().zip(honest).collect();
    sent((&pod.netns, "eth0", &gateway()), frames, &ears)
}

/// What a pod has no business to send, under its own addresses.
fn improper(pod: &Pod<'_>, other: &Pod<'_>) -> Vec<Frame> {
    let mac = own_mac(other);
    let [own4, own6] = [0, 1].map(|family| pod.addresses[family].as_str());
    let [other4, other6] = [0, 1].map(|family| other.addresses[family].as_str());
    let mut frames = vec![
        to(&mac, frame("redirect4", own4, other4)),
        to("01:00:5e:00:00:01", frame("query", own4, "224.0.0.1")),
        to(&mac, frame("advertisement", "fe80::5", other6)),
    ];
    for kind in ["advertisement", "redirect", "query"] {
        frames.push(to("33:33:00:00:00:01", frame(kind, "fe80::5", "ff02::1")));
    }
    for to_mac in [&mac, EVERYBODY] {
        for tag in ["81000005", "88a80005", "81000000", "88a8000581000005"] {
            let packets = [frame("udp", own4, other4), frame("udp", own6, other6)];
            frames.extend(packets.map(|packet| Frame { tag, ..to(to_mac, packet) }));
        }
        frames.extend(["bpdu", "other"].map(|kind| to(to_mac, frame(kind, own4, other4))));
    }
    frames.push(to("01:80:c2:00:00:00", frame("bpdu", own4, other4)));
    let port = |port, frame| Frame { port, ..frame };
    for to_mac in [&mac, EVERYBODY] {
        frames.push(port(68, to(to_mac, frame("udp", own4, other4))));
        frames.push(port(68, to(to_mac, frame("udp", own4, "255.255.255.255"))));
        frames.push(port(546, to(to_mac, frame("udp", own6, other6))));
        frames.push(port(8472, to(to_mac, frame("udp", own4, other4))));
        frames.push(port(8472, to(to_mac, frame("udp", own6, other6))));
    }
    for (own, everybody) in [(own4, [NODE[0], WORLD[0], WORLD[2]]), (own6, [NODE[1], WORLD[1], WORLD[3]])] {
        frames.extend(everybody.map(|destination| port(8472, frame("udp", own, destination))));
    }
    frames
}

/// What a pod sends as itself.
pub(super) fn honest(pod: &Pod<'_>, other: &Pod<'_>) -> Vec<Frame> {
    let mut frames = Vec::new();
    for first in [0, 1] {
        let own = pod.addresses[first].as_str();
        for kind in ["udp", "syn", "ping"] {
            frames.push(to(&own_mac(other), frame(kind, own, &other.addresses[first])));
            let away = WORLD.iter().skip(first).step_by(2).chain([&NODE[first]]);
            frames.extend(away.map(|destination| frame(kind, own, destination)));
        }
    }
    // Somebody who asks for an address.
    frames.push(Frame { port: 67, ..to(EVERYBODY, frame("udp", "0.0.0.0", "255.255.255.255")) });
    frames.push(Frame { port: 8473, ..frame("udp", &pod.addresses[0], WORLD[0]) });
    frames
}

pub(super) fn numbered(frames: &[Frame]) -> BTreeSet<String> {
    frames.iter().map(|frame| format!("{frame:?}")).collect()
}

#[test]
fn what_only_routers_bridges_and_tunnels_send_passes_no_port_and_the_rest_does() {
    let lab = Lab::new("[metrics]\nrouted = \"127.0.0.1:9479\"\n");
    let (pod, other) = (add(&lab, "c0ffee"), add(&lab, "other"));
    let talk = || other.addresses.iter().all(|address| pod.reaches(address)) && pod.is_connected();
    assert!(within(PATIENCE, talk).is_some(), "{}", lab.daemon.log());
    let improper = improper(&pod, &other);
    let got = delivered(&lab, &pod, &other, &improper);
    assert!(got.is_empty(), "{} of {} came through: {got:#?}", got.len(), improper.len());
    let honest = honest(&pod, &other);
    let got = numbered(&delivered(&lab, &pod, &other, &honest));
    let lost: Vec<_> = numbered(&honest).difference(&got).cloned().collect();
    assert!(lost.is_empty(), "{lost:#?}");
    let page = lab.page("/metrics");
    for counted in ["frames\"} 21", "leases\"} 6", "routers\"} 6", "tunnel\"} 10"] {
        let sample = format!("ferrule_routed_pod_packets_dropped_total{{reason=\"{counted}");
        assert!(page.contains(&sample), "{sample}:\n{page}");
    }
    // The guard is shown to be what keeps them off.
    lab.daemon.send(Signal::SIGSTOP);
    lab.node.run("nft", "flush ruleset");
    let got = delivered(&lab, &pod, &other, &improper);
    let kept_off: Vec<_> = numbered(&improper).difference(&numbered(&got)).cloned().collect();
    assert!(kept_off.is_empty(), "these would not have come through anyway: {kept_off:#?}");
}
