//! The elements of the sets and maps of nftables.

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
