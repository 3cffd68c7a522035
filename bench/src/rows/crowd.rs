//! Whether an ADD costs more on a node that is full.

use ferrule_tests::error::{LabError, Result};

use super::{burst::at_once, verbs::alternate};
use crate::contender::{Contender, Verb};
use crate::row::{Row, Unit};
use crate::stand::{Bench, POOL_V4};
use crate::stats::Summary;

const PODS: u16 = 500;

/// ADD on a node with 500 pods beside ADD on one with none, ours and the peer's.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let (full, empty) = (bench.stand("full")?, bench.stand("empty")?);
    let ours = |space| Contender::ferrule(&bench.install, space, POOL_V4);
    let [with, without] =
        compare(bench, &ours(&full.node(1).machine.space)?, &ours(&empty.node(1).machine.space)?)?;
    let [peer, _] = compare(bench, &Contender::peer("ptp", 1)?, &Contender::peer("ptp", 1)?)?;
    let ratio = with.p50 / without.p50;
    let row = Row::new("ADD with 500 pods on the node", Unit::Time, with).peer("ptp + host-local", peer);
    let row = row.floor("our ADD with none", without);
    Ok(vec![row.target("≤ 1.15 × our ADD with none".to_owned(), ratio, ratio <= 1.15)])
}

fn compare(bench: &Bench, full: &Contender, empty: &Contender) -> Result<[Summary; 2]> {
    // The extra one is measured.
    let seats = full.seats(PODS + 1)?;
    let (measured, others) = seats.split_first().ok_or_else(|| LabError::promise("a seat", "none"))?;
    at_once(full, Verb::Add, others, 8)?;
    let single = empty.seat(1)?;
    let times = alternate(bench, [(full, measured), (empty, &single)])?;
    at_once(full, Verb::Del, others, 8)?;
    single.sandbox.remove(&empty.node)?;
    for seat in seats {
        seat.sandbox.remove(&full.node)?;
    }
    Ok(times.map(|times| Summary::of(&times).unwrap_or(Summary::single(f64::NAN))))
}
