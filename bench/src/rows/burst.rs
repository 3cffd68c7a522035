//! A burst: many pods at once, as when a node joins a cluster or comes back.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ferrule_tests::error::Result;

use crate::contender::{Contender, Seat, Verb};
use crate::row::{Row, Unit};
use crate::stand::{Bench, POOL_V4};
use crate::stats::Summary;

const PODS: u16 = 100;
const CONCURRENCY: usize = 16;
/// What a burst of deletions leaves to the kernel is over by then.
const REST: Duration = Duration::from_millis(500);

/// ADD and DEL of 100 pods at concurrency 16.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let stand = bench.stand("burst")?;
    let ours = Contender::ferrule(&bench.install, &stand.node(1).machine.space, POOL_V4)?;
    let all = [ours, Contender::peer("ptp", 1)?, Contender::floor(bench)?];
    let seats = all.iter().map(|contender| contender.seats(PODS)).collect::<Result<Vec<_>>>()?;
    let mut rates = vec![[Vec::new(), Vec::new()]; all.len()];
    for round in 0..bench.times(7, 2) {
        let measured = bench.calm(|| {
            let mut rates = [[0.0; 2]; 3];
            for place in 0..all.len() {
                let which = (place + round) % all.len();
                for (rate, verb) in rates[which].iter_mut().zip([Verb::Add, Verb::Del]) {
                    // For the machine to come to rest, not for anything in particular.
                    thread::sleep(REST);
                    let took = at_once(&all[which], verb, &seats[which], CONCURRENCY)?;
                    *rate = f64::from(PODS) / took.as_secs_f64();
                }
            }
            Ok(rates)
        })?;
        for (rates, [add, del]) in rates.iter_mut().zip(measured) {
            rates[0].push(add);
            rates[1].push(del);
        }
    }
    for (contender, seats) in all.iter().zip(seats) {
        for seat in seats {
            seat.sandbox.remove(&contender.node)?;
        }
    }
    let of =
        |which: usize, verb: usize| Summary::of(&rates[which][verb]).unwrap_or(Summary::single(f64::NAN));
    let row = |what: &str, verb: usize, factor: f64| {
        let row = Row::new(what, Unit::PerSecond, of(0, verb)).peer("ptp + host-local", of(1, verb));
        row.floor("floor", of(2, verb)).at_least_peer(factor)
    };
    Ok(vec![row("ADD, 100 pods, 16 at a time", 0, 4.0), row("DEL, 100 pods, 16 at a time", 1, 4.5)])
}

/// One verb for all seats, `concurrency` processes at a time; the time from the first start to the last end.
pub(super) fn at_once(
    contender: &Contender,
    verb: Verb,
    seats: &[Seat],
    concurrency: usize,
) -> Result<Duration> {
    let execs: Vec<_> = seats.iter().map(|seat| contender.exec(verb, seat)).collect();
    let next = AtomicUsize::new(0);
    let ready = Barrier::new(concurrency + 1);
    thread::scope(|scope| {
        let work = || {
            let entered = contender.node.adopt_thread();
            ready.wait();
            entered?;
            while let Some(exec) = execs.get(next.fetch_add(1, Ordering::Relaxed)) {
                exec.run()?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..concurrency).map(|_| scope.spawn(work)).collect();
        ready.wait();
        let start = Instant::now();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(start.elapsed())
    })
}
