//! Measures how long a round of the writer took, and on what the time was spent. All callers wait for a round, so a
//! long one is counted, and logged with what it waited for.

use std::time::{Duration, Instant};

/// A round that takes longer than this is logged. Callers wait for 5 s.
const SLOW: Duration = Duration::from_secs(1);

/// What a round spends its time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Calls that come in during the round, on the same thread.
    Gather,
    /// The directory of queued releases.
    Queue,
    /// The calls themselves, in memory.
    Calls,
    /// Waiting for the store's keeper, the thread that has to move older commits into sled before they are written
    /// over.
    Keeper,
    /// The disk that the store is on.
    Disk,
    /// Reading the store again after a failure.
    Reread,
    /// The answers.
    Answers,
    /// Lines of the log.
    Log,
}

/// The parts in words for people, in the same order.
const NAMES: [&str; 8] = [
    "calls that came in",
    "the queue of releases",
    "the calls",
    "the store's keeper",
    "the disk",
    "the store read again",
    "the answers",
    "the log",
];

/// A round's stopwatch.
#[derive(Debug)]
pub(crate) struct Pace {
    begun: Instant,
    lap: Instant,
    parts: [Duration; NAMES.len()],
}

impl Pace {
    pub(crate) fn begin() -> Self {
        let now = Instant::now();
        Self { begun: now, lap: now, parts: [Duration::ZERO; NAMES.len()] }
    }

    /// Counts the time since the last call of this kind as spent on this part.
    pub(crate) fn spent_on(&mut self, part: Part) {
        let now = Instant::now();
        self.parts[part as usize] += now.duration_since(self.lap);
        self.lap = now;
    }

    /// Counts this much of the time since the last call as spent on this part, and on no other.
    pub(crate) fn of_it(&mut self, part: Part, took: Duration) {
        self.parts[part as usize] += took;
        self.lap += took;
    }

    /// How long the round took and on what, if it was long.
    pub(crate) fn slow(&self) -> Option<(Duration, String)> {
        let took = self.lap.duration_since(self.begun);
        (took >= SLOW).then(|| (took, self.account()))
    }

    /// The parts that count, the longest first.
    fn account(&self) -> String {
        let mut parts: Vec<_> =
            self.parts.iter().zip(NAMES).filter(|(part, _)| part.as_millis() > 0).collect();
        parts.sort_by_key(|(part, _)| std::cmp::Reverse(**part));
        let named = parts.iter().map(|(part, name)| format!("{name} {} ms", part.as_millis()));
        named.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_round_is_told_with_what_took_longest_first() {
        let mut pace = Pace::begin();
        pace.of_it(Part::Calls, Duration::from_millis(3));
        pace.of_it(Part::Disk, Duration::from_millis(990));
        assert_eq!(pace.slow(), None);
        pace.of_it(Part::Keeper, Duration::from_millis(40));
        let (took, account) = pace.slow().unwrap();
        assert!((1033..1100).contains(&took.as_millis()), "{took:?}");
        assert_eq!(account, "the disk 990 ms, the store's keeper 40 ms, the calls 3 ms");
    }
}
