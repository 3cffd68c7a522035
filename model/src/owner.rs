//! Whose an element of nftables is.

use std::fmt;

use crate::{Attachment, IfName, host_veth_of};

/// The owner of an element: the attachment's hash and its network. It is written into the element's comment, which `nft
/// list` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    hash: String,
    network: String,
}

impl Owner {
    /// A comment has room for 252 bytes.
    const NETWORK_MAX: usize = 200;

    /// The owner of this attachment's elements.
    pub fn of(attachment: &Attachment) -> Self {
        Self { hash: attachment.hash().to_string(), network: Self::network(&attachment.network) }
    }

    /// The owner of an element with this comment.
    pub fn read(comment: &str) -> Option<Self> {
        let (hash, network) = comment.split_once(' ')?;
        Some(Self { hash: hash.to_owned(), network: network.to_owned() })
    }

    /// Whether the owner is an attachment of the network `name`. Names are ASCII.
    pub fn is_in(&self, name: &str) -> bool {
        self.network == Self::network(name)
    }

    /// The host's end of the attachment's veth pair.
    pub fn veth(&self) -> Option<IfName> {
        host_veth_of(&self.hash)
    }

    fn network(name: &str) -> String {
        name.chars().take(Self::NETWORK_MAX).collect()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.hash, self.network)
    }
}
