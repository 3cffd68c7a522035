//! A pod on a bridge sends under what its ADD gave it, and under nothing else.

use std::collections::BTreeSet;

use ferrule_model::Mac;
use nix::sys::signal::Signal;
use serde_json::json;

use super::attack::{Ear, Frame, each, frame, many, sent, sent_before};
use super::bridge::{EVERYBODY, add, delivered, gateway, guarded, honest, numbered, own_mac, set, to};
use super::{Lab, NODE, REPAIR, WORLD};
use crate::keep::pods::Pod;
use crate::lab::{Node, PATIENCE, within};

/// The bridge's addresses.
const GATEWAY: [&str; 2] = ["10.244.1.1", "fd00:10:244:1::1"];
/// The sets with elements for each port.
const SETS: [&str; 9] =
    ["ports", "macs", "options", "addresses4", "addresses6", "targets", "isolated", "isolated4", "isolated6"];
/// The MAC of nobody.
const NOBODY: &str = "02:00:00:00:00:77";

/// The address that the kernel gives the pod's link.
fn link_local(pod: &Pod<'_>) -> String {
    own_mac(pod).parse::<Mac>().unwrap().link_local().to_string()
}

/// Sources that this pod may not use: another pod here and elsewhere, a free address of a pod, this node and the other
/// one, the gateway, somebody outside, another link-local one, and addresses that no source can have.
fn others(other: &Pod<'_>) -> [Vec<String>; 2] {
    let v4 = ["10.244.2.7", "10.244.1.200", GATEWAY[0], NODE[0], WORLD[0], "198.51.100.9", "169.254.1.1"];
    let none4 = ["240.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1"];
    let v6 = ["fd00:10:244:2::7", "fd00:10:244:1::c8", GATEWAY[1], NODE[1], WORLD[1], "2001:db8:51::9"];
    let none6 = ["fe80::1", "fe80::5", "::", "::ffff:192.0.2.2", "::1", "ff02::1"];
    let all = |own: &String, some: &[&str], none: &[&str]| {
        let some = some.iter().chain(none).map(ToString::to_string);
        [own.clone()].into_iter().chain(some).collect::<Vec<_>>()
    };
    let mut sources = [all(&other.addresses[0], &v4, &none4), all(&other.addresses[1], &v6, &none6)];
    sources[1].push(link_local(other));
    sources
}

/// Packets under these sources, to everybody.
fn packets(sources: &[Vec<String>; 2], other: &Pod<'_>) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (family, sources) in sources.iter().enumerate() {
        let away = WORLD.iter().skip(family).step_by(2).chain([&NODE[family], &GATEWAY[family]]);
        for source in sources {
            frames.extend(away.clone().flat_map(|destination| each(source, destination)));
            let beside = each(source, &other.addresses[family]);
            frames.extend(beside.map(|frame| to(&own_mac(other), frame)));
            frames.push(to(EVERYBODY, frame("udp", source, ["255.255.255.255", "ff02::1"][family])));
        }
    }
    frames
}

fn from(mac: &str, frame: Frame) -> Frame {
    Frame { from: Some(mac.to_owned()), ..frame }
}

fn claims(mac: &str, frame: Frame) -> Frame {
    Frame { claim: Some(mac.to_owned()), ..frame }
}

fn about(address: &str, frame: Frame) -> Frame {
    Frame { about: Some(address.to_owned()), ..frame }
}

/// The pod's own packets under others' MACs.
fn under_other_macs(pod: &Pod<'_>, other: &Pod<'_>) -> Vec<Frame> {
    let mut frames = Vec::new();
    for mac in [&own_mac(other), &gateway(), NOBODY, EVERYBODY] {
        for family in [0, 1] {
            let own = pod.addresses[family].as_str();
            frames.push(from(mac, frame("udp", own, WORLD[family])));
            frames.push(from(mac, to(&own_mac(other), frame("udp", own, &other.addresses[family]))));
        }
        frames.push(from(mac, to(EVERYBODY, frame("arp-request", &pod.addresses[0], &other.addresses[0]))));
    }
    frames
}

