//! How long to wait between tries: longer each time, and never equally long on two nodes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The first wait is between half of this and all of it.
const FIRST: Duration = Duration::from_millis(800);
/// The longest wait. A cluster of thousands must not overrun a server that has just come back.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits that double from one to the next, with jitter.
#[derive(Debug)]
pub struct Pause {
    wait: Duration,
}

impl Pause {
    /// The waits before the first try.
    pub fn new() -> Self {
        Self { wait: FIRST }
    }

    /// The next wait: a random time between half of it and all of it.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.wait;
        self.wait = (full * 2).min(LONGEST);
        // Every `RandomState` gets a new key, which is random enough to keep nodes apart.
        let chance = RandomState::new().build_hasher().finish() as u32;
        full / 2 + (full / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }

    /// Makes the next wait short again, because a try succeeded.
    pub fn reset(&mut self) {
        self.wait = FIRST;
    }
}

impl Default for Pause {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_within_their_bounds_and_begin_again() {
        let mut pause = Pause::new();
        let mut full = FIRST;
        for _ in 0..10 {
            let wait = pause.next_wait();
            assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(LONGEST);
        }
        assert_eq!(full, LONGEST);
        pause.reset();
        assert!(pause.next_wait() <= FIRST);
    }

    #[test]
    fn two_nodes_do_not_wait_equally_long() {
        let waits: std::collections::BTreeSet<_> = (0..20).map(|_| Pause::new().next_wait()).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }
}
