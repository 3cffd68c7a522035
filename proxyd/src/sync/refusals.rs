//! Services that the kernel refused, and when each is tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::unit::Wanted;
use crate::decide::{Frontend, ServiceName};

/// The first wait after a refusal, and the longest one.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// The refused Services.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<Arc<ServiceName>, Refused>);

#[derive(Debug)]
struct Refused {
    wanted: Vec<Frontend>,
    wait: Duration,
    due: Instant,
    reason: String,
}

impl Refusals {
    /// The kernel refused the Service. It waits twice as long as the last time. Returns whether the reason is new.
    pub(super) fn add(&mut self, (name, wanted): Wanted, reason: String, now: Instant) -> bool {
        let before = self.0.get(&name);
        let is_new = before.is_none_or(|before| before.reason != reason);
        let wait = before.map_or(FIRST, |before| (before.wait * 2).min(LONGEST));
        self.0.insert(name, Refused { wanted, wait, due: now + wait, reason });
        is_new
    }

    /// The Service is no longer refused, or nobody wants it any more.
    pub(super) fn remove(&mut self, name: &ServiceName) {
        self.0.remove(name);
    }

    /// Those that may be tried at `now`.
    pub(super) fn due(&self, now: Instant) -> Vec<Wanted> {
        let due = self.0.iter().filter(|(_, refused)| refused.due <= now);
        due.map(|(name, refused)| (Arc::clone(name), refused.wanted.clone())).collect()
    }

    /// When the next one may be tried.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|refused| refused.due).min()
    }

    /// A sentence for each.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.0.iter().map(|(name, refused)| format!("{name}: {}", refused.reason)).collect();
        all.sort();
        all
    }
}
