//! Notice of a file that others write: a configuration, or what another daemon hands over.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::atomic::directory_of;

/// Why a file cannot be watched.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The kernel gives no more watches to this user.
    #[error("{} cannot be watched: {source}; raise fs.inotify.max_user_instances or max_user_watches", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Any other failure.
    #[error("{} cannot be watched: {source}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Tells when a file may have changed: written and closed, renamed into place, removed, or replaced together with its
/// directory.
///
/// Neither the file nor its directory need exist. What is watched is the directory, or, as long as there is none, the
/// nearest directory above it that exists; when the missing one appears, the watch moves down. A file that is created
/// and still being written is not told of until it is closed, so that nobody reads half of one that is written in
/// place. A file that is a link into a directory that is swapped beside it (as Kubernetes mounts a ConfigMap) is told
/// of too; a link to a file elsewhere is not followed.
///
/// Changes that happen while nobody waits are kept, and many may be told as one. The caller reads the file once after
/// making the watch, and again after each [`FileWatch::changed`].
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    events: AsyncFd<Handle>,
    place: Place,
    seen: Option<Stamp>,
}

/// The directory that is watched.
#[derive(Debug)]
struct Place {
    descriptor: WatchDescriptor,
    directory: PathBuf,
    /// The entry of the directory that the file is, or is below.
    entry: OsString,
    /// True if the file would be in the directory itself.
    direct: bool,
}

/// What tells one state of a file from another: device, inode, size and time of the last change (seconds, nanoseconds).
type Stamp = (u64, u64, u64, i64, i64);

/// `AsyncFd` wants a raw descriptor, which `Inotify` does not offer.
#[derive(Debug)]
struct Handle(Inotify);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl FileWatch {
    /// Watches from here on. Must be called inside a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// If the kernel gives no watch.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, WatchError> {
        let path = path.into();
        // Names end at the root only if they begin there.
        let path = std::path::absolute(&path).map_err(|source| failed(&path, source))?;
        let begin = || -> io::Result<(AsyncFd<Handle>, Place)> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let place = settle(&inotify, &path)?;
            Ok((register(inotify)?, place))
        };
        match begin() {
            Ok((events, place)) => Ok(Self { seen: stamp(&path), path, events, place }),
            Err(source) => Err(failed(&path, source)),
        }
    }

    /// Waits until the file may have changed. Cancel safe.
    ///
    /// # Errors
    /// If the kernel takes the watch away and gives no other.
    pub async fn changed(&mut self) -> Result<(), WatchError> {
        loop {
            if self.drain().await.map_err(|source| failed(&self.path, source))? {
                return Ok(());
            }
        }
    }

    /// Waits for events and takes all that there are; true if they concern the file. Cancel safe: after the wait there
    /// is no other.
    async fn drain(&mut self) -> io::Result<bool> {
        let mut ready = self.events.readable().await?;
        let mut events = Vec::new();
        loop {
            match ready.get_inner().0.read_events() {
                Ok(more) => events.extend(more),
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        drop(ready);
        self.weigh(&events)
    }

    fn weigh(&mut self, events: &[InotifyEvent]) -> io::Result<bool> {
        let mut concerned = false;
        let mut moved = false;
        for event in events {
            match self.meaning(event) {
                Meaning::Nothing => {}
                Meaning::Changed => concerned = true,
                Meaning::PerhapsChanged => concerned |= stamp(&self.path) != self.seen,
                Meaning::Moved => moved = true,
            }
        }
        if moved {
            let was_direct = self.place.direct;
            self.resettle()?;
            concerned |= was_direct || self.place.direct;
        }
        if concerned {
            self.seen = stamp(&self.path);
        }
        Ok(concerned)
    }

    fn meaning(&self, event: &InotifyEvent) -> Meaning {
        let mask = event.mask;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Meaning::Moved;
        }
        if event.wd != self.place.descriptor {
            // Left over from a directory that is no longer watched.
            return Meaning::Nothing;
        }
        if mask.intersects(
            AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF,
        ) {
            return Meaning::Moved;
        }
        let created = mask.contains(AddWatchFlags::IN_CREATE);
        let same_entry = event.name.as_deref() == Some(self.place.entry.as_os_str());
        match (self.place.direct, same_entry) {
            (true, true) if created && being_written(&self.path) => Meaning::Nothing,
            (true, true) => Meaning::Changed,
            (true, false) if created || mask.contains(AddWatchFlags::IN_CLOSE_WRITE) => Meaning::Nothing,
            (true, false) => Meaning::PerhapsChanged,
            (false, true) => Meaning::Moved,
            (false, false) => Meaning::Nothing,
        }
    }

    /// Watches what is now the right directory.
    fn resettle(&mut self) -> io::Result<()> {
        let inotify = &self.events.get_ref().0;
        let old = self.place.descriptor;
        self.place = settle(inotify, &self.path)?;
        if old != self.place.descriptor {
            // Fails if the directory is gone, and its watch with it.
            let _ = inotify.rm_watch(old);
        }
        Ok(())
    }
}

/// What an event tells about the file.
enum Meaning {
    Nothing,
    Changed,
    /// The file is perhaps a link that leads elsewhere now.
    PerhapsChanged,
    /// Another directory is to be watched.
    Moved,
}

/// What makes the use of the deprecated function sound: [`Handle`] owns the descriptor, always gives the same one, and
/// nothing else closes it.
#[expect(deprecated, reason = "the function that replaces it is unsafe, which this crate does not allow")]
fn register(inotify: Inotify) -> io::Result<AsyncFd<Handle>> {
    AsyncFd::with_interest(Handle(inotify), Interest::READABLE)
}

/// Watches the directory of `path`, or the nearest above it that exists.
fn settle(inotify: &Inotify, path: &Path) -> io::Result<Place> {
    loop {
        let place = nearest(inotify, path)?;
        // The missing directory may have been made after it was looked for and before the watch above it began.
        if place.direct || !place.directory.join(&place.entry).is_dir() {
            return Ok(place);
        }
    }
}

fn nearest(inotify: &Inotify, path: &Path) -> io::Result<Place> {
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let mut below = path;
    let mut direct = true;
    loop {
        let directory = directory_of(below);
        let entry = below.file_name().unwrap_or(OsStr::new("")).to_owned();
        match inotify.add_watch(directory, flags) {
            Ok(descriptor) => {
                return Ok(Place { descriptor, directory: directory.to_owned(), entry, direct });
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) if directory.parent().is_some() => {
                below = directory;
                direct = false;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// True for a plain file that appeared by being opened: its close will be told of. A link, of either kind, is complete
/// when it appears.
fn being_written(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|stat| stat.is_file() && stat.nlink() == 1)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let stat = fs::metadata(path).ok()?;
    Some((stat.dev(), stat.ino(), stat.size(), stat.ctime(), stat.ctime_nsec()))
}

fn failed(path: &Path, source: io::Error) -> WatchError {
    let path = path.to_owned();
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENOSPC) => WatchError::Limit { path, source },
        _ => WatchError::Failed { path, source },
    }
}
