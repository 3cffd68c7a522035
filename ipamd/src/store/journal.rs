//! The order of records in a store: a journal of numbered entries that is kept short. Pure: `disk` and `memory` keep the
//! entries. The last commits are not in the journal yet (`commits`).
//!
//! The journal takes many commits at once, and keeps only the last record about each subject. Of a lease that was given and
//! ended meanwhile, only the time of its address's release is left. The oldest entries are removed again, and records in them
//! that still count are written anew. So a call costs the same however many leases there are, a start reads few entries, and the
//! journal stays at about twice the size of what it holds.
//!
//! This is safe because entries are removed oldest first: when an entry is removed, every entry before it is gone already, so the
//! end of a lease is never forgotten before its beginning. Commits may be taken twice; the result is the same.

use super::StoreError;
use super::commits::Mark;
use super::record::{Record, Subject, Told, put_last};
use crate::decide::compact::Broken;
use crate::decide::holdings::Contents;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

/// Version of the entries, their first byte. A change that an earlier program would misread takes the next number.
const VERSION: u8 = 1;

/// Bytes after which an entry is full. sled rewrites its neighbours' worth of entries, sixteen, with each tenth change of one
/// of them, puts what is longer than 128 KiB into a file of its own, and longer ones find no place in memory between the leases.
const FULL: usize = 2 << 10;

/// Records that do not count any more and are let be however little the journal holds.
const SPENT_MIN: usize = 8 << 10;

/// Where the records that count are.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Number of the first entry, and the number of records in it and those behind it.
    first: u64,
    entries: VecDeque<u32>,
    records: usize,
    homes: Homes,
}

/// The entry that has the last word, by its number's lower half: as many entries are never there at once.
#[derive(Debug, Default)]
struct Homes {
    leases: HashMap<[u8; 16], u32>,
    releases: HashMap<IpAddr, u32>,
    boot: Option<u32>,
    last: Option<u32>,
}

/// What a store has to do for the journal, in this order.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Entries to be added. Of some of them alone the last does not say yet that the journal has the commits.
    pub(super) add: Vec<(u64, Vec<u8>)>,
    /// Entries to be removed, of which nothing counts any more once the others are there. What is left undone of this is no loss: the
    /// journal is longer for a while.
    pub(super) remove: Vec<u64>,
}

/// An entry that cannot be read.
pub(super) fn damaged(key: impl Into<String>, reason: impl Into<String>) -> StoreError {
    StoreError::Damaged { key: key.into(), reason: reason.into() }
}

impl Journal {
    /// Number of the last entry; 0 if there was none yet.
    fn last(&self) -> u64 {
        (self.first + self.entries.len() as u64).saturating_sub(1)
    }

    /// Number of records, those that do not count any more included.
    #[cfg(test)]
    pub(super) const fn records(&self) -> usize {
        self.records
    }

    /// Hands over what commits leave the journal to be told: of each subject that was not `heard` of yet the last record, but an end
    /// only if the journal has a beginning. Several commits are to be given from the last to the first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(super) fn last_words(
        &self,
        commits: &[u8],
        heard: &mut HashSet<Subject>,
        mut tell: impl FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        let mut hear = || {
            for record in records(commits)?.into_iter().rev() {
                let subject = record.subject()?;
                if heard.insert(subject) && (record.stays() || self.homes.of(&subject).is_some()) {
                    tell(record.bytes());
                }
            }
            Ok(())
        };
        hear().map_err(|broken| unreadable(COMMITS, broken))
    }

    /// Takes last words, after which the journal has all commits up to this one. `read` gives an entry that is there.
    ///
    /// # Errors
    /// The records or an old entry cannot be read. Then, as when the writes fail, the journal is to be loaded again.
    pub(super) fn take<B: AsRef<[u8]>>(
        &mut self,
        words: &[u8],
        last: Mark,
        read: impl Fn(u64) -> Result<B, StoreError>,
    ) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        // Number 0 is that of no entry.
        self.first = self.first.max(1);
        let own = self.last() + 1;
        self.add_words(words, &mut writes).map_err(|broken| unreadable(COMMITS, broken))?;
        self.shorten(own, &mut writes, read)?;
        self.add(Subject::Last, true, &mut writes, |entry| put_last(entry, last));
        Ok(writes)
    }

    fn add_words(&mut self, words: &[u8], writes: &mut Writes) -> Result<(), Broken> {
        for record in records(words)? {
            self.add(record.subject()?, record.stays(), writes, |entry| entry.extend(record.bytes()));
        }
        Ok(())
    }

    /// Adds a record to the last entry of these writes, or to a new one if that is full.
    fn add(&mut self, subject: Subject, stays: bool, writes: &mut Writes, put: impl FnOnce(&mut Vec<u8>)) {
        if writes.add.last().is_none_or(|(_, entry)| entry.len() >= FULL) {
            self.entries.push_back(0);
            let mut entry = Vec::with_capacity(FULL + 256);
            entry.push(VERSION);
            writes.add.push((self.last(), entry));
        }
        if let (Some((number, entry)), Some(count)) = (writes.add.last_mut(), self.entries.back_mut()) {
            put(entry);
            *count += 1;
            self.records += 1;
            self.homes.set(subject, stays.then_some(*number));
        }
    }

    /// Moves what counts out of the oldest entries, those before its `own`, if there is too little in the journal that does.
    fn shorten<B: AsRef<[u8]>>(
        &mut self,
        own: u64,
        writes: &mut Writes,
        read: impl Fn(u64) -> Result<B, StoreError>,
    ) -> Result<(), StoreError> {
        while self.records > 2 * self.homes.len() + SPENT_MIN && self.first < own {
            let number = self.first;
            let entry = read(number)?;
            self.move_out(number, entry.as_ref(), writes)?;
            let gone = self.entries.pop_front().unwrap_or(0) as usize;
            self.records -= gone;
            self.first += 1;
            writes.remove.push(number);
        }
        Ok(())
    }

    /// Writes anew what counts of an entry.
    fn move_out(&mut self, number: u64, entry: &[u8], writes: &mut Writes) -> Result<(), StoreError> {
        // From the last to the first: of two on one subject it is the later one that counts.
        for record in entry_records(number, entry)?.into_iter().rev().filter(|record| record.stays()) {
            let subject = record.subject().map_err(|broken| unreadable(name(number), broken))?;
            if self.homes.of(&subject) == Some(lower_half(number)) {
                self.add(subject, true, writes, |entry| entry.extend(record.bytes()));
            }
        }
        Ok(())
    }
}

