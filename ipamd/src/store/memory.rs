//! A store in memory whose writes can be made to fail. It is for tests of what stands on a store. It keeps the last
//! commits and the journal as the store on disk does, so that the tests run through them too.

use super::commits::Mark;
use super::journal::{Journal, Loading, damaged, name};
use super::record::records;
use super::{Store, StoreError, Waited};
use crate::decide::holdings::{Batch, Contents};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What is to go wrong. Clones share it, so that a test can change it while the store is in use.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    commits: usize,
    loads: usize,
    after_write: bool,
    done: usize,
    delay: Duration,
}

impl Faults {
    /// Commits take this long from now on, as on a disk that is busy.
    pub fn delay_commits(&self, delay: Duration) {
        self.with(|plan| plan.delay = delay);
    }

    /// The next `count` commits fail and write nothing.
    pub fn fail_commits(&self, count: usize) {
        self.with(|plan| (plan.commits, plan.after_write) = (count, false));
    }

    /// The next `count` commits write their batch and then report a failure, as a failed fsync can.
    pub fn fail_commits_after_writing(&self, count: usize) {
        self.with(|plan| (plan.commits, plan.after_write) = (count, true));
    }

    /// The next `count` loads fail.
    pub fn fail_loads(&self, count: usize) {
        self.with(|plan| plan.loads = count);
    }

    /// Commits that were asked for so far.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.with(|plan| plan.done)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many commits the journal takes at once.
const AT_ONCE: u64 = 8;

/// The store.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: BTreeMap<u64, Vec<u8>>,
    /// Records of the commits that the journal does not have yet, and the number of the last commit.
    recent: Vec<u8>,
    last: u64,
    /// `None` before the first use and after a failed commit.
    journal: Option<Journal>,
    faults: Faults,
}

impl MemoryStore {
    /// An empty store with these faults.
    #[must_use]
    pub fn new(faults: Faults) -> Self {
        Self { faults, ..Self::default() }
    }

    /// Its numbers of entries and of records.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.journal.as_ref().map_or(0, Journal::records))
    }

    fn read(&self) -> Result<(Journal, Contents), StoreError> {
        let mut loading = Loading::default();
        loading.take_commit(&self.recent)?;
        for (number, entry) in self.entries.iter().rev() {
            loading.take(*number, entry)?;
        }
        let (journal, contents, _) = loading.end();
        Ok((journal, contents))
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let fails = self.faults.with(|plan| take_one(&mut plan.loads));
        if fails {
            return Err(StoreError::Read(Box::new(io::Error::other("injected"))));
        }
        let (journal, contents) = self.read()?;
        self.journal = Some(journal);
        Ok(contents)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Waited, StoreError> {
        let begun = Instant::now();
        sleep(self.faults.with(|plan| plan.delay));
        let (fails, writes) = self.faults.with(|plan| {
            let fails = take_one(&mut plan.commits);
            plan.done += 1;
            (fails, !fails || plan.after_write)
        });
        let mut journal = match self.journal.take() {
            Some(journal) => journal,
            None => self.read()?.0,
        };
        if writes {
            self.recent.extend(records(batch));
            self.last += 1;
            if self.last.is_multiple_of(AT_ONCE) {
                let missing = |number| damaged(name(number), "it is missing");
                let entry = |number| self.entries.get(&number).ok_or_else(|| missing(number));
                let last = Mark { number: self.last, checksum: 0 };
                let mut words = Vec::new();
                journal.last_words(&self.recent, &mut HashSet::new(), |word| words.extend(word))?;
                let writes = journal.take(&words, last, entry)?;
                self.entries.extend(writes.add);
                writes.remove.iter().for_each(|number| drop(self.entries.remove(number)));
                self.recent.clear();
            }
        }
        if fails {
            return Err(StoreError::Write(Box::new(io::Error::other("injected"))));
        }
        self.journal = Some(journal);
        Ok(Waited { disk: begun.elapsed(), keeper: Duration::ZERO })
    }
}

/// Whether one of a number of faults is left; it is used up.
fn take_one(left: &mut usize) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}
