//! The real daemon among a thousand callers that behave badly in every way: those that behave do not notice, memory
//! stays bounded, and a stop in the middle of it leaves nobody with a lease that he was not told of.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail the test and say how"
)]

use crate::common::{Daemon, Place, allocate, attachment, leases, soon, until};
use ferrule_wire::{Client, ClientError, Pools, Release};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const POOL: &str =
    "[ipam]\ncooldown_s = 0\n[[ipam.pool]]\nname = \"p\"\nsubnets = [\"10.0.0.0/20\", \"fd00::/64\"]\n";
/// More than the daemon serves at once.
const CROWD: usize = 1000;
/// Callers that behave.
const POLITE: usize = 8;
/// What the plugin would wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the daemon may take at the most: debug builds start at some 15 MB.
const MEMORY_KB: u64 = 120_000;

fn connect(place: &Place) -> UnixStream {
    let stream = UnixStream::connect(place.runtime_dir().join("ipamd.sock")).unwrap();
    stream.set_write_timeout(Some(crate::common::LONG)).unwrap();
    stream.set_read_timeout(Some(crate::common::LONG)).unwrap();
    stream
}

/// A value of the daemon's status in kB.
fn memory_kb(daemon: &Daemon, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Pods come and go, each call on a connection of its own as the plugin's are; the longest call and how many.
fn behave(place: &Place, caller: usize, done: &AtomicBool) -> (Duration, usize) {
    let (mut longest, mut calls) = (Duration::ZERO, 0);
    let socket = place.runtime_dir().join("ipamd.sock");
    while !done.load(Ordering::SeqCst) {
        let id = format!("polite-{caller}-{calls}");
        for call in [true, false] {
            let begun = Instant::now();
            let mut client = Client::connect(&socket, soon()).unwrap();
            if call {
                assert!(!client.call(&allocate(&id)).unwrap().existing);
            } else {
                let released = client.call(&Release { attachment: attachment(&id) }).unwrap().released;
                assert_eq!(released.len(), 2);
            }
            longest = longest.max(begun.elapsed());
            calls += 1;
        }
    }
    (longest, calls)
}

/// Runs `misbehave` while others behave, who must not notice.
fn unnoticed(place: &Place, what: &str, misbehave: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let (longest, calls) = scope(|scope| {
        let done = &done;
        let polite: Vec<_> =
            (0..POLITE).map(|caller| scope.spawn(move || behave(place, caller, done))).collect();
        misbehave();
        done.store(true, Ordering::SeqCst);
        let done = polite.into_iter().map(|polite| polite.join().unwrap());
        done.fold((Duration::ZERO, 0), |(longest, calls), (one, more)| (longest.max(one), calls + more))
    });
    println!("{what}: {calls} calls beside, the longest took {longest:?}");
    assert!(longest < PATIENCE, "{what}: {longest:?}\n{}", place.log_end());
}

/// Waits until this one has been hung up on.
fn is_hung_up_on(stream: &mut UnixStream) {
    let mut bytes = Vec::new();
    // The end, or a reset because something of ours was not read.
    let _ = stream.read_to_end(&mut bytes);
}

#[test]
fn a_thousand_callers_that_misbehave_are_not_noticed_and_memory_stays_bounded() {
    let place = Place::within(Path::new("/dev/shm"), POOL);
    let daemon = place.start();
    drop(place.client());
    let before = memory_kb(&daemon, "VmRSS");

    unnoticed(&place, "a thousand silent", || {
        let mut silent: Vec<UnixStream> = (0..CROWD).map(|_| connect(&place)).collect();
        // The first make room for the last.
        is_hung_up_on(&mut silent[0]);
    });
    unnoticed(&place, "a thousand with half a call", || {
        let mut half: Vec<UnixStream> = (0..CROWD).map(|_| connect(&place)).collect();
        for stream in &mut half {
            // Who has been hung up on by now is told so.
            let _ = stream.write_all(b"{\"method\":\"io.ferrule.Ipam.Allo");
        }
        is_hung_up_on(&mut half[0]);
    });
    unnoticed(&place, "a hundred with 100 MB each, and as many of just below 1 MiB that never end", || {
        let piece = vec![b' '; 1 << 16];
        let mut large: Vec<UnixStream> = (0..200).map(|_| connect(&place)).collect();
        for number in 0..1600 {
            for (index, stream) in large.iter_mut().enumerate() {
                if index % 2 == 0 || number < 15 {
                    let _ = stream.write_all(&piece);
                }
            }
        }
    });
    unnoticed(&place, "a thousand with nonsense and unknown methods", || {
        for number in 0..CROWD {
            let call = if number % 2 == 0 { "{\"method\":\"io.ferrule.Ipam.Nope\"}\0" } else { "\0\0]\0" };
            let _ = connect(&place).write_all(call.as_bytes());
        }
    });
    unnoticed(&place, "a thousand that vanish after Allocate", || {
        for number in 0..CROWD {
            let mut client = Client::connect(&place.runtime_dir().join("ipamd.sock"), soon()).unwrap();
            client.send(&allocate(&format!("vanished-{}", number % 50))).unwrap();
        }
    });

    let (after, peak) = (memory_kb(&daemon, "VmRSS"), memory_kb(&daemon, "VmHWM"));
    println!("memory: {before} kB before, {after} kB after, {peak} kB at the most");
    assert!(peak < MEMORY_KB, "{peak} kB");
    // All connections are gone, and of the leases only those of vanished callers are left.
    let handles = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    until("the connections are closed", || handles() < 40);
    let left = leases(&mut place.client());
    assert!(left.iter().all(|lease| lease.attachment.container_id.starts_with("vanished-")), "{left:?}");
    assert_eq!(place.client().call(&Pools {}).unwrap().pools[0].in_use, left.len() as u64);
    assert!(daemon.stop().success());
}

/// Who was answered has what he was told, and who was not has nothing: whatever was begun is finished.
#[test]
fn a_stop_under_load_finishes_what_it_began_and_begins_nothing() {
    let place = Place::within(Path::new("/dev/shm"), POOL);
    let mut told = BTreeMap::new();
    for round in 0..5 {
        let daemon = place.start();
        drop(place.client());
        let rounds: Vec<BTreeMap<_, _>> = scope(|scope| {
            let callers: Vec<_> = (0..32)
                .map(|caller| {
                    let mut client = place.client();
                    scope.spawn(move || {
                        let mut told = BTreeMap::new();
                        for number in 0.. {
                            let id = format!("{round}-{caller}-{number}");
                            match client.call(&allocate(&id)) {
                                Ok(reply) => drop(told.insert(id, reply.lease)),
                                Err(ClientError::Closed | ClientError::Broken { .. }) => break,
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                        told
                    })
                })
                .collect();
            sleep(Duration::from_millis(20 * round));
            assert!(daemon.stop().success(), "{}", place.log_end());
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        told.extend(rounds.into_iter().flatten());
    }
    let _daemon = place.start();
    let held: BTreeMap<_, _> = leases(&mut place.client())
        .into_iter()
        .map(|lease| (lease.attachment.container_id.clone(), lease))
        .collect();
    println!("{} leases told of in 5 lives", told.len());
    assert!(told.len() > 32);
    assert_eq!(held, told);
}
