//! The elements of the sets and maps of nftables.

/// One element of a set. If it has a value, it is an element of a map. The fields of a concatenation begin at multiples
/// of four bytes and are in network byte order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Name of its set or map.
    pub set: &'static str,
    /// What is looked up.
    pub key: Vec<u8>,
    /// The last key, if the element stands for all keys from `key` on up to this one. In a concatenation that holds for
    /// each field. Empty if the element stands for one key.
    pub end: Vec<u8>,
    /// What it leads to.
    pub value: Value,
    /// A text of at most 252 bytes, which the kernel keeps and `nft list` shows. It says who owns the element.
    pub comment: String,
}

/// What an element leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing: it is an element of a set.
    #[default]
    None,
    /// These bytes, encoded as keys are.
    Data(Vec<u8>),
    /// To the chain of this name in the same table.
    Goto(String),
    /// Any other verdict, by its number (`NF_DROP` is 0, `NF_ACCEPT` is 1, `NFT_RETURN` is -5).
    Verdict(i32),
}

impl Element {
    /// An element of a set.
    pub const fn of_set(set: &'static str, key: Vec<u8>, comment: String) -> Self {
        Self { set, key, end: Vec::new(), value: Value::None, comment }
    }

    /// An element of a map.
    pub const fn of_map(set: &'static str, key: Vec<u8>, value: Value, comment: String) -> Self {
        Self { set, key, end: Vec::new(), value, comment }
    }
}

impl Value {
    /// The bytes, if it is data.
    pub fn data(&self) -> &[u8] {
        match self {
            Self::Data(bytes) => bytes,
            _ => &[],
        }
    }
}

impl From<Vec<u8>> for Value {
    /// No bytes are no value: the element belongs to a set.
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Self::None } else { Self::Data(bytes) }
    }
}
