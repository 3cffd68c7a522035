//! Kinds of objects in namespaces, in an API group, and selected by labels; several watches with one access.

use ferrule_cluster::{Access, Selector};
use ferrule_config::Kubernetes;
use ferrule_fake_api::{ApiServer, Streaming, node};
use serde_json::{Value, json};

use crate::follower::{Follower, Node, Slice, listener, run};

fn slice(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": {}},
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [],
    })
}

fn labelled(namespace: &str, name: &str, label: &str) -> Value {
    let mut slice = slice(namespace, name);
    slice["metadata"]["labels"][label] = json!("x");
    slice
}

fn access(server: &ApiServer) -> Access {
    Access::new(&Kubernetes { kubeconfig: Some(server.kubeconfig()), servers: Vec::new() })
}

fn without(label: &str) -> Selector {
    Selector { labels: format!("!{label}"), fields: String::new() }
}

#[test]
fn objects_of_a_group_and_of_namespaces_are_followed_and_only_those_that_are_selected() {
    for streaming in [Streaming::Works, Streaming::Refused] {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let server = ApiServer::new(listener("127.0.0.1:0"), directory.path());
            server.faults(|faults| faults.streaming = streaming);
            server.put(node(1));
            server.put(slice("a", "web"));
            server.put(slice("b", "web"));
            server.put(labelled("b", "other", "example.com/other"));
            let access = access(&server);
            let mut slices = Follower::new::<Slice>(&access, without("example.com/other"));
            let fields = Selector { labels: String::new(), fields: "metadata.name=n1".into() };
            let mut nodes = Follower::new::<Node>(&access, fields);
            slices.wait_for(&["a/web", "b/web"]).await;
            nodes.wait_for(&["n1"]).await;
            // An object that is no longer selected goes, and comes back.
            server.put(labelled("a", "web", "example.com/other"));
            slices.wait_for(&["b/web"]).await;
            server.put(slice("a", "web"));
            slices.wait_for(&["a/web", "b/web"]).await;
            server.delete_object("endpointslices", "b/web");
            server.put(node(2));
            slices.wait_for(&["a/web"]).await;
            nodes.is_quiet().await;
            let asked = server.requests();
            let right = "watch endpointslices.discovery.k8s.io";
            assert!(asked.iter().any(|one| one.permission() == right), "{asked:?}");
        });
    }
}

#[test]
fn an_object_that_cannot_be_read_is_told_by_its_name_and_the_others_go_on() {
    for streaming in [Streaming::Works, Streaming::Refused] {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let server = ApiServer::new(listener("127.0.0.1:0"), directory.path());
            server.faults(|faults| faults.streaming = streaming);
            let mut odd = slice("a", "odd");
            odd["ports"] = json!({"80": "http"});
            server.put(odd.clone());
            server.put(slice("a", "web"));
            let mut slices = Follower::new::<Slice>(&access(&server), Selector::default());
            slices.wait_for(&["a/odd?", "a/web"]).await;
            server.put(slice("a", "odd"));
            slices.wait_for(&["a/odd", "a/web"]).await;
            server.put(odd);
            slices.wait_for(&["a/odd?", "a/web"]).await;
        });
    }
}

#[test]
fn a_kind_that_is_forbidden_does_not_hold_up_another() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let server = ApiServer::new(listener("127.0.0.1:0"), directory.path());
        let rights = ["watch", "list"].map(|verb| format!("{verb} endpointslices.discovery.k8s.io"));
        server.faults(|faults| faults.forbidden.extend(rights));
        server.put(node(1));
        server.put(slice("a", "web"));
        let access = access(&server);
        let mut slices = Follower::new::<Slice>(&access, Selector::default());
        let mut nodes = Follower::new::<Node>(&access, Selector::default());
        nodes.wait_for(&["n1"]).await;
        slices.is_quiet().await;
        server.faults(|faults| faults.forbidden.clear());
        slices.wait_for(&["a/web"]).await;
    });
}
