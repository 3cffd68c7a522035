//! Cuts the bytes of an answer into lines: pure.

use crate::fault::Fault;

/// The longest accepted line, in bytes. The API server's store takes objects of 1.5 MiB, which are larger as JSON.
pub(crate) const LONGEST_LINE: usize = 16 << 20;
/// A buffer that grew beyond this size for one large object is freed.
const KEEP: usize = 256 << 10;

/// Collects bytes and returns whole lines. Bytes after the end of the last line are never returned.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    bytes: Vec<u8>,
    /// Where the next line begins.
    begin: usize,
    /// No line ends before this position.
    searched: usize,
}

impl Feed {
    /// Adds the next bytes.
    ///
    /// # Errors
    /// [`Fault::Malformed`] if a line is longer than [`LONGEST_LINE`].
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.begin > 0 {
            self.bytes.drain(..self.begin);
            self.searched -= self.begin;
            self.begin = 0;
            if self.bytes.is_empty() && self.bytes.capacity() > KEEP {
                self.bytes = Vec::new();
            }
        }
        if self.bytes.len() + bytes.len() > LONGEST_LINE {
            return Err(Fault::Malformed(format!("an object has more than {} MiB", LONGEST_LINE >> 20)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole line, without its end.
    pub(crate) fn line(&mut self) -> Option<&[u8]> {
        let Some(at) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let end = self.searched + at;
        let line = self.begin..end;
        (self.begin, self.searched) = (end + 1, end + 1);
        Some(&self.bytes[line])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str]) -> Vec<String> {
        let mut feed = Feed::default();
        let mut lines = Vec::new();
        for piece in pieces {
            feed.push(piece.as_bytes()).unwrap();
            while let Some(line) = feed.line() {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        lines
    }

    #[test]
    fn lines_come_whole_however_the_bytes_are_cut() {
        assert_eq!(lines(&["one\ntwo\nthr", "ee", "\n", "", "\nrest"]), ["one", "two", "three", ""]);
        let text = "first\nsecond\n\nlast\n";
        for cut in 0..=text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(lines(&[head, tail]), ["first", "second", "", "last"]);
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let (mut feed, piece) = (Feed::default(), vec![b'x'; 1 << 20]);
        let mut taken = 0;
        while feed.push(&piece).is_ok() {
            assert_eq!(feed.line(), None);
            taken += piece.len();
        }
        assert_eq!(taken, LONGEST_LINE);
    }
}
