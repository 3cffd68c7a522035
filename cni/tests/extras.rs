//! Host ports and bandwidth beside the pod's link: what is asked for and how, whose it is, and that a failure anywhere
//! leaves nothing. Packets are in `hostports.rs` and `bandwidth.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::net::IpAddr;

use ferrule_cni::Answer;
use ferrule_cni::decide::ports::Granted;
use ferrule_model::table::{MAPS, SETS, TABLE};
use ferrule_model::{Address, AddressKey, Attachment, Bucket, Element, Op, ifb_name};
use ferrule_netlink::Kernel;
use ferrule_netlink::nft::{Flow, Netfilter};
use ferrule_netlink::traffic::Traffic;
use serde_json::{Value, json};

use crate::on_both_kernels;
use crate::support::faulty::Fault;
use crate::support::machine::{FakeMachine, Machine};
use crate::support::{Bench, attachment, failure, result};

/// Everything there is to ask for.
fn everything() -> Value {
    json!({
        "portMappings": [
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1" }
        ],
        "bandwidth": {
            "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 80
        }
    })
}

fn asking(runtime: Value) -> Value {
    let mut fields = json!({ "capabilities": { "portMappings": true, "bandwidth": true } });
    fields["runtimeConfig"] = runtime;
    fields
}

/// All elements of the table; none where there is no table.
fn elements<M: Machine>(bench: &Bench<'_, M>) -> Vec<Element> {
    let mut netfilter = bench.machine.netfilter();
    MAPS.iter().chain(&SETS).flat_map(|set| netfilter.elements(TABLE, set).unwrap_or_default()).collect()
}

/// The ports in it, in words.
fn granted<M: Machine>(bench: &Bench<'_, M>) -> Vec<String> {
    let granted = elements(bench).iter().filter_map(Granted::of).collect::<Vec<_>>();
    let mut texts: Vec<_> = granted.iter().map(|it| format!("{} -> {}", it.name(), it.pod)).collect();
    texts.sort_unstable();
    texts
}

/// Whether what it receives is limited, what it sends is redirected, and the device for that is there.
fn limits<M: Machine>(bench: &Bench<'_, M>) -> (bool, bool, bool) {
    let mut host = bench.machine.host();
    let veth = host.link(&ferrule_model::host_veth_name(&attachment())).unwrap().unwrap();
    let ifb = host.link(&ifb_name(&attachment())).unwrap().is_some();
    (host.limit_of(veth.index).unwrap().is_some(), host.redirect_of(veth.index).unwrap().is_some(), ifb)
}

fn verb<M: Machine>(bench: &Bench<'_, M>, command: &str, container_id: &str, fields: &Value) -> Answer {
    let path = bench.machine.path(if container_id == "c0ffee" { "pod" } else { container_id });
    bench.verb_with(command, &[("CNI_CONTAINERID", container_id), ("CNI_NETNS", &path)], fields)
}

