//! What the runtimes write, byte for byte as each of them marshals it, is read as the same request; and what Go's
//! reader takes or leaves, ours takes or leaves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::ffi::OsString;

use ferrule_cni::Face;
use ferrule_cni::edge::request::{Add, Gc, Invocation};
use serde_json::{Value, json};

const RUNTIMES: [&str; 6] = ["containerd-1.7", "containerd-2", "cri-o", "multus", "nerdctl", "podman"];

fn read(command: &str, stdin: &[u8]) -> Result<Invocation, String> {
    let variable = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "c0ffee",
            "CNI_NETNS" => "/run/netns/pod",
            "CNI_IFNAME" => "eth0",
            _ => return None,
        };
        Some(OsString::from(value))
    };
    Invocation::read(Face::Network, variable, stdin).map_err(|unreadable| unreadable.error.to_string())
}

fn added(stdin: &[u8]) -> Add {
    match read("ADD", stdin) {
        Ok(Invocation::Add(add)) => add,
        other => panic!("{other:?}"),
    }
}

fn golden(runtime: &str) -> Add {
    let path = format!("{}/tests/golden/inputs/{runtime}.json", env!("CARGO_MANIFEST_DIR"));
    added(&std::fs::read(path).unwrap())
}

/// An ADD with this `runtimeConfig`.
fn asking(runtime: &Value) -> Result<Add, String> {
    let config =
        json!({ "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeConfig": runtime });
    read("ADD", config.to_string().as_bytes()).map(|_| added(config.to_string().as_bytes()))
}

#[test]
fn every_runtimes_host_ports_are_the_same_request() {
    let expected = asking(&json!({ "portMappings": [
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1" }
    ] }));
    let expected = expected.unwrap().config.extras.ports;
    assert_eq!(expected.len(), 2);
    for runtime in RUNTIMES {
        assert_eq!(golden(runtime).config.extras.ports, expected, "{runtime}");
    }
}

#[test]
fn every_runtimes_limits_ranges_and_name_service_are_the_same_request() {
    let expected = asking(&json!({
        "bandwidth": { "ingressRate": 10_000_000, "ingressBurst": 2_147_483_647 },
        "ipRanges": [[{ "subnet": "10.1.0.0/24" }]],
        "dns": { "servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"] }
    }));
    let expected = expected.unwrap();
    assert!(expected.config.extras.bandwidth.ingress.is_some() && expected.wanted.ranges.len() == 1);
    for runtime in ["containerd-1.7", "containerd-2", "cri-o", "multus"] {
        assert_eq!(golden(runtime).config.extras.bandwidth, expected.config.extras.bandwidth, "{runtime}");
    }
    for runtime in ["containerd-1.7", "containerd-2", "cri-o"] {
        assert_eq!(golden(runtime).wanted.ranges, expected.wanted.ranges, "{runtime}");
    }
    for runtime in ["containerd-1.7", "containerd-2"] {
        assert_eq!(golden(runtime).wanted.dns, expected.wanted.dns, "{runtime}");
    }
    assert_eq!(golden("podman").wanted.aliases, ["web"]);
}

/// What containerd 2.4 wrote for a pod of kubelet 1.36's with host ports and the annotations of both limits.
#[test]
fn what_a_kubelet_and_a_containerd_wrote_is_read() {
    let expected = asking(&json!({
        "portMappings": [
            { "hostPort": 8088, "containerPort": 8080, "protocol": "tcp" },
            { "hostPort": 8089, "containerPort": 8081, "protocol": "udp" }
        ],
        "bandwidth": { "ingressRate": 20_000_000, "ingressBurst": 500_000, "egressRate": 20_000_000, "egressBurst": 500_000 }
    }));
    let captured = golden("captured-containerd-2.4-kubelet-1.36");
    assert_eq!(captured.config.extras, expected.unwrap().config.extras, "the burst is not taken by its word");
}

