//! CHECK: each thing that ADD made is missed when it is gone, and nothing that others added is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use ferrule_model::{
    Address, AddressKey, IfName, Link, LinkChange, Mac, NeighbourKey, Op, PROTOCOL, Route, RouteKey, Via,
    host_veth_name,
};
use ferrule_netlink::Kernel;
use serde_json::{Value, json};

use crate::on_both_kernels;
use crate::support::machine::Machine;
use crate::support::{Bench, attachment, failure, result};

fn host_link<M: Machine>(bench: &Bench<'_, M>) -> Link {
    bench.machine.host().link(&host_veth_name(&attachment())).unwrap().unwrap()
}

fn pod_link<M: Machine>(bench: &Bench<'_, M>) -> Link {
    bench.machine.inside("pod").link(&IfName::new("eth0").unwrap()).unwrap().unwrap()
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

fn set(change: LinkChange) -> impl Fn(&Link) -> Op {
    move |link| Op::SetLink(link.index, change.clone())
}

on_both_kernels! {
    fn every_object_in_the_pod_that_is_gone_is_named(bench) {
        let added = bench.add();
        let link = pod_link(&bench);
        let mut pod = bench.machine.inside("pod");
        let addresses = pod.addresses(link.index).unwrap();
        for key in addresses.keys().filter(|key| matches!(key.prefix.prefix(), 32 | 128)) {
            apply(&mut pod, &Op::DeleteAddress(*key));
            missed(&bench, &added, &format!("address {}: expected on eth0, found none", key.prefix));
        }
        let routes = pod.routes(PROTOCOL).unwrap();
        assert_eq!(routes.len(), 3);
        for key in routes.keys() {
            let what = match (key.dst.prefix(), key.dst.is_ipv4()) {
                (0, true) => "default route (IPv4) in the container",
                (0, false) => "default route (IPv6) in the container",
                _ => "route 169.254.1.1/32 in the container",
            };
            apply(&mut pod, &Op::DeleteRoute(*key));
            missed(&bench, &added, what);
        }
        for key in pod.neighbours(link.index).unwrap().keys() {
            apply(&mut pod, &Op::DeleteNeighbour(*key));
            missed(&bench, &added, &format!("neighbour {} in the container", key.address));
        }
        let changes = [
            (LinkChange { mtu: Some(1300), ..LinkChange::default() }, "MTU of eth0: expected 1450, found 1300"),
            (LinkChange { mac: Some(Mac::local([2; 6])), ..LinkChange::default() }, "MAC of eth0"),
            (LinkChange { up: Some(false), ..LinkChange::default() }, "link eth0: expected up, found down"),
        ];
        for (change, what) in changes {
            apply(&mut pod, &set(change)(&link));
            missed(&bench, &added, what);
        }
    }

    fn every_object_on_the_host_that_is_gone_is_named(bench) {
        let added = bench.add();
        let link = host_link(&bench);
        let mut host = bench.machine.host();
        for key in host.routes(PROTOCOL).unwrap().keys() {
            apply(&mut host, &Op::DeleteRoute(*key));
            missed(&bench, &added, &format!("route {} on the host", key.dst));
        }
        for key in host.neighbours(link.index).unwrap().keys() {
            apply(&mut host, &Op::DeleteNeighbour(*key));
            missed(&bench, &added, &format!("neighbour {} on the host", key.address));
        }
        apply(&mut host, &set(LinkChange { mtu: Some(1400), ..LinkChange::default() })(&link));
        missed(&bench, &added, &format!("MTU of {}: expected 1450, found 1400", link.name));
        host.delete_link(&link.name).unwrap();
        missed(&bench, &added, &format!("link {}: expected a veth on the host, found none", link.name));
    }

    fn a_lost_or_changed_lease_is_named(bench) {
        let added = bench.add();
        let lease = bench.ipamd.state().leases.remove(&attachment()).unwrap();
        let (code, text) = failure(&bench.check(&added));
        assert_eq!(code, 103);
        assert!(text.contains("lease: ") && text.contains("has no lease"), "{text}");
        let mut other = lease;
        other.addresses = vec!["10.244.1.99/32".parse().unwrap()];
        bench.ipamd.state().leases.insert(attachment(), other);
        let (_, text) = failure(&bench.check(&added));
        assert!(text.contains("is leased 10.244.1.99/32"), "{text}");
    }

    fn a_daemon_that_is_down_is_named(bench) {
        let added = bench.add();
        bench.ipamd.stop();
        let (_, text) = failure(&bench.check(&added));
        assert!(text.contains("lease: ipamd cannot be reached at"), "{text}");
    }

    fn a_result_of_another_interface_is_named(bench) {
        let mut added = bench.add();
        added["interfaces"][1]["name"] = json!("net7");
        let (_, text) = failure(&bench.check(&added));
        assert!(text.contains("prevResult: expected an interface eth0 in the container, found none"), "{text}");
    }

    fn what_later_plugins_add_and_change_is_tolerated(bench) {
        let mut added = bench.add();
        let link = pod_link(&bench);
        let mut pod = bench.machine.inside("pod");
        let more = "192.0.2.7/24".parse().unwrap();
        apply(&mut pod, &Op::PutAddress(AddressKey { link: link.index, prefix: more }, Address::default()));
        let foreign = Route { protocol: 3, ..Route::ours(Via::Link(link.index)) };
        apply(&mut pod, &Op::PutRoute(RouteKey::main("198.51.100.0/24".parse().unwrap()), foreign));
        let key = NeighbourKey { link: link.index, address: "192.0.2.9".parse().unwrap() };
        let neighbour = ferrule_model::Neighbour { mac: Some(Mac::local([4; 6])), permanent: true };
        apply(&mut pod, &Op::PutNeighbour(key, neighbour));
        apply(&mut pod, &set(LinkChange { mtu: Some(1300), ..LinkChange::default() })(&link));
        // What a plugin for tuning leaves in the result.
        added["interfaces"][1]["mtu"] = json!(1300);
        added["interfaces"].as_array_mut().unwrap().push(json!({ "name": "ifb7", "mac": "" }));
        added["ips"].as_array_mut().unwrap().push(json!({ "address": "192.0.2.7/24", "interface": 1 }));
        added["routes"].as_array_mut().unwrap().push(json!({ "dst": "198.51.100.0/24", "table": 254, "scope": 253 }));
        added["dns"] = json!({ "nameservers": ["10.0.0.10"] });
        added["unknown"] = json!([1]);
        result(&bench.check(&added));
    }

    fn the_results_of_all_versions_are_understood(bench) {
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let added = result(&bench.verb_with("ADD", &[], &json!({ "cniVersion": version })));
            let fields = json!({ "cniVersion": version, "prevResult": added });
            result(&bench.verb_with("CHECK", &[], &fields));
            result(&bench.verb("DEL"));
        }
    }
}

