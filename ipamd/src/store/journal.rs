//! The order of records in a store: a journal of numbered entries that is kept short. Pure: `disk` and `memory` keep
//! the entries. The last commits are not in the journal yet (`commits`).
//!
//! The journal takes many commits at once. Of each subject it keeps only the last record. If a lease was given and
//! ended within these commits, only the time at which its address was released is kept. The oldest entries are removed,
//! after the records in them that still count are written anew. So a call costs the same however many leases there are,
//! a start reads few entries, and the journal is about twice as large as what it holds.
//!
//! The oldest entry is always removed first. When an entry is removed, every entry before it is gone already. So the
//! journal never forgets the end of a lease while it still has the beginning. If commits are taken twice, the result is
//! the same.

use super::StoreError;
use super::commits::Mark;
use super::record::{Record, Subject, Told, put_last};
use crate::decide::compact::Broken;
use crate::decide::holdings::Contents;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

/// Version of the entries, their first byte. A change that an earlier program would misread takes the next number.
const VERSION: u8 = 1;

/// An entry with this many bytes is full. Three things speak against larger entries. At every tenth change of one of
/// sixteen neighbouring entries, sled rewrites all sixteen. What is longer than 128 KiB it puts into a file of its own.
/// And larger entries find no place in memory between the leases.
const FULL: usize = 2 << 10;

/// This many records that no longer count may stay in the journal, however few others it holds.
const SPENT_MIN: usize = 8 << 10;

/// Knows in which entry each record that counts is.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Number of the first entry. `entries` has the number of records of each entry from that one on.
    first: u64,
    entries: VecDeque<u32>,
    records: usize,
    homes: Homes,
}

/// For each subject the entry with its last record, by the lower half of the entry's number. There are never so many
/// entries that two have the same lower half.
#[derive(Debug, Default)]
struct Homes {
    leases: HashMap<[u8; 16], u32>,
    releases: HashMap<IpAddr, u32>,
    boot: Option<u32>,
    last: Option<u32>,
}

/// What a store has to write for the journal, in this order.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Entries to be added. If only some of them are written, the journal does not yet say that it has the commits,
    /// because the last entry says that.
    pub(super) add: Vec<(u64, Vec<u8>)>,
    /// Entries to be removed. Nothing in them counts once the added entries are written. If some are not removed,
    /// nothing is lost: the journal is only longer for a while.
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

    /// Number of records. It includes those that no longer count.
    #[cfg(test)]
    pub(super) const fn records(&self) -> usize {
        self.records
    }

    /// Hands over what the journal has to be told of these commits. For each subject that is not in `heard` yet this is
    /// the last record. The end of something is left out if the journal does not have the beginning. Several commits
    /// must be given from the last to the first.
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

    /// Takes such records. Afterwards the journal has all commits up to `last`. `read` returns an existing entry.
    ///
    /// # Errors
    /// The records or an old entry cannot be read. Then the journal must be loaded again, as after a failed write.
    pub(super) fn take<B: AsRef<[u8]>>(
        &mut self,
        words: &[u8],
        last: Mark,
        read: impl Fn(u64) -> Result<B, StoreError>,
    ) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        // No entry has the number 0.
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

    /// Adds a record to the last entry of these writes. If that is full, adds a new entry.
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

    /// While too few records of the journal count, empties and removes its oldest entries, but none from `own` on.
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

    /// Writes the records of an entry that still count anew.
    fn move_out(&mut self, number: u64, entry: &[u8], writes: &mut Writes) -> Result<(), StoreError> {
        // From the last to the first: if two records are about one subject, the later one counts.
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

/// What the commits are called in messages.
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

/// A store that is being read from the latest record to the earliest: first the commits, then the journal from its last
/// entry.
#[derive(Debug, Default)]
pub(super) struct Loading {
    journal: Journal,
    contents: Contents,
    last: Mark,
    /// Subjects whose last record is in the commits.
    told: HashSet<Subject>,
    /// Subjects that a later entry has ended. An earlier entry must not begin them again.
    ended: HashSet<Subject>,
}

impl Loading {
    /// Takes the records of a commit that may not be in the journal yet. The last commit must be given first, and all
    /// commits before any entry.
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
    /// The entry is of a later version, cannot be read, or has another number than expected.
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