#[test]
fn the_configurations_own_fields_are_matched_the_same_way() {
    let plain = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "ferrule", "mtu": 1400, "mode": "bridge", "isolation": true,
        "dns": { "nameservers": ["10.96.0.10"] }, "ipam": { "type": "ferrule-ipam", "pool": "blue" },
        "args": { "cni": { "mac": "02:00:00:00:00:02", "ips": ["10.0.0.2"] } },
        "prevResult": {
            "interfaces": [{ "name": "veth", "mac": "02:00:00:00:00:01" }],
            "ips": [{ "interface": 0, "address": "10.0.0.1/24", "gateway": "10.0.0.254" }],
            "routes": [{ "dst": "0.0.0.0/0", "scope": 0, "table": 0 }]
        }
    });
    let shouted = json!({
        "CNIVersion": "1.0.0", "Name": "pods", "Type": "ferrule", "MTU": 1400, "Mode": "bridge", "Isolation": true,
        "DNS": { "Nameservers": ["10.96.0.10"], "Search": null, "domain": "" },
        "IPAM": { "Type": "ferrule-ipam", "Pool": "blue" },
        "Args": { "CNI": { "MAC": "02:00:00:00:00:02", "IPs": ["10.0.0.2"] } }, "RuntimeConfig": null,
        "PrevResult": {
            "Interfaces": [{ "Name": "veth", "Mac": "02:00:00:00:00:01", "Sandbox": null, "MTU": 0, "socketPath": "" }],
            "IPs": [{ "Interface": 0, "Address": "10.0.0.1/24", "Gateway": "10.0.0.254", "Version": "" }],
            "Routes": [{ "Dst": "0.0.0.0/0", "GW": null, "MTU": 0, "AdvMSS": 0, "Priority": 0, "scope": 0, "table": 0 }],
            "DNS": null
        }
    });
    let of = |config: &Value| added(config.to_string().as_bytes());
    assert_eq!(of(&shouted), of(&plain));
    assert!(of(&plain).previous.is_some_and(|result| result.routes[0].scope == Some(0)));
}

#[test]
fn null_and_zero_are_nothing() {
    let nothing = asking(&json!({})).unwrap();
    for runtime in [
        json!({ "portMappings": null, "bandwidth": null, "ips": null, "mac": null, "dns": null, "aliases": null }),
        json!({ "bandwidth": { "IngressRate": 0, "IngressBurst": 0, "EgressRate": 0, "EgressBurst": 0 }, "mac": "" }),
        json!({ "dns": { "Servers": null, "Searches": null, "Options": null }, "ipRanges": [] }),
        json!({ "infinibandGUID": "", "deviceID": null }),
    ] {
        assert_eq!(asking(&runtime).unwrap(), nothing, "{runtime}");
    }
}

#[test]
fn what_is_not_understood_of_a_capability_is_refused_by_name() {
    for (runtime, says) in [
        (json!({ "infinibandGUID": "c2:11" }), "runtimeConfig.infinibandGUID"),
        (
            json!({ "bandwidth": { "shapedSubnets": ["10.0.0.0/8"] } }),
            "runtimeConfig.bandwidth.shapedSubnets",
        ),
        (json!({ "dns": { "Nameservers": ["10.96.0.10"] } }), "runtimeConfig.dns.Nameservers"),
        (
            json!({ "portMappings": [{ "HostPort": 1, "ContainerPort": 1, "Range": 5 }] }),
            "runtimeConfig.portMappings[0].Range",
        ),
        (json!({ "portMappings": [8080] }), "runtimeConfig.portMappings[0]"),
        (json!({ "ipRanges": [[{ "Subnet": "10.0.0.0/24", "Step": 2 }]] }), "runtimeConfig.ipRanges.Step"),
        (json!({ "portMappings": [{ "HostPort": 8080 }] }), "containerPort"),
    ] {
        let error = asking(&runtime).unwrap_err();
        assert!(error.contains(says), "{runtime}: {error}");
    }
    // Another plugin of the list has it.
    let other = json!({ "name": "pods", "capabilities": {}, "runtimeConfig": { "infinibandGUID": "c2:11" } });
    assert!(read("ADD", other.to_string().as_bytes()).is_ok());
}