on_both_kernels! {
    fn add_gives_what_is_asked_for_check_looks_for_it_and_del_removes_it_without_being_told(bench) {
        let before = bench.world();
        let fields = asking(everything());
        let added = result(&verb(&bench, "ADD", "c0ffee", &fields));
        assert_eq!(granted(&bench), [
            "tcp 8080 -> 10.244.1.1:80",
            "tcp 8080 -> [fd00:10:244:1::1]:80",
            "udp 192.0.2.1:5353 -> 10.244.1.1:53",
        ]);
        let mut host = bench.machine.host();
        let veth = host.link(&ferrule_model::host_veth_name(&attachment())).unwrap().unwrap();
        let ifb = host.link(&ifb_name(&attachment())).unwrap().unwrap();
        assert_eq!(host.limit_of(veth.index).unwrap(), Some(Bucket { rate: 1_000_000, burst: 100_000 }));
        let with_room_for_a_packet = Bucket { rate: 500_000, burst: 1450 + 18 };
        assert_eq!(host.limit_of(ifb.index).unwrap(), Some(with_room_for_a_packet));
        assert_eq!(host.redirect_of(veth.index).unwrap(), Some(ifb.index));

        let mut check = fields;
        check["prevResult"] = added;
        result(&verb(&bench, "CHECK", "c0ffee", &check));
        host.limit(ifb.index, Bucket { rate: 7, burst: 7000 }).unwrap();
        let elements_before = elements(&bench);
        let first = elements_before.iter().find(|element| element.set == MAPS[0]).unwrap();
        bench.machine.netfilter().change(TABLE, &[ferrule_netlink::nft::Change::Delete(first)], None).unwrap();
        let (code, text) = failure(&verb(&bench, "CHECK", "c0ffee", &check));
        assert_eq!(code, 103);
        assert!(text.contains("host port tcp 8080: expected to 10.244.1.1:80, found none"), "{text}");
        assert!(text.contains("bandwidth (egress): expected 4000000 bit/s, burst 11744 bit, found 56 bit/s"), "{text}");

        result(&verb(&bench, "DEL", "c0ffee", &json!({})));
        assert_eq!(elements(&bench), []);
        assert_eq!(bench.world().host_state(), before.host_state());
    }

    fn a_port_that_the_node_itself_needs_is_refused_and_nothing_of_that_add_is_left(bench) {
        let node = r#"{"node":"n1","reserved_host_ports":["tcp 22","tcp 8080"]}"#;
        std::fs::write(bench.dir.path().join("node.json"), node).unwrap();
        let before = bench.world();
        let (code, text) = failure(&verb(&bench, "ADD", "c0ffee", &asking(everything())));
        assert_eq!(code, 104);
        assert!(text.contains("host port tcp 8080 is the node's own"), "{text}");
        assert_eq!(bench.world().host_state(), before.host_state());
        assert_eq!(elements(&bench), []);
    }

    fn an_add_that_is_repeated_with_less_leaves_what_it_asks_for_and_no_more(bench) {
        result(&verb(&bench, "ADD", "c0ffee", &asking(everything())));
        assert_eq!(limits(&bench), (true, true, true));
        let mut fewer = everything();
        fewer["portMappings"].as_array_mut().unwrap().remove(0);
        fewer["bandwidth"] = json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000 });
        result(&verb(&bench, "ADD", "c0ffee", &asking(fewer)));
        assert_eq!(granted(&bench), ["udp 192.0.2.1:5353 -> 10.244.1.1:53"]);
        assert_eq!(limits(&bench), (true, false, false));
        result(&verb(&bench, "ADD", "c0ffee", &asking(json!({}))));
        assert_eq!(granted(&bench), [""; 0]);
        assert_eq!(limits(&bench), (false, false, false));
        // And with more again.
        result(&verb(&bench, "ADD", "c0ffee", &asking(everything())));
        assert_eq!((granted(&bench).len(), limits(&bench)), (3, (true, true, true)));
        result(&verb(&bench, "DEL", "c0ffee", &json!({})));
        assert_eq!(elements(&bench), []);
    }

    fn an_add_that_is_repeated_with_less_and_fails_leaves_what_the_next_del_removes(bench) {
        let mut n = 0;
        loop {
            bench.config = asking(everything());
            result(&bench.verb("ADD"));
            bench.config = asking(json!({}));
            let Some(answer) = bench.add_with_fault(n, Fault::Refused) else { break };
            let (_, text) = failure(&answer);
            result(&bench.verb("DEL"));
            assert_eq!(elements(&bench), [], "{n}: {text}");
            assert_eq!(bench.machine.host().link(&ifb_name(&attachment())).unwrap(), None, "{n}: {text}");
            n += 1;
        }
        assert!(n > 8, "{n} requests");
    }

    fn whichever_request_fails_nothing_is_left(bench) {
        let before = bench.world();
        bench.config = asking(everything());
        for fault in [Fault::Refused, Fault::Lost] {
            let mut n = 0;
            while let Some(answer) = bench.add_with_fault(n, fault) {
                // A lookup that fails may be one that was only to explain.
                let (_, text) = failure(&answer);
                assert_eq!(bench.world().host_state(), before.host_state(), "{fault:?} {n}: {text}");
                assert_eq!(elements(&bench), [], "{fault:?} {n}: {text}");
                n += 1;
            }
            assert!(n > 15, "{n} requests");
            result(&bench.verb("DEL"));
        }
    }

    fn a_del_that_fails_is_finished_by_the_next(bench) {
        let before = bench.world();
        let mut n = 0;
        loop {
            result(&verb(&bench, "ADD", "c0ffee", &asking(everything())));
            bench.faults.set(n, Fault::RefusedFromHere);
            let answer = bench.verb("DEL");
            if !bench.faults.take() {
                break;
            }
            if answer.ok {
                assert_eq!(elements(&bench), [], "request {n}");
            } else {
                assert_eq!(bench.ipamd.leases().len(), 1, "request {n}: not while a port may lead there");
            }
            result(&bench.verb("DEL"));
            assert_eq!(elements(&bench), [], "request {n}");
            assert_eq!(bench.world().host_state(), before.host_state(), "request {n}");
            n += 1;
            if n > 50 { break }
        }
        assert!(n > 5, "{n} requests");
    }

    fn two_pods_cannot_have_one_port_and_the_second_leaves_nothing(bench) {
        bench.machine.add_pod("second");
        result(&verb(&bench, "ADD", "c0ffee", &asking(everything())));
        let before = (bench.world(), elements(&bench));
        let (code, text) = failure(&verb(&bench, "ADD", "second", &asking(everything())));
        assert_eq!(code, 104);
        assert!(text.contains("host port tcp 8080 is taken by pods: c0ffee/eth0"), "{text}");
        assert_eq!((bench.world(), elements(&bench)), before);

        let other = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "udp" }] });
        result(&verb(&bench, "ADD", "second", &asking(other)));
        result(&verb(&bench, "DEL", "c0ffee", &json!({})));
        assert_eq!(granted(&bench), ["udp 8080 -> 10.244.1.3:80", "udp 8080 -> [fd00:10:244:1::3]:80"]);
        result(&verb(&bench, "DEL", "second", &json!({})));
        assert_eq!(elements(&bench), []);
    }

    /// Its runtime never came back to delete it, and its namespace is gone.
    fn a_dead_pods_port_is_taken_over_and_its_late_del_takes_nothing_from_the_new_one(bench) {
        bench.machine.add_pod("second");
        let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
        result(&verb(&bench, "ADD", "c0ffee", &asking(ports.clone())));
        bench.machine.host().delete_link(&ferrule_model::host_veth_name(&attachment())).unwrap();
        result(&verb(&bench, "ADD", "second", &asking(ports)));
        let taken_over = ["tcp 8080 -> 10.244.1.2:80", "tcp 8080 -> [fd00:10:244:1::2]:80"];
        assert_eq!(granted(&bench), taken_over);
        result(&verb(&bench, "DEL", "c0ffee", &json!({})));
        assert_eq!(granted(&bench), taken_over);
        result(&verb(&bench, "DEL", "second", &json!({})));
        assert_eq!(elements(&bench), []);
    }

    fn added_again_what_is_missing_is_there_again(bench) {
        result(&bench.verb("ADD"));
        let fields = asking(everything());
        let added = result(&verb(&bench, "ADD", "c0ffee", &fields));
        let complete = (elements(&bench), bench.world());
        assert_eq!(result(&verb(&bench, "ADD", "c0ffee", &fields)), added);
        assert_eq!((elements(&bench), bench.world()), complete);
        let gone = elements(&bench).into_iter().next().unwrap();
        bench.machine.netfilter().change(TABLE, &[ferrule_netlink::nft::Change::Delete(&gone)], None).unwrap();
        bench.machine.host().delete_link(&ifb_name(&attachment())).unwrap();
        result(&verb(&bench, "ADD", "c0ffee", &fields));
        assert_eq!(elements(&bench), complete.0);
        let mut check = fields;
        check["prevResult"] = added;
        result(&verb(&bench, "CHECK", "c0ffee", &check));
        result(&verb(&bench, "DEL", "c0ffee", &json!({})));
        assert_eq!(elements(&bench), []);
        assert_eq!(bench.machine.host().link(&ifb_name(&attachment())).unwrap(), None);
    }

    fn gc_removes_what_is_nobodys_of_this_network_alone(bench) {
        bench.machine.add_pod("second");
        bench.machine.add_pod("third");
        let asking_for = |port: u16| {
            let limit = json!({ "egressRate": 8_000_000, "egressBurst": 800_000 });
            asking(json!({ "portMappings": [{ "hostPort": port, "containerPort": 80 }], "bandwidth": limit }))
        };
        result(&verb(&bench, "ADD", "c0ffee", &asking_for(8080)));
        result(&verb(&bench, "ADD", "second", &asking_for(8081)));
        let mut other = asking_for(8082);
        other["name"] = "other".into();
        result(&verb(&bench, "ADD", "third", &other));
        // Of the one that is to go, all that would go with its namespace is gone.
        bench.machine.host().delete_link(&ferrule_model::host_veth_name(&attachment())).unwrap();
        let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "second", "ifname": "eth0" }] });
        result(&bench.verb_with("GC", &[], &valid));
        assert_eq!(granted(&bench).len(), 4, "{:?}", granted(&bench));
        assert!(granted(&bench).iter().all(|port| !port.contains("8080")));
        let ifb = |network: &str, container_id: &str| {
            let attachment = Attachment { network: network.into(), container_id: container_id.into(), ifname: "eth0".into() };
            bench.machine.host().link(&ifb_name(&attachment)).unwrap().is_some()
        };
        assert_eq!([ifb("pods", "c0ffee"), ifb("pods", "second"), ifb("other", "third")], [false, true, true]);
    }

    fn only_what_the_configuration_declares_is_the_plugins(bench) {
        let mut fields = asking(everything());
        fields["capabilities"] = json!({ "bandwidth": false });
        result(&verb(&bench, "ADD", "c0ffee", &fields));
        assert_eq!((elements(&bench), bench.machine.host().link(&ifb_name(&attachment())).unwrap()), (vec![], None));
        result(&bench.verb("DEL"));
        // A runtime keeps the declaration to itself and gives what was declared.
        fields.as_object_mut().unwrap().remove("capabilities");
        result(&verb(&bench, "ADD", "c0ffee", &fields));
        assert_eq!(granted(&bench).len(), 3);
    }
}

