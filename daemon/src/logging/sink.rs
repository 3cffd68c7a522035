//! Takes the log's lines to standard error, without ever holding up a thread that logs.
//!
//! A reader that does not read (a full pipe, a hanging journal) holds up a write as long as it likes. So lines that the
//! reader would not take at once go to a separate thread. While that thread has lines, all others go there too, so that
//! they keep their order. Lines for which it has no room are lost and counted, and the log tells how many once there is
//! room again.

use std::io::{Write, stderr};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// So many bytes a pipe or a socket that is ready accepts in one write (`PIPE_BUF`; `unix_writable` in the kernel).
const READY: usize = 4096;

/// At most so many bytes may wait for the reader.
const ROOM: usize = 1 << 20;

/// How long the process waits at its end for the last lines.
const LAST: Duration = Duration::from_secs(1);

/// Lines on their way.
pub(super) struct Sink {
    state: Mutex<State>,
    more: Condvar,
    empty: Condvar,
}

struct State {
    waiting: Vec<u8>,
    lost: u64,
    /// Whether the thread has lines, waiting or in its hands.
    busy: bool,
    started: bool,
}

impl Sink {
    pub(super) const fn new() -> Self {
        let state = State { waiting: Vec::new(), lost: 0, busy: false, started: false };
        Self { state: Mutex::new(state), more: Condvar::new(), empty: Condvar::new() }
    }

    /// Takes whole lines.
    pub(super) fn write(&'static self, lines: &[u8]) {
        let mut state = self.lock();
        if !state.busy && lines.len() <= READY && is_ready() {
            // If this fails, there is nobody to tell.
            let _ = stderr().write_all(lines);
            return;
        }
        if state.waiting.len() + lines.len() > ROOM {
            state.lost += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            return;
        }
        state.waiting.extend_from_slice(lines);
        state.busy = true;
        if !state.started {
            let thread = thread::Builder::new().name("log".to_owned()).spawn(|| self.run());
            state.started = thread.is_ok();
        }
        self.more.notify_one();
    }

    /// Waits until all lines are written, but not for long.
    pub(super) fn flush(&self) {
        let state = self.lock();
        let waited = self.empty.wait_timeout_while(state, LAST, |state| state.busy && state.started);
        drop(waited);
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let idle = |state: &mut State| state.waiting.is_empty();
            drop(self.more.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner));
            let lines = std::mem::take(&mut self.lock().waiting);
            let _ = stderr().write_all(&lines);
            let lost = std::mem::take(&mut self.lock().lost);
            if lost > 0 {
                tracing::warn!(
                    lines = lost,
                    "lines of the log were lost: whoever has standard error did not read it"
                );
            }
            state = self.lock();
            if state.waiting.is_empty() {
                state.busy = false;
                self.empty.notify_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether standard error would accept some lines now.
fn is_ready() -> bool {
    let stderr = stderr();
    let mut end = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    matches!(poll(&mut end, PollTimeout::ZERO), Ok(1..))
}
