//! Waiting in tests, for the tests of all crates. It looks again and again and gives up at a deadline; it never guesses how long
//! something takes. A test takes this file in with `#[path]`.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often to look.
const PACE: Duration = Duration::from_millis(5);

/// Looks until there is something; `None` if there is nothing within `limit`.
pub(crate) fn get<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        // The time is read before the look: a look that begins in time counts, even if it ends late.
        let is_last = begun.elapsed() > limit;
        let found = look();
        if found.is_some() || is_last {
            return found;
        }
        sleep(PACE);
    }
}

/// Looks until the condition holds, and tells how long that took; `None` if it does not hold within `limit`.
pub(crate) fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let begun = Instant::now();
    get(limit, || condition().then(|| begun.elapsed()))
}

/// Looks until the condition holds. The test fails if it does not within `limit`, and `what` says what was waited for.
pub(crate) fn until<W: Display>(limit: Duration, condition: impl FnMut() -> bool, what: impl FnOnce() -> W) {
    assert!(within(limit, condition).is_some(), "{}: not within {limit:?}", what());
}
