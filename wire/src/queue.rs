//! The queue of releases for an `ipamd` that is down. Each release is a file in `releases/` of the runtime directory.
//!
//! The plugin adds a file; `ipamd` performs the release and removes the file. `ipamd` makes the directory. If it is
//! missing, `ipamd` has never run in this boot, and there is nothing to release. The attachment's hash is the file's
//! name, so queueing a release twice is the same as queueing it once. Files whose name has a dot are not part of the
//! queue: a file that is being written, one that the daemon has claimed, and one that was set aside as broken.

use ferrule_model::Attachment;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;

/// Name of the queue in the runtime directory.
const DIRECTORY: &str = "releases";

/// Suffix of a file that the daemon is working on.
const CLAIMED: &str = "claimed";

/// Suffix of a file that cannot be read as a release.
const BROKEN: &str = "broken";

/// The queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("queue of releases: {}", path.display())]
pub struct QueueError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What became of a release that was to be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// `ipamd` will perform it.
    Yes,
    /// `ipamd` has never run in this boot, so there is no lease to release.
    NothingToRelease,
}

/// Queues a release. The file appears whole or not at all.
///
/// # Errors
/// The file cannot be written. Then the release is not queued.
pub fn queue_release(runtime_dir: &Path, attachment: &Attachment) -> Result<Queued, QueueError> {
    let path = path_of(runtime_dir, attachment);
    let unfinished = path.with_extension(format!("{}.new", process::id()));
    let text = serde_json::to_vec(attachment).map_err(|error| failed(&path)(error.into()))?;
    // The file is made readable whatever the runtime's umask is, because the daemon runs as another user.
    let written = fs::write(&unfinished, text)
        .and_then(|()| fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644)));
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Queued::NothingToRelease),
        Err(error) => {
            // If the disk is full, the rest of the file would only take up space.
            let _ = fs::remove_file(&unfinished);
            return Err(failed(&unfinished)(error));
        }
    }
    fs::rename(&unfinished, &path).map_err(failed(&path))?;
    Ok(Queued::Yes)
}

/// Makes the queue's directory if it does not exist. The daemon does this.
///
/// # Errors
/// The directory cannot be made.
pub fn make_queue(runtime_dir: &Path) -> Result<PathBuf, QueueError> {
    let directory = runtime_dir.join(DIRECTORY);
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => Ok(directory),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(directory),
        Err(error) => Err(failed(&directory)(error)),
    }
}

/// The queued release of this attachment, if there is one. A release that was claimed but not finished counts too.
#[must_use]
pub fn find_queued(runtime_dir: &Path, attachment: &Attachment) -> Option<QueuedRelease> {
    let path = path_of(runtime_dir, attachment);
    let claimed = path.with_extension(CLAIMED);
    [path, claimed].into_iter().find(|path| path.exists()).map(|path| QueuedRelease { path })
}

/// The queued releases, in no order. Those that a dead daemon had claimed are among them.
///
/// # Errors
/// The directory cannot be read.
pub fn queued(runtime_dir: &Path) -> Result<Vec<QueuedRelease>, QueueError> {
    let directory = runtime_dir.join(DIRECTORY);
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed(&directory))? {
        let path = entry.map_err(failed(&directory))?.path();
        if path.extension().is_none_or(|suffix| suffix == CLAIMED) {
            found.push(QueuedRelease { path });
        }
    }
    Ok(found)
}

/// One file of the queue. The daemon works on it in three steps: [`claim`](Self::claim), release, [`done`](Self::done).
///
/// ```
/// use ferrule_wire::{Attachment, Queued, make_queue, queue_release, queued};
///
/// let runtime_dir = tempfile::tempdir()?;
/// let pod = Attachment { network: "ferrule".into(), container_id: "c0ffee".into(), ifname: "eth0".into() };
/// // `ipamd` never ran, so it has given no address.
/// assert_eq!(queue_release(runtime_dir.path(), &pod)?, Queued::NothingToRelease);
///
/// make_queue(runtime_dir.path())?;
/// assert_eq!(queue_release(runtime_dir.path(), &pod)?, Queued::Yes);
/// // `ipamd` is back.
/// for mut release in queued(runtime_dir.path())? {
///     assert_eq!(release.claim()?, pod);
///     release.done()?;
/// }
/// assert!(queued(runtime_dir.path())?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct QueuedRelease {
    path: PathBuf,
}