/// What would tell the node and the other pods wrong things of neighbours.
fn lies(pod: &Pod<'_>, other: &Pod<'_>) -> Vec<Frame> {
    let (own4, own6) = (pod.addresses[0].as_str(), pod.addresses[1].as_str());
    let (there4, there6) = (other.addresses[0].as_str(), other.addresses[1].as_str());
    let mut frames = Vec::new();
    for mac in [&own_mac(other), &gateway(), EVERYBODY] {
        for kind in ["arp-request", "arp-reply"] {
            for whose in [there4, GATEWAY[0], NODE[0], WORLD[0], "10.244.1.200"] {
                frames.push(to(mac, frame(kind, whose, there4)));
            }
            for claim in [&own_mac(other), &gateway(), NOBODY] {
                frames.push(to(mac, claims(claim, frame(kind, own4, there4))));
            }
        }
        // A probe for an address that another has.
        frames.push(to(mac, frame("arp-request", "0.0.0.0", there4)));
        for whose in [there6, GATEWAY[1], "fd00:10:244:1::c8", "fe80::5"] {
            frames.push(to(mac, about(whose, frame("advertise", own6, there6))));
            frames.push(to(mac, about(whose, frame("advertise bare", own6, there6))));
            frames.push(to(mac, about(there6, frame("solicit", whose, there6))));
            frames.push(to(mac, frame("router-solicit", whose, "ff02::2")));
        }
        for claim in [&own_mac(other), &gateway(), NOBODY] {
            frames.push(to(mac, claims(claim, frame("advertise", own6, there6))));
            frames.push(to(mac, claims(claim, about(there6, frame("solicit", own6, there6)))));
            frames.push(to(mac, claims(claim, frame("router-solicit", own6, "ff02::2"))));
            for kind in ["advertise behind", "solicit behind"] {
                frames.push(to(mac, claims(claim, about(own6, frame(kind, own6, there6)))));
            }
        }
        // As if the pod were about to take the address of another.
        frames.push(to(mac, about(there6, frame("solicit bare", "::", "ff02::1"))));
    }
    frames
}

/// What the pod tells of itself.
fn truths(pod: &Pod<'_>, other: &Pod<'_>) -> Vec<Frame> {
    let (own4, own6, there6) = (&pod.addresses[0], &pod.addresses[1], &other.addresses[1]);
    let own = link_local(pod);
    vec![
        to(EVERYBODY, frame("arp-request", own4, &other.addresses[0])),
        to(EVERYBODY, frame("arp-request", own4, own4)),
        to(EVERYBODY, frame("arp-request", "0.0.0.0", own4)),
        to(&own_mac(other), frame("arp-reply", own4, &other.addresses[0])),
        to(EVERYBODY, about(there6, frame("solicit", own6, "ff02::1"))),
        to(&own_mac(other), about(there6, frame("solicit bare", own6, there6))),
        to(EVERYBODY, about(own6, frame("solicit nonce", "::", "ff02::1"))),
        to(EVERYBODY, about(&own, frame("solicit bare", "::", "ff02::1"))),
        to(EVERYBODY, frame("advertise", own6, "ff02::1")),
        to(&own_mac(other), about(own6, frame("advertise bare", &own, there6))),
        to(EVERYBODY, frame("router-solicit", &own, "ff02::2")),
        to(EVERYBODY, frame("udp", &own, "ff02::1")),
    ]
}

/// Which of these do not come through, as text.
fn lost(lab: &Lab, pod: &Pod<'_>, other: &Pod<'_>, frames: &[Frame]) -> Vec<String> {
    let got = numbered(&delivered(lab, pod, other, frames));
    numbered(frames).difference(&got).cloned().collect()
}

/// The MAC that this namespace has for an address, or nothing.
fn neighbour(listed: &str, address: &str) -> String {
    let line =
        listed.lines().find(|line| line.split_whitespace().next() == Some(address)).unwrap_or_default();
    line.split_once("lladdr ").map_or("", |(_, mac)| mac.split(' ').next().unwrap()).to_owned()
}

fn neighbours_of_node(node: &Node) -> String {
    node.ip("neigh show dev ferrule0") + &node.ip("-6 neigh show dev ferrule0")
}

