//! Watches a file that others write: a configuration, or what another daemon hands over. [`crate::trail`] follows the
//! way to the file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InotifyEvent};
use tokio::time::Instant;

use crate::inotify::{Source, remedy};
use crate::trail::{Step, Trail};

/// How often a file is looked at if the kernel does not watch it.
const LOOK: Duration = Duration::from_secs(1);
/// After so many looks the kernel is asked for watches again.
const LOOKS: u32 = 60;

/// Tells when a file may have changed: written and closed, renamed into place, removed, or replaced together with its
/// directory.
///
/// Neither the file nor its directory need exist. The watch is on the directory. If that is missing, it is on the
/// nearest directory above it that exists, and moves down when the missing one appears. A new file that is still being
/// written is told only when it is closed, so that nobody reads half of a file that is written in place.
///
/// The way to the file may lead over symbolic links. Then each link is watched, and the file at its real place. A
/// change of either is told, and so is the swap by which Kubernetes updates a mounted ConfigMap.
///
/// If the kernel has no watches left, the file is looked at once a second instead, and the log says so once.
///
/// Changes that happen while nobody waits are kept, and many may be told as one. The caller reads the file once after
/// making the watch, and again after each [`FileWatch::changed`].
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    eyes: Eyes,
    seen: Option<Stamp>,
    /// Whether the log says that the kernel does not watch.
    said: bool,
}

/// The way in which changes are noticed.
#[derive(Debug)]
enum Eyes {
    /// The kernel tells.
    Kernel { events: Source, trail: Trail },
    /// By looks. `next` is when the next one is due, `left` how many more there are before the kernel is asked again.
    Looks { next: Instant, left: u32 },
}

/// Distinguishes two states of a file: device, inode, size and time of the last change (seconds, nanoseconds).
type Stamp = (u64, u64, u64, i64, i64);

impl FileWatch {
    /// Watches from here on. Must be called inside a tokio runtime with I/O enabled.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // A path leads up to the root only if it begins there. Without a working directory, only looking remains.
        let path = std::path::absolute(&path).unwrap_or(path);
        let eyes = Eyes::Looks { next: Instant::now(), left: 0 };
        let mut watch = Self { eyes, seen: None, said: false, path };
        watch.open();
        watch.seen = stamp(&watch.path);
        watch
    }

    /// Waits until the file may have changed. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            let news = match &mut self.eyes {
                Eyes::Kernel { .. } => match self.drain().await {
                    Ok(news) => news,
                    Err(error) => {
                        self.look(&error);
                        stamp(&self.path) != self.seen
                    }
                },
                Eyes::Looks { next, left } => {
                    tokio::time::sleep_until(*next).await;
                    *next = Instant::now() + LOOK;
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        self.open();
                    }
                    stamp(&self.path) != self.seen
                }
            };
            if news {
                self.seen = stamp(&self.path);
                return;
            }
        }
    }

    /// Asks the kernel to watch.
    fn open(&mut self) {
        let begin = || -> io::Result<Eyes> {
            let events = Source::open()?;
            let trail = Trail::follow(events.inotify(), &self.path)?;
            Ok(Eyes::Kernel { events, trail })
        };
        match begin() {
            Ok(eyes) => {
                self.eyes = eyes;
                if std::mem::take(&mut self.said) {
                    tracing::info!("{} is watched by the kernel again", self.path.display());
                }
            }
            Err(error) => self.look(&error),
        }
    }

    /// Looks at the file from now on, because the kernel does not watch it.
    fn look(&mut self, error: &io::Error) {
        self.eyes = Eyes::Looks { next: Instant::now() + LOOK, left: LOOKS };
        if std::mem::replace(&mut self.said, true) {
            return;
        }
        let (path, remedy) = (self.path.display(), remedy(error));
        tracing::warn!("{path} cannot be watched: {error}; it is looked at every second instead{remedy}");
    }

    /// Waits for events and takes in all of them. Returns whether they concern the file. Cancel safe, because it waits
    /// only once, at the beginning.
    async fn drain(&mut self) -> io::Result<bool> {
        let Eyes::Kernel { events: source, .. } = &self.eyes else { return Ok(false) };
        let events = source.events().await?;
        self.weigh(&events)
    }

    fn weigh(&mut self, events: &[InotifyEvent]) -> io::Result<bool> {
        let Eyes::Kernel { events: source, trail } = &mut self.eyes else { return Ok(false) };
        let (mut concerned, mut moved) = (false, false);
        for event in events {
            match meaning(trail, event) {
                Meaning::Nothing => {}
                Meaning::Changed => concerned = true,
                Meaning::Moved => moved = true,
            }
        }
        // A replaced file may be a link now, or no longer be one.
        if moved || concerned {
            let was_there = trail.is_whole();
            trail.renew(source.inotify(), &self.path)?;
            concerned |= moved && (was_there || trail.is_whole());
        }
        Ok(concerned)
    }
}

/// What an event tells about the file.
enum Meaning {
    Nothing,
    Changed,
    /// The way to the file may have changed.
    Moved,
}

fn meaning(trail: &Trail, event: &InotifyEvent) -> Meaning {
    let mask = event.mask;
    if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        return Meaning::Moved;
    }
    let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    if mask.intersects(gone) {
        // Or the event is left over from a directory that is no longer watched.
        return if trail.watches(event.wd) { Meaning::Moved } else { Meaning::Nothing };
    }
    match event.name.as_deref().and_then(|name| trail.at(event.wd, name)) {
        None => Meaning::Nothing,
        Some(Step::Way) => Meaning::Moved,
        Some(Step::File(file)) if mask.contains(AddWatchFlags::IN_CREATE) && being_written(file) => {
            Meaning::Nothing
        }
        Some(Step::File(_)) => Meaning::Changed,
    }
}

/// Whether a plain file appeared because it was opened: then the kernel will tell of its close. A link, of either kind,
/// is complete when it appears.
fn being_written(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|stat| stat.is_file() && stat.nlink() == 1)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let stat = fs::metadata(path).ok()?;
    Some((stat.dev(), stat.ino(), stat.size(), stat.ctime(), stat.ctime_nsec()))
}
