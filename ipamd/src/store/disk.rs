//! The store on disk: sled, and a file of the last commits beside it.
//!
//! A commit is durable once it is in that file (`commits`). Sled holds the journal (`journal`), with the number of an
//! entry as the key. A background thread, the keeper, later writes each lease's latest state to sled: it takes the
//! commits of half a file at once, while new commits go to the other half. Sled's own `flush` would make a commit wait
//! for a pool of threads that wake each other, for a write, and then for a sync, because on Linux it does not fsync its
//! log.
//!
//! Sled recognises most damage by its checksums. But it takes a file that was cut off for one whose last writes never
//! happened, and an empty directory for a new store. So the journal says which commit is the last one in it. If the
//! commits in the file do not continue that one, something is lost on one side or the other.
//!
//! At a start sled writes a snapshot of its page table under a temporary name and then renames it. If a kill or a full
//! disk cut that file off, sled still takes it for the newest snapshot, and then reports damage; so the file is removed
//! first. The snapshot before it stays until the new one has its name.

use super::commits::{self, Commit, Commits, Mark, Part};
use super::journal::{Journal, Loading, Writes, damaged};
use super::record::records;
use super::{Store, StoreError, Waited};
use crate::decide::holdings::{Batch, Contents};
use std::collections::HashSet;
use std::convert::Infallible;
use std::error::Error;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::mem::take;
use std::os::unix::fs::DirBuilderExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// sled's cache in bytes. All leases are in the service's memory, sled is read once, at start.
const CACHE: u64 = 4 << 20;

/// Bytes of records that the journal takes at once, and for how many times that duration the keeper rests afterwards.
/// So calls that come meanwhile do not notice the keeper, even on a machine with two cores.
const PORTION: usize = 4 << 10;
const REST: u32 = 3;

/// The longest rest. On a busy machine a portion takes long because other processes have the core; a rest in proportion
/// to that would help nobody.
const REST_MAX: Duration = Duration::from_millis(50);

/// The store on disk.
#[derive(Debug)]
pub struct SledStore {
    path: PathBuf,
    /// `None` before the first load and after a failed commit: then the next load opens it anew.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    commits: Commits,
    /// The commits in the part of the file that is being written.
    recent: Vec<Portion>,
    /// The half that is written next, once the keeper has done with what is in it; until then commits go behind both.
    ahead: Option<Part>,
    keeper: Keeper,
}

/// Some commits in a row, for the journal.
#[derive(Debug)]
struct Portion {
    records: Vec<u8>,
    last: Mark,
}

/// Puts commits into the journal for good, on a thread of its own.
#[derive(Debug)]
struct Keeper {
    /// While it rests.
    kept: Option<Kept>,
    under_way: Option<UnderWay>,
    #[cfg(test)]
    gate: Gate,
}

#[derive(Debug)]
struct UnderWay {
    thread: JoinHandle<Result<Kept, StoreError>>,
    /// Dropped when somebody waits for the thread.
    calm: Sender<Infallible>,
}

/// What a test holds to keep the keeper from its work.
#[cfg(test)]
pub(super) type Gate = std::sync::Arc<std::sync::Mutex<()>>;

