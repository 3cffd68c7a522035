//! Leases that nobody gave back: the real daemon, real links, and paths in the place of namespaces.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::common::{Place, allocate, attachment, figure, leases, until};
use ferrule_wire::{Client, Lease, List};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

const CONFIG: &str = "[ipam]\nreclaim_after_s = 1\ncooldown_s = 0\n\
    [[ipam.pool]]\nname = \"p\"\nsubnets = [\"10.7.0.0/20\"]\n\
    [metrics]\nipamd = \"127.0.0.1:9478\"\n";

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("`ip` is missing: install iproute2");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network namespace for this test alone: links are seen by every daemon of the namespace.
fn alone() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    ip(&["link", "set", "lo", "up"]);
}

fn link_name(id: &str) -> String {
    ferrule_model::host_veth_name(&attachment(id)).as_str().to_owned()
}

/// The host's end of the pod's pair, as the plugin calls it.
fn add_link(id: &str) {
    let name = link_name(id);
    ip(&["link", "add", &name, "type", "veth", "peer", "name", &format!("p{}", &name[3..])]);
    let second = ferrule_model::second_name(&ferrule_model::host_veth_name(&attachment(id))).unwrap();
    ip(&["link", "property", "add", "dev", &name, "altname", second.as_str()]);
}

fn delete_link(id: &str) {
    ip(&["link", "delete", &link_name(id)]);
}

fn netns(place: &Place, id: &str) -> PathBuf {
    let directory = place.dir.path().join("netns");
    fs::create_dir_all(&directory).unwrap();
    directory.join(id)
}

fn give(place: &Place, client: &mut Client, id: &str) -> Lease {
    let mut call = allocate(id);
    call.netns = Some(netns(place, id).to_str().unwrap().to_owned());
    client.call(&call).unwrap().lease
}

fn ids(client: &mut Client) -> BTreeSet<String> {
    leases(client).into_iter().map(|lease| lease.attachment.container_id).collect()
}

fn is_reclaimed(place: &Place, id: &str) -> bool {
    place.log().lines().any(|line| line.contains("lease reclaimed") && line.contains(id))
}

#[test]
fn what_has_neither_namespace_nor_link_is_taken_back_and_nothing_else() {
    alone();
    let place = Place::new(CONFIG);
    let daemon = place.start();
    let mut client = place.client();
    for id in ["live", "no-link", "no-namespace", "lost-one", "lost-two"] {
        give(&place, &mut client, id);
    }
    client.call(&allocate("without-path")).unwrap();
    for id in ["live", "no-link"] {
        fs::write(netns(&place, id), "").unwrap();
    }
    for id in ["live", "no-namespace"] {
        add_link(id);
    }
    until("the first is taken back", || is_reclaimed(&place, "lost-one") && is_reclaimed(&place, "lost-two"));
    let log = place.log();
    let line =
        log.lines().find(|line| line.contains("lease reclaimed") && line.contains("lost-one")).unwrap();
    for part in ["10.7.0.", "netns/lost-one", &link_name("lost-one")] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let stay = ["live", "no-link", "no-namespace", "without-path"].map(str::to_owned);
    assert_eq!(ids(&mut client), BTreeSet::from(stay));

    // A link that goes later, and a daemon that was restarted: the others stay through two more graces.
    daemon.kill();
    let _daemon = place.start();
    let mut client = place.client();
    fs::remove_file(netns(&place, "no-link")).unwrap();
    until("the second is taken back", || is_reclaimed(&place, "no-link"));
    assert_eq!(ids(&mut client), BTreeSet::from(["live", "no-namespace", "without-path"].map(str::to_owned)));
    delete_link("no-namespace");
    until("the third is taken back", || is_reclaimed(&place, "no-namespace"));
    assert_eq!(ids(&mut client), BTreeSet::from(["live", "without-path"].map(str::to_owned)));
    let counted = figure("127.0.0.1:9478", "ferrule_ipamd_leases_reclaimed_total{reason=\"gone\"}");
    assert_eq!(counted, Some(2.0), "since the daemon was started");
    delete_link("live");
}

/// Somebody gives a pod's link another name: it still has the pod's address.
#[test]
fn a_lease_whose_link_was_renamed_is_not_taken_back() {
    alone();
    let place = Place::new(CONFIG);
    let _daemon = place.start();
    let mut client = place.client();
    add_link("renamed");
    ip(&["link", "set", &link_name("renamed"), "name", "uplink7"]);
    give(&place, &mut client, "renamed");
    for id in ["lost-one", "lost-two"] {
        give(&place, &mut client, id);
        until("what is lost is taken back", || is_reclaimed(&place, id));
        assert!(ids(&mut client).contains("renamed"));
    }
    ip(&["link", "delete", "uplink7"]);
    until("what is gone is taken back", || is_reclaimed(&place, "renamed"));
}