/// The MACs that the bridge believes to be behind the pod's port.
fn macs_behind(node: &Node, pod: &Pod<'_>) -> BTreeSet<String> {
    let listed = node.run("bridge", &format!("fdb show br ferrule0 brport {}", pod.veth()));
    let learned = listed.lines().filter(|line| !line.contains("permanent"));
    learned.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

/// Of these frames those that arrive at the other pod if there is no guard. Those under the MAC of the other pod or the
/// node are left out, because they turn all later ones away from there, too. The kernel takes none from a group.
fn audible(frames: &[Frame], other: &Pod<'_>) -> Vec<Frame> {
    let macs = [own_mac(other), gateway(), EVERYBODY.to_owned()];
    let is_audible = |frame: &&Frame| {
        let arrives = frame.to.as_deref().is_some_and(|mac| mac == macs[0] || mac == EVERYBODY);
        arrives && !frame.from.as_ref().is_some_and(|mac| macs.contains(mac))
    };
    frames.iter().filter(is_audible).cloned().collect()
}

#[test]
fn a_port_sends_under_its_own_mac_and_addresses_only() {
    let lab = Lab::new("[metrics]\nrouted = \"127.0.0.1:9479\"\n");
    let (pod, other) = (add(&lab, "c0ffee"), add(&lab, "other"));
    let talk = || other.addresses.iter().all(|address| pod.reaches(address)) && other.is_connected();
    assert!(within(PATIENCE, talk).is_some(), "{}", lab.daemon.log());
    let forged =
        [packets(&others(&other), &other), under_other_macs(&pod, &other), lies(&pod, &other)].concat();
    let got = delivered(&lab, &pod, &other, &forged);
    assert!(got.is_empty(), "{} of {} came through: {got:#?}", got.len(), forged.len());
    let known = neighbours_of_node(&lab.node);
    for address in &other.addresses {
        assert_eq!(neighbour(&known, address), own_mac(&other), "{known}");
    }
    let known = String::from_utf8(other.run("ip", "neigh show").stdout).unwrap();
    for address in &pod.addresses {
        assert!(["", &own_mac(&pod)].contains(&neighbour(&known, address).as_str()), "{known}");
    }
    let honest = [honest(&pod, &other), truths(&pod, &other)].concat();
    assert_eq!(lost(&lab, &pod, &other, &honest), [""; 0]);
    let page = lab.page("/metrics");
    let counted = page.lines().find(|line| line.contains("reason=\"forged\"")).unwrap_or(&page);
    let count: usize = counted.rsplit(' ').next().unwrap().parse().unwrap();
    // The kernel itself takes nothing from the MAC of a group.
    let counted = forged.iter().filter(|frame| frame.from.as_deref() != Some(EVERYBODY)).count();
    assert!(count >= counted, "{count} of {counted}");
    assert_eq!(macs_behind(&lab.node, &pod), [own_mac(&pod)].into());
    // Shows that it is the guard that keeps them off.
    lab.daemon.send(Signal::SIGSTOP);
    lab.node.run("nft", "flush ruleset");
    let audible = audible(&forged, &other);
    assert!(audible.len() > 100, "{}", audible.len());
    assert_eq!(lost(&lab, &pod, &other, &audible), [""; 0], "these would not have come through anyway");
    // The other pod's next frame moves its MAC back.
    let moves = || {
        let as_other = from(&own_mac(&other), frame("udp", &pod.addresses[0], WORLD[0]));
        sent((&pod.netns, "eth0", &gateway()), &[as_other], &[]);
        macs_behind(&lab.node, &pod).contains(&own_mac(&other))
    };
    assert!(within(PATIENCE, moves).is_some(), "nothing would have moved anyway");
}

#[test]
fn a_pod_cannot_fill_the_table_of_the_bridge_and_floods_nobody() {
    const MANY: usize = 60_000;
    let lab = Lab::new("[metrics]\nrouted = \"127.0.0.1:9479\"\n");
    let (pod, other) = (add(&lab, "c0ffee"), add(&lab, "other"));
    many(&pod.netns, "fill", "eth0", MANY);
    assert!(macs_behind(&lab.node, &pod).len() <= 1);
    // What one pod may send to many does not concern another.
    many(&pod.netns, "flood", "eth0", MANY);
    assert!(within(PATIENCE, || GATEWAY.iter().all(|gateway| other.reaches(gateway))).is_some());
    let page = lab.page("/metrics");
    let floods = page.lines().find(|line| line.contains("reason=\"floods\"")).unwrap_or(&page);
    let dropped: usize = floods.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1..MANY).contains(&dropped), "{dropped}");
    assert!(set(&lab.node, "senders").contains(&pod.veth()));
    lab.daemon.send(Signal::SIGSTOP);
    lab.node.run("nft", "flush ruleset");
    many(&pod.netns, "fill", "eth0", MANY);
    let filled = macs_behind(&lab.node, &pod).len();
    assert!(filled > 10_000, "only {filled} would have filled the table anyway");
}

