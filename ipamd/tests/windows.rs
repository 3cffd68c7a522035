//! The daemon through the eyes of others: a Varlink client and a reader of metrics that are not ours (PyPI's `varlink`
//! and `prometheus-client`, run by `windows.py`), and health over HTTP.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "../../tests/windows.rs"]
mod both;
#[path = "../../tests/help.rs"]
mod help;

use crate::common::{Place, allocate, attachment, soon, until};
use ferrule_wire::{Check, Pod, Release};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

const POOL: &str =
    "[[ipam.pool]]\nname = \"own\"\nsubnets = [\"10.9.0.0/24\", \"fd09::/64\"]\nreserved = [\"10.9.0.9\"]\n";

fn python(arguments: &[&str], input: &str) -> Value {
    both::python(env!("CARGO_BIN_EXE_ipamd"), arguments, input)
}

fn pod(name: &str) -> Option<Pod> {
    Some(Pod { namespace: "shop".into(), name: name.into(), uid: "u-1".into() })
}

#[test]
fn a_varlink_client_that_is_not_ours_sees_leases_pools_and_what_rests() {
    let place = Place::new(POOL);
    let _daemon = place.start();
    let mut client = place.client();
    // More than one page of each.
    for number in 0..100 {
        let mut call = allocate(&format!("c{number:03}"));
        call.pod = pod(&format!("web-{number}"));
        client.call(&call).unwrap();
    }
    for number in 0..70 {
        client.call(&Release { attachment: attachment(&format!("c{number:03}")) }).unwrap();
    }
    let socket = place.runtime_dir().join("ipamd.sock");
    let told = python(&["ipamd", socket.to_str().unwrap()], "");

    assert_eq!(told["interfaces"], json!(["org.varlink.service", "io.ferrule.Ipam"]));
    let leases = told["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 30);
    assert_eq!(leases[0]["pod"], json!({ "namespace": "shop", "name": "web-70", "uid": "u-1" }));
    assert_eq!(leases[0]["attachment"]["container_id"], "c070");

    let v4 = &told["pools"][0];
    assert_eq!((&v4["name"], &v4["family"], &v4["size"]), (&json!("own"), &json!("ipv4"), &json!("256")));
    assert_eq!(
        (&v4["in_use"], &v4["resting"], &v4["reserved"], &v4["free"]),
        (&json!(30), &json!(70), &json!("3"), &json!("153"))
    );

    let resting = told["resting"].as_array().unwrap();
    assert_eq!(resting.len(), 140);
    let of = |address: &str| resting.iter().find(|rest| rest["address"] == address).unwrap();
    let rest = of("10.9.0.1");
    assert_eq!((&rest["pool"], &rest["attachment"]["container_id"]), (&json!("own"), &json!("c000")));
    assert_eq!(rest["pod"]["name"], "web-0");
    assert_eq!(of("fd09::1")["pod"]["name"], "web-0");
    let left = rest["left_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&left), "{left}");
    assert!(rest["released_at_boottime_ms"].as_u64().unwrap() > 0);
    let since: Vec<_> =
        resting.iter().map(|rest| rest["released_at_boottime_ms"].as_u64().unwrap()).collect();
    assert!(since.is_sorted(), "longest ago first");
    assert_eq!(told["error"], json!(["io.ferrule.Ipam.NoPool", "nope"]));
}

#[test]
fn who_had_a_resting_address_is_known_after_a_restart() {
    let place = Place::new(POOL);
    let daemon = place.start();
    let mut call = allocate("a");
    call.pod = pod("web-0");
    place.client().call(&call).unwrap();
    place.client().call(&Release { attachment: attachment("a") }).unwrap();
    daemon.kill();
    let _daemon = place.start();
    let mut resting = Vec::new();
    place
        .client()
        .call_more(&ferrule_wire::Resting { pool: Some("own".into()) }, |page| resting.extend(page.addresses))
        .unwrap();
    assert_eq!(resting.len(), 2);
    assert!(resting.iter().all(|rest| rest.pod == pod("web-0") && rest.attachment == Some(attachment("a"))));
}

/// A configuration with metrics on a port that is free now.
fn with_metrics(pool: &str) -> (Place, SocketAddr) {
    // The test's own network namespace begins with it down (tests/in-namespace).
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|up| up.success()), "ip link set lo up; `tests/setup` installs ip");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    (Place::new(&format!("{pool}[metrics]\nipamd = \"{address}\"\n")), address)
}

