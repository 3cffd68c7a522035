//! nftables, and the connections that the kernel tracks.
//!
//! A table has two parts. Its skeleton (chains, rules, empty sets and maps) changes rarely, and is a script for the
//! program `nft` ([`apply`], one process for each script). The elements of its sets and maps change with every pod, and
//! go to the kernel as netlink messages (`codec`), all in one transaction.
//!
//! [`KeptTable`] keeps a skeleton as its text says, whatever other programs do to it.
//!
//! [`Netfilter`] is the seam: [`NetfilterSocket`] on the real kernel, [`FakeNetfilter`] on maps.

mod codec;
mod conntrack;
mod element;
mod fake;
mod kept;
mod program;
mod real;

use ferrule_model::{Element, Family};

use crate::Error;
use crate::socket::Message;

pub use conntrack::Flow;
pub use element::Change;
pub use fake::FakeNetfilter;
pub use kept::{Found, KeptError, KeptTable, Text, removal, replacement, same};
pub use program::{NftError, apply, has_chain, list_chains, list_rules, list_table};
pub use real::NetfilterSocket;

/// Which packets the tables are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// Frames that a bridge takes.
    Bridge,
}

impl TableFamily {
    /// As `nft(8)` calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

/// Tables of one family, mostly `inet`, and tracked connections, of one network namespace.
pub trait Netfilter {
    /// Carries out all `changes` of `table`, or none. If a `generation` is given, it does so only if no ruleset of the
    /// namespace has changed since [`Netfilter::generation`] returned it.
    ///
    /// # Errors
    /// `ENOENT` if the table, a set or an element to delete is not there; `EEXIST` if a key to add is; `ERESTART` if
    /// the generation has passed. Then nothing was changed.
    fn change(&mut self, table: &str, changes: &[Change<'_>], generation: Option<u32>) -> Result<(), Error>;

    /// The elements of one set or map.
    ///
    /// # Errors
    /// `ENOENT` if the set or its table is not there.
    fn elements(&mut self, table: &str, set: &'static str) -> Result<Vec<Element>, Error>;

    /// The number that the kernel gave this table when it was made, if there is the table. One that is made anew has another.
    ///
    /// # Errors
    /// The socket failed, or the kernel refused.
    fn table(&mut self, table: &str) -> Result<Option<u64>, Error> {
        Ok(self.has_table(table)?.then_some(0))
    }

    /// Whether there is this table.
    ///
    /// # Errors
    /// The socket failed, or the kernel refused.
    fn has_table(&mut self, table: &str) -> Result<bool, Error>;

    /// The number of the present state of the namespace's rulesets. Every transaction of any program changes it.
    ///
    /// # Errors
    /// The socket failed.
    fn generation(&mut self) -> Result<u32, Error>;

    /// The rules of a table, with its sets and maps but without their elements, as this version of
    /// `nft(8)` prints them. `None` if there is no such table.
    ///
    /// # Errors
    /// As [`list_rules`].
    fn rules(&mut self, table: &str) -> Result<Option<String>, NftError> {
        list_rules("inet", table)
    }

    /// The same with the elements.
    ///
    /// # Errors
    /// As [`list_table`].
    fn whole(&mut self, table: &str) -> Result<Option<String>, NftError> {
        list_table("inet", table)
    }

    /// Carries out a script of `nft(8)`.
    ///
    /// # Errors
    /// As [`apply`].
    fn load(&mut self, script: &str) -> Result<(), NftError> {
        apply(script)
    }

    /// Forgets those UDP connections to `port`, or to any port, that are `wanted`, so that their next packet is
    /// translated afresh. Returns how many there were.
    ///
    /// # Errors
    /// The socket failed, or the kernel refused.
    fn forget_udp(
        &mut self,
        family: Family,
        port: Option<u16>,
        wanted: &dyn Fn(&Flow) -> bool,
    ) -> Result<usize, Error>;
}

/// The owners of the elements in a message.
pub(crate) fn owners(message: &Message) -> Vec<String> {
    codec::parse_elements(message, "").into_iter().map(|element| element.comment).collect()
}
