//! Scenarios out of nothing: calls, time that passes, configurations that change, ends of all kinds, in any order, held
//! against a plain reference: by the parts (writer, service, pool, sled) with a clock that the test turns, and by the
//! real daemon.
//!
//! What is promised: an address is in at most one lease; the same attachment has the same lease; what was never used
//! comes first, then what was released longest ago; a cooldown is kept across restarts and counted; subnets that were
//! withdrawn drain.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]
#![allow(unreachable_pub, reason = "a module of tests has no outside")]

#[path = "../common/mod.rs"]
mod common;
mod reference;
mod subjects;

use ferrule_wire::{Allocate, AllocateReply, Check, Collect};
use ipnetwork::IpNetwork;
use proptest::prelude::*;
use proptest::test_runner::Config;
use reference::{Reference, Said, Verdict, whom};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use subjects::{End, Parts, Process, Subject};

#[derive(Debug, Clone)]
enum Step {
    Allocate(Wish),
    Release(u8),
    /// Of one with the addresses that another has.
    Check(u8, u8),
    Collect(BTreeSet<u8>),
    Wait(u64),
    Configure(u8, usize),
    /// With a call under way and a release in the queue.
    End(End, Option<Wish>, Option<u8>),
}

#[derive(Debug, Clone)]
struct Wish {
    id: u8,
    pool: Option<&'static str>,
    requested: Option<&'static str>,
}

impl Wish {
    fn call(&self) -> Allocate {
        Allocate {
            pool: self.pool.map(str::to_owned),
            requested: self.requested.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect(),
            ..Allocate::new(whom(self.id))
        }
    }
}

const IDS: u8 = 12;

fn wishes() -> impl Strategy<Value = Wish> {
    let pool = prop_oneof![6 => Just(None), 2 => Just(Some("two")), 1 => Just(Some("none"))];
    let some =
        &["10.1.0.1", "10.2.0.0", "10.3.0.2", "10.3.0.5", "10.4.0.2", "fd01::3", "fd03::4", "10.9.9.9"];
    let requested = prop_oneof![5 => Just(None), 1 => proptest::sample::select(&some[..]).prop_map(Some)];
    (0..IDS, pool, requested).prop_map(|(id, pool, requested)| Wish { id, pool, requested })
}

fn steps(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let ends = prop_oneof![Just(End::Stop), Just(End::Crash), Just(End::Reboot)];
    let step = prop_oneof![
        12 => wishes().prop_map(Step::Allocate),
        8 => (0..IDS).prop_map(Step::Release),
        1 => (0..IDS, 0..IDS).prop_map(|(of, with)| Step::Check(of, with)),
        1 => prop::collection::btree_set(0..IDS, 0..8).prop_map(Step::Collect),
        3 => (0u64..40).prop_map(Step::Wait),
        2 => (0u8..16, 0usize..2).prop_map(|(subnets, cooldown)| Step::Configure(subnets, cooldown)),
        2 => (ends, prop::option::of(wishes()), prop::option::of(0..IDS))
            .prop_map(|(end, last, queued)| Step::End(end, last, queued)),
    ];
    prop::collection::vec(step, 1..longest)
}

/// Takes the subject and the reference through the steps, and compares them after each.
fn walk(
    subject: &mut dyn Subject,
    mut reference: Reference,
    cooldowns: [u64; 2],
    steps: Vec<Step>,
) -> Verdict {
    for step in steps {
        // Nothing happens at the same time, so that the order of releases is told.
        reference.now += Duration::from_secs(1);
        subject.turn(reference.now);
        match step {
            Step::Allocate(wish) => {
                let call = wish.call();
                let answer = subject.allocate(&call);
                reference.allocated(&call, &answer)?;
            }
            Step::Release(id) => {
                prop_assert_eq!(subject.release(&whom(id)), reference.release(&whom(id)));
            }
            Step::Check(of, with) => {
                let addresses = reference.leases.get(&whom(with)).map(|lease| lease.addresses.clone());
                let call = Check { attachment: whom(of), addresses: addresses.unwrap_or_default() };
                let answer = subject.check(&call);
                reference.checked(&call, &answer)?;
            }
            Step::Collect(valid) => {
                let call =
                    Collect { network: "pods".to_owned(), valid: valid.into_iter().map(whom).collect() };
                prop_assert_eq!(subject.collect(&call), reference.collect(&call));
            }
            Step::Wait(seconds) => {
                reference.now += Duration::from_secs(seconds);
                subject.turn(reference.now);
            }
            Step::Configure(subnets, cooldown) => {
                reference.said = Said { subnets, cooldown_s: cooldowns[cooldown] };
                subject.configure(reference.said);
                reference.forget();
            }
            Step::End(end, last, queued) => ended(subject, &mut reference, end, last, queued)?,
        }
        compare(subject, &reference)?;
    }
    Ok(())
}

