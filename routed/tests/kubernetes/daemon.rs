//! The daemon itself with nodes from the API server: what comes, goes and stays in the kernel, and what the log says.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use nix::sys::signal::Signal;

use super::manifests;
use crate::lab::{Node, PATIENCE, within};
use ferrule_fake_api::{ApiServer, Streaming, node};

/// A node and a server that its namespace reaches.
fn lab() -> (Node, ApiServer) {
    let lab = Node::new("vxlan");
    let server = ApiServer::new(listener(&lab, "127.0.0.1:0"), &lab.path("api"));
    configure(&lab, &format!("kubeconfig = \"{}\"\n", server.kubeconfig().display()));
    (lab, server)
}

fn listener(lab: &Node, address: &str) -> TcpListener {
    lab.inside(|| TcpListener::bind(address)).unwrap()
}

fn configure(lab: &Node, kubernetes: &str) {
    let text = format!(
        "[node]\nname = \"n1\"\n[routing]\nsource = \"kubernetes\"\n[routing.kubernetes]\n{kubernetes}"
    );
    fs::write(lab.path("ferrule.toml"), text).unwrap();
}

fn is_told_available(server: &ApiServer) -> bool {
    let node = server.node("n1");
    let conditions = node["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|one| one["type"] == "Ready"), "other conditions stay");
    conditions.iter().any(|one| one["type"] == "NetworkUnavailable" && one["status"] == "False")
}

fn lines(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

#[test]
fn routes_follow_the_nodes_and_a_server_that_is_away_changes_nothing() {
    let (lab, server) = lab();
    server.put(node(2));
    let daemon = lab.start();
    // Pods are guarded from the start, whatever the source is.
    daemon.wait_for_log("pods on bridges are guarded");
    let guarded = lab.state();
    daemon.wait_for_log("the Kubernetes API has no node called n1");
    assert_eq!(lab.state(), guarded, "nothing is written before this node is known");
    (1..=4).for_each(|number| server.put(node(number)));
    daemon.wait_until_ready();
    let keeps_source = |number: u8| lab.keeps_source(&format!("10.244.{number}.1"));
    let has = |number: u8| {
        let state = lab.state();
        state.contains(&format!("10.244.{number}.0/24"))
            && state.contains(&format!("fd00:10:244:{number}::/64"))
            && keeps_source(number)
    };
    let is_without =
        |number: u8| !lab.state().contains(&format!("10.244.{number}.0")) && !keeps_source(number);
    assert!(within(PATIENCE, || has(2) && has(3) && has(4)).is_some(), "{}\n{}", lab.state(), daemon.log());

    server.delete("n4");
    assert!(within(PATIENCE, || is_without(4)).is_some(), "{}", daemon.log());

    let before = lab.state();
    server.stop();
    daemon.wait_for_log("the API server cannot be reached");
    server.delete("n3");
    server.forget();
    assert_eq!(lab.state(), before, "what the server no longer says stays");
    server.start(listener(&lab, &server.address().to_string()));
    assert!(within(PATIENCE, || is_without(3)).is_some(), "{}", daemon.log());
    assert!(has(2));
    let log = daemon.log();
    assert_eq!((lines(&log, "cannot be reached"), lines(&log, "answers again")), (1, 1), "{log}");

    let before = lab.state();
    assert!(daemon.signal(Signal::SIGTERM).success());
    assert_eq!(lab.state(), before);
}

#[test]
fn the_node_is_told_available_once_its_routes_are_there_and_not_before() {
    let (lab, server) = lab();
    (1..=2).for_each(|number| server.put(node(number)));
    lab.ip("link add ferrule.1 type bridge");
    let daemon = lab.start();
    daemon.wait_for_log("the link ferrule.1 is not Ferrule's");
    assert!(!is_told_available(&server));
    lab.ip("link del ferrule.1");
    daemon.wait_until_ready();
    assert!(within(PATIENCE, || is_told_available(&server)).is_some(), "{}", daemon.log());
    assert!(daemon.signal(Signal::SIGTERM).success());

    // The annotation is there, so the next start has nothing to write.
    let patches = || server.requests().iter().filter(|one| one.method == "PATCH").count();
    assert_eq!(patches(), 1);
    let daemon = lab.start();
    daemon.wait_until_ready();
    server.put(node(3));
    assert!(within(PATIENCE, || lab.state().contains("10.244.3.0/24")).is_some());
    assert_eq!(patches(), 1, "{}", daemon.log());
    // The object is made anew, as when a kubelet registers again.
    server.delete("n1");
    server.put(node(1));
    assert!(within(PATIENCE, || is_told_available(&server)).is_some(), "{}", daemon.log());
}

#[test]
fn this_nodes_object_that_is_deleted_is_one_line_and_what_was_known_stays() {
    let (lab, server) = lab();
    (1..=2).for_each(|number| server.put(node(number)));
    let daemon = lab.start();
    daemon.wait_until_ready();
    server.delete("n1");
    daemon.wait_for_log("has no node called n1, which is this one, any more");
    // A new list still lacks the node.
    server.forget();
    server.cut();
    server.put(node(3));
    assert!(within(PATIENCE, || lab.state().contains("10.244.3.0/24")).is_some(), "{}", daemon.log());
    let state = lab.state();
    assert!(state.contains("10.244.2.0/24") && state.contains("unreachable 10.244.1.0/24"), "{state}");
    server.put(node(1));
    daemon.wait_for_log("has this node, n1, again");
    assert_eq!(lines(&daemon.log(), "has no node called n1"), 1, "{}", daemon.log());
    assert!(daemon.log().contains("see that the kubelet has registered it"));
}

#[test]
fn a_right_that_is_missing_is_named_once_and_what_it_held_up_goes_on_when_it_is_given() {
    let (lab, server) = lab();
    (1..=2).for_each(|number| server.put(node(number)));
    let forbid = |right: &str| server.faults(|faults| faults.forbidden.extend([right.to_owned()]));
    let allow = |right: &str| server.faults(|faults| faults.forbidden.retain(|one| one != right));
    forbid("watch nodes");
    forbid("list nodes");
    forbid("patch nodes/status");
    let daemon = lab.start();
    daemon.wait_for_log("the verb \"watch\" on \"nodes\"");
    let tried = || server.requests().len() >= 3;
    assert!(within(PATIENCE, tried).is_some());
    assert_eq!(lines(&daemon.log(), "does not allow"), 1, "{}", daemon.log());

    server.faults(|faults| faults.streaming = Streaming::Refused);
    allow("watch nodes");
    daemon.wait_for_log("the verb \"list\" on \"nodes\"");
    allow("list nodes");
    daemon.wait_until_ready();
    daemon.wait_for_log("the verb \"patch\" on \"nodes/status\"");
    allow("patch nodes/status");
    assert!(within(PATIENCE, || is_told_available(&server)).is_some(), "{}", daemon.log());

    // The manifest allows exactly what was ever asked for.
    let asked = server.requests().iter().map(ferrule_fake_api::http::Request::permission).collect();
    assert_eq!(manifests::allowed(), asked);
}

/// The daemon in a pod: the kubelet mounts the service account; here it is in a mount namespace of the daemon's own.
fn in_a_pod(lab: &Node) -> Command {
    let script = "mount -t tmpfs tmpfs /run && account=/run/secrets/kubernetes.io/serviceaccount && \
                  mkdir -p $account && cp \"$1/ca.crt\" \"$1/token\" $account && echo kube-system >$account/namespace && \
                  shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
    command.arg(lab.path("api")).arg(env!("CARGO_BIN_EXE_routed"));
    command.arg("--config").arg(lab.path("ferrule.toml")).arg("--runtime-dir").arg(lab.path("run"));
    command
}

#[test]
fn in_a_pod_the_service_account_is_enough() {
    let (lab, server) = lab();
    (1..=2).for_each(|number| server.put(node(number)));
    configure(&lab, "");
    let mut command = in_a_pod(&lab);
    command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
    command.env("KUBERNETES_SERVICE_PORT", server.address().port().to_string());
    let daemon = lab.start_as(command);
    daemon.wait_until_ready();
    assert!(lab.state().contains("10.244.2.0/24"), "{}", daemon.log());
}

#[test]
fn in_a_pod_the_servers_own_address_takes_the_place_of_the_services_and_one_that_is_down_is_one_line() {
    let (lab, server) = lab();
    (1..=2).for_each(|number| server.put(node(number)));
    let dead = listener(&lab, "127.0.0.1:0").local_addr().unwrap();
    configure(
        &lab,
        &format!("[kubernetes]\nserver = [\"https://{dead}\", \"https://{}\"]\n", server.address()),
    );
    let mut command = in_a_pod(&lab);
    command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBERNETES_SERVICE_PORT");
    let daemon = lab.start_as(command);
    daemon.wait_until_ready();
    assert!(lab.state().contains("10.244.2.0/24"), "{}", daemon.log());
    assert!(within(PATIENCE, || is_told_available(&server)).is_some(), "{}", daemon.log());
    let log = daemon.log();
    assert_eq!(lines(&log, &format!("https://{dead}: the API server cannot be reached")), 1, "{log}");
    assert_eq!(lines(&log, "it is tried again"), 0, "{log}");
}

#[test]
fn credentials_that_are_not_there_yet_are_waited_for() {
    let (lab, server) = lab();
    (1..=2).for_each(|number| server.put(node(number)));
    fs::rename(server.kubeconfig(), lab.path("later")).unwrap();
    let daemon = lab.start();
    daemon.wait_for_log("cannot log in to the API server");
    fs::rename(lab.path("later"), server.kubeconfig()).unwrap();
    daemon.wait_until_ready();
}
