//! ADD and DEL: what they make, what they leave behind, and that a failure anywhere leaves nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::time::Duration;

use ferrule_cni::decide::pod;
use ferrule_model::{HostSide, IfName, Limits, VethSpec, Way, host_mac, host_veth_name, pod_mac};
use ferrule_netlink::Kernel;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::on_both_kernels;
use crate::support::faulty::Fault;
use crate::support::ipamd::Ipamd;
use crate::support::machine::{FakeMachine, Machine};
use crate::support::{Bench, World, attachment, failure, result};

/// What a dual-stack ADD asks of the kernel: create, a batch in the pod (link, three for each family, the way to IPv4's
/// gateway, the loopback device), one on the host (alias, link, two for each family).
const REQUESTS: u64 = 1 + (1 + 3 * 2 + 1 + 1) + (1 + 1 + 2 * 2);

/// Everything, with the pod's loopback device on: an ADD that fails may have switched it on and leaves it so.
fn before<M: Machine>(bench: &Bench<'_, M>) -> World {
    bench.machine.inside("pod").apply(&[pod::loopback()]).unwrap().remove(0).unwrap();
    bench.world()
}

/// A veth pair in the way.
fn obstacle(host: &IfName, pod: &str) -> VethSpec {
    let other = ferrule_model::Attachment { container_id: "other".into(), ..attachment() };
    VethSpec {
        host_name: host.clone(),
        host_mac: host_mac(&other),
        alias: None,
        pod_name: IfName::new(pod).unwrap(),
        pod_mac: pod_mac(&other),
    }
}

fn put_obstacle<M: Machine>(bench: &Bench<'_, M>, host: &IfName, pod_name: &str, pod: &str) {
    let netns = bench.machine.netns(bench.machine.path(pod).as_ref()).unwrap();
    bench.machine.host().create_veth(&obstacle(host, pod_name), &netns).unwrap();
}

