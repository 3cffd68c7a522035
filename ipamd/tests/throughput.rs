//! A measurement, not a check: how many pods a second the daemon can give an address to and take it back from.
//! `cargo test --release -p ipamd --test throughput -- --ignored --nocapture`
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod common;

use common::{Place, allocate, attachment};
use ferrule_wire::Release;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const CALLERS: usize = 16;
const TIME: Duration = Duration::from_secs(5);

#[test]
#[ignore = "a measurement; takes its time and says nothing of right or wrong"]
fn allocate_and_release_with_16_callers_on_tmpfs() {
    let pool = "[[ipam.pool]]\nname = \"p\"\nsubnets = [\"10.0.0.0/16\", \"fd00::/64\"]\n";
    let place = Place::within(Path::new("/dev/shm"), pool);
    let _daemon = place.start();
    drop(place.client());
    let mut waits: Vec<Duration> = thread::scope(|scope| {
        let place = &place;
        let churn = move |caller: usize| {
            let mut client = place.client();
            let (begun, mut waits) = (Instant::now(), Vec::new());
            while begun.elapsed() < TIME {
                let id = format!("{caller}-{}", waits.len());
                let asked = Instant::now();
                client.call(&allocate(&id)).unwrap();
                waits.push(asked.elapsed());
                client.set_deadline(common::soon());
                client.call(&Release { attachment: attachment(&id) }).unwrap();
            }
            waits
        };
        let threads: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || churn(caller))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    waits.sort();
    let rate = waits.len() as f64 / TIME.as_secs_f64();
    println!(
        "{rate:.0} pairs of Allocate and Release a second; Allocate: median {:?}, 99 % {:?}, longest {:?}",
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        waits[waits.len() - 1]
    );
}