#[test]
fn an_empty_version_is_the_oldest() {
    for version in [json!(""), json!(null)] {
        let config = json!({ "cniVersion": version, "name": "pods" });
        assert_eq!(added(config.to_string().as_bytes()).config.version.as_str(), "0.1.0");
    }
}

#[test]
fn one_port_of_all_addresses_is_one_however_it_is_spelt() {
    let mapping = |ip: &str, pod: u16| json!({ "HostPort": 8081, "ContainerPort": pod, "HostIP": ip });
    let ports = |list: Value| asking(&json!({ "portMappings": list })).map(|add| add.config.extras.ports);
    let every = ports(json!([mapping("", 80)])).unwrap();
    for ips in
        [&["", ""][..], &["", "0.0.0.0"], &["0.0.0.0", ""], &["0.0.0.0", "::", ""], &["", "::", "0.0.0.0"]]
    {
        let list: Vec<_> = ips.iter().map(|ip| mapping(ip, 80)).collect();
        assert_eq!(ports(list.into()).unwrap(), every, "{ips:?}");
    }
    assert_eq!(ports(json!([mapping("0.0.0.0", 80), mapping("::", 80)])).unwrap().len(), 2);
    assert_eq!(ports(json!([mapping("::ffff:0.0.0.0", 80)])), ports(json!([mapping("0.0.0.0", 80)])));
    assert_eq!(ports(json!([mapping("::ffff:192.0.2.1", 80)])), ports(json!([mapping("192.0.2.1", 80)])));
    let error = ports(json!([mapping("0.0.0.0", 80), mapping("", 81)])).unwrap_err();
    assert!(error.contains("tcp 8081 is in the list twice, for the pod's ports 80 and 81"), "{error}");
}

#[test]
fn gc_wants_to_be_told_what_lives() {
    let valid = |fields: Value| {
        let mut config = json!({ "cniVersion": "1.1.0", "name": "pods" });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        match read("GC", config.to_string().as_bytes())? {
            Invocation::Gc(Gc { valid, .. }) => Ok(valid),
            other => panic!("{other:?}"),
        }
    };
    let one = json!([{ "ContainerID": "c0ffee", "IfName": "eth0" }]);
    assert_eq!(valid(json!({ "cni.dev/valid-attachments": one })).unwrap().len(), 1);
    // As a Go program writes an empty list.
    assert_eq!(valid(json!({ "cni.dev/valid-attachments": null })).unwrap(), []);
    let error: String = valid(json!({})).unwrap_err();
    assert!(error.contains("cni.dev/valid-attachments") && error.contains("remove every pod"), "{error}");
}

#[test]
fn a_result_that_is_none_is_told_in_the_readers_words() {
    for (result, says) in [
        (json!({ "ips": { "address": "10.0.0.1/24" } }), "expected a list, found an object"),
        (json!({ "ips": [{ "address": 7 }] }), "found the number 7"),
        (
            json!({ "ips": [{ "interface": -1, "address": "10.0.0.1/24" }] }),
            "expected a whole number from 0 on",
        ),
        (json!({ "ips": [{}] }), "`address` is missing"),
        (json!({ "interfaces": [null] }), "expected an object, found null"),
        (
            json!({ "routes": [{ "dst": "0.0.0.0/0", "mtu": "x" }] }),
            "expected a whole number from 0 to 4294967295",
        ),
    ] {
        let config = json!({ "cniVersion": "1.0.0", "name": "pods", "prevResult": result });
        let error = read("ADD", config.to_string().as_bytes()).unwrap_err();
        assert!(error.contains("prevResult") && error.contains(says), "{result}: {error}");
        for word in ["u32", "usize", "struct", "Interface", "invalid type", "sequence"] {
            assert!(!error.contains(word), "{error}");
        }
    }
}