#[test]
fn a_pod_without_them_costs_no_request_more() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let requests = |bench: &Bench<'_, FakeMachine>, fields: &Value, verb: &str| {
            // A fault that never comes counts down.
            let many = 10_000;
            bench.faults.set(many, Fault::Refused);
            result(&bench.verb_with(verb, &[], fields));
            many - bench.faults.left()
        };
        let plain = requests(&bench, &json!({}), "ADD");
        assert_eq!(requests(&bench, &json!({}), "DEL"), 1, "DEL of a link that is there is one request");
        let declared = asking(json!({ "portMappings": [], "bandwidth": {} }));
        assert_eq!(requests(&bench, &declared, "ADD"), plain);
        assert_eq!(requests(&bench, &declared, "DEL"), 1);
        assert_eq!(
            requests(&bench, &json!({}), "DEL"),
            5,
            "of one that is gone: link, the same under another name, generation, table, device"
        );
    });
}

#[test]
fn udp_connections_that_would_go_elsewhere_now_are_forgotten_and_no_others() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let flow = |port, destination: &str, answers_from: &str, answering_port| Flow {
            source: ip("192.0.2.9"),
            destination: ip(destination),
            port,
            answers_from: ip(answers_from),
            answering_port,
            answers_to: ip("192.0.2.9"),
            answered: true,
        };
        let v4 = ferrule_model::Family::V4;
        let uplink = machine.host().create_veth(
            &crate::support::lab::uplink(),
            &machine.netns(machine.path("pod").as_ref()).unwrap(),
        );
        let address = AddressKey { link: uplink.unwrap().index, prefix: "192.0.2.1/24".parse().unwrap() };
        machine.host().apply(&[Op::PutAddress(address, Address { nodad: true })]).unwrap().remove(0).unwrap();
        let netfilter = machine.netfilter();
        let mut fields = everything();
        fields["portMappings"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "hostPort": 53, "containerPort": 5300, "protocol": "udp" }));
        let kept = [
            flow(5353, "192.0.2.2", "192.0.2.2", 5353),
            flow(53, "192.0.2.2", "192.0.2.2", 53),
            flow(53, "10.96.0.10", "10.244.9.9", 53),
            flow(54, "192.0.2.1", "192.0.2.1", 54),
        ];
        let forgotten = [
            flow(5353, "192.0.2.1", "192.0.2.1", 5353),
            flow(5353, "192.0.2.1", "10.244.1.77", 53),
            flow(53, "192.0.2.1", "192.0.2.1", 53),
            flow(53, "192.0.2.1", "10.244.1.77", 5300),
            flow(53, "192.0.2.1", "10.244.1.1", 53),
            flow(53, "127.0.0.1", "127.0.0.1", 53),
        ];
        for flow in kept.iter().chain(&forgotten) {
            netfilter.add_udp_flow(v4, *flow);
            netfilter.add_udp_flow(v4, Flow { answered: false, ..*flow });
        }
        result(&verb(&bench, "ADD", "c0ffee", &asking(fields.clone())));
        let left = || {
            let left = std::cell::RefCell::new(Vec::new());
            let look = |flow: &Flow| {
                left.borrow_mut().extend(flow.answered.then_some(*flow));
                false
            };
            machine.netfilter().forget_udp(v4, None, &look).unwrap();
            left.into_inner()
        };
        assert_eq!(left(), kept);
        let to_the_pod =
            [flow(5353, "192.0.2.1", "10.244.1.1", 53), flow(53, "127.0.0.1", "10.244.1.1", 5300)];
        for flow in to_the_pod {
            netfilter.add_udp_flow(v4, flow);
        }
        result(&verb(&bench, "ADD", "c0ffee", &asking(fields)));
        assert_eq!(left(), [&kept[..], &to_the_pod].concat(), "the same again");
        result(&bench.verb("DEL"));
        assert_eq!(left(), kept);
    });
}

