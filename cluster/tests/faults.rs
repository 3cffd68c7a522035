//! The watch against a server that speaks the protocol over TLS, with every fault that such servers, and the proxies
//! before them, have shown.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ferrule_cluster::{Access, Selector};
use ferrule_config::Kubernetes;
use ferrule_fake_api::{ApiServer, Streaming, node};
use serde_json::json;

use crate::follower::{Follower, LIMIT, Node, QUIET, listener, run};

/// A server and a watch of its nodes.
struct Pair {
    server: ApiServer,
    follower: Follower,
    directory: tempfile::TempDir,
}

impl Pair {
    /// A server with three nodes, which `prepare` may spoil. Must be called within a runtime.
    fn new(prepare: impl FnOnce(&ApiServer)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = ApiServer::new(listener("127.0.0.1:0"), directory.path());
        (1..=3).for_each(|number| server.put(node(number)));
        prepare(&server);
        let access = Access::new(&Kubernetes { kubeconfig: Some(server.kubeconfig()), servers: Vec::new() });
        let follower = Follower::new::<Node>(&access, Selector::default());
        Self { server, follower, directory }
    }

    /// Waits until exactly these nodes are known.
    async fn wait_for(&mut self, names: &[&str]) {
        self.follower.wait_for(names).await;
    }

    /// Checks that nothing is told for a while.
    async fn is_quiet(&mut self) {
        self.follower.is_quiet().await;
    }

    fn asked(&self) -> Vec<String> {
        self.server.requests().iter().map(ferrule_fake_api::http::Request::permission).collect()
    }
}

#[test]
fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    run(async {
        let mut pair = Pair::new(|server| {
            server.faults(|faults| faults.streaming = Streaming::Refused);
            (4..=250).for_each(|number| server.put(node(number)));
        });
        let mut names: Vec<_> = (2..=250).map(|number| format!("n{number}")).collect();
        names.sort();
        let names: Vec<_> = std::iter::once("n1").chain(names.iter().map(String::as_str)).collect();
        pair.wait_for(&names).await;
        assert_eq!(pair.asked(), ["watch nodes", "list nodes", "list nodes", "list nodes"]);
        pair.server.delete("n250");
        let names: Vec<_> = names.into_iter().filter(|name| *name != "n250").collect();
        pair.wait_for(&names).await;
    });
}

#[test]
fn whatever_keeps_a_server_from_streaming_the_nodes_are_listed_at_once_and_streaming_is_tried_again_later() {
    let codes = [400, 401, 403, 404, 406, 410, 422, 429, 500, 501, 503, 504];
    let others = [Streaming::Ends, Streaming::Cut, Streaming::CutAtOnce, Streaming::Page];
    for streaming in codes.map(Streaming::Answers).into_iter().chain(others) {
        run(async {
            let mut pair = Pair::new(|server| server.faults(|faults| faults.streaming = streaming));
            pair.wait_for(&["n1", "n2", "n3"]).await;
            assert_eq!(pair.asked(), ["watch nodes", "list nodes"], "{streaming:?}: in the same round");
            pair.server.put(node(4));
            pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
            assert_eq!(pair.asked(), ["watch nodes", "list nodes", "watch nodes"], "{streaming:?}");
            // The next list is streamed, because the server can do it now.
            pair.server.faults(|faults| faults.streaming = Streaming::Works);
            pair.server.delete("n2");
            pair.server.forget();
            pair.server.cut();
            pair.wait_for(&["n1", "n3", "n4"]).await;
            let lists = pair.asked().iter().filter(|asked| *asked == "list nodes").count();
            assert_eq!(lists, 1, "{streaming:?}");
        });
    }
}

#[test]
fn a_streamed_list_that_stays_silent_is_given_up_before_anybody_waits_long() {
    for streaming in [Streaming::Silent, Streaming::Mute] {
        run(async {
            let begin = Instant::now();
            let mut pair = Pair::new(|server| server.faults(|faults| faults.streaming = streaming));
            pair.wait_for(&["n1", "n2", "n3"]).await;
            assert_eq!(pair.asked(), ["watch nodes", "list nodes"], "{streaming:?}");
            assert!(begin.elapsed() < Duration::from_secs(12), "{streaming:?}: {:?}", begin.elapsed());
        });
    }
}

#[test]
fn a_streamed_list_that_does_not_end_is_given_up() {
    run(async {
        let mut pair = Pair::new(|server| server.faults(|faults| faults.streaming = Streaming::Endless));
        // The source waited longer than for other lists, because something came all the time.
        pair.follower.next(2 * LIMIT).await;
        pair.wait_for(&["n1", "n2", "n3"]).await;
        assert_eq!(pair.asked(), ["watch nodes", "list nodes"]);
    });
}

#[test]
fn a_server_that_is_busy_is_spared_for_as_long_as_it_asks() {
    run(async {
        let begin = Instant::now();
        let mut pair = Pair::new(|server| server.faults(|faults| faults.streaming = Streaming::TooMany(2)));
        pair.wait_for(&["n1", "n2", "n3"]).await;
        assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
        assert_eq!(pair.asked(), ["watch nodes", "list nodes"], "nothing in between");
    });
}

