//! The one clock: time since boot, suspend included (`CLOCK_BOOTTIME`). No change of the wall clock moves it, and it
//! goes on across restarts of the daemon, so a cooldown begun before a restart ends when it should.

use nix::time::{ClockId, clock_gettime};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Where the time comes from; tests bring their own.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The kernel's boot clock.
#[must_use]
pub fn boot_clock() -> Clock {
    // The clock exists since Linux 2.6.39, so every kernel that runs pods has it. If it failed, the time would stay zero and
    // released addresses would rest for ever.
    Arc::new(|| clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
}

/// What tells this boot of the machine from others.
///
/// # Errors
/// `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