#[test]
fn a_daemon_in_another_network_namespace_than_the_plugin_takes_nothing_back() {
    alone();
    let place = Place::new(CONFIG);
    let daemon = place.start();
    place.client();
    // From here on the calls come from another one.
    alone();
    let mut client = place.client();
    for id in ["blind-lost", "blind-live"] {
        give(&place, &mut client, id);
    }
    fs::write(netns(&place, "blind-live"), "").unwrap();
    add_link("blind-live");
    until("it says so", || place.log().contains("the plugin calls from another network namespace"));
    assert!(place.log().contains("leases=1"), "{}", place.log_end());
    // Longer than several looks.
    sleep(Duration::from_millis(2500));
    assert!(!is_reclaimed(&place, "blind-lost"));
    // The next one runs where the plugin does, and knows before anybody calls.
    daemon.kill();
    let _daemon = place.start();
    until("it is taken back", || is_reclaimed(&place, "blind-lost"));
    assert_eq!(ids(&mut place.client()), BTreeSet::from(["blind-live".to_owned()]));
    delete_link("blind-live");
}

#[test]
fn when_all_pods_were_killed_a_full_pool_is_told_as_such_and_taken_back_after_a_restart() {
    alone();
    let place = Place::new(&CONFIG.replace("10.7.0.0/20", "10.7.0.0/30").replace("_s = 1", "_s = 3"));
    let daemon = place.start();
    let mut client = place.client();
    for id in ["killed-one", "killed-two"] {
        give(&place, &mut client, id);
    }
    daemon.kill();
    let _daemon = place.start();
    let mut client = place.client();
    let call = allocate("new");
    until("the error tells what is gone", || {
        let error = client.call(&call).unwrap_err().to_string();
        assert!(error.contains("2 in use"), "{error}");
        error.contains("of those in use, 2 are of pods that are gone: ipamd takes them back")
    });
    until("a pod gets an address", || client.call(&call).is_ok());
    assert!(is_reclaimed(&place, "killed-one"), "{}", place.log_end());
}

#[test]
fn a_single_leaked_lease_is_taken_back_after_a_restart_without_any_other_pod() {
    alone();
    let place = Place::new(CONFIG);
    let daemon = place.start();
    give(&place, &mut place.client(), "leaked");
    until("where the plugin calls from is kept", || place.runtime_dir().join("ipamd.netns").exists());
    daemon.kill();
    let _daemon = place.start();
    until("it is taken back", || is_reclaimed(&place, "leaked"));
}

/// Pods come (their namespace and link late, in either order) and go without a word, while the daemon is killed and
/// started: none is taken back while it has a namespace or a link, and each that went is.
#[test]
fn under_churn_no_live_pod_loses_its_lease_and_every_dead_one_does() {
    const PODS: usize = 24;
    alone();
    let place = Arc::new(Place::new(CONFIG));
    let daemon = place.start();
    // Served before there is a link: with a new store it would ask whose that is.
    give(&place, &mut place.client(), "anchor");
    fs::write(netns(&place, "anchor"), "").unwrap();
    add_link("anchor");
    let done = Arc::new(AtomicBool::new(false));
    let pods: Vec<_> = (0..PODS)
        .map(|number| {
            let place = Arc::clone(&place);
            thread::spawn(move || {
                let id = format!("churn-{number}");
                let mut client = place.client();
                let mut call = allocate(&id);
                call.netns = Some(netns(&place, &id).to_str().unwrap().to_owned());
                while client.call(&call).is_err() {
                    client = place.client();
                }
                // Late by up to 0.7 s, well within the grace.
                sleep(Duration::from_millis(30 * number as u64));
                match number % 3 {
                    0 => fs::write(netns(&place, &id), "").unwrap(),
                    1 => add_link(&id),
                    _ => {
                        add_link(&id);
                        fs::write(netns(&place, &id), "").unwrap();
                    }
                }
            })
        })
        .collect();
    let restarts = {
        let (place, done) = (Arc::clone(&place), Arc::clone(&done));
        thread::spawn(move || {
            let mut daemon = daemon;
            // Losses have time to be found in one life of the daemon once that is longer than a grace and a look,
            // however slow the machine is.
            let mut life = Duration::from_millis(1700);
            while !done.load(Ordering::SeqCst) {
                sleep(life);
                life += Duration::from_millis(500);
                daemon.kill();
                daemon = place.start();
            }
            daemon
        })
    };
    pods.into_iter().for_each(|pod| pod.join().unwrap());
    let mut dead = BTreeSet::new();
    for number in (0..PODS).step_by(2) {
        let id = format!("churn-{number}");
        if number % 3 != 1 {
            fs::remove_file(netns(&place, &id)).unwrap();
        }
        if number % 3 != 0 {
            delete_link(&id);
        }
        dead.insert(id);
    }
    // Not by the log: a daemon may be killed when it has taken a lease back and not yet said so.
    until("every dead pod's lease is taken back", || {
        let mut leases = Vec::new();
        let listed = place.client().call_more(&List {}, |page| leases.extend(page.leases)).is_ok();
        listed && leases.iter().all(|lease| !dead.contains(&lease.attachment.container_id))
    });
    done.store(true, Ordering::SeqCst);
    let _daemon = restarts.join().unwrap();
    let expected: BTreeSet<String> = (0..PODS)
        .map(|number| format!("churn-{number}"))
        .filter(|id| !dead.contains(id))
        .chain(["anchor".to_owned()])
        .collect();
    assert_eq!(ids(&mut place.client()), expected);
}