impl Homes {
    fn set(&mut self, subject: Subject, entry: Option<u64>) {
        let home = entry.map(lower_half);
        match (subject, home) {
            (Subject::Lease(hash), Some(home)) => drop(self.leases.insert(hash, home)),
            (Subject::Lease(hash), None) => drop(self.leases.remove(&hash)),
            (Subject::Release(address), Some(home)) => drop(self.releases.insert(address, home)),
            (Subject::Release(address), None) => drop(self.releases.remove(&address)),
            (Subject::Boot, home) => self.boot = home,
            (Subject::Last, home) => self.last = home,
        }
    }

    fn of(&self, subject: &Subject) -> Option<u32> {
        match subject {
            Subject::Lease(hash) => self.leases.get(hash).copied(),
            Subject::Release(address) => self.releases.get(address).copied(),
            Subject::Boot => self.boot,
            Subject::Last => self.last,
        }
    }

    fn len(&self) -> usize {
        let single = [self.boot, self.last].into_iter().flatten().count();
        self.leases.len() + self.releases.len() + single
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
const fn lower_half(number: u64) -> u32 {
    number as u32
}

/// What an entry is called in messages.
pub(super) fn name(number: u64) -> String {
    format!("entry {number}")
}

/// What commits are called in messages.
const COMMITS: &str = "the last commits";

/// The records of an entry.
fn entry_records(number: u64, entry: &[u8]) -> Result<Vec<Record<'_>>, StoreError> {
    let Some((&version, rest)) = entry.split_first() else {
        return Err(damaged(name(number), "it is empty"));
    };
    if version != VERSION {
        return Err(StoreError::Version { key: name(number), version: version.into() });
    }
    records(rest).map_err(|broken| unreadable(name(number), broken))
}

fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, Broken> {
    let mut records = Vec::with_capacity(32);
    while !bytes.is_empty() {
        records.push(Record::take(&mut bytes)?);
    }
    Ok(records)
}

fn unreadable(key: impl Into<String>, broken: Broken) -> StoreError {
    damaged(key, broken.to_string())
}

/// A store that is being read, from the last word to the first: the commits first, and then the journal from its last entry.
#[derive(Debug, Default)]
pub(super) struct Loading {
    journal: Journal,
    contents: Contents,
    last: Mark,
    /// What the commits have the last word on.
    told: HashSet<Subject>,
    /// What an entry ended, and is not to be begun again by an entry before.
    ended: HashSet<Subject>,
}

impl Loading {
    /// Takes the records of a commit that may not be in the journal: the last one first, all of them before any entry.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn take_commit(&mut self, commit: &[u8]) -> Result<(), StoreError> {
        let mut tell = || {
            for record in records(commit)?.into_iter().rev() {
                if self.told.insert(record.subject()?) {
                    self.contents.hear(record.told()?);
                }
            }
            Ok(())
        };
        tell().map_err(|broken| unreadable(COMMITS, broken))
    }

    /// Takes the entry before the one that was taken last.
    ///
    /// # Errors
    /// It is of a later version, cannot be read, or is another one.
    pub(super) fn take(&mut self, number: u64, entry: &[u8]) -> Result<(), StoreError> {
        let journal = &mut self.journal;
        if !journal.entries.is_empty() && number + 1 != journal.first {
            return Err(damaged(name(journal.first - 1), "it is missing"));
        }
        let taken = entry_records(number, entry)?;
        journal.first = number;
        journal.entries.push_front(u32::try_from(taken.len()).unwrap_or(u32::MAX));
        journal.records += taken.len();
        for record in taken.into_iter().rev() {
            self.hear(number, record).map_err(|broken| unreadable(name(number), broken))?;
        }
        Ok(())
    }

    fn hear(&mut self, number: u64, record: Record<'_>) -> Result<(), Broken> {
        let subject = record.subject()?;
        if self.journal.homes.of(&subject).is_some() || self.ended.contains(&subject) {
            return Ok(());
        }
        self.journal.homes.set(subject, record.stays().then_some(number));
        match record.told()? {
            Told::Gone => drop(self.ended.insert(subject)),
            Told::Last(last) => self.last = last,
            told if !self.told.contains(&subject) => self.contents.hear(told),
            _ => {}
        }
        Ok(())
    }

    /// What was read, and the last commit that the journal has.
    pub(super) fn end(self) -> (Journal, Contents, Mark) {
        (self.journal, self.contents, self.last)
    }

    /// Whether there was no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.journal.entries.is_empty()
    }
}

impl Contents {
    fn hear(&mut self, told: Told) {
        match told {
            Told::Given(lease) => self.holdings.leases.push(lease),
            Told::Released(released) => self.holdings.released.push(released),
            Told::Boot(boot_id) => self.boot_id = Some(boot_id),
            Told::Last(_) | Told::Gone => {}
        }
    }
}
