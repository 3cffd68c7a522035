//! Order and races, with the real plugin and the real daemon as processes on the real kernel: many at once, killed at
//! every system call, namespaces and links that go away meanwhile.
//!
//! Needs strace and iproute2; the daemon is the one built beside the plugin.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ferrule_model::table::{MAPS, SETS, TABLE};
use ferrule_model::{is_host_veth, is_ifb};
use ferrule_netlink::netns::{self, Netns};
use ferrule_netlink::nft::{Netfilter, NetfilterSocket};
use ferrule_netlink::{Kernel, Netlink};
use ferrule_wire::{Client, Lease, List, Records, SOCKET_NAME};
use serde_json::{Value, json};

/// Far above any wait that ends, for a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// As many pods as a big node has.
const MANY: usize = 300;

/// A node: a network namespace with `ipamd` beside it.
struct Node {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs `test` on a new node, whose daemon is not running yet.
fn on_a_node(test: impl FnOnce(&mut Node)) {
    let host = netns::make().expect("CAP_SYS_ADMIN is needed: run through tests/in-namespace");
    let dir = tempfile::tempdir().unwrap();
    let pool = "[ipam]\ncooldown_s = 0\n[[ipam.pool]]\nname = \"pods\"\nsubnets = [\"10.244.0.0/21\", \"fd00:10:244::/64\"]\n";
    fs::write(dir.path().join("ferrule.toml"), pool).unwrap();
    fs::create_dir(dir.path().join("run")).unwrap();
    Records::new(&dir.path().join("run")).make().unwrap();
    host.run(|| test(&mut Node { dir, daemon: None })).unwrap();
}

impl Node {
    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn start(&mut self) {
        let program = Path::new(env!("CARGO_BIN_EXE_ferrule")).with_file_name("ipamd");
        assert!(program.exists(), "{} is missing: cargo build --package ipamd", program.display());
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(self.dir.path().join("ferrule.toml"))
            .arg("--runtime-dir")
            .arg(self.run_dir());
        self.daemon = Some(command.env_remove("NOTIFY_SOCKET").stderr(log).spawn().unwrap());
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn client(&self) -> Client {
        Client::connect_wait(&self.run_dir().join(SOCKET_NAME), Instant::now() + LONG).unwrap()
    }

    fn leases(&self) -> Vec<Lease> {
        let mut leases = Vec::new();
        self.client().call_more(&List {}, |reply| leases.extend(reply.leases)).unwrap();
        leases
    }

    /// Names of the pods' links, and of the devices that limit what they send.
    fn links() -> Vec<String> {
        let links = Netlink::open().unwrap().links().unwrap();
        let names = links.into_iter().map(|link| link.name.to_string());
        names.filter(|name| is_host_veth(name) || is_ifb(name)).collect()
    }

    fn assert_empty(&self, when: &str) {
        assert_eq!(Self::links(), Vec::<String>::new(), "links {when}");
        assert_eq!(self.leases(), [], "leases {when}");
        let releases = ferrule_wire::queued(&self.run_dir()).unwrap();
        assert_eq!(releases, [], "queued releases {when}");
        let mut netfilter = NetfilterSocket::open().unwrap();
        let sets = MAPS.iter().chain(&SETS);
        let ports: Vec<_> = sets.flat_map(|set| netfilter.elements(TABLE, set).unwrap_or_default()).collect();
        assert_eq!(ports, [], "host ports {when}");
        let records = fs::read_dir(self.run_dir().join("attachments")).unwrap();
        let records: Vec<_> = records.map(|entry| entry.unwrap().file_name()).collect();
        assert!(records.is_empty(), "records {when}: {records:?}");
    }

    /// The plugin as a runtime executes it, by way of `wrapper`.
    fn plugin(&self, wrapper: &[String], command: &str, pod: &Pod, fields: &Value) -> Child {
        let mut config =
            json!({ "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeDir": self.run_dir() });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let program = env!("CARGO_BIN_EXE_ferrule").to_owned();
        let words: Vec<_> = wrapper.iter().chain([&program]).collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            // cargo's, where the loader would look for libraries, a hundred system calls long.
            .env_remove("LD_LIBRARY_PATH")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", words[0]));
        // One that was killed has not read it.
        let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
        child
    }

    fn call(&self, command: &str, pod: &Pod) -> Value {
        succeeded(command, &self.plugin(&[], command, pod, &json!({})).wait_with_output().unwrap())
    }

    /// GC with no attachment that is valid.
    fn collect(&self, pod: &Pod) {
        let fields = json!({ "cni.dev/valid-attachments": [] });
        succeeded("GC", &self.plugin(&[], "GC", pod, &fields).wait_with_output().unwrap());
    }
}

fn succeeded(what: &str, output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{what}: {text} {}", String::from_utf8_lossy(&output.stderr));
    if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
}

/// A container's namespace.
struct Pod {
    id: String,
    netns: Netns,
}

impl Pod {
    fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), netns: netns::make().unwrap() }
    }

    /// As another process of ours sees it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_fd().as_raw_fd())
    }

    /// Runs `ip(8)` inside.
    fn ip(&self, arguments: &str) {
        let run = || Command::new("ip").args(arguments.split(' ')).output().unwrap();
        succeeded(arguments, &self.netns.run(run).unwrap());
    }
}