#[test]
fn a_watch_that_is_cut_is_resumed_where_it_ended() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        let version = pair.server.bookmark();
        pair.server.put(node(4));
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
        pair.server.cut();
        pair.server.delete("n2");
        pair.wait_for(&["n1", "n3", "n4"]).await;
        let last = pair.server.requests().pop().unwrap();
        assert_eq!(last.query("resourceVersion"), Some((version + 1).to_string().as_str()), "{last:?}");
        assert_eq!(last.query("sendInitialEvents"), None);
    });
}

#[test]
fn bookmarks_move_the_version_and_tell_nothing() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        let version = pair.server.bookmark();
        pair.is_quiet().await;
        pair.server.cut();
        let deadline = Instant::now() + LIMIT;
        while pair.server.requests().len() < 2 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let last = pair.server.requests().pop().unwrap();
        assert_eq!(last.query("resourceVersion"), Some(version.to_string().as_str()));
    });
}

#[test]
fn a_version_that_the_server_has_forgotten_is_listed_anew_and_what_is_gone_meanwhile_goes() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        pair.server.delete("n3");
        pair.wait_for(&["n1", "n2"]).await;
        // The fault is the answer to the watch.
        pair.server.cut();
        pair.server.put(node(4));
        pair.server.delete("n2");
        pair.server.forget();
        pair.wait_for(&["n1", "n4"]).await;
        // The fault is a line of the watch.
        let expired = json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410,
                                                         "reason": "Expired", "message": "too old"}});
        pair.server.send(format!("{expired}\n").as_bytes());
        pair.is_quiet().await;
        pair.server.put(node(5));
        pair.wait_for(&["n1", "n4", "n5"]).await;
        let lists =
            pair.server.requests().iter().filter(|one| one.query("sendInitialEvents").is_some()).count();
        assert!(lists >= 3, "{lists}");
    });
}

#[test]
fn a_list_that_breaks_off_tells_nothing_until_it_is_complete() {
    let half = br#"{"type":"ADDED","object":{"metadata":{"name":"n"#.to_vec();
    for bytes in [Vec::new(), half, b"<html>\n".to_vec(), vec![0xff, 0xfe, b'\n']] {
        run(async {
            let mut pair = Pair::new(|server| server.faults(|faults| faults.break_list_with = Some(bytes)));
            let first = pair.follower.next(LIMIT).await;
            let is_whole = first.is_some_and(|names| names.iter().eq(["n1", "n2", "n3"]));
            assert!(is_whole, "the first thing that is told is complete");
            assert_eq!(pair.asked(), ["watch nodes", "list nodes"]);
        });
    }
}

#[test]
fn half_a_line_and_nonsense_in_a_watch_change_nothing() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        pair.server.send(br#"{"type":"DELETED","object":{"metadata":{"name":"n2""#);
        pair.server.cut();
        pair.is_quiet().await;
        pair.server.send(b"nonsense\n");
        assert!(pair.follower.next(QUIET).await.is_none(), "the list that follows says nothing new");
        pair.server.put(node(4));
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
    });
}

#[test]
fn a_huge_object_and_a_slow_server_are_taken_as_they_come() {
    run(async {
        let mut pair = Pair::new(|server| {
            let mut huge = node(4);
            huge["metadata"]["annotations"] = json!({"junk": "x".repeat(3 << 20)});
            server.put(huge);
        });
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
        pair.server.faults(|faults| {
            faults.piece = 400;
            faults.slowness = Duration::from_millis(10);
        });
        pair.server.delete("n4");
        pair.server.forget();
        pair.server.cut();
        pair.wait_for(&["n1", "n2", "n3"]).await;
    });
}

#[test]
fn a_line_that_never_ends_is_given_up_and_the_nodes_stay() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        pair.server.send(&vec![b'x'; 17 << 20]);
        pair.server.put(node(4));
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
    });
}

#[test]
fn a_server_that_is_away_changes_nothing_and_the_difference_comes_when_it_is_back() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        pair.server.stop();
        pair.server.delete("n2");
        pair.server.put(node(7));
        pair.is_quiet().await;
        pair.server.start(TcpListener::bind(pair.server.address()).unwrap());
        pair.wait_for(&["n1", "n3", "n7"]).await;
    });
}

#[test]
fn a_token_that_is_replaced_is_read_again() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        pair.server.want_token("second-token");
        pair.server.put(node(4));
        pair.is_quiet().await;
        pair.server.write_token("second-token");
        pair.wait_for(&["n1", "n2", "n3", "n4"]).await;
    });
}

#[test]
fn a_server_whose_certificate_is_anothers_is_not_believed() {
    run(async {
        let mut pair = Pair::new(|_| ());
        pair.wait_for(&["n1", "n2", "n3"]).await;
        // Another server is at the same place, with an authority of its own.
        pair.server.stop();
        let listener = TcpListener::bind(pair.server.address()).unwrap();
        let impostor = ApiServer::new(listener, &pair.directory.path().join("impostor"));
        impostor.put(node(9));
        pair.is_quiet().await;
        assert!(impostor.requests().is_empty());
    });
}
