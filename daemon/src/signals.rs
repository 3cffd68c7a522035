//! The frame of a daemon's life: the runtime it runs on, and the signals that tell it to stop or to read its files
//! again.

use std::io;

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs a future to its end on a runtime of its own, on this thread. The daemons have little to do at a time. Work that
/// takes long runs on other threads.
///
/// # Errors
/// The operating system gives no runtime.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

/// What a signal asks of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// To stop; the name of the signal.
    Stop(&'static str),
    /// SIGHUP: to read its files again.
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP, caught from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Catches the signals from here on. Must be called inside a tokio runtime with I/O enabled. It must also be called
    /// before the daemon says that it is ready, because a signal in between would kill the daemon.
    ///
    /// A SIGHUP that was held back ([`Signals::hold_reload`]) is heard too.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn catch() -> io::Result<Self> {
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        };
        SigSet::from(Number::SIGHUP).thread_unblock()?;
        Ok(signals)
    }

    /// Waits for the next signal. Cancel safe.
    pub async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Heard::Stop("SIGINT"),
            _ = self.hangup.recv() => Heard::Reload,
        }
    }

    /// Makes SIGHUP wait until the program that this process is about to execute in its place catches it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hold_reload() -> io::Result<()> {
        Ok(SigSet::from(Number::SIGHUP).thread_block()?)
    }
}
