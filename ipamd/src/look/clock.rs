//! The only clock: the time since boot, which includes suspend (`CLOCK_BOOTTIME`). Changes of the wall clock do not
//! move it. It goes on across restarts of the daemon, so a cooldown that began before a restart ends when it should.

use nix::time::{ClockId, clock_gettime};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A source of the time. Tests bring their own.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The kernel's boot clock.
#[must_use]
pub fn boot_clock() -> Clock {
    // The clock exists since Linux 2.6.39, so every kernel that runs pods has it. If it failed, the time would stay
    // zero and released addresses would rest for ever.
    Arc::new(|| clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
}

/// The id of this boot of the machine.
///
/// # Errors
/// `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
