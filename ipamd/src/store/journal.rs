//! The order of records in a store: a journal of numbered entries, one or more for each commit, that is kept short. Pure;
//! keeping the entries is `disk`'s and `memory`'s.
//!
//! A commit adds entries behind the last one. The oldest entries are taken away again: what still counts of them is written
//! anew with a commit, many old entries' worth in one new one, and about as much as the commit itself writes. So a commit costs
//! the same however many leases there are, a start reads few entries, and the journal stays within two and a half times of what
//! it holds and then some: the fewer of the old records count, the fewer there are to be written anew.
//!
//! Oldest first is what makes this safe: when an entry goes, every entry before it is gone, so that the end of a lease is
//! never forgotten before its beginning.

use super::record::{Record, Subject, Told, put, put_boot};
use super::{Batch, Contents, StoreError};
use crate::compact::Broken;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

/// Version of the entries, their first byte. A change that an earlier program would misread takes the next number.
const VERSION: u8 = 1;

/// Bytes after which an entry is full. Of a commit's own records few entries are made, best one; sled rewrites its neighbours'
/// worth of entries, sixteen, with each tenth change of one of them, and puts what is longer than 128 KiB into a file of its own.
const FULL: usize = 6 << 10;

/// The same of records that are written anew: as long as the entries that a burst of calls leaves, whose places in memory they
/// take. Larger ones do not fit between the leases there.
const FULL_ANEW: usize = 2 << 10;

/// Entries, and records that do not count any more, that are let be however little the journal holds.
const ENTRIES_MIN: usize = 1024;
const SPENT_MIN: usize = 8 << 10;

/// Records that a commit writes anew at most besides three for each four of its own, and those that it looks at for that besides
/// four for each. Where the journal is cut at all, two of five count, so that it frees more than the commit adds. More at a
/// time would be quicker through, but all calls wait for a commit that has much to do.
const MOVED: usize = 4;
const LOOKED_AT: usize = 16;

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
}

