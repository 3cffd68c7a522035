//! The order of records in a store: a journal of numbered entries, one or more for each commit, that is kept short. Pure;
//! keeping the entries is `disk`'s and `memory`'s.
//!
//! A commit adds entries behind the last one. The oldest entries are taken away again: what still counts of them is written
//! anew with a commit, in its entries and as one with it, many old entries' worth in one new one. So a commit costs the same
//! however many leases there are, a start reads few entries, and the journal stays within one and a half of what it holds and
//! then some.
//!
//! Oldest first is what makes this safe: when an entry goes, every entry before it is gone, so that the end of a lease is
//! never forgotten before its beginning.

use super::record::{Record, Subject, put, put_boot};
use super::{Batch, Contents, StoreError};
use crate::compact::Broken;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

/// Version of the entries, their first byte. A change that an earlier program would misread takes the next number.
const VERSION: u8 = 1;

/// Bytes after which an entry is full: sled rewrites its neighbours' worth of entries, sixteen, with each tenth change of one
/// of them, and puts what is longer than 128 KiB into a file of its own.
const FULL: usize = 6 << 10;

/// Entries, and records that do not count any more, that are let be however little the journal holds.
const ENTRIES_MIN: usize = 1024;
const SPENT_MIN: usize = 8 << 10;

/// Records that a commit writes anew at most, and the old entries that it looks into for them.
const MOVED: usize = 40;
const LOOKED_INTO: usize = 64;

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

/// What a store has to do for a commit, all of it or nothing.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Entries to be added.
    pub(super) add: Vec<(u64, Vec<u8>)>,
    /// Entries to be removed.
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
            self.add(&mut writes, |entry| put(entry, change));
        }
        if let Some(boot_id) = &batch.boot_id {
            self.add(&mut writes, |entry| {
                put_boot(entry, boot_id);
                (Subject::Boot, true)
            });
        }
        self.shorten(&mut writes, read)?;
        Ok(writes)
    }

    /// Adds a record to the last entry of this commit, or to a new one if that is full.
    fn add(&mut self, writes: &mut Writes, put: impl FnOnce(&mut Vec<u8>) -> (Subject, bool)) {
        if writes.add.last().is_none_or(|(_, entry)| entry.len() >= FULL) {
            self.entries.push_back(0);
            let mut entry = Vec::with_capacity(512);
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
        let many = self.entries.len() > ENTRIES_MIN + counting / 16;
        let spent = self.records > counting + counting / 2 + SPENT_MIN;
        if !many && !spent {
            return Ok(());
        }
        let own = writes.add.first().map_or(u64::MAX, |(number, _)| *number);
        let mut moved = 0;
        while moved < MOVED && writes.remove.len() < LOOKED_INTO && self.first < own {
            let number = self.first;
            let entry = read(number)?;
            let records = records(number, entry.as_ref())?.collect::<Result<Vec<_>, _>>();
            // From the last to the first: of two on one subject it is the later one that counts.
            for (subject, record, bytes) in
                records.map_err(|broken| damaged(name(number), broken.to_string()))?.into_iter().rev()
            {
                if record.stays() && self.homes.of(&subject) == Some(lower_half(number)) {
                    self.add(writes, |entry| {
                        entry.extend(bytes);
                        (subject, true)
                    });
                    moved += 1;
                }
            }
            self.records -= self.entries.pop_front().unwrap_or(0) as usize;
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

type Taken<'a> = Result<(Subject, Record, &'a [u8]), Broken>;

/// The records of an entry.
fn records(number: u64, entry: &[u8]) -> Result<impl Iterator<Item = Taken<'_>>, StoreError> {
    let Some((&version, mut rest)) = entry.split_first() else {
        return Err(damaged(name(number), "it is empty"));
    };
    if version != VERSION {
        return Err(StoreError::Version { key: name(number), version: version.into() });
    }
    let mut broken = false;
    Ok(std::iter::from_fn(move || {
        if rest.is_empty() || broken {
            return None;
        }
        let record = Record::take(&mut rest);
        broken = record.is_err();
        Some(record)
    }))
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
        let taken = records(number, entry)?.collect::<Result<Vec<_>, _>>();
        let taken = taken.map_err(|broken| damaged(name(number), broken.to_string()))?;
        journal.first = number;
        journal.entries.push_front(u32::try_from(taken.len()).unwrap_or(u32::MAX));
        journal.records += taken.len();
        for (subject, record, _) in taken.into_iter().rev() {
            if self.journal.homes.of(&subject).is_some() || self.ended.contains(&subject) {
                continue;
            }
            self.journal.homes.set(subject, record.stays().then_some(number));
            match record {
                Record::Given(lease) => self.contents.holdings.leases.push(lease),
                Record::Released(released) => self.contents.holdings.released.push(released),
                Record::Boot(boot_id) => self.contents.boot_id = Some(boot_id),
                Record::Ended | Record::Forgotten => drop(self.ended.insert(subject)),
            }
        }
        Ok(())
    }

    /// What was read.
    pub(super) fn end(self) -> (Journal, Contents) {
        (self.journal, self.contents)
    }
}
