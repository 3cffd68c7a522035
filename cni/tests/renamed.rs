//! The host's end of a pod's veth pair under another name, on the real kernel: it is still the pod's, for every verb.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use ferrule_model::{IfName, Link, host_veth_name};
use ferrule_netlink::Kernel;
use serde_json::json;

use crate::support::lab::{addresses, asking, command};
use crate::support::machine::{Machine, RealMachine};
use crate::support::{Bench, attachment, failure, result};

const OTHER_NAME: &str = "uplink7";

/// Attaches the pod, and somebody renames its link.
fn with_renamed(test: impl FnOnce(&Bench<'_, RealMachine>)) {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        result(&bench.verb_with("ADD", &[], &asking(&json!([{ "hostPort": 8080, "containerPort": 80 }]))));
        let veth = host_veth_name(&attachment());
        command(&format!("ip link set {veth} down"));
        command(&format!("ip link set {veth} name {OTHER_NAME}"));
        command(&format!("ip link set {OTHER_NAME} up"));
        assert!(link(&bench, OTHER_NAME).is_some() && link(&bench, veth.as_str()).is_none());
        test(&bench);
    });
}

fn link(bench: &Bench<'_, RealMachine>, name: &str) -> Option<Link> {
    bench.machine.host().link(&IfName::new(name).unwrap()).unwrap()
}

#[test]
fn del_deletes_it_before_its_address_is_free() {
    with_renamed(|bench| {
        result(&bench.verb("DEL"));
        assert_eq!(link(bench, OTHER_NAME), None);
        assert_eq!(bench.machine.inside("pod").link(&IfName::new("eth0").unwrap()).unwrap(), None);
        assert!(bench.ipamd.leases().is_empty());
        result(&bench.verb("DEL"));
    });
}

#[test]
fn gc_deletes_it_if_nobody_has_it_and_leaves_it_otherwise() {
    with_renamed(|bench| {
        // One of somebody else's has the same alias.
        command("ip link add dev other type veth peer name other1");
        let alias = link(bench, OTHER_NAME).unwrap().alias.unwrap();
        for name in ["other", "other1"] {
            bench.machine.host().link(&IfName::new(name).unwrap()).unwrap().unwrap();
            let words = ["link", "set", name, "alias", &alias];
            assert!(std::process::Command::new("ip").args(words).status().unwrap().success());
        }
        let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "c0ffee", "ifname": "eth0" }] });
        result(&bench.verb_with("GC", &[], &valid));
        assert!(link(bench, OTHER_NAME).is_some() && bench.ipamd.leases().len() == 1);
        result(&bench.verb_with("GC", &[], &json!({ "cni.dev/valid-attachments": [] })));
        assert_eq!(link(bench, OTHER_NAME), None);
        assert!(link(bench, "other").is_some());
        assert!(bench.ipamd.leases().is_empty());
    });
}

#[test]
fn an_add_of_the_same_pod_makes_it_anew_and_its_port_stays_its_own() {
    with_renamed(|bench| {
        bench.machine.add_pod("second");
        let path = bench.machine.path("second");
        let variables = [("CNI_CONTAINERID", "decaf"), ("CNI_NETNS", path.as_str())];
        let port = asking(&json!([{ "hostPort": 8080, "containerPort": 80 }]));
        let (code, text) = failure(&bench.verb_with("ADD", &variables, &port));
        assert_eq!((code, text.contains("is taken by pods: c0ffee/eth0")), (104, true), "{text}");
        let added = result(&bench.verb_with("ADD", &[], &port));
        assert_eq!(addresses(&added)[0].to_string(), "10.244.1.1");
        assert_eq!(link(bench, OTHER_NAME), None);
        assert!(link(bench, host_veth_name(&attachment()).as_str()).is_some());
        // Into another namespace, as after a restart of the sandbox.
        let veth = host_veth_name(&attachment());
        command(&format!("ip link set {veth} down"));
        command(&format!("ip link set {veth} name {OTHER_NAME}"));
        bench.machine.add_pod("third");
        let path = bench.machine.path("third");
        result(&bench.verb_with("ADD", &[("CNI_NETNS", path.as_str())], &port));
        assert_eq!(link(bench, OTHER_NAME), None);
    });
}
