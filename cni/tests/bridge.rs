//! Mode `bridge`: what it makes, that it survives, and that pods talk over it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use ferrule_model::{
    BridgeSpec, IfName, Link, LinkChange, Mac, Op, PodEnd, Way, bridge_mac, host_veth_name, pod_mac,
};
use ferrule_netlink::netns::Netns;
use ferrule_netlink::{Bridges, Kernel, sysctl};
use serde_json::{Value, json};

use crate::on_both_kernels;
use crate::support::faulty::Fault;
use crate::support::lab::{CLIENT, addresses, ip, with_lab};
use crate::support::machine::{Machine, RealMachine};
use crate::support::{Bench, attachment, failure, result};

/// Longest wait for a packet to come through, and for one that must not.
const DEADLINE: Duration = Duration::from_secs(10);
const NOT_COMING: Duration = Duration::from_millis(300);

fn name() -> IfName {
    IfName::new("ferrule0").unwrap()
}

fn bridge<M: Machine>(bench: &Bench<'_, M>) -> Link {
    bench.machine.host().link(&name()).unwrap().unwrap()
}

fn apply<K: Kernel>(kernel: &mut K, op: &Op) {
    kernel.apply(std::slice::from_ref(op)).unwrap().remove(0).unwrap_or_else(|error| panic!("{op}: {error}"));
}

/// CHECK fails and says `what`; ADD repairs it.
fn missed<M: Machine>(bench: &Bench<'_, M>, added: &Value, what: &str) {
    let (code, text) = failure(&bench.check(added));
    assert_eq!(code, 103, "{text}");
    assert!(text.contains(what), "expected `{what}` in: {text}");
    assert_eq!(bench.add(), *added);
    result(&bench.check(added));
}

