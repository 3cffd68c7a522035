//! The store on disk: sled.
//!
//! sled's `flush` writes the log but does not fsync it on Linux (its own fsync runs every 500 ms in the background), so
//! each commit syncs the log file itself; on tmpfs that costs nothing. Records stay far below sled's segment
//! size, so that none goes to a file of its own that would want a sync of its own.
//!
//! sled tells most damage by its checksums, but takes a file that was cut off for one whose last writes never happened, and
//! an empty directory for a new store. So every commit has a number, in the store and, once the store has it, in a file
//! beside it: a store that is behind that file has lost what was acknowledged.
//!
//! A start writes a snapshot of sled's page table under a name of its own and renames it. One that was cut off by a kill or a
//! full disk is taken by sled for the newest all the same, and then for damage; so it is removed first. The snapshot
//! before it is there until the new one has its name.

use super::{Batch, Contents, Store, StoreError, record};
use std::error::Error;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// sled's cache in bytes. All leases are in the service's memory, sled is read once, at start.
const CACHE: u64 = 4 << 20;

/// The store on disk.
#[derive(Debug)]
pub struct SledStore {
    path: PathBuf,
    /// `None` before the first load and after a failed commit: then the next load opens it anew.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    db: sled::Db,
    log: File,
    mark: File,
    /// Number of the last commit.
    commits: u64,
}

/// Ending of the name of a snapshot that sled has not finished (`write_snapshot` in its `pagecache/snapshot.rs`).
const UNFINISHED: &str = "generating";

/// Key of the number of the last commit.
const COMMITS: &[u8] = b"commits";

/// Why the store is not open.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it holds {found} commits of {known} that were acknowledged")]
    Behind { found: u64, known: u64 },
}

impl SledStore {
    /// A store in this directory, which is made if it is not there. Nothing is touched before the first load.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    /// Forgets how many commits the store had: it is not there any more.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget_mark(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(mark_path(path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn open(&self) -> Result<Open, OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        self.remove_unfinished()?;
        let db = self.open_sled()?;
        let log = File::open(self.path.join("db"))?;
        // The names of sled's files have to survive too.
        File::open(&self.path)?.sync_all()?;
        let commits = db.get(COMMITS)?.map_or(0, |value| number(&value));
        let mut mark = OpenOptions::new();
        mark.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mark = mark.open(mark_path(&self.path))?;
        let mut known = [0; 8];
        // Too short: it was never written whole, which is as if it were not there.
        let known = mark.read_exact_at(&mut known, 0).map_or(0, |()| number(&known));
        if commits < known {
            return Err(OpenError::Behind { found: commits, known });
        }
        Ok(Open { db, log, mark, commits })
    }

    /// Removes snapshots that a start did not finish.
    fn remove_unfinished(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// A database of this process that was just closed lets go of its lock on a thread of its own, a moment later.
    fn open_sled(&self) -> sled::Result<sled::Db> {
        let config = sled::Config::new().path(&self.path).cache_capacity(CACHE).flush_every_ms(Some(500));
        for _ in 0..100 {
            match config.open() {
                Err(sled::Error::Io(error)) if error.to_string().contains("lock") => {
                    sleep(Duration::from_millis(10));
                }
                other => return other,
            }
        }
        config.open()
    }

    /// Damage is told from a system that does not let the store be used.
    fn refused(&self, error: OpenError) -> StoreError {
        let path = self.path.clone();
        match error {
            OpenError::Sled(sled::Error::Io(source)) | OpenError::Io(source)
                if !matches!(source.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) =>
            {
                StoreError::Open { path, source: Box::new(source) }
            }
            damage => StoreError::Corrupt { path, reason: damage.to_string() },
        }
    }
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.open().map_err(|error| self.refused(error))?,
        };
        let mut contents = Contents::default();
        for entry in &*open.db {
            let (key, value) = entry.map_err(|error| self.refused(error.into()))?;
            if key == COMMITS {
                continue;
            }
            record::read(&mut contents, &key, &value)?;
        }
        self.open = Some(open);
        Ok(contents)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let failed = |error: Box<dyn Error + Send + Sync>| StoreError::Write(error);
        let mut sled_batch = sled::Batch::default();
        for (key, value) in record::writes(batch).map_err(|error| failed(Box::new(error)))? {
            match value {
                Some(value) => sled_batch.insert(key.as_bytes(), value),
                None => sled_batch.remove(key.as_bytes()),
            }
        }
        // Taken out, so that every early return leaves the store closed, to be opened anew.
        let mut open = self.open.take().ok_or_else(|| failed("it is not open".into()))?;
        let commits = open.commits + 1;
        sled_batch.insert(COMMITS, &commits.to_be_bytes());
        open.db.apply_batch(sled_batch).map_err(|error| failed(Box::new(error)))?;
        open.db.flush().map_err(|error| failed(Box::new(error)))?;
        open.log.sync_data().map_err(|error| failed(Box::new(error)))?;
        open.commits = commits;
        if let Err(error) = open.mark.write_all_at(&commits.to_be_bytes(), 0) {
            // The commit is durable; a mark that stays behind accuses nobody.
            tracing::warn!(%error, "the number of the last commit cannot be noted beside the store");
        }
        self.open = Some(open);
        Ok(())
    }
}

fn mark_path(path: &Path) -> PathBuf {
    path.with_extension("commits")
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}