/// The journal, where its entries are.
#[derive(Debug)]
struct Kept {
    db: sled::Db,
    log: File,
    journal: Journal,
    /// The last commit that the journal has.
    last: Mark,
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
    #[error("it has the commits up to number {has}, and the file of the last ones has none")]
    NoCommits { has: u64 },
    #[error(
        "it has the commits up to number {has}, and the file of the last ones those from {first} to {last}"
    )]
    Gap { has: u64, first: u64, last: u64 },
    #[error("its commit {number} is not the one in the file of the last ones")]
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

    fn open(&self) -> Result<(Open, Contents), StoreError> {
        let refused = |error| self.refused(error);
        let (db, log, commits, bytes) = self.open_files().map_err(refused)?;
        let recent = commits::read(&bytes);
        let mut loading = Loading::default();
        recent.iter().rev().try_for_each(|commit| loading.take_commit(commit.records))?;
        for entry in db.iter().rev() {
            let (key, value) = entry.map_err(|error| self.refused(error.into()))?;
            let number = <[u8; 8]>::try_from(&*key).map_err(|_| {
                damaged(String::from_utf8_lossy(&key), "no entry is called so since version 0.1.0")
            })?;
            loading.take(u64::from_be_bytes(number), &value)?;
        }
        let is_new = loading.is_empty() && recent.is_empty();
        let (journal, contents, last) = loading.end();
        let behind = if is_new { &[] } else { behind(last, &recent).map_err(refused)? };
        let mut keeper = Keeper {
            kept: Some(Kept { db, log, journal, last }),
            under_way: None,
            #[cfg(test)]
            gate: Gate::default(),
        };
        if !behind.is_empty() {
            let mut portions = Vec::new();
            behind.iter().for_each(|commit| add(&mut portions, commit.records, commit.mark));
            keeper.begin(portions)?;
        }
        Ok((Open { commits, recent: Vec::new(), ahead: None, keeper }, contents))
    }

    /// Waits until the journal has what it was given; how many bytes of records it was not.
    #[cfg(test)]
    pub(super) fn settle(&mut self) -> usize {
        self.open.as_mut().map_or(0, |open| {
            open.keeper.kept = Some(open.keeper.rest().unwrap());
            open.recent.iter().map(|portion| portion.records.len()).sum()
        })
    }

    /// What keeps the keeper from its work while it is locked.
    #[cfg(test)]
    pub(super) fn gate(&self) -> Gate {
        Gate::clone(&self.open.as_ref().unwrap().keeper.gate)
    }

    /// The database, its log, the file of commits and what is in it.
    fn open_files(&self) -> Result<(sled::Db, File, Commits, Vec<u8>), OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        self.remove_unfinished()?;
        let db = self.open_sled()?;
        let log = File::open(self.path.join("db"))?;
        // The names of sled's files have to survive too.
        File::open(&self.path)?.sync_all()?;
        let (commits, bytes) = Commits::open(&Self::commits(&self.path))?;
        Ok((db, log, commits, bytes))
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
    pub(super) fn open_sled(&self) -> sled::Result<sled::Db> {
        let config = sled::Config::new().path(&self.path).cache_capacity(CACHE).flush_every_ms(None);
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

    fn commit(&mut self, batch: &Batch) -> Result<Waited, StoreError> {
        // Taken out, so that every early return leaves the store closed, to be opened anew.
        let mut open = self.open.take().ok_or_else(|| failed("it is not open"))?;
        let waited = open.write(&records(batch))?;
        self.open = Some(open);
        Ok(waited)
    }
}

impl Open {
    fn write(&mut self, records: &[u8]) -> Result<Waited, StoreError> {
        let begun = Instant::now();
        if self.ahead.is_some() || self.commits.next_part(records.len()).is_some() {
            self.make_room(records.len())?;
        }
        let keeper = begun.elapsed();
        self.commits.append(records).map_err(failed)?;
        add(&mut self.recent, records, self.commits.last());
        Ok(Waited { keeper, disk: begun.elapsed().saturating_sub(keeper) })
    }

    /// Nobody waits for the keeper: on a busy machine it may take seconds. What comes meanwhile goes behind both
    /// halves, as far as the file may grow.
    fn make_room(&mut self, records: usize) -> Result<(), StoreError> {
        if self.keeper.is_busy() && self.commits.may_grow(records) {
            self.ahead.get_or_insert(self.commits.other_half());
            self.commits.go_behind();
            return Ok(());
        }
        if let Some(part) = self.ahead.take() {
            self.turn(part)?;
        }
        self.commits.next_part(records).map_or(Ok(()), |part| self.turn(part))
    }

    /// Goes on in another part of the file. The keeper has done with the commits in all parts but this one, whose it
    /// gets now.
    fn turn(&mut self, part: Part) -> Result<(), StoreError> {
        self.keeper.begin(take(&mut self.recent))?;
        self.commits.turn(part).map_err(failed)
    }
}

impl Keeper {
    /// Waits until it has done what it began, and begins with more commits.
    fn begin(&mut self, commits: Vec<Portion>) -> Result<(), StoreError> {
        let mut kept = self.rest()?;
        let (calm, hurry) = channel();
        #[cfg(test)]
        let gate = Gate::clone(&self.gate);
        let keep = move || {
            #[cfg(test)]
            drop(gate.lock().unwrap());
            kept.keep(commits, &hurry).map(|()| kept)
        };
        let thread = thread::Builder::new().name("keeper".to_owned()).spawn(keep).map_err(failed)?;
        self.under_way = Some(UnderWay { thread, calm });
        Ok(())
    }

