//! GC: what belongs to no attachment goes, everything else stays, and an error does not stop it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use ferrule_model::{Attachment, IfName, host_veth_name};
use ferrule_netlink::Kernel;
use serde_json::{Value, json};

use crate::on_both_kernels;
use crate::support::faulty::Fault;
use crate::support::machine::Machine;
use crate::support::{Bench, failure, result};

/// The pods of these tests, each with an interface of this name; `other` is in another network.
const PODS: [(&str, &str); 3] = [("one", "eth0"), ("two", "net1"), ("other", "eth0")];

fn attached(pod: &str) -> Attachment {
    let (id, ifname) = PODS.into_iter().find(|(id, _)| *id == pod).unwrap();
    let network = if id == "other" { "others" } else { "pods" };
    Attachment { network: network.into(), container_id: id.into(), ifname: ifname.into() }
}

/// Attaches all three.
fn populate<M: Machine>(bench: &Bench<'_, M>) {
    for (id, _) in PODS {
        bench.machine.add_pod(id);
        let Attachment { network, container_id, ifname } = attached(id);
        let netns = bench.machine.path(id);
        let variables =
            [("CNI_CONTAINERID", container_id.as_str()), ("CNI_IFNAME", &ifname), ("CNI_NETNS", &netns)];
        result(&bench.verb_with("ADD", &variables, &json!({ "name": network })));
    }
}

fn valid(pods: &[&str]) -> Value {
    let entry = |pod: &&str| {
        let Attachment { container_id, ifname, .. } = attached(pod);
        json!({ "containerID": container_id, "ifname": ifname })
    };
    pods.iter().map(entry).collect()
}

/// Which pods have a link, and which a lease.
fn left<M: Machine>(bench: &Bench<'_, M>) -> (Vec<&'static str>, Vec<&'static str>) {
    let leases = bench.ipamd.leases();
    let ids = || PODS.into_iter().map(|(id, _)| id);
    let has_link = |id: &&str| bench.machine.host().link(&host_veth_name(&attached(id))).unwrap().is_some();
    (ids().filter(has_link).collect(), ids().filter(|id| leases.contains_key(&attached(id))).collect())
}

fn gc<M: Machine>(bench: &Bench<'_, M>, fields: &Value) -> ferrule_cni::Answer {
    let nothing = [("CNI_CONTAINERID", ""), ("CNI_IFNAME", ""), ("CNI_NETNS", "")];
    bench.verb_with("GC", &nothing, fields)
}

on_both_kernels! {
    fn what_no_attachment_has_goes_and_the_rest_stays(bench) {
        populate(&bench);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            result(&gc(&bench, &json!({ key: valid(&["one", "two"]) })));
            assert_eq!(left(&bench).0, ["one", "two", "other"]);
            assert_eq!(bench.kept().len(), 3);
        }
        // libcni writes both keys; the new one counts.
        let fields = json!({ "cni.dev/valid-attachments": valid(&["two"]), "cni.dev/attachments": valid(&[]) });
        result(&gc(&bench, &fields));
        assert_eq!(left(&bench), (vec!["two", "other"], vec!["two", "other"]));
        result(&gc(&bench, &json!({ "cni.dev/valid-attachments": [] })));
        assert_eq!(left(&bench), (vec!["other"], vec!["other"]));
        assert_eq!(bench.kept().len(), 1);
    }

    fn records_of_pods_whose_links_went_by_themselves_go_too(bench) {
        populate(&bench);
        for name in bench.kept().into_keys() {
            bench.machine.host().delete_link(&IfName::new(name).unwrap()).unwrap();
        }
        // An ADD that was killed.
        std::fs::write(bench.dir.path().join("attachments/fer0123456789ab"), "").unwrap();
        result(&gc(&bench, &json!({ "cni.dev/valid-attachments": [] })));
        let networks: Vec<_> = bench.kept().into_values().map(|made| made.attachment.network).collect();
        assert_eq!(networks.len(), 1, "the other network's: {networks:?}");
    }

    fn a_runtime_that_knows_no_attachment_has_none(bench) {
        populate(&bench);
        result(&gc(&bench, &json!({ "cni.dev/valid-attachments": null })));
        assert_eq!(left(&bench), (vec!["other"], vec!["other"]));
    }

    fn a_runtime_that_does_not_say_what_lives_has_nothing_removed(bench) {
        populate(&bench);
        let before = left(&bench);
        let (code, text) = failure(&gc(&bench, &json!({})));
        assert_eq!(code, 7);
        assert!(text.contains("cni.dev/valid-attachments") && text.contains("remove every pod"), "{text}");
        assert_eq!(left(&bench), before);
    }

    fn a_link_whose_lease_was_lost_goes_too(bench) {
        populate(&bench);
        bench.ipamd.state().leases.clear();
        result(&gc(&bench, &json!({ "cni.dev/valid-attachments": valid(&["two"]) })));
        assert_eq!(left(&bench).0, ["two", "other"]);
    }

    /// Its address is not free while the link may hold it; everything else is removed and every error told.
    fn a_link_that_cannot_be_deleted_keeps_its_lease_and_the_others_go(bench) {
        populate(&bench);
        bench.faults.set(1, Fault::Refused);
        let (code, text) = failure(&gc(&bench, &json!({ "cni.dev/valid-attachments": [] })));
        assert_eq!(code, 100, "{text}");
        let (links, leases) = left(&bench);
        assert_eq!((links.len(), &links), (2, &leases), "one of ours, and the other network's");
        result(&gc(&bench, &json!({ "cni.dev/valid-attachments": [] })));
        assert_eq!(left(&bench), (vec!["other"], vec!["other"]));
    }

    fn all_errors_are_told(bench) {
        populate(&bench);
        bench.faults.set(1, Fault::RefusedFromHere);
        let (code, text) = failure(&gc(&bench, &json!({ "cni.dev/valid-attachments": [] })));
        assert_eq!(code, 100);
        assert_eq!(text.matches("delete a veth pair that no attachment has").count(), 2, "{text}");
        // And no address is free while a host port may lead to it.
        assert!(text.contains("and then: cannot look for the host ports"), "{text}");
        assert!(bench.faults.take());
        assert_eq!(left(&bench).0.len(), 3);
    }

    fn while_the_links_cannot_be_listed_the_leases_stay(bench) {
        populate(&bench);
        bench.faults.set(0, Fault::Refused);
        let (code, _) = failure(&gc(&bench, &json!({ "cni.dev/valid-attachments": [] })));
        assert_eq!(code, 100);
        assert_eq!(left(&bench).1.len(), 3);
    }

    fn without_ipamd_the_links_go_and_the_error_says_what_to_start(bench) {
        populate(&bench);
        bench.ipamd.stop();
        let (code, text) = failure(&gc(&bench, &json!({ "cni.dev/valid-attachments": valid(&["one"]) })));
        assert_eq!(code, 11);
        assert!(text.contains("systemctl start ipamd"), "{text}");
        assert_eq!(left(&bench).0, ["one", "other"]);
    }

    fn an_attachment_that_is_none_stops_it_before_anything_is_removed(bench) {
        populate(&bench);
        for entry in [json!({}), json!({ "containerID": "one" }), json!("one"), json!({ "containerID": 1, "ifname": "a" })] {
            let (code, text) = failure(&gc(&bench, &json!({ "cni.dev/valid-attachments": [entry] })));
            assert_eq!(code, 7);
            assert!(text.contains("cni.dev/valid-attachments"), "{text}");
        }
        assert_eq!(left(&bench).0.len(), 3);
    }
}