#[test]
fn what_cannot_be_meant_is_refused_with_field_and_remedy() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let mapping = |fields: Value| {
            let mut mapping = json!({ "hostPort": 8080, "containerPort": 80 });
            mapping.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            json!({ "portMappings": [mapping] })
        };
        let twice = json!({ "portMappings": [
            { "hostPort": 80, "containerPort": 80 }, { "hostPort": 80, "containerPort": 81 }
        ] });
        for (runtime, field, remedy) in [
            (json!({ "portMappings": 7 }), "portMappings\"", "expected a list"),
            (mapping(json!({ "hostPort": 0 })), "portMappings[0].hostPort", "from 1 to 65535"),
            (mapping(json!({ "hostPort": 65_536 })), "portMappings[0].hostPort", "from 1 to 65535"),
            (mapping(json!({ "containerPort": "http" })), "portMappings[0].containerPort", "from 1 to 65535"),
            (
                mapping(json!({ "protocol": "icmp" })),
                "portMappings[0].protocol",
                "\"tcp\", \"udp\" or \"sctp\"",
            ),
            (mapping(json!({ "hostIP": "localhost" })), "portMappings[0].hostIP", "one of the node's"),
            (mapping(json!({ "hostIP": "::1" })), "portMappings[0].hostIP", "127.0.0.1"),
            (twice, "portMappings[1].hostPort", "remove one"),
            (json!({ "bandwidth": [] }), "bandwidth", "an object"),
            (json!({ "bandwidth": { "ingressRate": 8000 } }), "bandwidth.ingressBurst", "write both or none"),
            (json!({ "bandwidth": { "egressBurst": 8000 } }), "bandwidth.egressRate", "write both or none"),
            (
                json!({ "bandwidth": { "egressRate": -1, "egressBurst": 1 } }),
                "bandwidth.egressRate",
                "whole number",
            ),
            (
                json!({ "bandwidth": { "egressRate": 7, "egressBurst": 1 } }),
                "bandwidth.egressRate",
                "less than 8",
            ),
        ] {
            let before = bench.world();
            let (code, text) = failure(&verb(&bench, "ADD", "c0ffee", &asking(runtime)));
            assert_eq!(code, 7, "{text}");
            assert!(text.contains(&format!("runtimeConfig.{field}")) && text.contains(remedy), "{text}");
            assert_eq!(bench.world(), before);
        }
        let (code, text) = failure(&verb(&bench, "ADD", "c0ffee", &json!({ "runtimeConfig": 7 })));
        assert_eq!((code, text.contains("runtimeConfig")), (7, true), "{text}");
        bench.ipamd.state().v4_only = true;
        let before = bench.world();
        let (code, text) =
            failure(&verb(&bench, "ADD", "c0ffee", &asking(mapping(json!({ "hostIP": "2001:db8::1" })))));
        assert_eq!((code, text.contains("no address of this family")), (7, true), "{text}");
        assert_eq!(bench.world().host_state(), before.host_state());
        // As container runtimes write them.
        for good in [
            mapping(json!({ "hostIP": "" })),
            mapping(json!({ "hostIP": "0.0.0.0" })),
            json!({ "bandwidth": {
            "ingressRate": 1_000_000, "ingressBurst": 2_147_483_647, "egressRate": 0, "egressBurst": 0
        } }),
            json!({ "portMappings": null, "bandwidth": null }),
        ] {
            result(&verb(&bench, "ADD", "c0ffee", &asking(good)));
            result(&bench.verb("DEL"));
        }
    });
}
