//! The way to a file over all symbolic links. The kernel watches each step.
//!
//! Every link on the way is an entry of some directory, and so is the file at its end. If the way breaks off, the
//! missing name is such an entry too. These entries are watched.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, Inotify, WatchDescriptor};

/// The kernel does not follow more links than this either (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// How often the way is followed again if it changes meanwhile.
const TRIES: u32 = 20;

/// The entries that are watched, in the order of the way.
#[derive(Debug)]
pub(crate) struct Trail {
    entries: Vec<Entry>,
    /// Whether the last entry is the file, or the place where it would be.
    is_whole: bool,
}

#[derive(Debug)]
struct Entry {
    descriptor: WatchDescriptor,
    name: OsString,
    path: PathBuf,
}

/// The kind of an entry.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A link, or a missing name: the rest of the way depends on it.
    Way,
    /// The file itself.
    File(&'a Path),
}

impl Trail {
    /// Follows the way to `path`, which is absolute, and watches it.
    ///
    /// # Errors
    /// The kernel does not give the watches that this needs.
    pub(crate) fn follow(inotify: &Inotify, path: &Path) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::follow_once(inotify, path) {
                // A directory disappeared between two looks.
                Err(error)
                    if matches!(
                        error.raw_os_error().map(Errno::from_raw),
                        Some(Errno::ENOENT | Errno::ENOTDIR)
                    ) && tries < TRIES => {}
                result => return result,
            }
        }
    }

    fn follow_once(inotify: &Inotify, path: &Path) -> io::Result<Self> {
        let mut trail = Self { entries: Vec::new(), is_whole: false };
        let mut at = PathBuf::from("/");
        let mut ahead: VecDeque<OsString> = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let is_last = ahead.is_empty();
            let here = at.join(&name);
            let is_plain = !is_last && fs::symlink_metadata(&here).is_ok_and(|stat| stat.is_dir());
            if is_plain {
                at = here;
                continue;
            }
            // The entry is looked at again once its changes are told.
            trail.watch(inotify, &at, name, is_last)?;
            match fs::read_link(&here) {
                Ok(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Ok(trail);
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    names(&target).into_iter().rev().for_each(|name| ahead.push_front(name));
                }
                Err(_) if is_last => trail.is_whole = true,
                // The directory was made in between, so the way goes on.
                Err(_) if here.is_dir() => at = here,
                Err(_) => return Ok(trail),
            }
        }
        Ok(trail)
    }

    /// Follows the way afresh, and drops the watches that are no longer on it.
    ///
    /// # Errors
    /// As [`Trail::follow`].
    pub(crate) fn renew(&mut self, inotify: &Inotify, path: &Path) -> io::Result<()> {
        let new = Self::follow(inotify, path)?;
        for old in std::mem::replace(self, new).entries {
            if !self.watches(old.descriptor) {
                // This fails if the directory is gone, and its watch with it.
                let _ = inotify.rm_watch(old.descriptor);
            }
        }
        Ok(())
    }

    fn watch(
        &mut self,
        inotify: &Inotify,
        directory: &Path,
        name: OsString,
        is_last: bool,
    ) -> io::Result<()> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        match inotify.add_watch(directory, flags) {
            Ok(descriptor) => {
                let path = directory.join(&name);
                self.entries.push(Entry { descriptor, name, path });
                Ok(())
            }
            // This process may not look for that link, so its changes cannot be told. What it leads to is watched all
            // the same.
            Err(Errno::EACCES) if !is_last => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the file's own directory exists.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether this watch belongs to a directory of the way.
    pub(crate) fn watches(&self, descriptor: WatchDescriptor) -> bool {
        self.entries.iter().any(|entry| entry.descriptor == descriptor)
    }

    /// The step for the entry `name` of the directory with this watch.
    pub(crate) fn at(&self, descriptor: WatchDescriptor, name: &OsStr) -> Option<Step<'_>> {
        let at =
            self.entries.iter().position(|entry| entry.descriptor == descriptor && entry.name == name)?;
        let is_file = self.is_whole && at + 1 == self.entries.len();
        Some(if is_file { Step::File(&self.entries[at].path) } else { Step::Way })
    }
}

/// The names in a path. The root at the beginning is left out.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}
