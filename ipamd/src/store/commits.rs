//! The last commits, in a file beside sled. One write makes a commit durable: it replaces whole blocks that exist
//! already, so the filesystem has no metadata to write.
//!
//! The file has two halves. While commits are written to one half, the keeper moves the commits of the other half into
//! sled. A commit that is longer than a half is written behind both, and the file is cut down once other commits have
//! followed.
//!
//! A commit begins at the beginning of a block. It has a number, and its checksum tells whether it is whole. The
//! remains of commits that were partly written over are ignored, and so are those of a write that was cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_DIRECT, O_DSYNC};

/// Disks and filesystems write blocks of this size, or of a size that divides it.
const BLOCK: usize = 4096;

/// Size of a half. It has room for more than two hundred and fifty commits of up to a block.
const HALF: u64 = 1 << 20;

/// Size of the file.
pub(super) const SIZE: u64 = 2 * HALF;

/// The length that the file may reach while the keeper does not get to the commits in it. This is enough for minutes of
/// calls.
const SIZE_MAX: u64 = 16 * SIZE;

/// This much memory is kept for the next commit.
const BUFFER: usize = 64 << 10;

/// The first bytes of each commit. The last of them is the version of what follows.
const MAGIC: [u8; 8] = *b"ferrule\x02";

/// The header: magic, checksum of all that follows, length of the records, and the number.
const CHECKSUM: usize = MAGIC.len();
const LENGTH: usize = CHECKSUM + 4;
const NUMBER: usize = LENGTH + 4;
const HEADER: usize = NUMBER + 8;

/// The file that commits are written to.
#[derive(Debug)]
pub(super) struct Commits {
    file: File,
    size: u64,
    part: Part,
    /// The place of the next commit.
    at: u64,
    last: Mark,
    buffer: Vec<u8>,
}

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The first half.
    First,
    /// The second half.
    Second,
    /// Everything after both halves.
    Behind,
}

/// Which commit it is. There is none with the number 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its number, one more than that of the commit before.
    pub(super) number: u64,
    /// Its checksum, which tells it from the commit of the same number in another store.
    pub(super) checksum: u32,
}

/// A commit that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit<'a> {
    pub(super) mark: Mark,
    pub(super) records: &'a [u8],
}