on_both_kernels! {
    fn a_pod_is_on_the_bridge_with_its_subnet_and_a_gateway(bench) {
        bench.config = json!({ "mode": "bridge" });
        let added = bench.add();
        let names: Vec<_> = added["interfaces"].as_array().unwrap().iter().map(|link| link["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["ferrule0", host_veth_name(&attachment()).as_str(), "eth0"]);
        assert_eq!(added["ips"][0], json!({ "interface": 2, "address": "10.244.1.2/24", "gateway": "10.244.1.1" }));
        assert_eq!(added["ips"][1], json!({ "interface": 2, "address": "fd00:10:244:1::2/64", "gateway": "fd00:10:244:1::1" }));
        assert_eq!(added["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": "10.244.1.1" }));
        let bridge = bridge(&bench);
        assert_eq!((bridge.up, bridge.mac), (true, Some(bridge_mac(&name()))));
        let port = bench.machine.host().port(&host_veth_name(&attachment())).unwrap().unwrap();
        assert_eq!((port.bridge, port.hairpin, port.isolated), (bridge.index, true, false));
        let addresses = bench.machine.host().addresses(bridge.index).unwrap();
        for gateway in ["10.244.1.1/24", "fd00:10:244:1::1/64"] {
            assert!(addresses.keys().any(|key| key.prefix.to_string() == gateway), "{addresses:?}");
        }
        result(&bench.check(&added));
        assert_eq!(bench.add(), added, "the same again");
    }

    fn the_bridge_keeps_its_mac_and_its_gateway_when_pods_come_and_go(bench) {
        bench.config = json!({ "mode": "bridge", "isolation": true });
        bench.add();
        let first = bridge(&bench);
        assert!(bench.machine.host().port(&host_veth_name(&attachment())).unwrap().unwrap().isolated);
        result(&bench.verb("DEL"));
        assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
        let added = bench.add();
        assert_eq!((bridge(&bench).index, bridge(&bench).mac), (first.index, first.mac));
        assert_eq!(added["ips"][0]["gateway"], "10.244.1.1");
        result(&bench.check(&added));
        let nothing = [("CNI_CONTAINERID", ""), ("CNI_IFNAME", ""), ("CNI_NETNS", "")];
        result(&bench.verb_with("GC", &nothing, &json!({ "cni.dev/valid-attachments": [] })));
        assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
        let left: Vec<_> = bench.ipamd.leases().into_keys().map(|attachment| attachment.container_id).collect();
        assert_eq!(left, ["gateway"]);
    }

    /// The result of ADD says how a pod is attached, not what the configuration has become.
    fn a_pods_mode_survives_a_change_of_the_configuration(bench) {
        bench.config = json!({ "mode": "bridge" });
        let on_bridge = bench.add();
        bench.config = json!({});
        result(&bench.check(&on_bridge));
        result(&bench.verb("DEL"));
        let routed = bench.add();
        bench.config = json!({ "mode": "bridge" });
        result(&bench.check(&routed));
        result(&bench.verb("DEL"));
        assert_eq!(bench.ipamd.leases().len(), 1, "the gateway's");
    }

    /// `routed` lets the pod send under nothing else.
    fn what_the_pod_may_send_under_is_written_down(bench) {
        bench.config = json!({ "mode": "bridge" });
        let mac = "0a:00:00:00:00:2a";
        for (runtime, mac) in [(json!({}), pod_mac(&attachment())), (json!({ "mac": mac }), mac.parse().unwrap())] {
            let added = result(&bench.verb_with("ADD", &[], &json!({ "runtimeConfig": runtime })));
            let kept = bench.kept().remove(host_veth_name(&attachment()).as_str()).unwrap();
            let Way::Bridge { pod, .. } = kept.way else { panic!("{kept:?}") };
            assert_eq!(pod, Some(PodEnd { mac, addresses: addresses(&added) }));
            assert_eq!(added["interfaces"][2]["mac"], mac.to_string());
            result(&bench.verb("DEL"));
        }
    }

    fn what_is_gone_is_named_and_put_back(bench) {
        bench.config = json!({ "mode": "bridge" });
        let added = bench.add();
        let mut host = bench.machine.host();
        let device = bridge(&bench);
        let addresses = host.addresses(device.index).unwrap();
        let gateway = addresses.keys().find(|key| key.prefix.to_string() == "10.244.1.1/24").unwrap();
        apply(&mut host, &Op::DeleteAddress(*gateway));
        missed(&bench, &added, "gateway 10.244.1.1/24: expected on ferrule0, found none");
        let veth = host.link(&host_veth_name(&attachment())).unwrap().unwrap();
        let port = host.port(&veth.name).unwrap().unwrap();
        host.set_port(veth.index, ferrule_model::BridgePort { hairpin: false, ..port }).unwrap();
        missed(&bench, &added, "on bridge ferrule0: expected on it, hairpin");
        apply(&mut host, &Op::SetLink(device.index, LinkChange { up: Some(false), ..LinkChange::default() }));
        missed(&bench, &added, "bridge ferrule0: expected up, found down");
        host.delete_link(&name()).unwrap();
        missed(&bench, &added, "bridge ferrule0: expected a link on the host, found none");
    }

    fn whichever_request_is_refused_everything_is_as_before(bench) {
        bench.config = json!({ "mode": "bridge" });
        // The bridge stays, with its gateway's lease.
        bench.add();
        result(&bench.verb("DEL"));
        let before = bench.world();
        let mut n = 0;
        while let Some(answer) = bench.add_with_fault(n, Fault::Refused) {
            failure(&answer);
            assert_eq!(bench.world().host_state(), before.host_state(), "request {n}");
            assert_eq!(bench.queued(), [], "request {n}");
            n += 1;
        }
        assert!(n > 10, "{n} requests");
    }

    fn a_link_of_the_bridges_name_that_is_none_is_left_alone(bench) {
        bench.machine.add_pod("other");
        let netns = bench.machine.netns(bench.machine.path("other").as_ref()).unwrap();
        let spec = ferrule_model::VethSpec {
            host_name: IfName::new("cni9").unwrap(), host_mac: Mac::local([2; 6]), alias: None,
            pod_name: IfName::new("cni9").unwrap(), pod_mac: Mac::local([4; 6]),
        };
        bench.machine.host().create_veth(&spec, &netns).unwrap();
        let (code, text) = failure(&bench.verb_with("ADD", &[], &json!({ "mode": "bridge", "bridge": "cni9" })));
        assert_eq!(code, 101);
        assert!(text.contains("cni9 is no bridge"), "{text}");
        assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
    }

    fn a_bridge_that_is_there_is_used_as_it_is(bench) {
        let spec = BridgeSpec { name: IfName::new("cbr0").unwrap(), mac: Mac::local([2, 0, 0, 0, 0, 7]) };
        bench.machine.host().create_bridge(&spec).unwrap();
        let added = result(&bench.verb_with("ADD", &[], &json!({ "mode": "bridge", "bridge": "cbr0" })));
        assert_eq!(added["interfaces"][0]["mac"], spec.mac.to_string());
        result(&bench.check(&added));
    }

    fn a_gateway_of_a_subnet_that_is_gone_is_given_back(bench) {
        bench.config = json!({ "mode": "bridge" });
        bench.add();
        result(&bench.verb("DEL"));
        for lease in bench.ipamd.state().leases.values_mut() {
            lease.addresses = vec!["10.99.0.1/32".parse().unwrap()];
        }
        let added = bench.add();
        assert_eq!(added["ips"][0]["gateway"], "10.244.1.3");
    }

    fn fields_of_the_mode_are_refused_without_it(bench) {
        for fields in [json!({ "bridge": "cni0" }), json!({ "isolation": true })] {
            let (code, text) = failure(&bench.verb_with("ADD", &[], &fields));
            assert_eq!(code, 7);
            assert!(text.contains("it is of mode \"bridge\""), "{text}");
        }
        for (fields, says) in [
            (json!({ "bridge": "a/b" }), "bridge"),
            (json!({ "bridge": "fer0123456789ab" }), "a pod's link"),
            (json!({ "isolation": 1 }), "isolation"),
        ] {
            let mut fields = fields;
            fields["mode"] = json!("bridge");
            let (code, text) = failure(&bench.verb_with("ADD", &[], &fields));
            assert_eq!(code, 7);
            assert!(text.contains(says), "{text}");
        }
    }
}

fn socket(machine: &RealMachine, pod: &str, address: IpAddr) -> UdpSocket {
    let netns = machine.netns(machine.path(pod).as_ref()).unwrap();
    let socket = netns.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// Whether it arrives within `wait`, tried all the time.
fn arrives(from: &UdpSocket, to: &UdpSocket, wait: Duration) -> bool {
    let deadline = Instant::now() + wait;
    while Instant::now() < deadline {
        let _ = from.send_to(b"over the bridge", to.local_addr().unwrap());
        match to.recv_from(&mut [0; 64]) {
            Ok((_, source)) => return source == from.local_addr().unwrap(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
    false
}

/// Attaches two pods and gives for each family whether they reach each other, and whether one reaches the node.
fn reached(fields: &Value, wait: Duration) -> Vec<(bool, bool)> {
    let mut found = Vec::new();
    RealMachine::with(|machine| {
        let mut bench = Bench::new(machine);
        bench.config = fields.clone();
        machine.add_pod("second");
        // Container runtimes switch IPv6 off where they do not expect any.
        sysctl::set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let one = bench.add();
        let variables = [("CNI_CONTAINERID", "decaf"), ("CNI_NETNS", &machine.path("second"))];
        let other = result(&bench.verb_with("ADD", &variables, &json!({})));
        for (n, (a, b)) in addresses(&one).into_iter().zip(addresses(&other)).enumerate() {
            let gateway: IpAddr = one["ips"][n]["gateway"].as_str().unwrap().parse().unwrap();
            let (a, b) = (socket(machine, "pod", a), socket(machine, "second", b));
            let node = UdpSocket::bind((gateway, 0)).unwrap();
            node.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            found.push((arrives(&a, &b, wait), arrives(&a, &node, DEADLINE)));
        }
    });
    found
}

/// Whether the link can ask for others' MACs: its link-local address is there, and not on trial (`IFA_F_TENTATIVE`).
fn can_ask(link: &str) -> bool {
    let listed = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
    let mut fields = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.any(|it| {
        it[0].starts_with("fe80") && it[5] == link && u8::from_str_radix(it[4], 16).unwrap() & 0x40 == 0
    })
}

/// Whether the pod hears who asks for its MAC, being in the group that is asked (RFC 4291, section 2.7.1), and can
/// answer: the kernel makes a link's own address when it has seen its carrier.
fn can_be_asked(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else { panic!("{address} is no IPv6 address") };
    let group = format!("ff0200000000000000000001ff{:06x}", address.to_bits() & 0xff_ffff);
    let says = |file: &str, what: &str| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap().contains(what)
    };
    says("igmp6", &group) && says("if_inet6", "fe80")
}

/// While it looks for another who has its link-local address, a node asks for no pod's MAC for packets from elsewhere:
/// the first ones would be lost. What the kernel leaves to its workqueues is waited for, less long than looking takes,
/// which is a second at least.
#[test]
fn a_new_bridge_hands_ipv6_on_at_once() {
    with_lab(|lab| {
        let to = addresses(&result(&lab.bench.verb_with("ADD", &[], &json!({ "mode": "bridge" }))))[1];
        let socket = |netns: &Netns, address| netns.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
        let is_ready = || can_ask("ferrule0") && lab.pod("pod").run(|| can_be_asked(to)).unwrap();
        crate::wait::until(Duration::from_millis(800), is_ready, || "an end to the search for other holders");
        let (pod, client) = (socket(&lab.pod("pod"), to), socket(&lab.client, ip(CLIENT[1])));
        pod.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
        client.send_to(b"first", pod.local_addr().unwrap()).unwrap();
        assert_eq!(pod.recv_from(&mut [0; 8]).unwrap().1, client.local_addr().unwrap());
    });
}

#[test]
fn pods_on_one_bridge_reach_each_other_and_the_node() {
    assert_eq!(reached(&json!({ "mode": "bridge" }), DEADLINE), [(true, true); 2]);
}

#[test]
fn isolated_pods_reach_the_node_and_not_each_other() {
    assert_eq!(reached(&json!({ "mode": "bridge", "isolation": true }), NOT_COMING), [(false, true); 2]);
}

/// The pod before it had another MAC, which the node, the bridge and the other pods know.
#[test]
fn an_address_that_is_used_again_is_reached_at_once() {
    const AT_ONCE: Duration = Duration::from_millis(100);
    RealMachine::with(|machine| {
        let mut bench = Bench::new(machine);
        bench.config = json!({ "mode": "bridge" });
        let add = |name: &str, container_id: &str| {
            machine.add_pod(name);
            let variables = [("CNI_CONTAINERID", container_id), ("CNI_NETNS", &machine.path(name))];
            result(&bench.verb_with("ADD", &variables, &json!({})))
        };
        let beside = addresses(&add("beside", "decaf"));
        let sockets = |pod: &str, added: &Value| {
            addresses(added).into_iter().map(|address| socket(machine, pod, address)).collect::<Vec<_>>()
        };
        let first = add("first", "facade");
        let gateways = first["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip["gateway"].as_str().unwrap().parse::<IpAddr>().unwrap());
        let nodes: Vec<_> = gateways
            .map(|gateway| {
                let node = UdpSocket::bind((gateway, 0)).unwrap();
                node.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                node
            })
            .collect();
        let others: Vec<_> = beside.into_iter().map(|address| socket(machine, "beside", address)).collect();
        let old = sockets("first", &first);
        for ((node, other), pod) in nodes.iter().zip(&others).zip(&old) {
            assert!(arrives(node, pod, DEADLINE) && arrives(other, pod, DEADLINE));
            assert!(arrives(pod, node, DEADLINE) && arrives(pod, other, DEADLINE));
        }
        result(&bench.verb_with("DEL", &[("CNI_CONTAINERID", "facade")], &json!({})));
        bench.ipamd.state().given -= 1;
        let again = add("again", "beef");
        assert_eq!(addresses(&again), addresses(&first), "the same addresses");
        assert_ne!(again["interfaces"][2]["mac"], first["interfaces"][2]["mac"], "another MAC");
        for ((node, other), pod) in nodes.iter().zip(&others).zip(&sockets("again", &again)) {
            assert!(arrives(other, pod, AT_ONCE), "from the pod beside it to {pod:?}");
            assert!(arrives(node, pod, AT_ONCE), "from the node to {pod:?}");
        }
    });
}