#[test]
fn many_at_once_get_an_address_each_and_leave_nothing() {
    on_a_node(|node| {
        node.start();
        let pods: Vec<_> = (0..MANY).map(|n| Pod::new(format!("pod{n}"))).collect();
        let all = |command: &str| {
            let children: Vec<_> =
                pods.iter().map(|pod| node.plugin(&[], command, pod, &json!({}))).collect();
            let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
            outputs.map(|output| succeeded(command, &output)).collect::<Vec<_>>()
        };
        let added = all("ADD");
        for family in 0..2 {
            let addresses: BTreeSet<_> =
                added.iter().map(|result| result["ips"][family]["address"].as_str().unwrap()).collect();
            assert_eq!(addresses.len(), MANY, "no address twice");
        }
        assert_eq!((node.leases().len(), Node::links().len()), (MANY, MANY));
        all("DEL");
        node.assert_empty("after all DELs");
    });
}

#[test]
fn an_add_waits_for_a_daemon_that_is_not_up_yet() {
    on_a_node(|node| {
        let pod = Pod::new("early");
        let waiting = node.plugin(&[], "ADD", &pod, &json!({}));
        // The plugin has looked in vain by the time the daemon is there.
        std::thread::sleep(Duration::from_millis(300));
        node.start();
        succeeded("ADD", &waiting.wait_with_output().unwrap());
        node.call("DEL", &pod);
        node.assert_empty("after DEL");
        node.stop();
        fs::remove_file(node.run_dir().join(SOCKET_NAME)).unwrap();
        let output = node.plugin(&[], "ADD", &pod, &json!({})).wait_with_output().unwrap();
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["code"], 11);
        assert!(error["msg"].as_str().unwrap().contains("systemctl start ipamd"), "{error}");
        assert_eq!(Node::links(), Vec::<String>::new());
    });
}

/// Every system call of a verb, as name and how often it was called before.
fn steps(node: &Node, command: &str, pod: &Pod, fields: &Value) -> Vec<(String, usize)> {
    let trace = node.dir.path().join("trace");
    let words = ["strace", "-qq", "-o", trace.to_str().unwrap()].map(str::to_owned);
    let output = node.plugin(&words, command, pod, fields).wait_with_output().unwrap();
    succeeded(command, &output);
    let mut count = BTreeMap::new();
    let text = fs::read_to_string(trace).unwrap();
    let names = text.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name);
    let calls =
        names.filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    let step = |name: &str| {
        let nth = count.entry(name.to_owned()).or_insert(0);
        *nth += 1;
        (name.to_owned(), *nth)
    };
    calls.map(step).collect()
}

