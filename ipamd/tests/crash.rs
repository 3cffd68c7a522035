//! The daemon is killed with SIGKILL at random moments, a hundred times (`make soak`: a thousand), under 32 callers that allocate and release. After
//! each start: every lease that was acknowledged is there, none twice, and every acknowledged release happened.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod common;

use common::{Place, allocate, attachment, leases};
use ferrule_wire::{Client, ClientError, Release};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// How often, if `FERRULE_KILLS` does not say.
const KILLS: usize = 100;
const CALLERS: usize = 32;
/// Attachments of each caller: few, so that each is allocated and released again and again.
const ATTACHMENTS: usize = 2;

/// What a caller knows of one of its attachments.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// Nothing is leased: acknowledged, or never asked for.
    Free,
    /// This is leased: acknowledged.
    Leased(Vec<IpNetwork>),
    /// An Allocate was cut off: leased or not.
    PerhapsLeased,
    /// A Release was cut off: this is leased or nothing is.
    PerhapsFree(Vec<IpNetwork>),
}

type Knowledge = BTreeMap<String, Known>;

/// A small generator of moments and choices (xorshift): a failure names its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Calls until the daemon dies; returns how many calls were acknowledged.
fn churn(place: &Place, known: &mut Knowledge, dice: &mut Dice, killed: &AtomicBool) -> usize {
    let mut client = match Client::connect(&place.runtime_dir().join("ipamd.sock"), common::soon()) {
        Ok(client) => client,
        Err(_) if killed.load(Ordering::SeqCst) => return 0,
        Err(error) => panic!("{error:?}\n{}", place.log_end()),
    };
    let ids: Vec<String> = known.keys().cloned().collect();
    for acknowledged in 0.. {
        let id = &ids[usize::try_from(dice.roll(ids.len() as u64)).unwrap()];
        let (next, result) = match &known[id] {
            Known::Free | Known::PerhapsLeased => match client.call(&allocate(id)) {
                Ok(reply) => (Known::Leased(reply.lease.addresses), Ok(())),
                Err(error) => (Known::PerhapsLeased, Err(error)),
            },
            Known::Leased(had) | Known::PerhapsFree(had) => {
                let sure = matches!(known[id], Known::Leased(_));
                match client.call(&Release { attachment: attachment(id) }) {
                    Ok(reply) => {
                        assert!(!sure || reply.released == *had, "{id}: {had:?} leased, {reply:?} released");
                        (Known::Free, Ok(()))
                    }
                    Err(error) => (Known::PerhapsFree(had.clone()), Err(error)),
                }
            }
        };
        known.insert(id.clone(), next);
        match result {
            Ok(()) => {}
            Err(error @ (ClientError::Closed | ClientError::Broken { .. })) => {
                assert!(
                    killed.load(Ordering::SeqCst),
                    "hung up on without a kill: {error:?}\n{}",
                    place.log_end()
                );
                return acknowledged;
            }
            Err(error) => panic!("{id}: {error:?}\n{}", place.log_end()),
        }
    }
    0
}

/// Holds what the callers know against what the daemon says, and settles what they could not know.
fn judge(place: &Place, callers: &mut [Knowledge]) {
    let listed = leases(&mut place.client());
    let addresses: BTreeSet<_> = listed.iter().flat_map(|lease| &lease.addresses).collect();
    assert_eq!(addresses.len(), 2 * listed.len(), "an address is leased twice: {listed:?}");
    let mut held: BTreeMap<String, Vec<IpNetwork>> =
        listed.into_iter().map(|lease| (lease.attachment.container_id, lease.addresses)).collect();
    for (id, known) in callers.iter_mut().flatten() {
        let found = held.remove(id);
        let agrees = match known {
            Known::Free => found.is_none(),
            Known::Leased(addresses) => found.as_ref() == Some(addresses),
            Known::PerhapsLeased => true,
            Known::PerhapsFree(addresses) => found.as_ref().is_none_or(|found| found == addresses),
        };
        assert!(agrees, "{id}: known as {known:?}, found {found:?}\n{}", place.log_end());
        *known = found.map_or(Known::Free, Known::Leased);
    }
    assert!(held.is_empty(), "leases that nobody asked for: {held:?}");
}

#[test]
fn kills_lose_and_double_nothing() {
    let kills = std::env::var("FERRULE_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let begun = Instant::now();
    let seed = u64::from(std::process::id()) | 1 << 40;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    // 126 addresses for 64 attachments, no cooldown: addresses change hands all the time.
    let config =
        "[ipam]\ncooldown_s = 0\n[[ipam.pool]]\nname = \"p\"\nsubnets = [\"10.0.0.0/25\", \"fd00::/121\"]\n";
    // Where the store is in production: tmpfs.
    let place = Place::within(Path::new("/dev/shm"), config);
    let names =
        |caller: usize| (0..ATTACHMENTS).map(move |n| (format!("{caller}-{n}"), Known::Free)).collect();
    let mut callers: Vec<Knowledge> = (0..CALLERS).map(names).collect();
    let mut acknowledged = 0;
    for _ in 0..kills {
        if dice.roll(4) == 0 {
            // A start that is cut off, before the store is open or after.
            let daemon = place.start();
            sleep(Duration::from_micros(dice.roll(80_000)));
            daemon.kill();
        }
        let daemon = place.start();
        judge(&place, &mut callers);
        let killed = AtomicBool::new(false);
        acknowledged += thread::scope(|scope| {
            let threads: Vec<_> = callers
                .iter_mut()
                .map(|known| {
                    let mut dice = Dice(dice.roll(u64::MAX) | 1);
                    let (place, killed) = (&place, &killed);
                    scope.spawn(move || churn(place, known, &mut dice, killed))
                })
                .collect();
            // From before the first call to well into the churn.
            sleep(Duration::from_micros(dice.roll(60_000)));
            killed.store(true, Ordering::SeqCst);
            daemon.kill();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
    }
    let daemon = place.start();
    judge(&place, &mut callers);
    assert!(daemon.stop().success());
    println!("{kills} kills, {acknowledged} calls acknowledged, {:?}", begun.elapsed());
    assert!(acknowledged > 10 * kills, "too little load to prove anything: {acknowledged}");
}
