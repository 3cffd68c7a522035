//! The elements of the sets and maps of nftables.

/// One element of a set. If it has a value, it is an element of a map. The fields of a concatenation begin at multiples
/// of four bytes and are in network byte order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Name of its set or map.
    pub set: &'static str,
    /// What is looked up.
    pub key: Vec<u8>,
    /// What it leads to. Empty in a set.
    pub value: Vec<u8>,
    /// A text of at most 252 bytes, which the kernel keeps and `nft list` shows. It says who owns the element.
    pub comment: String,
}
