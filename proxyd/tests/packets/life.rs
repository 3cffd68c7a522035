//! The daemon's life: changes, kills, restarts, meddling, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lab::{Daemon, Lab, PATIENCE, Service, ask, say, within};

/// Promised: what someone else changes is back within this time.
const REPAIR: Duration = Duration::from_secs(1);

#[test]
fn no_connection_fails_while_endpoints_come_and_go_and_the_daemon_is_killed() {
    let lab = Lab::new();
    lab.add_others(1..=4);
    let service = |numbers: &[u8]| Service::new(1).with_others(numbers.iter().copied());
    let mut daemon = Some(lab.start(&[service(&[1, 2, 3, 4])]));
    let mut open = lab.pods[0].connect("10.96.0.1:80");
    let endpoint = say(&mut open).unwrap().from;
    let (stop, count, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
                if lab.pods[1].tcp("10.96.0.1:80").is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for numbers in [&[1_u8, 2][..], &[3, 4], &[1, 2, 3], &[4], &[1, 2, 3, 4]] {
            lab.write(&[service(numbers)]);
            let expected: std::collections::BTreeSet<_> =
                numbers.iter().map(|number| crate::lab::other4(*number)).collect();
            let is_so = || {
                let spread = lab.pods[0].spread("10.96.0.1:80", 40);
                spread.into_keys().collect::<std::collections::BTreeSet<_>>() == expected
            };
            assert!(within(PATIENCE, is_so).is_some(), "{numbers:?}: {:?}", daemon.as_ref().map(Daemon::log));
            daemon.take().unwrap().kill();
            daemon = Some(lab.start_again());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.into_inner(), 0, "of {} connections", count.into_inner());
    assert_eq!(say(&mut open).unwrap().from, endpoint, "the connection from the beginning lives");
    let log = daemon.unwrap().log();
    assert!(!log.contains("someone else"), "{log}");
}

#[test]
fn what_someone_else_does_to_the_table_is_undone_within_a_second() {
    let lab = Lab::new();
    let daemon = lab.start(&[Service::new(1).with_pod(1)]);
    // A packet that is lost is not sent again, so each try is a new one.
    let is_served = || {
        let client = lab.pods[0].udp_client("10.96.0.1:80");
        client.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
        ask(&client).is_ok()
    };
    assert!(within(PATIENCE, is_served).is_some());
    let lines = [
        "delete table inet ferrule-services",
        "flush map inet ferrule-services services4",
        "flush map inet ferrule-services endpoints4",
        "flush chain inet ferrule-services prerouting",
        "flush ruleset",
    ];
    for (told, line) in (1..).zip(lines) {
        lab.node.run("nft", line);
        let begun = Instant::now();
        assert!(within(PATIENCE, is_served).is_some(), "{line}: {}", daemon.log());
        println!("{line}: served again after {:?}", begun.elapsed());
        assert!(begun.elapsed() < REPAIR, "{line}: it took {:?}", begun.elapsed());
        let names = || daemon.log().matches("by someone else").count() >= told;
        assert!(within(PATIENCE, names).is_some(), "{line}: {}", daemon.log());
    }
}

#[test]
fn the_mark_leaves_no_packet_of_a_service() {
    let lab = Lab::new();
    lab.add_others([7]);
    let _daemon = lab.start(&[Service::new(1).with_others([7]).with_pod(1)]);
    let counting = lab.path("count.nft");
    let text =
        "table inet count { counter marked { }\n chain out { type filter hook postrouting priority 300;
        meta mark & 0x4000 != 0 counter name marked; }\n}\n";
    std::fs::write(&counting, text).unwrap();
    lab.node.run("nft", &format!("-f {}", counting.display()));
    for space in [&lab.outside, &lab.node, &lab.pods[0]] {
        assert_eq!(space.spread("10.96.0.1:80", 40).len(), 2);
    }
    let counted = lab.node.run("nft", "list counter inet count marked");
    assert!(counted.contains("packets 0 "), "{counted}");
}

#[test]
fn cleanup_removes_the_table_and_plan_tells_without_it() {
    let lab = Lab::new();
    let daemon = lab.start(&[Service::new(1).with_pod(1)]);
    let run = |word: &str| {
        let mut command = lab.daemon_command();
        let output = lab.node.inside(|| command.arg(word).output()).unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert!(!run("cleanup").0, "the daemon would put it back");
    daemon.kill();
    assert!(lab.pods[0].tcp("10.96.0.1:80").is_ok());
    assert!(run("cleanup").0);
    assert!(!lab.node.run("nft", "list tables").contains("ferrule-services"));
    let (is_good, plan) = run("plan");
    assert!(is_good && plan.contains("10.96.0.1") && plan.contains("10.244.1.6:8080"), "{plan}");
    assert!(!lab.node.run("nft", "list tables").contains("ferrule-services"));
}

#[test]
fn host_ports_come_first_in_both_orders_of_start() {
    let lab = Lab::new();
    let hostports = lab.path("hostports.nft");
    std::fs::write(&hostports, ferrule_model::table::SKELETON).unwrap();
    let open_port = || {
        lab.node.run("nft", &format!("-f {}", hostports.display()));
        // Host port 30080 of TCP leads to the first pod.
        let element = "add element inet ferrule-hostports every4 { tcp . 30080 : 10.244.1.5 . 8080 }";
        lab.node.run("nft", element);
    };
    let service = || Service::new(1).with("type = \"NodePort\"").node_port(30_080).with_pod(1);
    let endpoint = || lab.outside.tcp("192.0.2.1:30080").unwrap().from;
    open_port();
    let daemon = lab.start(&[service()]);
    assert_eq!(endpoint(), "10.244.1.5");
    daemon.kill();
    lab.node.run("nft", "flush ruleset");
    let _daemon = Arc::new(lab.start_again());
    assert_eq!(endpoint(), "10.244.1.6");
    open_port();
    assert_eq!(endpoint(), "10.244.1.5");
}