/// An end and a new beginning. A call whose answer nobody read happened or did not; what the subject says of it
/// afterwards is believed if it could be so.
fn ended(
    subject: &mut dyn Subject,
    reference: &mut Reference,
    end: End,
    last: Option<Wish>,
    queued: Option<u8>,
) -> Verdict {
    let queued = queued.map(whom);
    let last = last.map(|wish| wish.call()).filter(|call| queued.as_ref() != Some(&call.attachment));
    let (end, answer) = subject.end(end, last.as_ref(), queued.as_ref());
    if let Some(call) = last {
        let is_new = !reference.leases.contains_key(&call.attachment);
        let found = |lease| Ok(AllocateReply { lease, existing: false, mtu: None });
        let mut leases =
            subject.leases().into_iter().filter(|lease| is_new && lease.attachment == call.attachment);
        if let Some(answer) = answer.or_else(|| leases.next().map(found)) {
            reference.allocated(&call, &answer)?;
        }
    }
    if end == End::Reboot {
        reference.reboot();
    }
    // The store is read before the queue.
    reference.forget();
    if let Some(whom) = queued {
        reference.release(&whom);
    }
    Ok(())
}

fn compare(subject: &mut dyn Subject, reference: &Reference) -> Verdict {
    let leases = subject.leases();
    let addresses: Vec<&IpNetwork> = leases.iter().flat_map(|lease| &lease.addresses).collect();
    prop_assert_eq!(
        addresses.iter().collect::<BTreeSet<_>>().len(),
        addresses.len(),
        "an address is leased twice"
    );
    let leases: BTreeMap<_, _> = leases.into_iter().map(|lease| (lease.attachment.clone(), lease)).collect();
    prop_assert_eq!(&leases, &reference.leases);
    reference.counted(&subject.pools())?;
    reference.status(&subject.status())?;
    let (shown, expected) = (subject.resting(), reference.resting());
    let at: BTreeMap<IpAddr, Duration> = expected.iter().map(|&(at, ip)| (ip, at)).collect();
    prop_assert_eq!(shown.iter().collect::<BTreeSet<_>>(), at.keys().collect::<BTreeSet<_>>());
    prop_assert!(shown.is_sorted_by_key(|ip| at[ip]), "not in the order of their release: {shown:?}");
    Ok(())
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() }
}

proptest! {
    #![proptest_config(config(128))]
    #[test]
    fn the_parts_do_as_the_reference_does(steps in steps(80)) {
        let said = Said { subnets: 0b0101, cooldown_s: 30 };
        let reference = Reference::new(said);
        let mut parts = Parts::start(said, reference.now);
        walk(&mut parts, reference, [30, 5], steps)?;
    }
}

proptest! {
    #![proptest_config(config(12))]
    #[test]
    fn the_daemon_does_as_the_reference_does(steps in steps(60)) {
        let said = Said { subnets: 0b0101, cooldown_s: 3600 };
        let mut daemon = Process::start(said);
        walk(&mut daemon, Reference::new(said), [3600, 0], steps)?;
    }
}

/// At a start what has rested is forgotten first, and then the queue is performed: what comes out of it rests by what
/// is configured next.
#[test]
fn a_queued_release_is_younger_than_the_start() {
    let said = Said { subnets: 0b0101, cooldown_s: 3600 };
    let give = |id| Step::Allocate(Wish { id, pool: None, requested: None });
    let end = Step::End(End::Stop, None, Some(5));
    let steps = vec![give(0), give(1), give(5), Step::Configure(0, 1), end, Step::Configure(1, 0)];
    walk(&mut Process::start(said), Reference::new(said), [3600, 0], steps).unwrap();
}
