//! WireGuard keys in annotations. Each node's `routed` writes its own, with the rights of the manifest and no others,
//! and all others read it.

use std::fs;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use ferrule_model::WgKey;
use routed::source::kubernetes::WIREGUARD_KEY;
use routed::source::{KnownMacs, KubernetesSource, Source};
use serde_json::json;

use super::{LIMIT, Pair, manifests, run};
use crate::lab::{Node, PATIENCE, within};
use ferrule_fake_api::http::Request;
use ferrule_fake_api::{ApiServer, node};

/// Another node with this key, until it is stopped.
fn other(server: &ApiServer, name: &'static str, key: WgKey) -> std::sync::mpsc::Sender<()> {
    let mut config = ferrule_config::Config::default();
    config.kubernetes.kubeconfig = Some(server.kubeconfig());
    let (stop, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // All its tasks end with the runtime, as they would with a process.
        run(async move {
            let mut source = KubernetesSource::new(&config, name, KnownMacs::default());
            source.publish(key);
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                let _ = tokio::time::timeout(Duration::from_millis(5), source.next()).await;
            }
        });
    });
    stop
}

fn told(server: &ApiServer, name: &str) -> Option<WgKey> {
    server.node(name)["metadata"]["annotations"][WIREGUARD_KEY].as_str().map(|text| text.parse().unwrap())
}

fn patches(server: &ApiServer) -> Vec<Request> {
    server.requests().into_iter().filter(|request| request.method == "PATCH").collect()
}

async fn until(server: &ApiServer, name: &str, key: WgKey) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while told(server, name) != Some(key) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", server.node(name)["metadata"]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_node_writes_its_own_key_with_the_rights_of_the_manifest_and_the_others_read_it() {
    let keys = [1, 2, 3].map(|byte| WgKey([byte; 32]));
    run(async {
        let mut pair = Pair::new(|server| {
            server.faults(|faults| faults.allowed = Some(manifests::allowed()));
            let mut annotated = node(1);
            annotated["metadata"]["annotations"] = json!({"someone/elses": "stays"});
            server.put(annotated);
        });
        pair.source.publish(keys[0]);
        pair.wait_for(&["n1", "n2", "n3"]).await;
        until(&pair.server, "n1", keys[0]).await;
        let patch = patches(&pair.server).remove(0);
        assert_eq!((patch.path.as_str(), patch.query.as_str()), ("/api/v1/nodes/n1/status", ""));
        let body: serde_json::Value = serde_json::from_slice(&patch.body).unwrap();
        assert_eq!(body, json!({"metadata": {"annotations": {WIREGUARD_KEY: keys[0].to_string()}}}));
        assert_eq!(pair.server.node("n1")["metadata"]["annotations"]["someone/elses"], "stays");

        // The second node comes, and later comes again with another key.
        let second = other(&pair.server, "n2", keys[1]);
        until(&pair.server, "n2", keys[1]).await;
        let read = |pair: &Pair| pair.node("n2").wireguard_key;
        while read(&pair) != Some(keys[1]) {
            let event = tokio::time::timeout(LIMIT, pair.source.next()).await.unwrap();
            pair.take(event);
        }
        drop(second);
        let _second = other(&pair.server, "n2", keys[2]);
        while read(&pair) != Some(keys[2]) {
            let event = tokio::time::timeout(LIMIT, pair.source.next()).await.unwrap();
            pair.take(event);
        }
        assert_eq!(pair.node("n3").wireguard_key, None);
        assert_eq!(patches(&pair.server).len(), 3, "each key once");
        let asked: std::collections::BTreeSet<_> = pair.asked().into_iter().collect();
        assert!(asked.is_subset(&manifests::allowed()), "{asked:?}");
    });
}

#[test]
fn the_daemon_publishes_the_key_that_it_prints_as_soon_as_it_may_and_not_again() {
    let lab = Node::new("wireguard");
    let listener = lab.inside(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let server = ApiServer::new(listener, &lab.path("api"));
    (1..=2).for_each(|number| server.put(node(number)));
    server.faults(|faults| faults.forbidden.extend(["patch nodes/status".to_owned()]));
    let text = format!(
        "[node]\nname = \"n1\"\n[routing]\nbackend = \"wireguard\"\nsource = \"kubernetes\"\n\
         [routing.kubernetes]\nkubeconfig = \"{}\"\n[routing.wireguard]\nkey_file = \"{}\"\n",
        server.kubeconfig().display(),
        lab.path("state/wireguard.key").display()
    );
    fs::write(lab.path("ferrule.toml"), text).unwrap();
    let key = lab.wireguard_key().parse().unwrap();
    let daemon = lab.start();
    daemon.wait_for_log("cannot write the WireGuard key of node n1");
    daemon.wait_for_log("the verb \"patch\" on \"nodes/status\"");
    server.faults(|faults| faults.forbidden.clear());
    assert!(within(PATIENCE, || told(&server, "n1") == Some(key)).is_some(), "{}", daemon.log());
    let is_key = |patch: &Request| String::from_utf8_lossy(&patch.body).contains(WIREGUARD_KEY);
    let written = || patches(&server).iter().filter(|patch| is_key(patch)).count();
    let before = written();
    drop(daemon);
    // The key is there, so the next start has nothing to write. The node that comes afterwards shows that the daemon
    // has looked.
    let daemon = lab.start();
    server.put(node(3));
    daemon.wait_for_log("node added: n3");
    assert_eq!(written(), before, "{}", daemon.log());
}
