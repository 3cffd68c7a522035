//! The last commits, in a file beside the store: one write of whole blocks over blocks that are there already makes a commit
//! durable, with nothing for the filesystem to note. What is in the store for good is written over when the file is full.
//!
//! A commit begins with a block and says by its checksum whether it is whole; by the numbers of their entries commits
//! know their order. Blocks of commits that were written over in part are nothing, as are those of a write that was cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_DIRECT, O_DSYNC};

/// What disks and filesystems write as one, or a multiple of it.
const BLOCK: usize = 4096;

/// Size of the file: more than five hundred commits of up to a block.
const SIZE: u64 = 2 << 20;

/// Memory that is kept for the next commit.
const BUFFER: usize = 64 << 10;

/// What each commit begins with; its last byte is the version of what follows.
const MAGIC: [u8; 8] = *b"ferrule\x01";

/// Magic, checksum of all that follows, its length, and the number of the first entry.
const CHECKSUM: usize = MAGIC.len();
const LENGTH: usize = CHECKSUM + 4;
const FIRST: usize = LENGTH + 4;
const HEADER: usize = FIRST + 8;

/// The file that commits are written to.
#[derive(Debug)]
pub(super) struct Commits {
    file: File,
    /// Where the next one goes.
    at: u64,
    buffer: Vec<u8>,
}

/// A commit that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    /// Number of its first entry.
    pub(super) first: u64,
    pub(super) entries: Vec<Vec<u8>>,
}

impl Commit {
    /// The number behind that of its last entry.
    pub(super) const fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

impl Commits {
    /// Opens the file, which is made if it is not there, and reads what is in it, in order. It [is full](Self::is_full) at first: the
    /// next commit would write over what was read.
    ///
    /// # Errors
    /// It cannot be made, or be read.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Commit>)> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            read => read.unwrap_or_default(),
        };
        if (bytes.len() as u64) < SIZE {
            make(path, bytes.len())?;
        }
        let at = SIZE.max(bytes.len() as u64);
        Ok((Self { file: open(path)?, at, buffer: Vec::new() }, read(&bytes)))
    }

    /// Whether what is in the file has to be in the store for good before the next commit is written.
    pub(super) const fn is_full(&self) -> bool {
        self.at >= SIZE
    }

    /// Lets the next commits be written over those that are there.
    ///
    /// # Errors
    /// A file that grew by a commit that is longer than it cannot be cut down.
    pub(super) fn begin_again(&mut self) -> io::Result<()> {
        if self.at > SIZE {
            self.file.set_len(SIZE)?;
        }
        self.at = 0;
        Ok(())
    }

    /// Writes a commit. When this returns it would survive the loss of power.
    ///
    /// # Errors
    /// It cannot be written: it is in the file whole or not at all.
    pub(super) fn append(&mut self, entries: &[(u64, Vec<u8>)]) -> io::Result<()> {
        let Some((first, _)) = entries.first() else { return Ok(()) };
        let blocks = self.lay_out(*first, entries)?;
        self.file.write_all_at(&self.buffer[blocks.clone()], self.at)?;
        self.at += blocks.len() as u64;
        Ok(())
    }

    /// Puts a commit into the buffer, and tells where: a direct write is of memory that begins with a block, too.
    fn lay_out(&mut self, first: u64, entries: &[(u64, Vec<u8>)]) -> io::Result<Range<usize>> {
        let long = entries.iter().map(|(_, entry)| entry.len() + 4).sum::<usize>() + HEADER;
        let all = long.next_multiple_of(BLOCK);
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER);
        self.buffer.reserve(BLOCK + all);
        let begin = self.buffer.as_ptr().align_offset(BLOCK);
        self.buffer.resize(begin + HEADER, 0);
        for (_, entry) in entries {
            self.buffer.extend(length(entry.len())?);
            self.buffer.extend(entry);
        }
        self.buffer.resize(begin + all, 0);
        let commit = &mut self.buffer[begin..begin + long];
        commit[..CHECKSUM].copy_from_slice(&MAGIC);
        commit[LENGTH..FIRST].copy_from_slice(&length(long - HEADER)?);
        commit[FIRST..HEADER].copy_from_slice(&first.to_be_bytes());
        let checksum = crc32fast::hash(&commit[LENGTH..]);
        commit[CHECKSUM..LENGTH].copy_from_slice(&checksum.to_be_bytes());
        Ok(begin..begin + all)
    }
}

fn length(bytes: usize) -> io::Result<[u8; 4]> {
    let length = u32::try_from(bytes);
    length.map(u32::to_be_bytes).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))
}

/// Makes the file as long as it is to be, of written blocks: each that was only reserved would cost a note of the filesystem.
fn make(path: &Path, from: usize) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&vec![0; (SIZE as usize).saturating_sub(from)])?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Past the page cache, which a filesystem may not be able to.
fn open(path: &Path) -> io::Result<File> {
    let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(path);
    match open(O_DSYNC | O_DIRECT) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(O_DSYNC),
        opened => opened,
    }
}

