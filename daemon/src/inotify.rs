//! The kernel's way to tell of files, `inotify(7)`, inside a tokio runtime.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify, InotifyEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where the kernel's events come from.
#[derive(Debug)]
pub(crate) struct Source(AsyncFd<Handle>);

/// `AsyncFd` needs a raw descriptor, which `Inotify` does not offer.
#[derive(Debug)]
struct Handle(Inotify);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Source {
    /// A source that watches nothing yet. Must be called inside a tokio runtime with I/O enabled.
    pub(crate) fn open() -> io::Result<Self> {
        register(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?).map(Self)
    }

    /// What the watches are added to.
    pub(crate) fn inotify(&self) -> &Inotify {
        &self.0.get_ref().0
    }

    /// Waits for events and takes in all of them. Cancel safe, because it waits only once, at the beginning.
    pub(crate) async fn events(&self) -> io::Result<Vec<InotifyEvent>> {
        let mut ready = self.0.readable().await?;
        let mut events = Vec::new();
        loop {
            match ready.get_inner().0.read_events() {
                Ok(more) => events.extend(more),
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(events)
    }
}

/// The deprecated function is sound here for three reasons: [`Handle`] owns the descriptor, always gives the same one,
/// and nothing else closes it.
#[expect(deprecated, reason = "the function that replaces it is unsafe, which this crate does not allow")]
fn register(inotify: Inotify) -> io::Result<AsyncFd<Handle>> {
    AsyncFd::with_interest(Handle(inotify), Interest::READABLE)
}

/// What an operator can do if the kernel does not watch. It begins with a semicolon, and is empty if nothing is known.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENOSPC) => {
            "; raise fs.inotify.max_user_instances or max_user_watches, which other programs have used up"
        }
        _ => "",
    }
}
