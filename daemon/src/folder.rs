//! Watches a folder in which others write files: which of them are new or were written again. [`crate::watch`] watches a
//! single file.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InotifyEvent};

use crate::inotify::{Source, remedy};

/// How often the folder has to be looked at if the kernel does not watch it.
const LOOK: Duration = Duration::from_secs(1);

/// Tells which files of a folder were written and closed, or renamed into it.
///
/// What happens while nobody waits is kept. If the kernel cannot watch, or the folder is not there, the caller is told
/// once a second that anything may have been written, and the log says so once.
#[derive(Debug)]
pub struct FolderWatch {
    path: PathBuf,
    /// `None` while the kernel does not watch.
    source: Option<Source>,
    /// Whether the log says that the kernel does not watch.
    said: bool,
}

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// The files of these names.
    Files(Vec<OsString>),
    /// Any file, because the kernel did not tell.
    Anything,
}

impl FolderWatch {
    /// Watches from here on. Must be called inside a tokio runtime with I/O enabled.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let mut watch = Self { path: path.into(), source: None, said: false };
        watch.open();
        watch
    }

    /// Waits until something was written. Cancel safe.
    pub async fn written(&mut self) -> Written {
        loop {
            let Some(source) = &self.source else {
                tokio::time::sleep(LOOK).await;
                self.open();
                return Written::Anything;
            };
            match source.events().await {
                Ok(events) if events.iter().any(is_lost) => {
                    self.open();
                    return Written::Anything;
                }
                Ok(events) => {
                    let names: Vec<_> = events.into_iter().filter_map(|event| event.name).collect();
                    if !names.is_empty() {
                        return Written::Files(names);
                    }
                }
                Err(error) => self.lose(&error),
            }
        }
    }

    fn open(&mut self) {
        let begin = || -> io::Result<Source> {
            let source = Source::open()?;
            let what = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
            let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
            source.inotify().add_watch(&self.path, what | gone)?;
            Ok(source)
        };
        match begin() {
            Ok(source) => {
                self.source = Some(source);
                if std::mem::take(&mut self.said) {
                    tracing::info!("{} is watched by the kernel again", self.path.display());
                }
            }
            Err(error) => self.lose(&error),
        }
    }

    fn lose(&mut self, error: &io::Error) {
        self.source = None;
        if !std::mem::replace(&mut self.said, true) {
            let (path, remedy) = (self.path.display(), remedy(error));
            tracing::warn!("{path} cannot be watched: {error}; it is looked at every second instead{remedy}");
        }
    }
}

/// Whether events were lost, or none come any more because the folder is gone.
fn is_lost(event: &InotifyEvent) -> bool {
    let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    event.mask.intersects(gone | AddWatchFlags::IN_Q_OVERFLOW)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use tokio::time::timeout;

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn written(watch: &mut FolderWatch) -> Written {
        timeout(DEADLINE, watch.written()).await.expect("nothing is told")
    }

    fn files<const N: usize>(names: [&str; N]) -> Written {
        Written::Files(names.map(OsString::from).into())
    }

    #[tokio::test]
    async fn a_file_is_told_when_it_is_complete_and_one_that_goes_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let mut watch = FolderWatch::new(directory.path());
        fs::write(path("first"), "1").unwrap();
        assert_eq!(written(&mut watch).await, files(["first"]));
        fs::remove_file(path("first")).unwrap();
        let half = fs::File::create(path("half")).unwrap();
        fs::write(path("second"), "2").unwrap();
        assert_eq!(written(&mut watch).await, files(["second"]));
        drop(half);
        assert_eq!(written(&mut watch).await, files(["half"]));
        fs::rename(path("half"), path("whole")).unwrap();
        assert_eq!(written(&mut watch).await, files(["whole"]));
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_watched_once_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("folder");
        let mut watch = FolderWatch::new(&folder);
        assert_eq!(written(&mut watch).await, Written::Anything);
        fs::create_dir(&folder).unwrap();
        while watch.source.is_none() {
            assert_eq!(written(&mut watch).await, Written::Anything);
        }
        fs::write(folder.join("file"), "1").unwrap();
        assert_eq!(written(&mut watch).await, files(["file"]));
        // It is replaced by another folder.
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        assert_eq!(written(&mut watch).await, Written::Anything);
        fs::write(folder.join("file"), "1").unwrap();
        assert_eq!(written(&mut watch).await, files(["file"]));
    }
}