impl Commits {
    /// Opens the file, and makes it if it does not exist. Returns its bytes too. The next commit goes after the last
    /// one that [`read`] finds in these bytes.
    ///
    /// # Errors
    /// The file cannot be made or read.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<u8>)> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            read => read.unwrap_or_default(),
        };
        if (bytes.len() as u64) < SIZE {
            make(path, bytes.len())?;
        }
        let (end, last) =
            find(&bytes).last().map_or((0, Mark::default()), |(end, commit)| (*end, commit.mark));
        let opened = Self {
            file: open(path)?,
            size: SIZE.max(bytes.len() as u64),
            part: Part::that_ends(end),
            at: end,
            last,
            buffer: Vec::new(),
        };
        Ok((opened, bytes))
    }

    /// The last commit.
    pub(super) const fn last(&self) -> Mark {
        self.last
    }

    /// The part in which a commit with this many bytes of records has to begin, if it does not fit after the last
    /// commit.
    pub(super) const fn next_part(&self, records: usize) -> Option<Part> {
        let blocks = (HEADER + records).next_multiple_of(BLOCK) as u64;
        match self.part {
            _ if blocks > HALF => Some(Part::Behind),
            Part::First if self.at + blocks > HALF => Some(Part::Second),
            Part::Second if self.at + blocks > SIZE => Some(Part::First),
            Part::Behind => Some(Part::First),
            Part::First | Part::Second => None,
        }
    }

    /// Goes on in this part, and writes over the commits in it. These must already be in sled for good.
    ///
    /// # Errors
    /// The file grew because a commit was longer than a half, and it cannot be cut down.
    pub(super) fn turn(&mut self, part: Part) -> io::Result<()> {
        // The file is cut down only once there are later commits: the last commit tells what the store must have.
        if self.part == Part::Second && part == Part::First && self.size > SIZE {
            self.file.set_len(SIZE)?;
            self.size = SIZE;
        }
        self.at = match part {
            Part::First => 0,
            Part::Second => HALF,
            Part::Behind => self.at.max(SIZE),
        };
        self.part = part;
        Ok(())
    }

    /// The half into which no commits are written now.
    pub(super) const fn other_half(&self) -> Part {
        match self.part {
            Part::First => Part::Second,
            Part::Second | Part::Behind => Part::First,
        }
    }

    /// Whether the file may grow by a commit with this many bytes of records.
    pub(super) const fn may_grow(&self, records: usize) -> bool {
        self.size + (HEADER + records).next_multiple_of(BLOCK) as u64 <= SIZE_MAX
    }

    /// Goes on after everything that is in the file, so nothing is written over.
    pub(super) const fn go_behind(&mut self) {
        self.at = self.size;
        self.part = Part::Behind;
    }

    /// Writes a commit. When this returns, the commit would survive a loss of power.
    ///
    /// # Errors
    /// The commit cannot be written. It is in the file whole or not at all.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let (blocks, mark) = self.lay_out(records)?;
        self.file.write_all_at(&self.buffer[blocks.clone()], self.at)?;
        self.at += blocks.len() as u64;
        self.size = self.size.max(self.at);
        self.last = mark;
        Ok(())
    }

    /// Lays a commit out in the buffer, and returns its place there. It begins at a multiple of the block size in
    /// memory too, as a direct write demands.
    fn lay_out(&mut self, records: &[u8]) -> io::Result<(Range<usize>, Mark)> {
        let length = u32::try_from(records.len()).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
        let number = self.last.number + 1;
        let long = HEADER + records.len();
        let all = long.next_multiple_of(BLOCK);
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER);
        self.buffer.reserve(BLOCK + all);
        let begin = self.buffer.as_ptr().align_offset(BLOCK);
        self.buffer.resize(begin + HEADER, 0);
        self.buffer.extend_from_slice(records);
        self.buffer.resize(begin + all, 0);
        let commit = &mut self.buffer[begin..begin + long];
        commit[..CHECKSUM].copy_from_slice(&MAGIC);
        commit[LENGTH..NUMBER].copy_from_slice(&length.to_be_bytes());
        commit[NUMBER..HEADER].copy_from_slice(&number.to_be_bytes());
        let checksum = crc32fast::hash(&commit[LENGTH..]);
        commit[CHECKSUM..LENGTH].copy_from_slice(&checksum.to_be_bytes());
        Ok((begin..begin + all, Mark { number, checksum }))
    }
}

impl Part {
    /// The part in which the commit lies that ends here.
    const fn that_ends(end: u64) -> Self {
        if end <= HALF {
            Self::First
        } else if end <= SIZE {
            Self::Second
        } else {
            Self::Behind
        }
    }
}

/// Makes the file as long as it has to be, and writes its blocks. For a block that is only reserved, the filesystem
/// would have to write metadata later.
fn make(path: &Path, from: usize) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&vec![0; (SIZE as usize).saturating_sub(from)])?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Opens the file for writes past the page cache. Some filesystems cannot do that; then the writes go through it.
fn open(path: &Path) -> io::Result<File> {
    let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(path);
    match open(O_DSYNC | O_DIRECT) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(O_DSYNC),
        opened => opened,
    }
}

/// The last whole commits, in order. Counted back from the last one, they end where a commit is missing.
pub(super) fn read(bytes: &[u8]) -> Vec<Commit<'_>> {
    find(bytes).into_iter().map(|(_, commit)| commit).collect()
}

/// The same, each with the place at which it ends.
fn find(bytes: &[u8]) -> Vec<(u64, Commit<'_>)> {
    let mut commits = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let found = whole(&bytes[at..]);
        at += found.as_ref().map_or(BLOCK, |(_, long)| long.next_multiple_of(BLOCK));
        commits.extend(found.map(|(commit, _)| (at as u64, commit)));
    }
    commits.sort_by_key(|(_, commit)| commit.mark.number);
    let number = |at: usize| commits[at].1.mark.number;
    let first = (1..commits.len()).rev().find(|&at| number(at) != number(at - 1) + 1).unwrap_or(0);
    commits.split_off(first)
}

