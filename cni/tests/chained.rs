//! The reference plugins `portmap`, `bandwidth` and `sbr` behind ours in the list, as clusters have them that come from elsewhere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use ferrule_netlink::netns::Netns;
use ferrule_netlink::{Kernel, nft};
use serde_json::{Value, json};

use support::lab::{CLIENT, Lab, NODE, addresses, at, ip, seen, serve, with_lab};
use support::machine::Machine;
use support::result;

/// Where Debian's package containernetworking-plugins puts them.
const REFERENCE: &str = "/usr/lib/cni";

/// Runs a reference plugin; what it answers.
fn reference(lab: &Lab<'_>, plugin: &str, command: &str, runtime: &Value, previous: &Value) -> Value {
    let config = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": plugin,
        "capabilities": { "portMappings": true, "bandwidth": true },
        "runtimeConfig": runtime, "prevResult": previous
    });
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

/// It moves the interface's routes to a table of their own, to which the pod's address leads: each has to stand there, too.
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
