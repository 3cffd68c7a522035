//! The elements of sets and maps, and the changes of them that one transaction makes.

/// One element of a set, or of a map if it has a value. Fields of a concatenation begin at multiples of four bytes and are
/// in network byte order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Name of its set or map.
    pub set: &'static str,
    /// What is looked up.
    pub key: Vec<u8>,
    /// What it leads to; empty in a set.
    pub value: Vec<u8>,
    /// A text that the kernel keeps and `nft list` shows, at most 252 bytes: whose it is.
    pub comment: String,
}

/// A change of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Adds an element whose key is not there yet.
    Add(&'a Element),
    /// Deletes the element of this key.
    Delete(&'a Element),
    /// Deletes all elements of this set.
    Clear(&'static str),
}

impl Change<'_> {
    /// Whether both do the same with elements of the same set.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Add(a), Self::Add(b)) | (Self::Delete(a), Self::Delete(b)) => a.set == b.set,
            _ => false,
        }
    }
}