/// The commit at the beginning of these bytes, and its length.
fn whole(bytes: &[u8]) -> Option<(Commit<'_>, usize)> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let long = HEADER.checked_add(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let body = bytes.get(LENGTH..long)?;
    let checksum = u32::from_be_bytes(*checksum);
    if crc32fast::hash(body) != checksum {
        return None;
    }
    let (number, _) = rest.split_first_chunk()?;
    let mark = Mark { number: u64::from_be_bytes(*number), checksum };
    Some((Commit { mark, records: &bytes[HEADER..long] }, long))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn new_file() -> (tempfile::TempDir, PathBuf, Commits) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commits");
        let (commits, none) = Commits::open(&path).unwrap();
        assert_eq!(read(&none), []);
        (dir, path, commits)
    }

    /// As the store does it, which has all for good that it has to.
    fn append(commits: &mut Commits, records: &[u8]) -> Option<Part> {
        let part = commits.next_part(records.len());
        part.into_iter().for_each(|part| commits.turn(part).unwrap());
        commits.append(records).unwrap();
        part
    }

    /// Their numbers.
    fn read_of(path: &Path) -> Vec<u64> {
        let (_, bytes) = Commits::open(path).unwrap();
        read(&bytes).iter().map(|commit| commit.mark.number).collect()
    }

    fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        range.collect()
    }

    #[test]
    fn what_was_written_is_read_in_order_and_gone_on_with() {
        let (_dir, path, mut commits) = new_file();
        let mut expected = Vec::new();
        for (long, what) in [(5, 1), (9012, 2), (4096 - HEADER, 3), (4096, 4), (0, 5)] {
            let records = vec![what; long];
            assert_eq!(append(&mut commits, &records), None);
            expected.push((commits.last(), records));
            let (again, bytes) = Commits::open(&path).unwrap();
            assert_eq!((again.last(), again.at), (commits.last(), commits.at));
            let read: Vec<_> =
                read(&bytes).iter().map(|commit| (commit.mark, commit.records.to_vec())).collect();
            assert_eq!(read, expected);
            commits = again;
        }
        assert_eq!(read_of(&path), numbers(1..=5));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
    }

    #[test]
    fn a_full_half_is_followed_by_the_other_and_what_is_written_over_is_gone() {
        let (_dir, path, mut commits) = new_file();
        let records = vec![1; 5000];
        let turns: Vec<_> = (0..300).filter_map(|_| append(&mut commits, &records)).collect();
        assert_eq!(turns, [Part::Second, Part::First], "128 commits of two blocks in each");
        // Of the second round 44 are there, in place of the first 44.
        assert_eq!(read_of(&path), numbers(45..=300));
        let (mut commits, _) = Commits::open(&path).unwrap();
        assert_eq!(append(&mut commits, &vec![1; HALF as usize - HEADER]), Some(Part::Second));
        assert_eq!(append(&mut commits, &[1]), Some(Part::First));
        assert_eq!(read_of(&path), numbers(258..=302));
    }

    #[test]
    fn a_commit_longer_than_a_half_goes_behind_both_and_the_file_is_cut_down_again() {
        let (_dir, path, mut commits) = new_file();
        let size = || std::fs::metadata(&path).unwrap().len();
        append(&mut commits, &[1]);
        let long = vec![2; HALF as usize];
        for number in 2..4 {
            assert_eq!(append(&mut commits, &long), Some(Part::Behind));
            assert_eq!(read_of(&path), numbers(1..=number));
            assert!(size() > SIZE + (number - 1) * HALF, "the one before is in its place");
            (commits, _) = Commits::open(&path).unwrap();
        }
        let half = vec![3; HALF as usize - HEADER];
        assert_eq!(append(&mut commits, &half), Some(Part::First));
        assert_eq!(append(&mut commits, &half), Some(Part::Second));
        assert_eq!(read_of(&path), numbers(2..=5));
        (commits, _) = Commits::open(&path).unwrap();
        assert_eq!(append(&mut commits, &half), Some(Part::First));
        assert_eq!((read_of(&path), size()), (numbers(5..=6), SIZE));
    }

    #[test]
    fn a_commit_that_is_not_whole_is_none() {
        let (_dir, path, mut commits) = new_file();
        append(&mut commits, &[7; 10]);
        append(&mut commits, &[8; 6000]);
        let whole = std::fs::read(&path).unwrap();
        for place in (BLOCK..BLOCK + HEADER + 6000).step_by(7) {
            let mut damaged = whole.clone();
            damaged[place] ^= 4;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read_of(&path), [1], "at {place}");
        }
        for short in [0, 5, BLOCK, BLOCK + HEADER, 2 * BLOCK + 900] {
            std::fs::write(&path, &whole[..short]).unwrap();
            let left = if short < BLOCK { 0 } else { 1 };
            assert_eq!(read_of(&path).len(), left, "{short} bytes");
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE, "it is made as long as it was");
    }
}
