//! How it goes, in a few words: for the service manager, its watchdog, and health.

use std::time::{Duration, Instant};

/// A pass that takes longer than this hangs: the watchdog is not fed any more.
const LONGEST_PASS: Duration = Duration::from_secs(60);

/// How it goes, for the service manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The first pass is through.
    pub ready: bool,
    /// One line for a person.
    pub text: String,
    /// Since when a pass has been going on.
    pub busy_since: Option<Instant>,
    /// Since when the host's side has been worked on.
    pub host_since: Option<Instant>,
}

impl Status {
    /// Whether both threads go on.
    pub fn turns(&self) -> bool {
        [self.busy_since, self.host_since].into_iter().flatten().all(|since| since.elapsed() < LONGEST_PASS)
    }
}