on_both_kernels! {
    fn add_then_check_then_del_leaves_what_was_there_before(bench) {
        let before = bench.world();
        let added = bench.add();
        assert_eq!(added["interfaces"][1]["mtu"], 1450);
        assert_eq!(result(&bench.check(&added)), json!(null));
        assert_eq!(result(&bench.verb("DEL")), json!(null));
        let lo_is_up = bench.machine.inside("pod").link(&IfName::new("lo").unwrap()).unwrap().unwrap().up;
        assert!(lo_is_up, "the pod's loopback device works");
        assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
        assert_eq!(bench.ipamd.leases().len(), 0);
        assert_eq!(bench.world().host_state(), before.host_state());
        assert_eq!(bench.queued(), []);
    }

    fn what_was_made_on_the_host_is_written_down_until_del(bench) {
        let pod = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";
        let added = result(&bench.verb_with("ADD", &[("CNI_ARGS", pod)], &json!({})));
        let made = HostSide {
            attachment: attachment(),
            pod: "default/web".into(),
            netns: bench.machine.path("pod"),
            mtu: 1450,
            way: Way::Routed { pod_mac: pod_mac(&attachment()), addresses: crate::support::lab::addresses(&added) },
            ports: None,
            limits: Limits::default(),
        };
        assert_eq!(bench.kept(), [(made.link().to_string(), made.clone())].into());
        let mut host = bench.machine.host();
        let link = host.link(&made.link()).unwrap().unwrap();
        assert_eq!(made.change(&link), None);
        for way in made.ways(link.index) {
            assert_eq!(host.neighbour(way.neighbour.0).unwrap(), Some(way.neighbour.1));
            assert_eq!(host.route_match(way.neighbour.0.address).unwrap(), Some(way.route));
        }
        result(&bench.verb("DEL"));
        assert!(bench.kept().is_empty());
    }

    fn where_nobody_keeps_it_nothing_is_written_down(bench) {
        std::fs::remove_dir(bench.dir.path().join("attachments")).unwrap();
        bench.add();
        assert!(!bench.dir.path().join("attachments").exists());
        result(&bench.verb("DEL"));
    }

    fn what_cannot_be_written_down_is_not_left(bench) {
        let before = before(&bench);
        let path = bench.dir.path().join("attachments").join(host_veth_name(&attachment()).as_str());
        std::fs::create_dir(&path).unwrap();
        let (code, text) = failure(&bench.verb("ADD"));
        assert!(code == 5 && text.contains("let root write to it"), "{code} {text}");
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(bench.world(), before);
    }

    fn whichever_request_is_refused_everything_is_as_before(bench) {
        let before = before(&bench);
        let mut n = 0;
        while let Some(answer) = bench.add_with_fault(n, Fault::Refused) {
            let (code, text) = failure(&answer);
            assert_eq!(code, 100, "request {n}: {text}");
            assert_eq!(bench.world(), before, "request {n}: {text}");
            assert_eq!(bench.queued(), [], "request {n}");
            n += 1;
        }
        assert_eq!(n, REQUESTS);
    }

    fn whichever_answer_is_lost_everything_is_as_before(bench) {
        let before = before(&bench);
        let mut n = 0;
        while let Some(answer) = bench.add_with_fault(n, Fault::Lost) {
            let (_, text) = failure(&answer);
            assert_eq!(bench.world(), before, "request {n}: {text}");
            assert_eq!(bench.queued(), [], "request {n}");
            n += 1;
        }
        assert_eq!(n, REQUESTS);
    }

    /// The address is not free while the link may hold it; the DEL that follows a failed ADD ends both.
    fn a_pair_that_cannot_be_deleted_keeps_its_lease_and_every_error_is_told(bench) {
        let before = bench.world();
        bench.faults.set(5, Fault::RefusedFromHere);
        let (code, text) = failure(&bench.verb("ADD"));
        assert_eq!(code, 100);
        assert!(text.contains("in the container's network namespace: "), "{text}");
        assert!(text.contains("and then: cannot delete the veth pair"), "{text}");
        assert_eq!(bench.ipamd.leases().len(), 1);
        assert!(bench.faults.take());
        result(&bench.verb("DEL"));
        assert_eq!(bench.world(), before);
    }

    fn a_fault_while_a_living_attachment_is_added_again_takes_nothing_from_it(bench) {
        let added = bench.add();
        let before = bench.world().but_for_the_mark();
        for fault in [Fault::Refused, Fault::Lost] {
            let mut n = 0;
            while let Some(answer) = bench.add_with_fault(n, fault) {
                failure(&answer);
                assert_eq!(bench.world().but_for_the_mark(), before, "request {n}, {fault:?}");
                n += 1;
            }
            assert!(n > 10, "{n} requests");
        }
        assert_eq!(result(&bench.check(&added)), json!(null));
    }

    fn added_again_a_living_attachment_is_the_same(bench) {
        let first = bench.add();
        let before = bench.world();
        assert_eq!(bench.add(), first);
        assert_eq!(bench.world(), before);
        result(&bench.verb("DEL"));
        assert_eq!(bench.ipamd.leases().len(), 0);
    }

    fn added_again_in_the_same_millisecond_is_the_same(bench) {
        let first = bench.add();
        let before = bench.world();
        for lease in bench.ipamd.state().leases.values_mut() {
            // The lease's time says nothing of order to an ADD that asks before this one has passed.
            lease.given_at_boottime_ms += 60_000;
        }
        assert_eq!(bench.add(), first);
        assert_eq!(bench.world(), before);
    }

    fn added_again_what_somebody_deleted_is_there_again(bench) {
        let first = bench.add();
        let routes = bench.machine.host().routes(ferrule_model::PROTOCOL).unwrap();
        let ops: Vec<_> = routes.keys().map(|key| ferrule_model::Op::DeleteRoute(*key)).collect();
        assert_eq!(ops.len(), 2);
        bench.machine.host().apply(&ops).unwrap();
        failure(&bench.check(&first));
        assert_eq!(bench.add(), first);
        result(&bench.check(&first));
    }

    fn a_living_link_whose_lease_was_lost_is_made_anew(bench) {
        let first = bench.add();
        bench.ipamd.state().leases.clear();
        let second = bench.add();
        assert_ne!(first["ips"], second["ips"]);
        result(&bench.check(&second));
        let index = bench.machine.inside("pod").link(&IfName::new("eth0").unwrap()).unwrap().unwrap().index;
        let addresses = bench.machine.inside("pod").addresses(index).unwrap();
        let old: ferrule_model::IpNetwork = first["ips"][0]["address"].as_str().unwrap().parse().unwrap();
        assert!(addresses.keys().all(|key| key.prefix != old), "{old} may be another pod's by now");
    }

    fn a_stale_host_veth_is_replaced(bench) {
        bench.machine.add_pod("old");
        put_obstacle(&bench, &host_veth_name(&attachment()), "eth0", "old");
        let added = bench.add();
        result(&bench.check(&added));
        assert_eq!(bench.machine.inside("old").link(&IfName::new("eth0").unwrap()).unwrap(), None);
    }

    fn a_taken_interface_name_is_an_error_and_the_lease_is_given_back(bench) {
        put_obstacle(&bench, &IfName::new("other0").unwrap(), "eth0", "pod");
        let before = bench.world();
        let (code, text) = failure(&bench.verb("ADD"));
        assert_eq!(code, 101);
        assert!(text.contains("interface eth0 already"), "{text}");
        assert_eq!(bench.world(), before);
    }

    fn a_host_veth_and_a_taken_interface_name_of_another_are_told_apart(bench) {
        bench.machine.add_pod("old");
        put_obstacle(&bench, &host_veth_name(&attachment()), "eth0", "old");
        put_obstacle(&bench, &IfName::new("other0").unwrap(), "eth0", "pod");
        let (code, text) = failure(&bench.verb("ADD"));
        assert_eq!(code, 101, "{text}");
        assert_eq!(bench.ipamd.leases().len(), 0);
    }

    fn ipv4_alone_needs_nothing_of_ipv6(bench) {
        bench.ipamd.state().v4_only = true;
        let added = bench.add();
        assert_eq!(added["ips"].as_array().unwrap().len(), 1);
        assert_eq!(added["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }]));
        result(&bench.check(&added));
    }

    fn the_mtu_is_the_configurations_then_ipamds_then_the_kernels(bench) {
        bench.config = json!({ "mtu": 1400 });
        assert_eq!(bench.add()["interfaces"][0]["mtu"], 1400);
        result(&bench.verb("DEL"));
        bench.config = json!({});
        bench.ipamd.state().mtu = None;
        let added = bench.add();
        assert_eq!(added["interfaces"][0]["mtu"], 1500);
        assert_eq!(added["interfaces"][1]["mtu"], 1500);
    }

    fn two_interfaces_of_one_container_are_two_attachments(bench) {
        let first = bench.add();
        let second = result(&bench.verb_with("ADD", &[("CNI_IFNAME", "net1")], &json!({})));
        assert_ne!(first["ips"], second["ips"]);
        assert_eq!(bench.ipamd.leases().len(), 2);
        result(&bench.verb_with("DEL", &[("CNI_IFNAME", "net1")], &json!({})));
        result(&bench.check(&first));
    }

    fn a_namespace_that_is_not_there_is_an_error_before_anything_is_asked_for(bench) {
        let (code, _) = failure(&bench.verb_with("ADD", &[("CNI_NETNS", "/nonexistent")], &json!({})));
        assert_eq!(code, 8);
        assert_eq!(bench.ipamd.state().calls.len(), 0);
    }

    fn our_own_namespace_is_refused_unless_it_is_meant(bench) {
        let own = bench.machine.path("host");
        let (code, text) = failure(&bench.verb_with("ADD", &[("CNI_NETNS", &own)], &json!({})));
        assert_eq!(code, 8);
        assert!(text.contains("CNI_NETNS_OVERRIDE"), "{text}");
        assert_eq!(bench.ipamd.state().calls.len(), 0);
        let overridden = [("CNI_NETNS", own.as_str()), ("CNI_NETNS_OVERRIDE", "TRUE")];
        // The host's end has the host's route, the other end the same address: of use to tests alone.
        result(&bench.verb_with("ADD", &overridden, &json!({})));
    }

    fn an_answer_lost_by_ipamd_is_asked_for_again(bench) {
        bench.ipamd.state().die = 2;
        result(&bench.verb("ADD"));
        assert_eq!(bench.ipamd.state().calls, ["Allocate"; 3]);
        assert_eq!(bench.ipamd.leases().len(), 1);
    }

    fn a_lease_whose_first_answer_was_lost_is_given_back_if_the_add_fails_later(bench) {
        let before = before(&bench);
        bench.ipamd.state().die = 1;
        assert_eq!(failure(&bench.add_with_fault(3, Fault::Refused).unwrap()).0, 100);
        assert_eq!(bench.world(), before);
    }

    fn an_ipamd_that_dies_for_good_leaves_no_link_and_the_release_is_queued(bench) {
        bench.ipamd.state().die = u32::MAX;
        let (code, _) = failure(&bench.verb("ADD"));
        assert_eq!(code, 11);
        assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
        assert_eq!(bench.queued(), [attachment()]);
    }

    fn an_exhausted_pool_is_told_with_the_reason_and_leaves_no_link(bench) {
        let before = bench.world();
        bench.ipamd.state().refuse = Some(ferrule_wire::CallError::PoolExhausted {
            pool: "default".into(), family: ferrule_wire::Family::Ipv6, in_use: 1, resting: 0, reserved: "3".into(), gone: 0,
        });
        let (code, text) = failure(&bench.verb("ADD"));
        assert_eq!(code, 11);
        assert!(text.contains("no IPv6 address is left in pool \"default\""), "{text}");
        assert_eq!(bench.world(), before);
    }

    fn a_lease_that_a_failed_add_found_stays(bench) {
        bench.add();
        bench.machine.host().delete_link(&host_veth_name(&attachment())).unwrap();
        let leases = bench.ipamd.leases();
        // What is older than the question is told by the millisecond.
        let given = leases.values().map(|lease| u128::from(lease.given_at_boottime_ms)).max().unwrap();
        let now = || Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()).as_millis();
        while now() <= given {
            std::thread::yield_now();
        }
        assert_eq!(failure(&bench.add_with_fault(3, Fault::Refused).unwrap()).0, 100);
        assert_eq!(bench.ipamd.leases(), leases);
        assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
    }

    fn the_lease_knows_its_pod_and_the_link_says_it(bench) {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1";
        result(&bench.verb_with("ADD", &[("CNI_ARGS", arguments)], &json!({ "ipam": { "type": "ferrule-ipam", "pool": "blue" } })));
        let lease = bench.ipamd.leases().remove(&attachment()).unwrap();
        assert_eq!(lease.pod.unwrap().to_string(), "shop/web-0");
        assert_eq!(lease.pool, "blue");
        assert_eq!(lease.netns, Some(bench.machine.path("pod")));
        let link = bench.machine.host().link(&host_veth_name(&attachment())).unwrap().unwrap();
        assert_eq!(link.alias.as_deref(), Some("pods: shop/web-0 c0ffee/eth0"));
    }

    /// podman has names and no namespaces.
    fn a_pod_without_a_namespace_has_its_name_alone(bench) {
        result(&bench.verb_with("ADD", &[("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=one")], &json!({})));
        assert_eq!(bench.ipamd.leases().remove(&attachment()).unwrap().pod.unwrap().to_string(), "one");
        let link = bench.machine.host().link(&host_veth_name(&attachment())).unwrap().unwrap();
        assert_eq!(link.alias.as_deref(), Some("pods: one c0ffee/eth0"));
    }
}

on_both_kernels! {
    fn a_result_that_nobody_hears_is_taken_back(bench) {
        let before = bench.world();
        bench.config = json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] } });
        bench.deaf = true;
        let (code, text) = failure(&bench.verb("ADD"));
        assert_eq!(code, 5);
        assert!(text.contains("cannot write the result to standard output: Broken pipe"), "{text}");
        assert_eq!(bench.world().host_state(), before.host_state());
        // The pod of an ADD before lives on.
        bench.deaf = false;
        bench.add();
        let before = bench.world();
        bench.deaf = true;
        failure(&bench.verb("ADD"));
        assert_eq!(bench.world(), before);
    }
}

#[test]
fn without_ipamd_it_says_what_to_start_and_touches_nothing() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let before = bench.world();
        bench.ipamd.stop();
        let (code, text) = failure(&bench.verb("ADD"));
        assert_eq!(code, 11);
        assert!(text.contains("ipamd.sock: is it running? (`systemctl start ipamd`)"), "{text}");
        assert_eq!(text.matches("running?").count(), 1, "{text}");
        assert_eq!(bench.world(), before);
    });
}

#[test]
fn an_ipamd_that_is_just_starting_is_waited_for() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let late = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            // Whichever is first, ADD succeeds.
            scope.spawn(|| Ipamd::start(late.path()));
            result(&bench.verb_with("ADD", &[], &json!({ "runtimeDir": late.path() })));
        });
    });
}
