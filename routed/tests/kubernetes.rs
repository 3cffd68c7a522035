//! The Kubernetes source against a server that speaks the protocol over TLS: what it makes of Node objects. The faults
//! of servers are tested with the client (`cluster/tests/faults.rs`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod daemon;
mod keys;
mod manifests;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use ferrule_fake_api::{ApiServer, node};
use routed::decide::nodes::{Node, Nodes};
use routed::pass::device::known_macs;
use routed::source::{KubernetesSource, NodeEvent, Source};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);
/// Longer than the first pause after a fault.
const QUIET: Duration = Duration::from_millis(1500);

/// A server and a source that watches it.
struct Pair {
    server: ApiServer,
    source: KubernetesSource,
    /// Everything that the source has told so far, put together.
    known: Nodes,
    _directory: tempfile::TempDir,
}

impl Pair {
    /// A server with three nodes, which `prepare` may spoil. Must be called within a runtime.
    fn new(prepare: impl FnOnce(&ApiServer)) -> Self {
        Self::configured("", prepare)
    }

    /// The same with this in the configuration.
    fn configured(text: &str, prepare: impl FnOnce(&ApiServer)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        lo_up();
        let server = ApiServer::new(TcpListener::bind("127.0.0.1:0").unwrap(), directory.path());
        (1..=3).for_each(|number| server.put(node(number)));
        prepare(&server);
        let text = format!("{text}[routing]\nsource = \"kubernetes\"\n");
        let mut config = ferrule_config::Config::parse(&text, Path::new("test")).unwrap();
        config.kubernetes.kubeconfig = Some(server.kubeconfig());
        let source = KubernetesSource::new(&config, "n1", known_macs(&config.routing.vxlan));
        Self { server, source, known: Nodes::new("n1"), _directory: directory }
    }

    /// Waits until the source has told exactly these nodes.
    async fn wait_for(&mut self, names: &[&str]) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while self.names() != names {
            let event = tokio::time::timeout_at(deadline, self.source.next()).await;
            let event = event.unwrap_or_else(|_| panic!("{names:?} do not come, but {:?}", self.names()));
            self.take(event);
        }
    }

    /// Checks that nothing is told for a while.
    async fn is_quiet(&mut self) {
        let event = tokio::time::timeout(QUIET, self.source.next()).await;
        assert!(event.is_err(), "{event:?}");
    }

    fn take(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Snapshot(nodes) => drop(self.known.snapshot(nodes)),
            NodeEvent::Changes(updates) => drop(self.known.update(updates)),
        }
    }

    fn names(&self) -> Vec<String> {
        let Some(cluster) = self.known.cluster() else { return Vec::new() };
        let mut names: Vec<_> = cluster.others.into_keys().collect();
        names.insert(0, cluster.own.name);
        names
    }

    fn node(&self, name: &str) -> Node {
        self.known.cluster().unwrap().others[name].as_ref().clone()
    }

    fn asked(&self) -> Vec<String> {
        self.server.requests().iter().map(ferrule_fake_api::http::Request::permission).collect()
    }
}

/// Switches the loopback device on, which is off in the tests' own namespace.
fn lo_up() {
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(status.expect("install iproute2").success());
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_streamed_list_is_followed_by_its_changes() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        let second = pair.node("n2");
        assert_eq!(second.v4, Some("192.0.2.2".parse().unwrap()));
        assert_eq!(second.v6, Some("2001:db8::2".parse().unwrap()));
        assert_eq!(second.pod_cidrs.len(), 2);
        assert_eq!(second.vtep_mac, ferrule_model::vtep_mac("n2"));

        pair.server.put(node(4));
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
        pair.server.delete("n2");
        pair.wait_for(&["n1", "n3", "n4"]).await;
        // What kubelets report all the time changes nothing.
        let mut heartbeat = node(3);
        heartbeat["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:00:00Z");
        pair.server.put(heartbeat);
        pair.is_quiet().await;
        assert_eq!(pair.asked(), ["watch nodes"], "one request does it all");
    });
}

#[test]
fn a_list_that_breaks_off_tells_nothing_until_it_is_complete() {
    run(async {
        let mut pair = Pair::new(|server| server.faults(|faults| faults.break_list_with = Some(Vec::new())));
        let event = tokio::time::timeout(LIMIT, pair.source.next()).await.unwrap();
        pair.take(event);
        assert_eq!(pair.names(), ["n1", "n2", "n3"], "the first thing that is told is complete");
    });
}

#[test]
fn a_node_that_cannot_be_used_is_left_out_until_it_can() {
    run(async {
        let spoiled: [(&str, serde_json::Value); 9] = [
            ("/spec", json!({})),
            ("/spec", json!(null)),
            ("/spec/podCIDRs", json!([])),
            ("/spec/podCIDRs", json!(["10.244.9.0"])),
            ("/spec/podCIDRs", json!(["0.0.0.0/0"])),
            ("/spec/podCIDRs", json!({"a": 1})),
            ("/status/addresses", json!([{"type": "InternalIP", "address": "127.0.0.1"}])),
            ("/status/addresses", json!(null)),
            ("/status/addresses", json!(17)),
        ];
        let mut pair = Pair::new(|server| {
            for (number, (pointer, value)) in (10..).zip(spoiled.iter().take(5)) {
                let mut node = node(number);
                *node.pointer_mut(pointer).unwrap() = value.clone();
                // The older field counts for a node without the newer one.
                node["spec"].as_object_mut().map(|spec| spec.remove("podCIDR"));
                server.put(node);
            }
        });
        pair.wait_for(&["n1", "n2", "n3"]).await;
        for (pointer, value) in spoiled {
            let mut bad = node(2);
            *bad.pointer_mut(pointer).unwrap() = value;
            bad["spec"].as_object_mut().map(|spec| spec.remove("podCIDR"));
            pair.server.put(bad);
            pair.wait_for(&["n1", "n3"]).await;
            pair.server.put(node(2));
            pair.wait_for(&["n1", "n2", "n3"]).await;
        }
        let mut old = node(4);
        old["spec"].as_object_mut().unwrap().remove("podCIDRs");
        pair.server.put(old);
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
        assert_eq!(pair.node("n4").pod_cidrs, ["10.244.4.0/24".parse().unwrap()]);
    });
}

