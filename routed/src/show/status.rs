//! The daemon's state in a few words: for the service manager, its watchdog, and health.

use std::time::{Duration, Instant};

/// A pass that takes longer than this hangs. Then the watchdog is no longer fed.
const LONGEST_PASS: Duration = Duration::from_secs(60);

/// The daemon's state, for the service manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the first pass was completed.
    pub ready: bool,
    /// One line for a person.
    pub text: String,
    /// When the current pass began.
    pub busy_since: Option<Instant>,
    /// When the current work on the host's side began.
    pub host_since: Option<Instant>,
}

impl Status {
    /// Whether neither thread hangs.
    pub fn turns(&self) -> bool {
        [self.busy_since, self.host_since].into_iter().flatten().all(|since| since.elapsed() < LONGEST_PASS)
    }
}
