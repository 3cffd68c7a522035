//! The talk with the service manager (sd_notify(3)). Without one, nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Tells the service manager the daemon's state.
///
/// The first `ready` ends the start of a `Type=notify` unit, and units that are ordered after it start then. Nothing
/// here fails: if the service manager cannot be told, that is logged, and the service manager may restart the daemon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notifier;

impl Notifier {
    /// Tells that the daemon serves. `status` is what `systemctl status` shows.
    pub fn ready(self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// Sets what `systemctl status` shows from now on.
    pub fn status(self, status: &str) {
        tell(&[NotifyState::Status(&one_line(status))]);
    }

    /// Tells that the daemon has begun to stop.
    pub fn stopping(self) {
        tell(&[NotifyState::Stopping]);
    }

    /// The keep-alive that the unit's `WatchdogSec` asks for. Must be called inside a tokio runtime.
    #[must_use]
    pub fn watchdog(self) -> Watchdog {
        // Beats come twice in the period that the service manager waits, as sd_watchdog_enabled(3) recommends.
        let beat = sd_notify::watchdog_enabled().map(|period| period / 2).filter(|beat| !beat.is_zero());
        Watchdog { beat: beat.map(every) }
    }
}

/// Shows the service manager that the daemon's loop still runs.
#[derive(Debug)]
pub struct Watchdog {
    beat: Option<Interval>,
}

impl Watchdog {
    /// Waits for the next beat and sends it. Waits forever if no watchdog was asked for.
    ///
    /// It has to be an arm of the daemon's main `select!`, so that the beats show that this very loop runs. Cancel
    /// safe.
    pub async fn beat(&mut self) {
        match &mut self.beat {
            Some(beat) => {
                beat.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut beat = interval(period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// The status on one line. A newline would end the assignment and begin another one.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told ({states:?})");
    }
}