/// Status and text of a page.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(soon() - std::time::Instant::now())).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

fn listens(address: SocketAddr) {
    until("the metrics are served", || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok());
}

/// One sample's value.
fn value(families: &Value, name: &str, labels: &Value) -> f64 {
    let samples =
        families.as_object().unwrap().values().flat_map(|family| family["samples"].as_array().unwrap());
    let mut found = samples.filter(|sample| sample[0] == name && sample[1] == *labels);
    let sample = found.next().unwrap_or_else(|| panic!("no {name} {labels}"));
    assert!(found.next().is_none(), "{name} {labels} twice");
    sample[2].as_f64().unwrap()
}

/// Every name is ours or every process', has a help text, and its unit and kind in it.
fn follows_the_conventions(families: &Value, page: &str) {
    for (name, family) in families.as_object().unwrap() {
        assert!(name.starts_with("ferrule_ipamd_") || name.starts_with("process_"), "{name}");
        assert!(!family["help"].as_str().unwrap().is_empty(), "{name}");
        if family["type"] == "histogram" {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        for line in page.lines().filter(|line| line.starts_with(&format!("# TYPE {name}"))) {
            assert_eq!(line.ends_with(" counter"), line.contains("_total "), "{line}");
        }
    }
}

#[test]
fn prometheus_reads_what_was_done_and_what_is_left() {
    let (place, address) = with_metrics(POOL);
    let daemon = place.start();
    let mut client = place.client();
    for id in ["a", "b", "c"] {
        client.call(&allocate(id)).unwrap();
    }
    client.call(&Release { attachment: attachment("a") }).unwrap();
    client.call(&Check { attachment: attachment("a"), addresses: Vec::new() }).unwrap_err();
    listens(address);
    let (status, page) = get(address, "/metrics");
    assert_eq!(status, 200);
    let families = python(&["prometheus"], &page);

    let call = json!({ "method": "Allocate" });
    assert_eq!(value(&families, "ferrule_ipamd_call_duration_seconds_count", &call), 3.0);
    assert!(value(&families, "ferrule_ipamd_call_duration_seconds_sum", &call) > 0.0);
    let errors = json!({ "method": "Check", "error": "LeaseNotFound" });
    assert_eq!(value(&families, "ferrule_ipamd_call_errors_total", &errors), 1.0);
    let none = json!({});
    for (name, expected) in [
        ("ferrule_ipamd_leases", 2.0),
        ("ferrule_ipamd_leases_given_total", 3.0),
        ("ferrule_ipamd_leases_ended_total", 1.0),
        ("ferrule_ipamd_store_failures_total", 0.0),
    ] {
        assert_eq!(value(&families, name, &none), expected, "{name}");
    }
    for reason in ["gone", "reboot"] {
        let labels = json!({ "reason": reason });
        assert_eq!(value(&families, "ferrule_ipamd_leases_reclaimed_total", &labels), 0.0, "{reason}");
    }
    assert!(value(&families, "ferrule_ipamd_commit_duration_seconds_count", &none) >= 4.0);
    for (state, expected) in [("in_use", 2.0), ("resting", 1.0), ("reserved", 3.0), ("free", 250.0)] {
        let labels = json!({ "pool": "own", "family": "ipv4", "state": state });
        assert_eq!(value(&families, "ferrule_ipamd_pool_addresses", &labels), expected, "{state}");
    }
    let v6 = json!({ "pool": "own", "family": "ipv6" });
    assert_eq!(value(&families, "ferrule_ipamd_pool_size", &v6), 2f64.powi(64));
    assert!(value(&families, "process_resident_memory_bytes", &none) > 1e6);

    follows_the_conventions(&families, &page);
    drop(client);
    // Somebody who holds a connection to the metrics does not hold up the end.
    let _held = TcpStream::connect(address).unwrap();
    assert!(daemon.stop().success(), "{}", place.log_end());
}

#[test]
fn health_tells_a_pool_that_is_missing_from_a_daemon_that_is_ill() {
    let (place, address) = with_metrics("");
    let _daemon = place.start();
    listens(address);
    assert_eq!(get(address, "/healthz"), (200, "ok\n".to_owned()));
    let (status, text) = get(address, "/readyz");
    assert!(status == 503 && text.contains("routed has not written node.json yet"), "{status} {text}");
    place.write_node(r#"{"node":"a","pod_cidrs":["10.1.0.0/24"],"cluster_cidrs":[],"mtu":1450}"#);
    until("it is ready", || get(address, "/readyz") == (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/").0, 404);
}

#[test]
fn an_address_that_is_taken_is_told_and_does_not_keep_it_from_serving() {
    let (place, address) = with_metrics(POOL);
    let taken = TcpListener::bind(address).unwrap();
    let _daemon = place.start();
    place.client().call(&allocate("a")).unwrap();
    until("it is told", || place.log().contains("this address cannot be had"));
    drop(taken);
    until("it is tried again", || TcpStream::connect(address).is_ok());
}

/// What a command says on standard output and on standard error, and its exit code.
fn command(place: &Place, arguments: &str) -> (String, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipamd"));
    command.args(arguments.split(' ')).arg("--runtime-dir").arg(place.runtime_dir());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

#[test]
fn leases_and_pools_are_shown_to_people_and_to_programs_without_another_tool() {
    let place = Place::new(&POOL.replace("[\"10.9.0.0/24\"", "[\"10.9.0.0/20\""));
    let _daemon = place.start();
    let mut client = place.client();
    assert_eq!(command(&place, "list"), ("no pod has an address\n".into(), String::new(), 0));
    // More than a page, and in the order of the addresses, not of the containers.
    for number in (0..100).rev() {
        let mut call = allocate(&format!("c{number:070}"));
        call.pod = pod(&format!("web-{number}"));
        client.call(&call).unwrap();
    }
    let (said, errors, code) = command(&place, "list");
    assert_eq!((errors.as_str(), code), ("", 0));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 101, "{said}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[0]), ["ADDRESSES", "POD", "GIVEN", "CONTAINER", "INTERFACE", "NETWORK", "POOL"]);
    let first = words(lines[1]);
    assert_eq!(&first[..2], ["10.9.0.1,fd09::1", "shop/web-99"]);
    assert_eq!(&first[3..], ["s", "c000000000000", "eth0", "pods", "own"]);
    assert!(lines[100].starts_with("10.9.0.101,fd09::64  "), "{}", lines[100]);
    let column = |line: &str, word: &str| line.find(word).unwrap();
    assert!(lines[1..].iter().all(|line| column(line, "eth0") == column(lines[0], "INTERFACE")), "{said}");

    let (said, _, code) = command(&place, "list --json");
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, told["leases"].as_array().unwrap().len()), (0, 100));
    assert_eq!(told["leases"][0]["attachment"]["container_id"], format!("c{:070}", 0));

    client.call(&Release { attachment: attachment(&format!("c{:070}", 7)) }).unwrap();
    let (said, _, code) = command(&place, "pools");
    let rows: Vec<_> = said.lines().map(words).collect();
    assert_eq!(rows[1], ["own", "IPv4", "99", "1", "3", "3993", "0", "10.9.0.0/20"], "{said}");
    assert_eq!((&rows[2][..4], code), (&["own", "IPv6", "99", "1"].map(str::to_owned)[..], 0));
    let told: Value = serde_json::from_str(&command(&place, "pools --json").0).unwrap();
    assert_eq!((&told["pools"][0]["in_use"], &told["pools"][1]["family"]), (&json!(99), &json!("ipv6")));
}

#[test]
fn a_daemon_that_cannot_be_asked_is_told_with_what_to_do() {
    let place = Place::new("");
    for arguments in ["list", "pools", "list --json"] {
        let (said, errors, code) = command(&place, arguments);
        assert_eq!((said.as_str(), code), ("", 1), "{arguments}");
        assert!(errors.starts_with("ipamd: ipamd does not run here"), "{errors}");
        assert!(errors.contains("ipamd.sock") && errors.contains("systemctl start ipamd"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    let _daemon = place.start();
    place.client();
    let (said, errors, code) = command(&place, "pools");
    assert_eq!((said.as_str(), code), ("", 1));
    assert!(errors.contains("there is no pool: routed has not written node.json yet"), "{errors}");
    assert_eq!(command(&place, "list --nonsense").2, 2);
}

#[test]
fn the_help_teaches_and_is_wrapped_once() {
    let program = env!("CARGO_BIN_EXE_ipamd");
    help::is_wrapped_once(program, &["list", "pools", "import", "export"]);
    let output = Command::new(program).args(["pools", "--help"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["--json", "RESTING", "RESERVED", "DRAINING", "root"] {
        assert!(text.contains(word), "{text}");
    }
}
