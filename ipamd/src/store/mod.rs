//! Where leases survive the daemon: what a store must do, and what it holds.
//!
//! `disk` does it with sled, `memory` for tests that make the store fail.

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

/// Where the leases are kept: in the directory that the configuration names, else in the runtime directory.
pub(crate) fn path_in(state_dir: Option<&Path>, runtime_dir: &Path) -> PathBuf {
    state_dir.unwrap_or(runtime_dir).join(NAME)
}

/// A store of leases. One thread uses it.
pub trait Store: Send {
    /// All that is in it: what the last acknowledged [`commit`](Self::commit) left. After a failed commit this tells
    /// whether the batch is in, and makes the store usable again if it can be.
    ///
    /// # Errors
    /// The store cannot be opened, or something in it cannot be read: then nothing may be given out.
    fn load(&mut self) -> Result<Contents, StoreError>;

    /// Writes a batch, in order and as one. Returns when it would survive the loss of power.
    ///
    /// # Errors
    /// The batch is in the store whole or not at all; [`load`](Self::load) tells which.
    fn commit(&mut self, batch: &Batch) -> Result<Waited, StoreError>;
}

/// What a commit waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waited {
    /// For the keeper, which has to move earlier commits into sled.
    pub keeper: Duration,
    /// For the disk to write.
    pub disk: Duration,
}

/// The store cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("the store {} cannot be opened", path.display())]
    Open {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It cannot be read.
    #[error("the store cannot be read")]
    Read(#[source] Box<dyn Error + Send + Sync>),
    /// It cannot be written.
    #[error("the store cannot be written")]
    Write(#[source] Box<dyn Error + Send + Sync>),
    /// Its files are damaged, or an older copy of them lies there.
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
    /// Whether the store's contents are lost, as opposed to a system that does not let it be used.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Damaged { .. })
    }
}

#[cfg(test)]
mod tests;
