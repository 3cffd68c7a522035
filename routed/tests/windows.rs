//! The daemon as others see it: by a Varlink client and a reader of metrics that are not ours (PyPI's `varlink` and
//! `prometheus-client`, run by `windows.py`), and by health over HTTP.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "../../tests/windows.rs"]
mod both;
#[path = "../../tests/help.rs"]
mod help;

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::lab::{Node, PATIENCE, within};
use serde_json::{Value, json};

const ADDRESS: &str = "127.0.0.1:9479";

fn python(arguments: &[&str], input: &str) -> Value {
    both::python(env!("CARGO_BIN_EXE_routed"), arguments, input)
}

fn look(node: &Node) -> Value {
    python(&["routed", node.path("run/routed.sock").to_str().unwrap()], "")
}

/// Status and text of a page; `None` while nobody listens.
fn get(node: &Node, path: &str) -> Option<(u16, String)> {
    let mut stream = node.inside(|| TcpStream::connect(ADDRESS)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    Some((head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned()))
}

fn scrape(node: &Node) -> Value {
    python(&["prometheus"], &get(node, "/metrics").unwrap().1)
}

/// One sample's value; `None` if there is none.
fn value(families: &Value, name: &str, labels: &Value) -> Option<f64> {
    let samples =
        families.as_object().unwrap().values().flat_map(|family| family["samples"].as_array().unwrap());
    let mut found = samples.filter(|sample| sample[0] == name && sample[1] == *labels);
    let sample = found.next()?;
    assert!(found.next().is_none(), "{name} {labels} twice");
    sample[2].as_f64()
}

fn objects(families: &Value, kind: &str, state: &str) -> f64 {
    value(families, "ferrule_routed_objects", &json!({ "kind": kind, "state": state })).unwrap()
}

fn nodes(count: u16) -> String {
    let node = |number: u16| {
        let [high, low] = number.to_be_bytes();
        format!(
            "[[node]]\nname = \"n{number}\"\naddress = \"192.0.{}.{low}\"\npod_cidrs = [\"10.{}.{low}.0/24\"]\n",
            high + 2,
            244 + high
        )
    };
    (1..=count).map(node).collect()
}

#[test]
fn a_varlink_client_that_is_not_ours_sees_what_is_kept_and_what_is_refused() {
    let node = Node::new("vxlan");
    node.ip("route add 10.244.2.0/24 via 192.0.2.50 proto static");
    let daemon = node.start();
    daemon.wait_for_log("nodes.toml: it does not exist");
    let told = look(&node);
    assert_eq!(told["interfaces"], json!(["org.varlink.service", "io.ferrule.Routed"]));
    let status = &told["status"];
    assert_eq!(
        (&status["node"], &status["ready"], &status["nodes"]),
        (&json!("n1"), &json!(false), &json!(0))
    );
    assert!(status["waiting_for"].as_str().unwrap().ends_with("nodes.toml"), "{status}");
    assert_eq!(status["objects"], json!([]));
    assert!(status.get("snapshot_age_ms").is_none(), "{status}");

    node.write_nodes_text(&nodes(300));
    daemon.wait_until_ready();
    let told = look(&node);
    let status = &told["status"];
    assert_eq!(
        (&status["ready"], &status["nodes"], &status["mtu"]),
        (&json!(true), &json!(300), &json!(1450))
    );
    assert_eq!((&status["backend"], &status["underlay"]), (&json!("vxlan"), &json!("192.0.2.1 on eth0")));
    assert!(status["snapshot_age_ms"].as_u64().unwrap() < 3_600_000 && status.get("last_error").is_none());
    let routes = json!({ "kind": "routes", "desired": 300, "observed": 299, "pending": 1, "failed": 1 });
    assert_eq!(status["objects"].as_array().unwrap().last(), Some(&routes));
    let fdb = json!({ "kind": "fdb", "desired": 299, "observed": 299, "pending": 0, "failed": 0 });
    assert_eq!(status["objects"][2], fdb);

    assert_eq!(told["pages"], json!([256, 44]), "in pages");
    let nodes = told["nodes"].as_array().unwrap();
    let of = |name: &str| nodes.iter().find(|node| node["name"] == name).unwrap();
    assert_eq!(of("n300")["pod_cidrs"], json!(["10.245.44.0/24"]));
    assert_eq!(of("n1")["addresses"], json!(["192.0.2.1"]), "this node too");
    let error = of("n2")["last_error"].as_str().unwrap();
    assert!(
        error.starts_with("route 10.244.2.0/24: a route of protocol 4 has the same destination"),
        "{error}"
    );
    assert_eq!(nodes.iter().filter(|node| node.get("last_error").is_some()).count(), 1);
    let failures = told["failures"].as_array().unwrap();
    assert_eq!((failures.len(), &failures[0]["object"]), (1, &json!("route 10.244.2.0/24")));
    assert!(failures[0]["reason"].as_str().unwrap().contains("see whose it is"));
    assert!(failures[0]["next_try_ms"].as_u64().unwrap() <= 30_000);

    node.ip("route del 10.244.2.0/24 proto static");
    let well = || look(&node)["failures"].as_array().unwrap().is_empty();
    assert!(within(PATIENCE, well).is_some(), "{}", daemon.log());

    // One daemon for a directory: two would each undo what the other does.
    let second = node.command(env!("CARGO_BIN_EXE_routed"), &node.arguments());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another routed serves"), "{said}");
}

/// Otherwise each daemon would undo what the other does, for ever. And what `cleanup` removes would be back within a
/// second.
#[test]
fn beside_a_daemon_neither_another_one_with_its_own_directories_nor_a_cleanup_runs() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let daemon = node.start();
    daemon.wait_until_ready();
    let right = node.state();
    let elsewhere = node.arguments().replace("/run", "/other-run");
    assert_ne!(elsewhere, node.arguments());
    for arguments in
        [elsewhere.clone(), format!("{} cleanup", node.arguments()), format!("{elsewhere} cleanup")]
    {
        let output = node.command(env!("CARGO_BIN_EXE_routed"), &arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        let named = format!("another routed runs in this network namespace, as process {}", daemon.pid());
        assert!(said.contains(&named) && said.contains("stop it first"), "{arguments}: {said}");
    }
    assert_eq!(node.state(), right);
    // A plan changes nothing, and a killed plan holds nobody up.
    let planned = node.command(env!("CARGO_BIN_EXE_routed"), &format!("{} plan", node.arguments()));
    assert!(planned.status.success());
    assert!(!daemon.signal(nix::sys::signal::Signal::SIGKILL).success());
    node.run(env!("CARGO_BIN_EXE_routed"), &format!("{elsewhere} cleanup"));
    assert!(!node.state().contains("10.244.2.0/24"), "{}", node.state());
}

#[test]
fn prometheus_reads_what_is_desired_observed_pending_and_failed_of_each_kind() {
    let node = Node::new("native");
    node.configure(&format!("[metrics]\nrouted = \"{ADDRESS}\"\n"));
    node.ip("route add 10.244.2.0/24 via 192.0.2.50 proto static");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    assert!(within(PATIENCE, || get(&node, "/healthz").is_some()).is_some(), "{}", daemon.log());
    let families = scrape(&node);
    let counts =
        ["desired", "observed", "pending", "failed"].map(|state| objects(&families, "routes", state));
    assert_eq!(counts, [6.0, 5.0, 1.0, 1.0]);
    let counts =
        ["desired", "observed", "pending", "failed"].map(|state| objects(&families, "nexthops", state));
    assert_eq!(counts, [4.0, 4.0, 0.0, 0.0]);
    assert_eq!(value(&families, "ferrule_routed_node_failed", &json!({ "node": "n2" })), Some(1.0));
    assert_eq!(value(&families, "ferrule_routed_node_failed", &json!({ "node": "n3" })), None);
    let none = json!({});
    let gauge = |families: &Value, name: &str| value(families, name, &none).unwrap();
    assert_eq!(gauge(&families, "ferrule_routed_ready"), 1.0);
    assert_eq!(gauge(&families, "ferrule_routed_nodes"), 3.0);
    assert_eq!(gauge(&families, "ferrule_routed_mtu_bytes"), 1500.0);
    assert_eq!(gauge(&families, "ferrule_routed_repaired_total"), 0.0);
    let age = gauge(&families, "ferrule_routed_snapshot_age_seconds");
    assert!((0.0..3600.0).contains(&age), "{age}");
    assert!(gauge(&families, "process_resident_memory_bytes") > 1e6);
    let put = json!({ "kind": "routes", "change": "put" });
    assert_eq!(value(&families, "ferrule_routed_changes_total", &put), Some(5.0));
    let full = json!({ "pass": "full" });
    assert!(value(&families, "ferrule_routed_pass_duration_seconds_count", &full).unwrap() >= 1.0);

    node.ip("route del 10.244.3.0/24");
    let repaired = || gauge(&scrape(&node), "ferrule_routed_repaired_total") >= 1.0;
    assert!(within(PATIENCE, repaired).is_some(), "{}", daemon.log());
    // The next state of the file is told as a change, so the age of the list stays.
    node.write_nodes(&[1, 2, 3, 4]);
    let follows = || objects(&scrape(&node), "routes", "desired") == 8.0;
    assert!(within(PATIENCE, follows).is_some(), "{}", daemon.log());
    let families = scrape(&node);
    let age = |name: &str| gauge(&families, &format!("ferrule_routed_{name}_age_seconds"));
    assert!(age("news") < age("snapshot"), "{families}");
    follows_the_conventions(&families);
}

/// Checks that every name is ours or one of every process, has a help text, and contains its unit and kind.
fn follows_the_conventions(families: &Value) {
    for (name, family) in families.as_object().unwrap() {
        assert!(name.starts_with("ferrule_routed_") || name.starts_with("process_"), "{name}");
        assert!(!family["help"].as_str().unwrap().is_empty(), "{name}");
        if family["type"] == "histogram" {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        for sample in family["samples"].as_array().unwrap() {
            let is_total = sample[0].as_str().unwrap().ends_with("_total");
            assert_eq!(is_total, family["type"] == "counter", "{sample}");
        }
    }
}

#[test]
fn it_is_ready_once_the_first_snapshot_is_in_the_kernel_and_alive_all_along() {
    let node = Node::new("vxlan");
    node.configure(&format!("[metrics]\nrouted = \"{ADDRESS}\"\n"));
    node.ip("link add ferrule.1 type bridge");
    let daemon = node.start();
    let says = |text: &str| {
        let ready =
            || get(&node, "/readyz").is_some_and(|(status, said)| status == 503 && said.contains(text));
        assert!(within(PATIENCE, ready).is_some(), "{text}: {:?}\n{}", get(&node, "/readyz"), daemon.log());
        assert_eq!(get(&node, "/healthz"), Some((200, "ok\n".to_owned())));
    };
    says("the nodes in ");
    node.write_nodes(&[2]);
    says("a node called n1 in ");
    node.write_nodes(&[1, 2]);
    says("the link ferrule.1 is not Ferrule's");
    // What needs no device is there.
    assert_eq!(node.ip("route show proto 70").trim(), "unreachable 10.244.1.0/24 metric 4294967295");
    node.ip("link del ferrule.1");
    let ready = || get(&node, "/readyz") == Some((200, "ok\n".to_owned()));
    assert!(within(PATIENCE, ready).is_some(), "{}", daemon.log());
    assert!(node.state().contains("10.244.2.0/24"));
    // The nodes file goes away, and what is known of the nodes stays.
    std::fs::remove_file(node.path("nodes.toml")).unwrap();
    daemon.wait_for_log("it does not exist");
    assert!(ready() && node.state().contains("10.244.2.0/24"));
}

/// Standard output, standard error and the exit code of a command.
fn command(node: &Node, command: &str) -> (String, String, i32) {
    let output = node.command(env!("CARGO_BIN_EXE_routed"), &format!("{} {command}", node.arguments()));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

#[test]
fn the_node_and_the_others_are_shown_to_people_and_to_programs_without_another_tool() {
    let node = Node::new("vxlan");
    for arguments in ["status", "nodes", "status --json"] {
        let (said, errors, code) = command(&node, arguments);
        assert_eq!((said.as_str(), code), ("", 1), "{arguments}");
        assert!(errors.starts_with("routed: routed does not run here"), "{errors}");
        assert!(errors.contains("routed.sock") && errors.contains("systemctl start routed"), "{errors}");
    }
    node.ip("route add 10.244.2.0/24 via 192.0.2.50 proto static");
    let daemon = node.start();
    daemon.wait_for_log("nodes.toml: it does not exist");
    let (said, _, code) = command(&node, "status");
    assert!(said.contains("state     waiting for the nodes in "), "{said}");
    assert_eq!(code, 3);
    assert!(command(&node, "nodes").0.starts_with("no node is known: routed waits for the nodes in "));

    node.write_nodes(&[1, 2, 3]);
    daemon.wait_until_ready();
    let (said, errors, code) = command(&node, "status");
    assert_eq!((errors.as_str(), code), ("", 3), "one route is refused:\n{said}");
    for line in ["node      n1 (routed ", "state     ready\n", "backend   vxlan, MTU of the pods 1450\n"] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
    assert!(said.contains("underlay  192.0.2.1 on eth0"), "{said}");
    let row = |text: &str, begin: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(begin)).unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row(&said, "routes "), ["routes", "6", "5", "1", "1"], "{said}");
    assert!(said.contains("\nrefused:\n  route 10.244.2.0/24: a route of protocol 4 has the same"), "{said}");
    let (said, _, code) = command(&node, "nodes");
    assert_eq!(code, 0);
    assert_eq!(row(&said, "NODE"), ["NODE", "ADDRESSES", "POD", "CIDRS", "STATE"]);
    assert!(said.lines().any(|line| line.starts_with("n1 ") && line.ends_with("this node")), "{said}");
    assert!(
        said.lines().any(|line| line.starts_with("n2 ") && line.contains("route 10.244.2.0/24: ")),
        "{said}"
    );
    assert!(said.lines().any(|line| line.starts_with("n3 ") && line.ends_with("well")), "{said}");
    let json = |arguments: &str| serde_json::from_str::<Value>(&command(&node, arguments).0).unwrap();
    assert_eq!(json("nodes --json")["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(json("status --json")["ready"], json!(true));

    node.ip("route del 10.244.2.0/24 proto static");
    assert!(within(PATIENCE, || command(&node, "status").2 == 0).is_some(), "{}", command(&node, "status").0);
}

#[test]
fn the_help_is_wrapped_once() {
    help::is_wrapped_once(
        env!("CARGO_BIN_EXE_routed"),
        &["status", "nodes", "plan", "cleanup", "wireguard-key"],
    );
}
