//! The store on disk: sled.
//!
//! What is in sled is the journal (`journal`): the number of an entry as the key, and a value far below sled's segment
//! size, so that none goes to a file of its own that would want a sync of its own.
//!
//! A commit is durable once it is in the file of commits beside the store (`commits`). sled gets it then, and writes it when it
//! comes to it; a load gives it what it lost of the commits in the file. sled's own `flush` would make a commit wait for a
//! pool of threads that wake each other, for a write, and then for a sync, because on Linux it does not fsync its log.
//!
//! sled tells most damage by its checksums, but takes a file that was cut off for one whose last writes never happened, and
//! an empty directory for a new store. Commits in the file beside it that do not continue what sled has tell of what is lost.
//!
//! A start writes a snapshot of sled's page table under a name of its own and renames it. One that was cut off by a kill or a
//! full disk is taken by sled for the newest all the same, and then for damage; so it is removed first. The snapshot
//! before it is there until the new one has its name.

use super::commits::{Commit, Commits};
use super::journal::{Journal, Loading, Writes, damaged};
use super::{Batch, Contents, Store, StoreError};
use std::error::Error;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

/// sled's cache in bytes. All leases are in the service's memory, sled is read once, at start.
const CACHE: u64 = 4 << 20;

/// Bytes that sled gets before the keeper makes them durable. By itself sled writes when it has 512 KiB, for which commits on the
/// same disk would wait.
const GATHERED: usize = 16 << 10;

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
    keeper: Keeper,
    commits: Commits,
    journal: Journal,
    /// Bytes that sled got since the keeper last began.
    gathered: usize,
}

/// Makes durable what sled has, on a thread of its own. sled's `flush` writes the log but does not fsync it on Linux.
#[derive(Debug)]
struct Keeper {
    db: sled::Db,
    log: Arc<File>,
    under_way: Option<JoinHandle<Result<(), OpenError>>>,
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
    #[error("entry {number} is not the one that was acknowledged")]
    Other { number: u64 },
}

impl SledStore {
    /// A store in this directory, which is made if it is not there. Nothing is touched before the first load.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    /// The file of commits beside the store in this directory.
    #[must_use]
    pub fn commits(path: &Path) -> PathBuf {
        path.with_extension("commits")
    }

    /// The key of the last entry.
    #[cfg(test)]
    pub(super) fn last_key(&self) -> Option<sled::IVec> {
        self.open.as_ref().and_then(|open| open.db.last().ok().flatten()).map(|(key, _)| key)
    }

    fn open(&self) -> Result<(Open, Contents), StoreError> {
        let refused = |error| self.refused(error);
        let (db, log, commits) = self.open_files().map_err(refused)?;
        let mut loading = Loading::default();
        for entry in db.iter().rev() {
            let (key, value) = entry.map_err(|error| self.refused(error.into()))?;
            let number = <[u8; 8]>::try_from(&*key).map_err(|_| {
                damaged(String::from_utf8_lossy(&key), "no entry is called so since version 0.1.0")
            })?;
            loading.take(u64::from_be_bytes(number), &value)?;
        }
        let (journal, contents) = loading.end();
        let keeper = Keeper { db: db.clone(), log: Arc::new(log), under_way: None };
        Ok((Open { db, keeper, commits, journal, gathered: 0 }, contents))
    }

    /// The database with all that was acknowledged, its log, and the file of commits.
    fn open_files(&self) -> Result<(sled::Db, File, Commits), OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        self.remove_unfinished()?;
        let db = self.open_sled()?;
        let log = File::open(self.path.join("db"))?;
        // The names of sled's files have to survive too.
        File::open(&self.path)?.sync_all()?;
        let (commits, last) = Commits::open(&Self::commits(&self.path))?;
        add_lost(&db, last)?;
        Ok((db, log, commits))
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
        open.write(writes).map_err(|error| failed(Box::new(error)))?;
        self.open = Some(open);
        Ok(())
    }
}

impl Open {
    /// sled's log keeps the order, so that a crash leaves the journal at one of these steps, or before the first of them: each is a
    /// journal that the commits in the file continue.
    fn write(&mut self, Writes { add, remove }: Writes) -> Result<(), OpenError> {
        if self.commits.is_full() {
            self.keeper.finish()?;
            self.commits.begin_again()?;
        }
        self.commits.append(&add)?;
        for (number, entry) in add {
            self.gathered += entry.len();
            self.db.insert(number.to_be_bytes(), entry)?;
        }
        for number in remove {
            self.db.remove(number.to_be_bytes())?;
        }
        if self.gathered > GATHERED && self.keeper.is_idle()? {
            self.gathered = 0;
            self.keeper.begin()?;
        }
        Ok(())
    }
}

impl Keeper {
    /// Whether it has done what it began; then tells how that ended.
    fn is_idle(&mut self) -> Result<bool, OpenError> {
        if self.under_way.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(false);
        }
        self.wait().map(|()| true)
    }

    /// Begins with what sled has by now.
    fn begin(&mut self) -> Result<(), OpenError> {
        let (db, log) = (self.db.clone(), Arc::clone(&self.log));
        let keep = move || keep(&db, &log);
        self.under_way = Some(thread::Builder::new().name("keeper".to_owned()).spawn(keep)?);
        Ok(())
    }

    /// All that sled has is durable when this returns.
    fn finish(&mut self) -> Result<(), OpenError> {
        self.wait()?;
        keep(&self.db, &self.log)
    }

    fn wait(&mut self) -> Result<(), OpenError> {
        let ended = self.under_way.take().map_or(Ok(Ok(())), JoinHandle::join);
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Keeper {
    /// The store can be opened again once nothing uses the database any more.
    fn drop(&mut self) {
        let _ = self.wait();
    }
}

/// Synced before, too: where sled has written something anew it may write over what that replaces, and the disk may do that first.
fn keep(db: &sled::Db, log: &File) -> Result<(), OpenError> {
    log.sync_data()?;
    db.flush()?;
    log.sync_data()?;
    Ok(())
}

/// Adds what sled lost of the last commits. They continue what it has, and are the same where it has them.
fn add_lost(db: &sled::Db, commits: Vec<Commit>) -> Result<(), OpenError> {
    let known = commits.last().map_or(0, |commit| commit.end() - 1);
    let mut last = db.last()?.map_or(0, |(key, _)| key.as_ref().try_into().map_or(0, u64::from_be_bytes));
    let found = last;
    for (number, entry) in commits.into_iter().flat_map(|commit| (commit.first..).zip(commit.entries)) {
        match db.get(number.to_be_bytes())? {
            Some(there) if there != entry => return Err(OpenError::Other { number }),
            Some(_) => {}
            None if number <= last => {}
            None if number > last + 1 => return Err(OpenError::Behind { found, known }),
            None => {
                db.insert(number.to_be_bytes(), entry)?;
                last = number;
            }
        }
    }
    Ok(())
}
