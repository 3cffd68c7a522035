//! The daemon is killed with SIGKILL at random moments, a hundred times (`make soak`: a thousand), under 32 callers
//! that allocate, release, and now and then vanish with their pod. After each start: every lease that was acknowledged
//! is there, none twice, and every acknowledged release happened. Left in peace, the daemon takes back what vanished,
//! and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::common::{Dice, Place, allocate, attachment, leases, until};
use ferrule_wire::{Client, ClientError, Pools, Release};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// How often, if `FERRULE_KILLS` does not say.
const KILLS: usize = 100;
const CALLERS: usize = 32;
/// Pods of each caller: few, so that each is allocated and released again and again.
const PODS: usize = 2;
/// How often in a run the daemon is left in peace until it has taken back what vanished.
const RECONCILES: usize = 3;

/// Addresses for all that can vanish between two reconciles, and no cooldown: addresses change hands all the time.
const CONFIG: &str = "[ipam]\ncooldown_s = 0\nreclaim_after_s = 1\n\
    [[ipam.pool]]\nname = \"p\"\nsubnets = [\"10.0.0.0/22\", \"fd00::/118\"]\n";
/// A pod that lives all the time, with a link: the sign that the daemon looks at the right network namespace.
const ANCHOR: &str = "anchor";

/// What a caller knows of one of its pods.
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

/// One caller, with its pods and those that went without a word.
struct Caller {
    name: usize,
    known: BTreeMap<String, Known>,
    vanished: BTreeSet<String>,
}

impl Caller {
    fn new(name: usize, place: &Place) -> Self {
        let mut caller = Self { name, known: BTreeMap::new(), vanished: BTreeSet::new() };
        (0..PODS).for_each(|_| caller.begin(place));
        caller
    }

    /// Another pod, whose namespace is there before its address is.
    fn begin(&mut self, place: &Place) {
        let id = format!("{}-{}", self.name, self.known.len() + self.vanished.len());
        fs::write(netns(place, &id), "").unwrap();
        self.known.insert(id, Known::Free);
    }

    /// A pod goes, its namespace too, and nobody says so; for some a call is under way whose answer nobody reads.
    fn vanish(&mut self, place: &Place, client: &mut Client, dice: &mut Dice) {
        let id = self.pick(dice);
        if dice.roll(2) == 0 {
            // The daemon may be dead by now.
            let _ = client.send(&call(place, &id));
        }
        self.known.remove(&id);
        self.vanished.insert(id.clone());
        fs::remove_file(netns(place, &id)).unwrap();
        self.begin(place);
    }

    fn pick(&self, dice: &mut Dice) -> String {
        let number = usize::try_from(dice.roll(self.known.len() as u64)).unwrap();
        self.known.keys().nth(number).unwrap().clone()
    }

    /// Calls until the daemon dies; returns how many calls were acknowledged.
    fn churn(&mut self, place: &Place, dice: &mut Dice, killed: &AtomicBool) -> usize {
        let socket = place.runtime_dir().join("ipamd.sock");
        let mut client = match Client::connect(&socket, crate::common::soon()) {
            Ok(client) => client,
            Err(_) if killed.load(Ordering::SeqCst) => return 0,
            Err(error) => panic!("{error:?}\n{}", place.log_end()),
        };
        for acknowledged in 0.. {
            let id = self.pick(dice);
            let (next, result) = act(place, &mut client, &id, &self.known[&id]);
            self.known.insert(id.clone(), next);
            match result {
                Ok(()) => {}
                Err(ClientError::Closed | ClientError::Broken { .. }) if killed.load(Ordering::SeqCst) => {
                    return acknowledged;
                }
                Err(error) => panic!("{id}: {error:?}\n{}", place.log_end()),
            }
            if acknowledged == 1 && dice.roll(8) == 0 {
                self.vanish(place, &mut client, dice);
                client = match Client::connect(&socket, crate::common::soon()) {
                    Ok(client) => client,
                    Err(_) if killed.load(Ordering::SeqCst) => return acknowledged + 1,
                    Err(error) => panic!("{error:?}\n{}", place.log_end()),
                };
            }
        }
        0
    }
}

/// One call for a pod, and what its caller knows afterwards.
fn act(place: &Place, client: &mut Client, id: &str, known: &Known) -> (Known, Result<(), ClientError>) {
    match known {
        Known::Free | Known::PerhapsLeased => match client.call(&call(place, id)) {
            Ok(reply) => (Known::Leased(reply.lease.addresses), Ok(())),
            Err(error) => (Known::PerhapsLeased, Err(error)),
        },
        Known::Leased(had) | Known::PerhapsFree(had) => {
            match client.call(&Release { attachment: attachment(id) }) {
                Ok(reply) => {
                    let sure = matches!(known, Known::Leased(_));
                    assert!(!sure || reply.released == *had, "{id}: {had:?} leased, {reply:?} released");
                    (Known::Free, Ok(()))
                }
                Err(error) => (Known::PerhapsFree(had.clone()), Err(error)),
            }
        }
    }
}

