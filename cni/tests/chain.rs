//! What a list of plugins and the runtime's capabilities bring: results that are handed on, and wishes that are met.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use ferrule_model::{IfName, host_veth_name};
use ferrule_netlink::Kernel;
use serde_json::{Value, json};

use crate::on_both_kernels;
use crate::support::machine::Machine;
use crate::support::{Bench, attachment, failure, result};

/// What a plugin before us answered, with everything that 1.1.0 has.
fn previous() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            { "name": "br0", "mac": "02:00:00:00:00:07" },
            { "name": "vf0", "sandbox": "/run/netns/x", "mac": "not ethernet", "mtu": 9000, "socketPath": "/run/s", "pciID": "0000:00:1f.6" }
        ],
        "ips": [{ "interface": 1, "address": "192.0.2.7/24", "gateway": "192.0.2.1" }],
        "routes": [{ "dst": "198.51.100.0/24", "gw": "192.0.2.1", "mtu": 1400, "advmss": 1360, "priority": 7, "table": 9, "scope": 0 }],
        "dns": { "nameservers": ["192.0.2.53"], "domain": "before.example" }
    })
}

fn added<M: Machine>(bench: &Bench<'_, M>, fields: &Value) -> Value {
    result(&bench.verb_with("ADD", &[], fields))
}

on_both_kernels! {
    fn the_result_of_a_plugin_before_is_handed_on_with_ours_behind(bench) {
        let ours = bench.add();
        result(&bench.verb("DEL"));
        let both = added(&bench, &json!({ "prevResult": previous() }));
        let parts = |result: &Value, key: &str| result[key].as_array().unwrap().clone();
        for key in ["interfaces", "ips", "routes"] {
            let count = parts(&previous(), key).len();
            let mut theirs = parts(&previous(), key);
            if key == "interfaces" {
                theirs[0]["sandbox"] = json!("");
            }
            assert_eq!(parts(&both, key)[..count], theirs, "{key}");
            assert_eq!(parts(&both, key).len(), count + parts(&ours, key).len(), "{key}");
        }
        assert_eq!(both["interfaces"][3]["name"], "eth0");
        assert_eq!(both["ips"][1]["interface"], 3, "our place has moved");
        assert_eq!(both["dns"], previous()["dns"]);
        result(&bench.check(&both));
    }

    fn an_older_version_is_handed_on_without_what_it_does_not_have(bench) {
        let both = added(&bench, &json!({ "cniVersion": "0.4.0", "prevResult": previous() }));
        assert_eq!(both["interfaces"][1], json!({ "name": "vf0", "mac": "not ethernet", "sandbox": "/run/netns/x" }));
        assert_eq!(both["routes"][0], json!({ "dst": "198.51.100.0/24", "gw": "192.0.2.1" }));
        assert_eq!(both["ips"][0]["version"], "4");
    }

    fn name_service_is_the_runtimes_then_the_configurations_then_that_of_before(bench) {
        let dns = json!({ "nameservers": ["10.0.0.10"], "domain": "a.example", "search": ["b.example"], "options": ["ndots:5"] });
        assert_eq!(added(&bench, &json!({ "dns": dns, "prevResult": previous() }))["dns"], dns);
        let runtime = json!({ "dns": { "servers": ["10.0.0.11"], "searches": ["c.example"], "options": ["edns0"] } });
        let fields = json!({ "dns": dns, "runtimeConfig": runtime });
        assert_eq!(
            added(&bench, &fields)["dns"],
            json!({ "nameservers": ["10.0.0.11"], "search": ["c.example"], "options": ["edns0"] })
        );
    }

    fn the_mac_asked_for_is_the_pods_and_check_knows_it(bench) {
        let mac = "0a:00:00:00:00:2a";
        let fields = json!({ "runtimeConfig": { "mac": "0A:00:00:00:00:2A" } });
        let result_of_add = added(&bench, &fields);
        assert_eq!(result_of_add["interfaces"][1]["mac"], mac);
        let link = bench.machine.inside("pod").link(&IfName::new("eth0").unwrap()).unwrap().unwrap();
        assert_eq!(link.mac.unwrap().to_string(), mac);
        result(&bench.check(&result_of_add));
        // A living attachment keeps its link.
        assert_eq!(added(&bench, &fields), result_of_add);
    }

    fn the_addresses_asked_for_are_given(bench) {
        let requested = |added: &Value| {
            let ips = added["ips"].as_array().unwrap();
            ips.iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let v4 = added(&bench, &json!({ "runtimeConfig": { "ips": ["10.244.1.77/24"] } }));
        assert_eq!(requested(&v4), ["10.244.1.77/32", "fd00:10:244:1::1/128"]);
        result(&bench.verb("DEL"));
        let both = added(&bench, &json!({ "args": { "cni": { "ips": ["fd00:10:244:1::99", "10.244.1.78"] } } }));
        assert_eq!(requested(&both), ["10.244.1.78/32", "fd00:10:244:1::99/128"]);
        result(&bench.verb("DEL"));
        let by_arguments = result(&bench.verb_with("ADD", &[("CNI_ARGS", "IP=10.244.1.79")], &json!({})));
        assert_eq!(requested(&by_arguments)[0], "10.244.1.79/32");
        result(&bench.check(&by_arguments));
    }

    fn ranges_pool_and_names_reach_whom_they_concern(bench) {
        let annotations = json!({ "ferrule.io/pool": "blue" });
        let ranges = json!([[{ "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.64", "rangeEnd": "10.244.1.95" }]]);
        added(&bench, &json!({ "runtimeConfig": {
            "ipRanges": ranges, "aliases": ["db", "cache"], "io.kubernetes.cri.pod-annotations": annotations
        } }));
        let range = bench.ipamd.state().ranges[0];
        assert_eq!((range.first.to_string(), range.last.to_string()), ("10.244.1.64".into(), "10.244.1.95".into()));
        assert_eq!(bench.ipamd.leases()[&attachment()].pool, "blue");
        let link = bench.machine.host().link(&host_veth_name(&attachment())).unwrap().unwrap();
        assert_eq!(link.alias.as_deref(), Some("pods: c0ffee/eth0, db, cache"));
    }

    fn a_wish_that_cannot_be_read_is_refused_before_anything_is_made(bench) {
        let before = bench.world();
        for runtime in [json!({ "ips": ["x"] }), json!({ "mac": "x" }), json!({ "ipRanges": 1 })] {
            let (code, text) = failure(&bench.verb_with("ADD", &[], &json!({ "runtimeConfig": runtime })));
            assert_eq!(code, 7);
            assert!(text.contains("runtimeConfig."), "{text}");
        }
        assert_eq!(bench.world(), before);
    }

    /// As plugins do that are chained behind us: more addresses on our interface, another MTU and MAC.
    fn check_takes_what_plugins_behind_us_made_of_our_interface(bench) {
        let mut added = bench.add();
        added["ips"].as_array_mut().unwrap().push(json!({ "interface": 1, "address": "192.0.2.9/24", "gateway": "169.254.1.1" }));
        let (_, text) = failure(&bench.check(&added));
        assert!(!text.contains("lease"), "the address is not there, but the lease is as it was: {text}");
    }
}