/// Why a claimed file is not a release.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The file cannot be renamed or read.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The file was set aside, because it does not hold an attachment, or holds one that does not fit its name.
    #[error("{} is no release and was set aside: {reason}", path.display())]
    Broken {
        /// Where the file is now.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
}

impl QueuedRelease {
    /// Takes the file out of the queue and reads it. A release that is queued from now on is another file. A broken
    /// file is set aside.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub fn claim(&mut self) -> Result<Attachment, ClaimError> {
        let name = self.path.with_extension("");
        let claimed = name.with_extension(CLAIMED);
        if self.path != claimed {
            fs::rename(&self.path, &claimed).map_err(failed(&self.path))?;
            self.path = claimed;
        }
        let text = fs::read(&self.path).map_err(failed(&self.path))?;
        let reason = match serde_json::from_slice::<Attachment>(&text) {
            Ok(attachment) if name.file_name() == Some(attachment.hash().to_string().as_ref()) => {
                return Ok(attachment);
            }
            Ok(_) => "its name is not the hash of the attachment in it".to_owned(),
            Err(error) => error.to_string(),
        };
        let path = name.with_extension(BROKEN);
        fs::rename(&self.path, &path).map_err(failed(&path))?;
        Err(ClaimError::Broken { path, reason })
    }

    /// Removes the file, once the release is in the store.
    ///
    /// # Errors
    /// The file cannot be removed. Releasing it again later is harmless, unless the attachment gets a new lease before
    /// that.
    pub fn done(self) -> Result<(), QueueError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&self.path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn path_of(runtime_dir: &Path, attachment: &Attachment) -> PathBuf {
    runtime_dir.join(DIRECTORY).join(attachment.hash().to_string())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> QueueError {
    move |source| QueueError { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container_id: &str) -> Attachment {
        Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() }
    }

    #[test]
    fn without_the_directory_there_is_nothing_to_release() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(queue_release(dir.path(), &attachment("a")).unwrap(), Queued::NothingToRelease);
    }

    #[test]
    fn what_is_queued_twice_is_found_once_claimed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        make_queue(dir.path()).unwrap();
        make_queue(dir.path()).unwrap();
        assert_eq!(queue_release(dir.path(), &attachment("a")).unwrap(), Queued::Yes);
        assert_eq!(queue_release(dir.path(), &attachment("a")).unwrap(), Queued::Yes);
        assert!(find_queued(dir.path(), &attachment("a")).is_some());
        assert!(find_queued(dir.path(), &attachment("b")).is_none());
        let mut found = queued(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].claim().unwrap(), attachment("a"));
        found.remove(0).done().unwrap();
        assert_eq!(queued(dir.path()).unwrap(), []);
    }

    #[test]
    fn a_release_queued_while_another_is_worked_on_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        make_queue(dir.path()).unwrap();
        queue_release(dir.path(), &attachment("a")).unwrap();
        let mut first = find_queued(dir.path(), &attachment("a")).unwrap();
        first.claim().unwrap();
        queue_release(dir.path(), &attachment("a")).unwrap();
        first.done().unwrap();
        assert!(find_queued(dir.path(), &attachment("a")).is_some());
    }

    #[test]
    fn a_claimed_release_is_found_again_after_the_daemon_died() {
        let dir = tempfile::tempdir().unwrap();
        make_queue(dir.path()).unwrap();
        queue_release(dir.path(), &attachment("a")).unwrap();
        queued(dir.path()).unwrap()[0].claim().unwrap();
        assert!(find_queued(dir.path(), &attachment("a")).is_some());
        assert_eq!(queued(dir.path()).unwrap()[0].claim().unwrap(), attachment("a"));
    }

    #[test]
    fn broken_files_are_set_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let queue = make_queue(dir.path()).unwrap();
        fs::write(queue.join("00112233445566778899aabbccddeeff"), "{").unwrap();
        fs::write(queue.join("nonsense"), serde_json::to_vec(&attachment("a")).unwrap()).unwrap();
        fs::write(queue.join("half.7.new"), "{").unwrap();
        let found = queued(dir.path()).unwrap();
        assert_eq!(found.len(), 2);
        for mut release in found {
            assert!(matches!(release.claim(), Err(ClaimError::Broken { .. })));
        }
        assert_eq!(queued(dir.path()).unwrap(), []);
    }
}