fn netns(place: &Place, id: &str) -> PathBuf {
    place.dir.path().join("netns").join(id)
}

fn call(place: &Place, id: &str) -> ferrule_wire::Allocate {
    ferrule_wire::Allocate { netns: netns(place, id).to_str().map(str::to_owned), ..allocate(id) }
}

/// Holds what the callers know against what the daemon says, and settles what they could not know. Returns how many
/// leases are left of pods that vanished.
fn judge(place: &Place, callers: &mut [Caller]) -> usize {
    let listed = leases(&mut place.client());
    let addresses: BTreeSet<_> = listed.iter().flat_map(|lease| &lease.addresses).collect();
    assert_eq!(addresses.len(), 2 * listed.len(), "an address is leased twice: {listed:?}");
    let mut held: BTreeMap<String, Vec<IpNetwork>> =
        listed.into_iter().map(|lease| (lease.attachment.container_id, lease.addresses)).collect();
    held.remove(ANCHOR).expect("the anchor has its lease");
    for (id, known) in callers.iter_mut().flat_map(|caller| &mut caller.known) {
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
    let vanished = |id: &String| callers.iter().any(|caller| caller.vanished.contains(id));
    let strangers: Vec<_> = held.keys().filter(|id| !vanished(id)).collect();
    assert!(strangers.is_empty(), "leases that nobody asked for: {strangers:?}");
    held.len()
}

/// Left in peace: all that vanished is taken back by one reconcile, and nothing else.
fn reconcile(place: &Place, callers: &mut [Caller]) -> usize {
    let daemon = place.start();
    let leaked = judge(place, callers);
    until("what vanished is taken back", || judge(place, callers) == 0);
    let live = callers.iter().flat_map(|caller| caller.known.values());
    let live = 1 + live.filter(|known| matches!(known, Known::Leased(_))).count() as u64;
    for pool in place.client().call(&Pools {}).unwrap().pools {
        assert_eq!((pool.in_use, pool.resting, pool.draining), (live, 0, 0), "{pool:?}");
    }
    assert!(daemon.stop().success());
    leaked
}

/// Starts the daemon, lets the callers call, kills it; how many calls were acknowledged.
fn kill_under_load(place: &Place, callers: &mut [Caller], dice: &mut Dice) -> usize {
    if dice.roll(4) == 0 {
        // A start that is cut off, before the store is open or after.
        let daemon = place.start();
        sleep(Duration::from_micros(dice.roll(80_000)));
        daemon.kill();
    }
    let daemon = place.start();
    judge(place, callers);
    let killed = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = callers
            .iter_mut()
            .map(|caller| {
                let mut dice = Dice(dice.roll(u64::MAX) | 1);
                let killed = &killed;
                scope.spawn(move || caller.churn(place, &mut dice, killed))
            })
            .collect();
        // From before the first call to well into the churn.
        sleep(Duration::from_micros(dice.roll(60_000)));
        killed.store(true, Ordering::SeqCst);
        daemon.kill();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    })
}

/// Where the store is in production, tmpfs, with the anchor's lease and link.
fn place() -> Place {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let place = Place::within(Path::new("/dev/shm"), CONFIG);
    fs::create_dir(place.dir.path().join("netns")).unwrap();
    fs::write(netns(&place, ANCHOR), "").unwrap();
    let daemon = place.start();
    place.client().call(&call(&place, ANCHOR)).unwrap();
    daemon.kill();
    let link = ferrule_model::host_veth_name(&attachment(ANCHOR));
    let made = Command::new("ip").args(["link", "add", link.as_str(), "type", "veth"]).status();
    assert!(made.expect("`ip` is missing: install iproute2").success());
    place
}

#[test]
fn kills_lose_double_and_leak_nothing() {
    let kills = std::env::var("FERRULE_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let (begun, mut dice) = (Instant::now(), Dice::new());
    let place = place();
    let mut callers: Vec<Caller> = (0..CALLERS).map(|name| Caller::new(name, &place)).collect();
    let (mut acknowledged, mut reclaimed) = (0, 0);
    for kill in 1..=kills {
        acknowledged += kill_under_load(&place, &mut callers, &mut dice);
        if kill % (kills / RECONCILES).max(1) == 0 {
            reclaimed += reconcile(&place, &mut callers);
        }
    }
    reclaimed += reconcile(&place, &mut callers);
    let log = place.log();
    assert!(!log.contains("the store is damaged"), "a kill is no damage\n{log}");
    println!(
        "{kills} kills, {acknowledged} calls acknowledged, {reclaimed} leases of vanished pods taken back, {:?}",
        begun.elapsed()
    );
    assert!(acknowledged > 10 * kills, "too little load to prove anything: {acknowledged}");
    assert!(20 * reclaimed > kills, "too few vanished to prove anything: {reclaimed}");
}