#[test]
fn the_others_go_by_the_public_address_and_the_node_itself_by_its_own() {
    run(publishes("[node]\npublic_address = \"203.0.113.91\"\n"));
    // The configuration is like this once the link is known.
    run(publishes("[node]\ninterface = \"eth1\"\naddress = \"203.0.113.91\"\n"));
}

async fn publishes(text: &str) {
    let annotated = |number: u8, name: &str, value: &str| {
        let mut node = node(number);
        node["metadata"]["annotations"] = json!({name: value});
        node
    };
    let public = routed::source::kubernetes::PUBLIC_ADDRESS;
    let bears = |server: &ApiServer| server.node("n1")["metadata"]["annotations"][public].clone();
    let mut pair = Pair::configured(text, |server| {
        server.put(annotated(4, public, "203.0.113.94, 2001:db8:1::4"));
        server.put(annotated(5, "flannel.alpha.coreos.com/public-ip-overwrite", "203.0.113.95"));
        server.put(annotated(6, public, "here"));
    });
    pair.wait_for(&["n1", "n2", "n3", "n4", "n5"]).await;
    let addresses = |node: &Node| (node.v4.unwrap().to_string(), node.v6.unwrap().to_string());
    let of = |name: &str| addresses(&pair.node(name));
    assert_eq!(of("n4"), ("203.0.113.94".into(), "2001:db8:1::4".into()));
    assert_eq!(of("n5"), ("203.0.113.95".into(), "2001:db8::5".into()));
    assert_eq!(of("n2").0, "192.0.2.2");
    let own = |pair: &Pair| pair.known.cluster().unwrap().own;
    assert_eq!(addresses(&own(&pair)).0, "192.0.2.1");
    let deadline = Instant::now() + LIMIT;
    while bears(&pair.server) != json!("203.0.113.91") {
        assert!(Instant::now() < deadline, "{}", bears(&pair.server));
        let _ = tokio::time::timeout(Duration::from_millis(50), pair.source.next()).await;
    }
    assert_eq!(own(&pair).v4, Some([192, 0, 2, 1].into()));
}

/// An object of node `number` with another address and pod CIDR, its readiness, and when it was made.
fn odd_node(number: u8, address: &str, cidr: &str, (ready, born): (&str, &str)) -> serde_json::Value {
    let mut node = node(number);
    node["status"]["addresses"] = json!([{"type": "InternalIP", "address": address}]);
    node["spec"] = json!({"podCIDRs": [cidr]});
    node["status"]["conditions"][0]["status"] = json!(ready);
    node["metadata"]["creationTimestamp"] = json!(born);
    node
}

#[test]
fn of_two_objects_with_one_address_the_living_nodes_counts_and_nobody_else_is_touched() {
    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-02-01T00:00:00Z";
    run(async {
        let old = |ready| odd_node(4, "192.0.2.4", "10.244.4.0/24", (ready, OLD));
        let mut pair = Pair::new(|server| {
            server.put(old("Unknown"));
            server.put(odd_node(5, "192.0.2.4", "10.244.5.0/24", ("True", NEW)));
        });
        pair.wait_for(&["n1", "n2", "n3", "n5"]).await;
        // The object that was left behind goes, and later a machine comes back with it.
        pair.server.delete("n4");
        pair.server.put(old("True"));
        pair.is_quiet().await;
        pair.server.put(odd_node(5, "192.0.2.4", "10.244.5.0/24", ("False", NEW)));
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
        pair.server.delete("n4");
        pair.wait_for(&["n1", "n2", "n3", "n5"]).await;
    });
}

#[test]
fn pod_cidrs_that_clash_leave_out_one_node_and_never_this_one() {
    const NEW: &str = "2026-02-01T00:00:00Z";
    run(async {
        let mut pair = Pair::new(|server| {
            for (number, cidr) in [
                (4, "10.244.1.0/25"),
                (5, "10.244.0.0/16"),
                (6, "192.0.2.0/24"),
                (7, "192.0.2.1/32"),
                (8, "10.244.8.0/24"),
            ] {
                server.put(odd_node(number, &format!("192.0.2.{number}"), cidr, ("True", NEW)));
            }
        });
        pair.wait_for(&["n1", "n2", "n3", "n8"]).await;
        pair.is_quiet().await;
    });
}

#[test]
fn an_annotation_gives_a_vtep_another_mac() {
    run(async {
        let mut pair = Pair::new(|server| {
            let mut taken_over = node(4);
            taken_over["metadata"]["annotations"] =
                json!({routed::source::kubernetes::VTEP_MAC: "02:11:22:33:44:55"});
            server.put(taken_over);
        });
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
        assert_eq!(pair.node("n4").vtep_mac.to_string(), "02:11:22:33:44:55");
    });
}
