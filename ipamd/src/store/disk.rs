//! The store on disk: sled.
//!
//! sled's `flush` writes the log but does not fsync it on Linux (its own fsync runs every 500 ms in the background), so
//! each commit syncs the log file itself; on tmpfs that costs nothing. What is in sled is the journal (`journal`): the number
//! of an entry as the key, and a value far below sled's segment size, so that none goes to a file of its own that would want
//! a sync of its own.
//!
//! sled tells most damage by its checksums, but takes a file that was cut off for one whose last writes never happened, and
//! an empty directory for a new store. So the number of the last entry is noted, once the store has it, in a file
//! beside it: a store that is behind that file has lost what was acknowledged.
//!
//! A start writes a snapshot of sled's page table under a name of its own and renames it. One that was cut off by a kill or a
//! full disk is taken by sled for the newest all the same, and then for damage; so it is removed first. The snapshot
//! before it is there until the new one has its name.

use super::journal::{Journal, Loading, Writes, damaged};
use super::{Batch, Contents, Store, StoreError};
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
    journal: Journal,
}

/// Ending of the name of a snapshot that sled has not finished (`write_snapshot` in its `pagecache/snapshot.rs`).
const UNFINISHED: &str = "generating";

/// Why the store is not open.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it ends with entry {found}, and entry {known} was acknowledged")]
    Behind { found: u64, known: u64 },
}

impl SledStore {
    /// A store in this directory, which is made if it is not there. Nothing is touched before the first load.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    /// Forgets which entry was the store's last: it is not there any more.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget_mark(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(mark_path(path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn open(&self) -> Result<(Open, Contents), StoreError> {
        let refused = |error| self.refused(error);
        let (db, log, mark, known) = self.open_files().map_err(refused)?;
        let mut loading = Loading::default();
        for entry in db.iter().rev() {
            let (key, value) = entry.map_err(|error| self.refused(error.into()))?;
            let number = <[u8; 8]>::try_from(&*key).map_err(|_| {
                damaged(String::from_utf8_lossy(&key), "no entry is called so since version 0.1.0")
            })?;
            loading.take(u64::from_be_bytes(number), &value)?;
        }
        let (journal, contents) = loading.end();
        if journal.last() < known {
            return Err(self.refused(OpenError::Behind { found: journal.last(), known }));
        }
        Ok((Open { db, log, mark, journal }, contents))
    }

    /// The database, its log, the file beside it, and the number in that.
    fn open_files(&self) -> Result<(sled::Db, File, File, u64), OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        self.remove_unfinished()?;
        let db = self.open_sled()?;
        let log = File::open(self.path.join("db"))?;
        // The names of sled's files have to survive too.
        File::open(&self.path)?.sync_all()?;
        let mut mark = OpenOptions::new();
        mark.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mark = mark.open(mark_path(&self.path))?;
        let mut known = [0; 8];
        // Too short: it was never written whole, which is as if it were not there.
        let known = mark.read_exact_at(&mut known, 0).map_or(0, |()| u64::from_be_bytes(known));
        Ok((db, log, mark, known))
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
        // Closed before it is opened: sled lets nobody else in.
        self.open = None;
        let (open, contents) = self.open()?;
        self.open = Some(open);
        Ok(contents)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let failed = |error: Box<dyn Error + Send + Sync>| StoreError::Write(error);
        // Taken out, so that every early return leaves the store closed, to be opened anew.
        let mut open = self.open.take().ok_or_else(|| failed("it is not open".into()))?;
        let entry = |number: u64| match open.db.get(number.to_be_bytes()) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(failed(format!("entry {number} is missing").into())),
            Err(error) => Err(failed(Box::new(error))),
        };
        let writes = open.journal.commit(batch, entry)?;
        write(&open.db, writes).map_err(|error| failed(Box::new(error)))?;
        open.db.flush().map_err(|error| failed(Box::new(error)))?;
        open.log.sync_data().map_err(|error| failed(Box::new(error)))?;
        if let Err(error) = open.mark.write_all_at(&open.journal.last().to_be_bytes(), 0) {
            // The commit is durable; a mark that stays behind accuses nobody.
            tracing::warn!(%error, "the number of the last entry cannot be noted beside the store");
        }
        self.open = Some(open);
        Ok(())
    }
}

/// sled's log keeps the order, so that a crash leaves the journal at one of these steps, each of which is whole. A batch of sled's
/// costs another write, and another waking of its threads, and is used where one entry cannot hold the commit.
fn write(db: &sled::Db, Writes { mut add, own, remove }: Writes) -> sled::Result<()> {
    let moved = add.split_off(own);
    if own > 1 {
        let mut batch = sled::Batch::default();
        for (number, entry) in add.drain(..) {
            batch.insert(&number.to_be_bytes(), entry);
        }
        db.apply_batch(batch)?;
    }
    for (number, entry) in add.into_iter().chain(moved) {
        db.insert(number.to_be_bytes(), entry)?;
    }
    remove.into_iter().try_for_each(|number| db.remove(number.to_be_bytes()).map(drop))
}

fn mark_path(path: &Path) -> PathBuf {
    path.with_extension("commits")
}
