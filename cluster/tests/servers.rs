//! Which server is asked, and which is believed: `[kubernetes] server`, with real TLS.

use std::fs;
use std::path::Path;

use ferrule_cluster::{Access, Selector};
use ferrule_config::{Config, Kubernetes};
use ferrule_fake_api::{ApiServer, node};

use crate::follower::{Follower, Node, listener, run};

/// The settings for these servers, with the credentials of `of`.
fn settings(of: &ApiServer, servers: &[String]) -> Kubernetes {
    let kubeconfig = of.kubeconfig();
    let text = format!("[kubernetes]\nkubeconfig = {kubeconfig:?}\nserver = {servers:?}\n");
    Config::parse(&text, Path::new("test")).unwrap().kubernetes
}

fn follow(settings: &Kubernetes) -> Follower {
    Follower::new::<Node>(&Access::new(settings), Selector::default())
}

fn url(server: &ApiServer) -> String {
    format!("https://{}", server.address())
}

/// A server with two nodes.
fn server(address: &str, directory: &Path) -> ApiServer {
    let server = ApiServer::new(listener(address), directory);
    (1..=2).for_each(|number| server.put(node(number)));
    server
}

#[test]
fn a_server_that_is_down_is_passed_over_and_one_that_goes_down_is_left_without_a_new_list() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let first = server("127.0.0.1:0", directory.path());
        let second = first.beside(listener("127.0.0.1:0"));
        // Nobody listens at the first address any more.
        let dead = listener("127.0.0.1:0").local_addr().unwrap();
        let urls = [format!("https://{dead}"), url(&first), url(&second)];
        let mut follower = follow(&settings(&first, &urls));
        follower.wait_for(&["n1", "n2"]).await;
        assert!(second.requests().is_empty(), "one server is enough");
        first.stop();
        second.put(node(3));
        follower.wait_for(&["n1", "n2", "n3"]).await;
        let asked = second.requests();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(asked[0].query("resourceVersion"), Some("102"), "it goes on where the first one was");
        assert_eq!(asked[0].query("sendInitialEvents"), None);
        // After the last one comes the first one that works.
        first.start(listener(&first.address().to_string()));
        first.put(node(3));
        first.put(node(4));
        second.stop();
        follower.wait_for(&["n1", "n2", "n3", "n4"]).await;
    });
}

#[test]
fn the_certificate_has_to_name_the_host_in_the_address_or_what_the_kubeconfig_says() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let server = server("127.0.0.1:0", directory.path());
        // The certificate names 127.0.0.1, and not localhost.
        let settings = settings(&server, &[format!("https://localhost:{}", server.address().port())]);
        let mut follower = follow(&settings);
        follower.is_quiet().await;
        assert!(server.requests().is_empty(), "not even the token is sent");
        let text = fs::read_to_string(server.kubeconfig()).unwrap();
        let named = text.replace("    server: ", "    tls-server-name: 127.0.0.1\n    server: ");
        assert_ne!(named, text);
        fs::write(server.kubeconfig(), named).unwrap();
        follower.wait_for(&["n1", "n2"]).await;
    });
}

#[test]
fn an_authority_that_did_not_sign_the_certificate_makes_the_next_server_be_asked() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let real = server("127.0.0.1:0", directory.path());
        let impostor = ApiServer::new(listener("127.0.0.1:0"), &directory.path().join("impostor"));
        impostor.put(node(9));
        let mut follower = follow(&settings(&real, &[url(&impostor), url(&real)]));
        follower.wait_for(&["n1", "n2"]).await;
        assert!(impostor.requests().is_empty());
    });
}

#[test]
fn a_server_may_have_an_ipv6_address() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let server = server("[::1]:0", directory.path());
        let mut follower = follow(&settings(&server, &[url(&server)]));
        follower.wait_for(&["n1", "n2"]).await;
    });
}
