//! The reference plugins `portmap`, `bandwidth`, `sbr` and `tuning` behind ours in the list, as clusters have them that
//! come from elsewhere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use ferrule_netlink::netns::Netns;
use ferrule_netlink::{Kernel, nft};
use serde_json::{Value, json};

use crate::support::lab::{CLIENT, Lab, NODE, addresses, at, ip, seen, serve, with_lab};
use crate::support::machine::Machine;
use crate::support::{failure, result};

/// Where Debian's package containernetworking-plugins puts them.
const REFERENCE: &str = "/usr/lib/cni";

/// Runs a reference plugin with what the runtime gives it; what it answers.
fn reference(lab: &Lab<'_>, plugin: &str, command: &str, runtime: &Value, previous: &Value) -> Value {
    configured(lab, plugin, command, &json!({ "runtimeConfig": runtime }), previous)
}

/// The same with fields of its configuration.
fn configured(lab: &Lab<'_>, plugin: &str, command: &str, fields: &Value, previous: &Value) -> Value {
    let mut config = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": plugin,
        "capabilities": { "portMappings": true, "bandwidth": true }, "prevResult": previous
    });
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let path = format!("{REFERENCE}/{plugin}");
    let mut child = Command::new(&path)
        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", "c0ffee"), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_PATH", REFERENCE), ("CNI_NETNS", &netns_for_others(lab))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{path}: {error}; install the package containernetworking-plugins"));
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{plugin} {command}: {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// The pod's namespace as another process finds it.
fn netns_for_others(lab: &Lab<'_>) -> String {
    lab.machine.path("pod").replace("/proc/self/", &format!("/proc/{}/", std::process::id()))
}

fn links(lab: &Lab<'_>) -> usize {
    lab.machine.host().links().unwrap().len()
}

#[test]
fn portmap_and_bandwidth_work_behind_ours() {
    with_lab(|lab| {
        let before = links(lab);
        let runtime = json!({
            "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
            "bandwidth": {
                "ingressRate": 40_000_000, "ingressBurst": 1_000_000, "egressRate": 24_000_000, "egressBurst": 1_000_000
            }
        });
        // The runtime gives each plugin what its entry declares: ours declares nothing here.
        let version = json!({ "cniVersion": "1.0.0" });
        let netns = netns_for_others(lab);
        let ours = result(&lab.bench.verb_with("ADD", &[("CNI_NETNS", &netns)], &version));
        let mapped = reference(lab, "portmap", "ADD", &runtime, &ours);
        let limited = reference(lab, "bandwidth", "ADD", &runtime, &mapped);
        assert_eq!(nft::list_table("inet", ferrule_model::table::TABLE).unwrap(), None, "none of ours");

        serve(&lab.pod("pod"), 80);
        let host = Netns::current().unwrap();
        assert_eq!(seen(&lab.client, at(NODE[0], 8080)).unwrap(), ip(CLIENT[0]), "from outside");
        assert!(seen(&host, at(NODE[0], 8080)).is_ok(), "from the node");
        let mut check = version.clone();
        check["prevResult"] = limited.clone();
        result(&lab.bench.verb_with("CHECK", &[("CNI_NETNS", &netns)], &check));
        // Not portmap's: 1.1.1 looks for each family's rules with the other's tool as well.
        reference(lab, "bandwidth", "CHECK", &runtime, &limited);

        for plugin in ["bandwidth", "portmap"] {
            reference(lab, plugin, "DEL", &runtime, &limited);
        }
        result(&lab.bench.verb_with("DEL", &[], &version));
        assert_eq!(links(lab), before);
    });
}

/// It moves the interface's routes to a table of their own, to which the pod's address leads: each has to stand there,
/// too.
#[test]
fn sbr_works_behind_ours() {
    with_lab(|lab| {
        let version = json!({ "cniVersion": "1.0.0" });
        let netns = netns_for_others(lab);
        let ours = result(&lab.bench.verb_with("ADD", &[("CNI_NETNS", &netns)], &version));
        reference(lab, "sbr", "ADD", &json!({}), &ours);
        serve(&lab.pod("pod"), 80);
        for (address, client) in addresses(&ours).into_iter().zip(CLIENT) {
            let at = SocketAddr::new(address, 80);
            assert_eq!(seen(&lab.client, at).unwrap(), ip(client), "the client reaches the pod at {address}");
        }
        reference(lab, "sbr", "DEL", &json!({}), &ours);
        result(&lab.bench.verb_with("DEL", &[("CNI_NETNS", &netns)], &version));
    });
}

/// The client reaches the pod at each of its addresses, and the pod answers.
fn is_reached(lab: &Lab<'_>, added: &Value) -> bool {
    let mut ends = addresses(added).into_iter().zip(CLIENT);
    ends.all(|(address, client)| {
        seen(&lab.client, SocketAddr::new(address, 80)).is_ok_and(|seen| seen == ip(client))
    })
}

#[test]
fn tuning_works_behind_ours() {
    with_lab(|lab| {
        let netns = netns_for_others(lab);
        let ours =
            result(&lab.bench.verb_with("ADD", &[("CNI_NETNS", &netns)], &json!({ "cniVersion": "1.0.0" })));
        let fields = json!({ "sysctl": { "net.ipv4.conf.eth0.log_martians": "1" }, "promisc": true });
        let tuned = configured(lab, "tuning", "ADD", &fields, &ours);
        serve(&lab.pod("pod"), 80);
        assert!(is_reached(lab, &ours));
        let check = json!({ "cniVersion": "1.0.0", "prevResult": tuned });
        result(&lab.bench.verb_with("CHECK", &[("CNI_NETNS", &netns)], &check));
        configured(lab, "tuning", "CHECK", &fields, &tuned);
    });
}

/// The kernel forgets all neighbours of a link whose MAC is set, permanent ones too, in the pod; and the node does not
/// learn the new one (decision 51). So the MAC is ours to set, and one that another plugin set is found by CHECK.
#[test]
fn a_mac_is_set_by_ours_and_one_that_tuning_sets_is_named_with_the_remedy() {
    with_lab(|lab| {
        let netns = netns_for_others(lab);
        let mac = json!({ "mac": "0a:00:00:00:00:2a" });
        let asking = json!({ "cniVersion": "1.0.0", "runtimeConfig": mac });
        let ours = result(&lab.bench.verb_with("ADD", &[("CNI_NETNS", &netns)], &asking));
        assert_eq!(ours["interfaces"][1]["mac"], mac["mac"]);
        serve(&lab.pod("pod"), 80);
        assert!(is_reached(lab, &ours));

        let tuned = configured(lab, "tuning", "ADD", &json!({ "mac": "0a:00:00:00:00:2b" }), &ours);
        let check = json!({ "cniVersion": "1.0.0", "prevResult": tuned });
        let (code, text) = failure(&lab.bench.verb_with("CHECK", &[("CNI_NETNS", &netns)], &check));
        assert_eq!(code, 103, "{text}");
        assert!(
            text.contains("another plugin has set the MAC") && text.contains("capability \"mac\""),
            "{text}"
        );

        // An ADD that is repeated puts it right.
        result(&lab.bench.verb_with("ADD", &[("CNI_NETNS", &netns)], &asking));
        assert!(is_reached(lab, &ours));
    });
}

/// On a bridge the kernel resolves in both directions. Where `routed` checks what pods send, it cuts off a pod with
/// another MAC and names it (decision 84); `routed/tests/guard/bridge_ports.rs` shows that.
#[test]
fn in_mode_bridge_tuning_may_set_the_mac_where_nobody_checks_it() {
    with_lab(|lab| {
        let netns = netns_for_others(lab);
        let bridged = json!({ "cniVersion": "1.0.0", "mode": "bridge" });
        let ours = result(&lab.bench.verb_with("ADD", &[("CNI_NETNS", &netns)], &bridged));
        let tuned = configured(lab, "tuning", "ADD", &json!({ "mac": "0a:00:00:00:00:2b" }), &ours);
        serve(&lab.pod("pod"), 80);
        assert!(is_reached(lab, &ours));
        let mut check = bridged;
        check["prevResult"] = tuned;
        result(&lab.bench.verb_with("CHECK", &[("CNI_NETNS", &netns)], &check));
    });
}