on_both_kernels! {
    fn status_is_what_ipamd_says(bench) {
        result(&bench.verb("STATUS"));
        bench.ipamd.state().refuse =
            Some(ferrule_wire::CallError::NoPool { pool: None, reason: "routed has not written node.json yet".into() });
        let (code, text) = failure(&bench.verb("STATUS"));
        assert_eq!(code, 50);
        assert!(text.contains("routed has not written node.json yet"), "{text}");
    }

    fn status_asks_for_the_pool_of_the_configuration(bench) {
        let status = |pool: &str| bench.verb_with("STATUS", &[], &json!({ "ipam": { "type": "ferrule-ipam", "pool": pool } }));
        result(&status("big"));
        for (pool, reason) in [("full", "no IPv4 address is left in pool \"full\""), ("none", "no pool \"none\"")] {
            let (code, text) = failure(&status(pool));
            assert_eq!(code, 50);
            assert!(text.contains(reason), "{text}");
        }
    }

    fn status_of_a_node_whose_ipamd_hangs_does_not_say_that_it_is_not_running(bench) {
        let hangs = bench.ipamd.state();
        let (code, text) = failure(&bench.verb("STATUS"));
        drop(hangs);
        assert_eq!(code, 50);
        assert!(text.contains("ipamd did not answer in time"), "{text}");
        assert!(text.contains("it hangs") && !text.contains("running"), "{text}");
    }

    fn status_of_a_node_without_ipamd_says_what_to_start(bench) {
        bench.ipamd.stop();
        let (code, text) = failure(&bench.verb("STATUS"));
        assert_eq!(code, 50);
        assert!(text.contains("is it running?"), "{text}");
    }
}