/// A pod of this network that is kept from other pods.
fn isolated<'a>(lab: &'a Lab, id: &'static str) -> Pod<'a> {
    guarded(lab, Pod::add(&lab.node, id, json!({ "mode": "bridge", "isolation": true })))
}

/// Which of these frames of one isolated pod another one hears. A pod that is not isolated has the last word.
fn heard_by_isolated(pod: &Pod<'_>, other: &Pod<'_>, open: &Pod<'_>, frames: &[Frame]) -> Vec<Frame> {
    let (ear, gateway, mac) = (Ear::new(&other.netns, "eth0"), gateway(), own_mac(other));
    let last = frame("udp", &open.addresses[0], &other.addresses[0]);
    let senders = ((&pod.netns, "eth0", gateway.as_str()), (&open.netns, "eth0", mac.as_str()));
    sent_before(senders, frames, &[(&ear, last)])
}

#[test]
fn an_isolated_pod_reaches_no_other_by_way_of_the_gateway() {
    for check in ["strict", "off"] {
        let lab = Lab::new(&format!("[pods]\nsource_check = \"{check}\"\n"));
        let (pod, other, open) = (isolated(&lab, "c0ffee"), isolated(&lab, "other"), add(&lab, "open"));
        let talk = || [&pod, &other, &open].iter().all(|pod| pod.is_connected());
        assert!(within(PATIENCE, talk).is_some(), "{}", lab.daemon.log());
        let packets = |to: &Pod<'_>| {
            let of = |family: usize| each(&pod.addresses[family], &to.addresses[family]);
            [of(0), of(1)].concat()
        };
        let macs = [gateway(), own_mac(&other), EVERYBODY.to_owned()];
        let frames: Vec<_> =
            macs.iter().flat_map(|mac| packets(&other).into_iter().map(|frame| to(mac, frame))).collect();
        let got = heard_by_isolated(&pod, &other, &open, &frames);
        assert!(got.is_empty(), "{check}: {got:#?}");
        let advertisement = to("33:33:00:00:00:01", frame("advertisement", &link_local(&pod), "ff02::1"));
        let got = delivered(&lab, &pod, &open, std::slice::from_ref(&advertisement));
        assert!(got.is_empty(), "{check}: {got:#?}");
        // A pod that is not isolated, and the rest of the world.
        let mac = own_mac(&open);
        let mut allowed: Vec<_> = packets(&open).into_iter().map(|frame| to(&mac, frame)).collect();
        allowed.extend((0..2).flat_map(|family| each(&pod.addresses[family], WORLD[family])));
        assert_eq!(lost(&lab, &pod, &open, &allowed), [""; 0], "{check}");
        // Shows that it is the guard that keeps them apart.
        lab.daemon.send(Signal::SIGSTOP);
        lab.node.run("nft", "flush ruleset");
        let got = numbered(&heard_by_isolated(&pod, &other, &open, &frames));
        assert_eq!(got, numbered(&frames[..6]), "what goes to the gateway would have come through");
    }
}

#[test]
fn the_loose_check_is_of_macs_and_neighbours_and_off_is_no_check() {
    for (check, has_macs) in [("loose", true), ("off", false)] {
        let lab = Lab::new(&format!("[pods]\nsource_check = \"{check}\"\n"));
        let (pod, other) = (add(&lab, "c0ffee"), add(&lab, "other"));
        let mut another: Vec<_> = each("10.99.0.1", &other.addresses[0]).into();
        another.extend(each("fd99::1", &other.addresses[1]));
        let another: Vec<_> = another.into_iter().map(|frame| to(&own_mac(&other), frame)).collect();
        assert_eq!(lost(&lab, &pod, &other, &another), [""; 0], "{check}");
        let lies = audible(&[under_other_macs(&pod, &other), lies(&pod, &other)].concat(), &other);
        let got = numbered(&delivered(&lab, &pod, &other, &lies));
        let passing = if has_macs { BTreeSet::new() } else { numbered(&lies) };
        assert_eq!(got, passing, "{check}");
    }
}

