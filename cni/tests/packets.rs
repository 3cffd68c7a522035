//! What only the real kernel can show: packets, and IPv6 that is switched off.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ferrule_model::{AddressKey, Family, IfIndex, IfName, LinkKind, Op, family, host_prefix};
use ferrule_netlink::{Kernel, sysctl};
use serde_json::{Value, json};

use crate::support::machine::{Machine, RealMachine};
use crate::support::{Bench, failure, result};

/// Longest wait for a packet to come through.
const DEADLINE: Duration = Duration::from_secs(10);

/// A socket of the pod's on its address.
fn socket(machine: &RealMachine, pod: &str, address: IpAddr) -> UdpSocket {
    let netns = machine.netns(machine.path(pod).as_ref()).unwrap();
    let socket = netns.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// Sends until it arrives, which it does as soon as the kernel has seen that the link has a carrier.
fn send(from: &UdpSocket, to: &UdpSocket) {
    let text = b"through the ferrule";
    let deadline = Instant::now() + DEADLINE;
    let mut buffer = [0; 64];
    while Instant::now() < deadline {
        from.send_to(text, to.local_addr().unwrap()).unwrap();
        match to.recv_from(&mut buffer) {
            Ok((length, source)) => {
                assert_eq!(&buffer[..length], text);
                assert_eq!(source, from.local_addr().unwrap(), "the sender's own address");
                return;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no packet from {from:?} to {to:?} within {DEADLINE:?}");
}

fn addresses(added: &Value) -> Vec<IpAddr> {
    let ips = added["ips"].as_array().unwrap();
    let networks = ips.iter().map(|ip| ip["address"].as_str().unwrap().parse::<ferrule_model::IpNetwork>());
    networks.map(|network| network.unwrap().ip()).collect()
}

#[test]
fn pods_of_one_node_and_the_node_itself_talk_both_ways() {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        machine.add_pod("second");
        let first = addresses(&bench.add());
        let variables = [("CNI_CONTAINERID", "decaf"), ("CNI_NETNS", &machine.path("second"))];
        let second = addresses(&result(&bench.verb_with("ADD", &variables, &json!({}))));
        for (a, b) in first.into_iter().zip(second) {
            let (a, b) = (socket(machine, "pod", a), socket(machine, "second", b));
            send(&a, &b);
            send(&b, &a);

            let node: IpAddr = match Family::of(a.local_addr().unwrap().ip()) {
                Family::V4 => "192.0.2.1".parse().unwrap(),
                Family::V6 => "2001:db8::1".parse().unwrap(),
            };
            let lo = IfIndex(1);
            let key = AddressKey { link: lo, prefix: host_prefix(node) };
            let up = ferrule_model::LinkChange { up: Some(true), ..ferrule_model::LinkChange::default() };
            let ops = [Op::SetLink(lo, up), Op::PutAddress(key, ferrule_model::Address { nodad: true })];
            assert!(machine.host().apply(&ops).unwrap().iter().all(Result::is_ok));
            let node = UdpSocket::bind(SocketAddr::new(node, 0)).unwrap();
            node.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            send(&a, &node);
            send(&node, &a);
        }
        // What the kernel makes an address for, once there is a carrier, has one by now; the host's ends have none.
        let inside = &mut machine.inside("pod");
        let eth0 = inside.link(&IfName::new("eth0").unwrap()).unwrap().unwrap();
        assert_eq!(inside.addresses(eth0.index).unwrap().len(), 3, "one of each family, and the link's own");
        let host = &mut machine.host();
        let ends: Vec<_> =
            host.links().unwrap().into_iter().filter(|link| link.kind == LinkKind::Veth).collect();
        assert_eq!(ends.len(), 2);
        for end in ends {
            assert_eq!(host.addresses(end.index).unwrap(), BTreeMap::new(), "{}", end.name);
        }
    });
}

/// Replies leave by the first interface, whichever address they bear, and the node hands them on as it should: what
/// comes back has the address that was asked.
#[test]
fn a_pod_in_two_networks_answers_under_the_address_that_was_asked() {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        machine.add_pod("second");
        let first = addresses(&bench.add());
        let more = json!({ "name": "more" });
        let second = addresses(&result(&bench.verb_with("ADD", &[("CNI_IFNAME", "net1")], &more)));
        let variables = [("CNI_CONTAINERID", "decaf"), ("CNI_NETNS", &machine.path("second"))];
        let peer = addresses(&result(&bench.verb_with("ADD", &variables, &json!({}))));
        for own in [first, second] {
            for (own, peer) in own.into_iter().zip(&peer) {
                let (own, peer) = (socket(machine, "pod", own), socket(machine, "second", *peer));
                send(&peer, &own);
                send(&own, &peer);
            }
        }
        // Deleting the first leaves the second.
        result(&bench.verb("DEL"));
        assert_eq!(bench.ipamd.leases().len(), 2);
    });
}

#[test]
fn ipv6_that_is_switched_off_is_switched_on_for_our_links_alone() {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        let pod = machine.netns(machine.path("pod").as_ref()).unwrap();
        let off = || {
            sysctl::set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            sysctl::set("net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        };
        pod.run(off).unwrap();
        off();
        let added = bench.add();
        assert_eq!(addresses(&added).len(), 2);
        result(&bench.check(&added));
        for place in ["default", "all", "lo"] {
            let name = format!("net/ipv6/conf/{place}/disable_ipv6");
            assert_eq!(pod.run(|| sysctl::get(&name).unwrap()).unwrap(), "1", "{name} in the pod");
            assert_eq!(sysctl::get(&name).unwrap(), "1", "{name} on the host");
        }
        result(&bench.verb("DEL"));
    });
}

#[test]
fn without_ipv6_addresses_ipv6_stays_off() {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        bench.ipamd.state().v4_only = true;
        let pod = machine.netns(machine.path("pod").as_ref()).unwrap();
        pod.run(|| sysctl::set("net/ipv6/conf/default/disable_ipv6", "1").unwrap()).unwrap();
        let added = bench.add();
        let leased = bench.ipamd.leases().into_values().flat_map(|lease| lease.addresses);
        assert!(leased.into_iter().all(|address| family(&address) == Family::V4));
        result(&bench.check(&added));
        let name = "net/ipv6/conf/eth0/disable_ipv6";
        assert_eq!(pod.run(|| sysctl::get(name).unwrap()).unwrap(), "1");
    });
}

#[test]
fn a_node_that_does_not_forward_is_told_with_code_51() {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        result(&bench.verb("STATUS"));
        for (name, family) in [("net/ipv6/conf/all/forwarding", "IPv6"), ("net/ipv4/ip_forward", "IPv4")] {
            sysctl::set(name, "0").unwrap();
            let (code, text) = failure(&bench.verb("STATUS"));
            assert_eq!(code, 51);
            assert!(text.contains(&format!("forwards no {family} packets")), "{text}");
        }
    });
}