    /// Whether it is about what it began.
    fn is_busy(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| !under_way.thread.is_finished())
    }

    /// Waits until it has done what it began.
    fn rest(&mut self) -> Result<Kept, StoreError> {
        match (self.kept.take(), self.under_way.take()) {
            (Some(kept), _) => Ok(kept),
            (None, Some(UnderWay { thread, calm })) => {
                drop(calm);
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            }
            (None, None) => Err(failed("an earlier write failed")),
        }
    }
}

impl Drop for Keeper {
    /// The store can be opened again once nothing uses the database any more.
    fn drop(&mut self) {
        let _ = self.rest();
    }
}

impl Kept {
    /// Takes commits. When this returns they would survive the loss of power.
    ///
    /// sled's log keeps the order, so that a crash leaves the journal at one of these steps, or before the first of
    /// them: each is a journal that the commits in the file continue. Only the last step says that it has these
    /// commits.
    fn keep(&mut self, commits: Vec<Portion>, hurry: &Receiver<Infallible>) -> Result<(), StoreError> {
        let mut words = self.last_words(commits, hurry)?;
        if let Some(portion) = words.pop() {
            for Portion { records, .. } in words {
                at_ease(hurry, || self.take(&records, self.last))?;
            }
            self.last = portion.last;
            self.take(&portion.records, portion.last)?;
        }
        // Before, too: where sled has written something anew it may write over what that replaces, and the disk may do
        // that first.
        self.log.sync_data().map_err(failed)?;
        self.db.flush().map_err(failed)?;
        self.log.sync_data().map_err(failed)
    }

    /// What the commits leave the journal to be told.
    fn last_words(
        &self,
        commits: Vec<Portion>,
        hurry: &Receiver<Infallible>,
    ) -> Result<Vec<Portion>, StoreError> {
        let last = commits.last().map_or(self.last, |portion| portion.last);
        let mut words = vec![Portion { records: Vec::new(), last }];
        let mut heard = HashSet::new();
        for Portion { records, .. } in commits.into_iter().rev() {
            at_ease(hurry, || {
                self.journal.last_words(&records, &mut heard, |word| add(&mut words, word, last))
            })?;
        }
        Ok(words)
    }

    fn take(&mut self, words: &[u8], last: Mark) -> Result<(), StoreError> {
        let db = &self.db;
        let entry = |number: u64| match db.get(number.to_be_bytes()) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(failed(format!("entry {number} is missing"))),
            Err(error) => Err(failed(error)),
        };
        let writes = self.journal.take(words, last, entry)?;
        write(db, writes).map_err(failed)
    }
}

/// Does a part of the work and rests then, unless there is hurry.
fn at_ease<T>(hurry: &Receiver<Infallible>, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    // It ends at once when the other side is gone.
    let _ = hurry.recv_timeout((REST * begun.elapsed()).min(REST_MAX));
    done
}

fn write(db: &sled::Db, Writes { add, remove }: Writes) -> sled::Result<()> {
    for (number, entry) in add {
        db.insert(number.to_be_bytes(), entry)?;
    }
    for number in remove {
        db.remove(number.to_be_bytes())?;
    }
    Ok(())
}

fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Write(error.into())
}

/// Adds a commit to the last portion, or to a new one if it does not fit there.
fn add(portions: &mut Vec<Portion>, records: &[u8], mark: Mark) {
    if portions.last().is_none_or(|portion| portion.records.len() + records.len() > PORTION) {
        portions.push(Portion { records: Vec::with_capacity(PORTION.max(records.len())), last: mark });
    }
    if let Some(portion) = portions.last_mut() {
        portion.records.extend_from_slice(records);
        portion.last = mark;
    }
}

/// The commits behind the last one that the journal has: there is none between, and that one is the same where it is
/// there.
fn behind<'a, 'b>(has: Mark, commits: &'b [Commit<'a>]) -> Result<&'b [Commit<'a>], OpenError> {
    let (Some(first), Some(last)) = (commits.first(), commits.last()) else {
        return Err(OpenError::NoCommits { has: has.number });
    };
    let (first, last) = (first.mark.number, last.mark.number);
    if first > has.number + 1 || last < has.number {
        return Err(OpenError::Gap { has: has.number, first, last });
    }
    let known = commits.partition_point(|commit| commit.mark.number <= has.number);
    match commits[..known].last() {
        Some(commit) if commit.mark != has => Err(OpenError::Other { number: has.number }),
        _ => Ok(&commits[known..]),
    }
}