/// All elements of the ports of pods, as words, whatever their order.
fn elements(node: &Node) -> BTreeSet<String> {
    let words = |name: &&str| {
        let listed = set(node, name);
        let elements = listed.split_once("elements = {").map_or("", |(_, elements)| elements).to_owned();
        let each: Vec<_> = elements
            .split(',')
            .map(|one| format!("{name}: {}", one.trim_matches(&[' ', '\n', '\t', '}'][..])))
            .collect();
        each
    };
    SETS.iter().flat_map(words).collect()
}

#[test]
fn what_ports_may_send_under_is_back_within_a_second_and_goes_with_the_pod() {
    let lab = Lab::new("");
    let (pod, other) = (add(&lab, "c0ffee"), isolated(&lab, "other"));
    let of = |pod: &Pod<'_>| {
        let marks = [pod.veth(), pod.addresses[0].clone(), pod.addresses[1].clone()];
        elements(&lab.node).into_iter().filter(|one| marks.iter().any(|mark| one.contains(mark))).count()
    };
    assert_eq!((of(&pod), of(&other)), (8, 11), "{:#?}", elements(&lab.node));
    let whole = elements(&lab.node);
    let veth = pod.veth();
    for (command, is_told) in [
        ("flush set bridge ferrule-guard macs".to_owned(), true),
        (format!("delete element bridge ferrule-guard ports {{ {veth} }}"), true),
        (format!("add element bridge ferrule-guard macs {{ {veth} . {NOBODY} }}"), false),
        ("flush table bridge ferrule-guard".to_owned(), true),
        ("delete table bridge ferrule-guard".to_owned(), true),
        ("flush ruleset".to_owned(), true),
    ] {
        let before = lab.daemon.log().len();
        lab.node.run("nft", &command);
        let is_back = || elements(&lab.node) == whole;
        assert!(
            within(REPAIR, is_back).is_some(),
            "{command}:\n{:#?}\n{}",
            elements(&lab.node),
            lab.daemon.log()
        );
        let told = || lab.daemon.log()[before..].contains("by someone else");
        assert!(!is_told || within(PATIENCE, told).is_some(), "{command}:\n{}", lab.daemon.log());
    }
    other.del();
    assert!(within(PATIENCE, || of(&other) == 0).is_some(), "{:#?}", elements(&lab.node));
    assert_eq!(of(&pod), 8, "{:#?}", elements(&lab.node));
    // A pod that came while nobody kept the table, and one that went.
    lab.daemon.send(Signal::SIGKILL);
    let stat = format!("/proc/{}/stat", lab.daemon.pid());
    let is_dead = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
    assert!(within(PATIENCE, is_dead).is_some());
    let late = Pod::add(&lab.node, "late", json!({ "mode": "bridge" }));
    pod.del();
    let daemon = lab.node.start();
    let follows = || (of(&late), of(&pod)) == (8, 0);
    assert!(within(PATIENCE, follows).is_some(), "{:#?}\n{}", elements(&lab.node), daemon.log());
    assert!(!daemon.log().contains("by someone else"), "{}", daemon.log());
}

#[test]
fn a_pod_on_a_bridge_whose_mac_somebody_set_is_named_with_the_remedy() {
    for (check, is_cut_off) in [("strict", true), ("off", false)] {
        let lab = Lab::new(&format!("[pods]\nsource_check = \"{check}\"\n"));
        let pod = add(&lab, "c0ffee");
        assert!(within(PATIENCE, || pod.is_connected()).is_some(), "{}", lab.daemon.log());
        assert!(pod.run("ip", "link set eth0 address 0a:00:00:00:00:2b").status.success());
        // The next look sees it, but nobody has to wait for that here.
        lab.node.ip(&format!("link set {} down", pod.veth()));
        lab.daemon.wait_for_log("was switched off by someone else");
        if is_cut_off {
            lab.daemon.wait_for_log("the MAC of eth0 in pod ");
            lab.daemon.wait_for_log("let ferrule do that (capability");
            assert!(!pod.is_connected());
        } else {
            assert!(within(PATIENCE, || pod.is_connected()).is_some());
            assert!(!lab.daemon.log().contains("the MAC of eth0"), "{}", lab.daemon.log());
        }
    }
}
