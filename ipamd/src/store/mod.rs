//! Keeps the leases so that they survive the daemon. This module says what a store must do and what it holds.
//!
//! `disk` is the store on sled. `memory` is for tests that make the store fail.

mod commits;
mod disk;
mod journal;
mod memory;
mod record;

pub use disk::SledStore;
pub use memory::{Faults, MemoryStore};

use crate::decide::holdings::{Batch, Contents};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the store's directory.
const NAME: &str = "ipam";

/// The directory in which leases are kept: the one that the configuration names, else one in the runtime directory.
pub(crate) fn path_in(state_dir: Option<&Path>, runtime_dir: &Path) -> PathBuf {
    state_dir.unwrap_or(runtime_dir).join(NAME)
}

/// A store of leases. One thread uses it.
pub trait Store: Send {
    /// Returns everything in the store, which is what the last acknowledged [`commit`](Self::commit) left. After a
    /// failed commit this tells whether the batch is in the store. It also makes the store usable again, if that is
    /// possible.
    ///
    /// # Errors
    /// The store cannot be opened, or something in it cannot be read. Then nothing may be given out.
    fn load(&mut self) -> Result<Contents, StoreError>;

    /// Writes the changes of a batch in their order and as one. When this returns, they would survive a loss of power.
    ///
    /// # Errors
    /// The batch is in the store whole or not at all. [`load`](Self::load) tells which.
    fn commit(&mut self, batch: &Batch) -> Result<Waited, StoreError>;
}

/// What a commit had to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waited {
    /// The keeper, which had to move earlier commits into sled.
    pub keeper: Duration,
    /// The disk, which had to write.
    pub disk: Duration,
}

/// The store cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be opened.
    #[error("the store {} cannot be opened", path.display())]
    Open {
        /// Its directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Read(#[source] Box<dyn Error + Send + Sync>),
    /// The store cannot be written.
    #[error("the store cannot be written")]
    Write(#[source] Box<dyn Error + Send + Sync>),
    /// The store's files are damaged, or an older copy of them was put in their place.
    #[error("the store {} is damaged: {reason}", path.display())]
    Corrupt {
        /// Its directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A record is of a later version of this program.
    #[error(
        "the record {key:?} has version {version}, which this ipamd does not know: install the later one again"
    )]
    Version {
        /// The record's key.
        key: String,
        /// Its version.
        version: u64,
    },
    /// A record cannot be understood.
    #[error(
        "the record {key:?} is damaged ({reason}): keep the store and ask its leases of the running pods"
    )]
    Damaged {
        /// The record's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl StoreError {
    /// Whether the store's contents are lost. Otherwise the system does not let the store be used.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Damaged { .. })
    }
}

#[cfg(test)]
mod tests;
