//! Everyone to everyone: runs every check of every cell of the table. Lives here: the checks and their judgement; printing is
//! `table`'s part.

use std::{
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    addressing::Family,
    echo::{self, Ledger, Transport},
    endpoint::{Endpoint, full_size, is_promised, permitted_sources},
    error::Result,
    ping,
};

/// Cells in work at a time. More than the cores: most of a cell is waiting.
const WORKERS: usize = 6;
/// Checks in a cell: two pings, TCP, UDP and the source address, each for both families.
pub const CHECKS: usize = 10;

/// A check that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which check: `ping4`, `tcp6` and so on.
    pub check: String,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub saw: String,
}

/// What came of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Nothing is promised there (an endpoint to itself, node to node).
    Blank,
    /// Checked; no failures means that all [`CHECKS`] held.
    Checked(Vec<Failure>),
}

/// Numbers for exchanges, unique in the process: two runs may share a ledger.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// Runs all checks; the result's rows are `sources`, its columns `destinations`, in their order. Echo servers must be running at the
/// destinations and note into `ledger`.
pub fn run(sources: &[Endpoint], destinations: &[Endpoint], ledger: &Ledger) -> Result<Vec<Vec<Cell>>> {
    let next = AtomicUsize::new(0);
    let cells = Mutex::new(vec![vec![Cell::Blank; destinations.len()]; sources.len()]);
    let work = || -> Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (row, column) = (index / destinations.len(), index % destinations.len());
            let Some(from) = sources.get(row) else { return Ok(()) };
            let to = &destinations[column];
            if from.name == to.name || !is_promised(&from.kind, &to.kind) {
                continue;
            }
            from.space.adopt_thread()?;
            let failures = check(from, to, ledger)?;
            cells.lock().unwrap_or_else(PoisonError::into_inner)[row][column] = Cell::Checked(failures);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(cells.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// All checks of one cell, from the calling thread, which is in the source's namespace.
fn check(from: &Endpoint, to: &Endpoint, ledger: &Ledger) -> Result<Vec<Failure>> {
    let mut failures = Vec::new();
    let full = full_size(&from.kind, &to.kind);
    let mut pings = Vec::new();
    for family in Family::BOTH {
        let at = to.at.of(family);
        pings.push((
            format!("ping{}", family.digit()),
            format!("a reply from {at}"),
            ping::start(at, None, ping::PATIENCE)?,
        ));
        let expected = format!("a reply from {at} to {} bytes with don't-fragment", full.unwrap_or_default());
        pings.push((format!("full{}", family.digit()), expected, ping::start(at, full, ping::PATIENCE)?));
    }
    for family in Family::BOTH {
        failures.extend(talk(from, to, family, ledger));
    }
    for (check, expected, child) in pings {
        if let Err(saw) = ping::finish(child)? {
            failures.push(Failure { check, expected, saw });
        }
    }
    Ok(failures)
}

/// TCP, UDP and the source address both showed.
fn talk(from: &Endpoint, to: &Endpoint, family: Family, ledger: &Ledger) -> Vec<Failure> {
    let mut failures = Vec::new();
    let permitted = permitted_sources(from, to, family);
    let mut peers: Vec<Option<IpAddr>> = Vec::new();
    for (name, transport) in [("tcp", Transport::Tcp), ("udp", Transport::Udp)] {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let at = to.at.of(family);
        let saw = match echo::exchange(transport, at, number) {
            Err(error) => Some(error.to_string()),
            Ok(exchange) if exchange.received != exchange.sent => Some(format!(
                "{} bytes back that are not the {} sent",
                exchange.received.len(),
                exchange.sent.len()
            )),
            Ok(exchange) => match ledger.take(number) {
                None => Some("an echo, but the server did not see the payload".to_owned()),
                Some(seen) => {
                    peers.push(Some(seen.peer));
                    (seen.payload != exchange.sent).then(|| "a different payload at the server".to_owned())
                }
            },
        };
        if let Some(saw) = saw {
            let expected = format!("the payload whole at {at} and back");
            failures.push(Failure { check: format!("{name}{}", family.digit()), expected, saw });
        }
    }
    peers.resize(2, None);
    if !peers.iter().all(|peer| peer.is_some_and(|peer| permitted.contains(&peer))) {
        let text = |peer: &Option<IpAddr>| peer.map_or("none".to_owned(), |peer| peer.to_string());
        failures.push(Failure {
            check: format!("source{}", family.digit()),
            expected: permitted.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" or "),
            saw: peers.iter().map(text).collect::<Vec<_>>().join(" and "),
        });
    }
    failures
}