/// What a store has to do for a commit, in this order.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Entries to be added: all of them or nothing.
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
    pub(super) fn last(&self) -> u64 {
        (self.first + self.entries.len() as u64).saturating_sub(1)
    }

    /// Number of records, those that do not count any more included.
    #[cfg(test)]
    pub(super) const fn records(&self) -> usize {
        self.records
    }

    /// Turns a batch into writes. `read` gives an entry that is there.
    ///
    /// # Errors
    /// An old entry cannot be read. Then, as when the writes fail, the journal is to be loaded again.
    pub(super) fn commit<B: AsRef<[u8]>>(
        &mut self,
        batch: &Batch,
        read: impl Fn(u64) -> Result<B, StoreError>,
    ) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        if self.entries.is_empty() {
            // Number 0 is that of no entry.
            self.first = self.first.max(1);
        }
        for change in &batch.changes {
            self.add(&mut writes, FULL, |entry| put(entry, change));
        }
        if let Some(boot_id) = &batch.boot_id {
            self.add(&mut writes, FULL, |entry| {
                put_boot(entry, boot_id);
                (Subject::Boot, true)
            });
        }
        self.shorten(&mut writes, read)?;
        Ok(writes)
    }

    /// Adds a record to the last entry of this commit, or to a new one if that has `full` bytes.
    fn add(&mut self, writes: &mut Writes, full: usize, put: impl FnOnce(&mut Vec<u8>) -> (Subject, bool)) {
        if writes.add.last().is_none_or(|(_, entry)| entry.len() >= full) {
            self.entries.push_back(0);
            let mut entry = Vec::with_capacity(4096);
            entry.push(VERSION);
            writes.add.push((self.last(), entry));
        }
        if let (Some((number, entry)), Some(count)) = (writes.add.last_mut(), self.entries.back_mut()) {
            let (subject, stays) = put(entry);
            *count += 1;
            self.records += 1;
            self.homes.set(subject, stays.then_some(*number));
        }
    }

    /// Moves what counts out of the oldest entries, if there are too many of them or too little in them.
    fn shorten<B: AsRef<[u8]>>(
        &mut self,
        writes: &mut Writes,
        read: impl Fn(u64) -> Result<B, StoreError>,
    ) -> Result<(), StoreError> {
        let counting = self.homes.len();
        let many = self.entries.len() > ENTRIES_MIN + counting / 5;
        let spent = self.records > 5 * counting / 2 + SPENT_MIN;
        if !many && !spent {
            return Ok(());
        }
        let own = writes.add.first().map_or(u64::MAX, |(number, _)| *number);
        let added = self.entries.iter().rev().take(writes.add.len()).sum::<u32>() as usize;
        let (mut moved, mut looked_at) = (0, 0);
        while moved < 3 * added / 4 + MOVED && looked_at < 4 * added + LOOKED_AT && self.first < own {
            let number = self.first;
            let entry = read(number)?;
            // From the last to the first: of two on one subject it is the later one that counts.
            for record in records(number, entry.as_ref())?.into_iter().rev().filter(|record| record.stays()) {
                let subject = record.subject().map_err(|broken| unreadable(number, broken))?;
                if self.homes.of(&subject) == Some(lower_half(number)) {
                    self.add(writes, FULL_ANEW, |entry| {
                        entry.extend(record.bytes());
                        (subject, true)
                    });
                    moved += 1;
                }
            }
            let gone = self.entries.pop_front().unwrap_or(0) as usize;
            self.records -= gone;
            looked_at += gone;
            self.first += 1;
            writes.remove.push(number);
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
        }
    }

    fn of(&self, subject: &Subject) -> Option<u32> {
        match subject {
            Subject::Lease(hash) => self.leases.get(hash).copied(),
            Subject::Release(address) => self.releases.get(address).copied(),
            Subject::Boot => self.boot,
        }
    }

    fn len(&self) -> usize {
        self.leases.len() + self.releases.len() + usize::from(self.boot.is_some())
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

/// The records of an entry.
fn records(number: u64, entry: &[u8]) -> Result<Vec<Record<'_>>, StoreError> {
    let Some((&version, mut rest)) = entry.split_first() else {
        return Err(damaged(name(number), "it is empty"));
    };
    if version != VERSION {
        return Err(StoreError::Version { key: name(number), version: version.into() });
    }
    let mut records = Vec::with_capacity(32);
    while !rest.is_empty() {
        records.push(Record::take(&mut rest).map_err(|broken| unreadable(number, broken))?);
    }
    Ok(records)
}

fn unreadable(number: u64, broken: Broken) -> StoreError {
    damaged(name(number), broken.to_string())
}

/// A journal that is being read, from its last entry to its first, so that the last word on a subject is the first to come.
#[derive(Debug, Default)]
pub(super) struct Loading {
    journal: Journal,
    contents: Contents,
    /// What was ended, and is not to be begun again by an entry before.
    ended: HashSet<Subject>,
}

impl Loading {
    /// Takes the entry before the one that was taken last.
    ///
    /// # Errors
    /// It is of a later version, cannot be read, or is another one.
    pub(super) fn take(&mut self, number: u64, entry: &[u8]) -> Result<(), StoreError> {
        let journal = &mut self.journal;
        if !journal.entries.is_empty() && number + 1 != journal.first {
            return Err(damaged(name(journal.first - 1), "it is missing"));
        }
        let taken = records(number, entry)?;
        journal.first = number;
        journal.entries.push_front(u32::try_from(taken.len()).unwrap_or(u32::MAX));
        journal.records += taken.len();
        for record in taken.into_iter().rev() {
            self.hear(number, record).map_err(|broken| unreadable(number, broken))?;
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
            Told::Given(lease) => self.contents.holdings.leases.push(lease),
            Told::Released(released) => self.contents.holdings.released.push(released),
            Told::Boot(boot_id) => self.contents.boot_id = Some(boot_id),
            Told::Gone => drop(self.ended.insert(subject)),
        }
        Ok(())
    }

    /// What was read.
    pub(super) fn end(self) -> (Journal, Contents) {
        (self.journal, self.contents)
    }
}