/// Kills a verb at each of its system calls; `then` is what happens next, `n` the number of the step. The runtime asks
/// for what `fields` say.
fn killed_at_every_step(
    command: &str,
    fields: &Value,
    before: impl Fn(&Node, &Pod),
    then: impl Fn(&Node, &Pod, usize),
) {
    on_a_node(|node| {
        node.start();
        // Up, so that no system call is one of waiting for it.
        assert_eq!(node.leases(), []);
        let pod = Pod::new("victim");
        before(node, &pod);
        let steps = steps(node, command, &pod, fields);
        assert!(steps.len() > 30, "{steps:?}");
        node.call("DEL", &pod);
        let mut killed = 0;
        for (n, (name, nth)) in steps.iter().enumerate().filter(|(_, (name, _))| name != "execve") {
            before(node, &pod);
            let inject = format!("inject={name}:signal=KILL:when={nth}");
            let words = ["strace", "-qq", "-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &inject]
                .map(str::to_owned);
            let output = node.plugin(&words, command, &pod, fields).wait_with_output().unwrap();
            killed += usize::from(!output.status.success());
            then(node, &pod, n);
            node.assert_empty(&format!("after {command} was killed at {name} {nth}"));
        }
        assert!(killed > steps.len() * 3 / 4, "{killed} of {} were killed", steps.len());
    });
}

/// What a runtime asks for a pod with host ports and limits.
fn everything() -> Value {
    json!({ "runtimeConfig": {
        "portMappings": [
            { "hostPort": 8080, "containerPort": 80 },
            { "hostPort": 5353, "containerPort": 53, "protocol": "udp" }
        ],
        "bandwidth": {
            "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000
        }
    } })
}

/// One or the other: neither is told of host ports and limits.
fn del_or_gc(node: &Node, pod: &Pod, n: usize) {
    if n.is_multiple_of(2) {
        node.call("DEL", pod);
    } else {
        node.collect(pod);
    }
}

#[test]
fn an_add_that_is_killed_at_any_step_is_cleaned_up_by_del_or_gc() {
    killed_at_every_step("ADD", &json!({}), |_, _| {}, del_or_gc);
}

#[test]
fn an_add_with_host_ports_and_limits_that_is_killed_at_any_step_is_cleaned_up_by_del_or_gc() {
    // So that each ADD makes the table too.
    let without_table = |_: &Node, _: &Pod| {
        let script = format!("add table inet {TABLE}; delete table inet {TABLE}");
        let output = Command::new("nft").arg(script).output().expect("nft: install the package nftables");
        succeeded("nft", &output);
    };
    killed_at_every_step("ADD", &everything(), without_table, del_or_gc);
}

#[test]
fn an_add_that_is_killed_at_any_step_succeeds_when_it_is_tried_again() {
    killed_at_every_step(
        "ADD",
        &json!({}),
        |_, _| {},
        |node, pod, _| {
            let mut added = node.call("ADD", pod);
            let fields = json!({ "prevResult": added.take() });
            succeeded("CHECK", &node.plugin(&[], "CHECK", pod, &fields).wait_with_output().unwrap());
            node.call("DEL", pod);
        },
    );
}

#[test]
fn a_del_that_is_killed_at_any_step_is_finished_by_the_next() {
    let before = |node: &Node, pod: &Pod| {
        node.call("ADD", pod);
    };
    killed_at_every_step("DEL", &json!({}), before, del_or_gc);
}

#[test]
fn a_del_of_a_pod_with_host_ports_and_limits_that_is_killed_at_any_step_is_finished_by_the_next() {
    let before = |node: &Node, pod: &Pod| {
        succeeded("ADD", &node.plugin(&[], "ADD", pod, &everything()).wait_with_output().unwrap());
    };
    killed_at_every_step("DEL", &json!({}), before, del_or_gc);
}

#[test]
fn a_namespace_that_goes_before_or_during_del_is_no_hindrance() {
    on_a_node(|node| {
        node.start();
        for n in 0..20 {
            let pod = Pod::new(format!("pod{n}"));
            node.call("ADD", &pod);
            let Pod { id, netns } = pod;
            let gone = Pod { id, netns: netns::make().unwrap() };
            if n % 2 == 0 {
                drop(netns);
                node.call("DEL", &gone);
            } else {
                let del = node.plugin(&[], "DEL", &gone, &json!({}));
                drop(netns);
                succeeded("DEL", &del.wait_with_output().unwrap());
            }
        }
        node.assert_empty("after all DELs");
    });
}

#[test]
fn an_interface_that_the_pod_renamed_or_moved_goes_with_del_and_comes_back_with_add() {
    on_a_node(|node| {
        node.start();
        for change in ["rename", "move"] {
            let (pod, other) = (Pod::new(change), Pod::new("other"));
            let away = || match change {
                "rename" => pod.ip("link set dev eth0 down name mine0"),
                _ => pod.ip(&format!("link set dev eth0 netns {}", other.path())),
            };
            let added = node.call("ADD", &pod);
            away();
            let output =
                node.plugin(&[], "CHECK", &pod, &json!({ "prevResult": added })).wait_with_output().unwrap();
            let error: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(error["code"], 103);
            assert!(
                error["msg"].as_str().unwrap().contains("link eth0: expected a veth in the container"),
                "{error}"
            );
            assert_eq!(node.call("ADD", &pod), added, "the same lease on a new pair");
            away();
            node.call("DEL", &pod);
            node.assert_empty(change);
        }
    });
}