/// The commits that are whole, in order.
fn read(bytes: &[u8]) -> Vec<Commit> {
    let mut commits = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let found = whole(&bytes[at..]);
        at += found.as_ref().map_or(BLOCK, |(_, long)| long.next_multiple_of(BLOCK));
        commits.extend(found.map(|(commit, _)| commit));
    }
    commits.sort_by_key(|commit| commit.first);
    commits
}

/// The commit that these bytes begin with, and its length.
fn whole(bytes: &[u8]) -> Option<(Commit, usize)> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let long = HEADER + number(rest)?;
    let body = bytes.get(LENGTH..long)?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let (first, mut rest) = body.get(FIRST - LENGTH..)?.split_first_chunk()?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let entry = rest.get(entry(rest)?)?;
        entries.push(entry.to_vec());
        rest = &rest[4 + entry.len()..];
    }
    (!entries.is_empty()).then(|| (Commit { first: u64::from_be_bytes(*first), entries }, long))
}

/// Where the entry is that these bytes begin with.
fn entry(bytes: &[u8]) -> Option<Range<usize>> {
    let long = number(bytes)?;
    Some(4..4_usize.checked_add(long)?)
}

fn number(bytes: &[u8]) -> Option<usize> {
    let number = bytes.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn entries(first: u64, lengths: &[usize]) -> Vec<(u64, Vec<u8>)> {
        (first..).zip(lengths).map(|(number, long)| (number, vec![number as u8; *long])).collect()
    }

    /// A file that is ready for its first commit.
    fn new_file() -> (tempfile::TempDir, PathBuf, Commits) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commits");
        let (mut commits, none) = Commits::open(&path).unwrap();
        assert!(none.is_empty() && commits.is_full());
        commits.begin_again().unwrap();
        (dir, path, commits)
    }

    fn read_of(path: &Path) -> Vec<(u64, u64)> {
        let (_, read) = Commits::open(path).unwrap();
        read.iter().map(|commit| (commit.first, commit.end())).collect()
    }

    #[test]
    fn what_was_written_is_read_in_order() {
        let (_dir, path, mut commits) = new_file();
        commits.append(&[]).unwrap();
        for (first, lengths) in [(1, &[5][..]), (2, &[0, 3, 9000]), (5, &[4096 - HEADER - 4]), (6, &[4096])] {
            commits.append(&entries(first, lengths)).unwrap();
        }
        let (again, read) = Commits::open(&path).unwrap();
        assert!(again.is_full(), "what is in it may be nowhere else");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
        let expected =
            [entries(1, &[5]), entries(2, &[0, 3, 9000]), entries(5, &[4068]), entries(6, &[4096])];
        let expected = expected.map(|entries| Commit {
            first: entries[0].0,
            entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn a_full_file_begins_again_and_what_was_written_over_is_gone() {
        let (_dir, path, mut commits) = new_file();
        let mut number = 0;
        while !commits.is_full() {
            number += 1;
            commits.append(&entries(number, &[5000])).unwrap();
        }
        assert_eq!(number, 256, "two blocks each");
        commits.begin_again().unwrap();
        commits.append(&entries(257, &[1])).unwrap();
        assert_eq!(read_of(&path), (2..=257).map(|number| (number, number + 1)).collect::<Vec<_>>());
    }

    #[test]
    fn a_commit_longer_than_the_file_is_kept_and_the_file_is_cut_down_again() {
        let (_dir, path, mut commits) = new_file();
        commits.append(&entries(1, &[1])).unwrap();
        commits.append(&entries(2, &[1 << 20, 1 << 20, 1 << 20])).unwrap();
        assert!(commits.is_full());
        assert_eq!(read_of(&path), [(1, 2), (2, 5)]);
        let (mut commits, _) = Commits::open(&path).unwrap();
        commits.begin_again().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
        assert_eq!(read_of(&path), [(1, 2)]);
    }

    #[test]
    fn a_commit_that_is_not_whole_is_none() {
        let (_dir, path, mut commits) = new_file();
        commits.append(&entries(1, &[10])).unwrap();
        commits.append(&entries(2, &[6000])).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for place in (BLOCK..BLOCK + HEADER + 4 + 6000).step_by(7) {
            let mut damaged = whole.clone();
            damaged[place] ^= 4;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read_of(&path), [(1, 2)], "at {place}");
        }
        for short in [0, 5, BLOCK, BLOCK + HEADER, 2 * BLOCK + 900] {
            std::fs::write(&path, &whole[..short]).unwrap();
            let left = if short < BLOCK { 0 } else { 1 };
            assert_eq!(read_of(&path).len(), left, "{short} bytes");
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE, "it is made as long as it was");
    }
}
