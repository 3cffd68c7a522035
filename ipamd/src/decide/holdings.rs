//! What the store holds, and how that changes: leases and released addresses as values. Pure. How they are written down
//! is the affair of `store`.

use crate::decide::compact::{Former, Packed};
use ferrule_wire::messages::Lease;
use std::net::IpAddr;
use std::time::Duration;

/// One thing that the store has to hold. A batch of them is applied in order and as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A lease was given.
    Given(Packed<Lease>),
    /// A lease ended.
    Ended(Packed<Lease>),
    /// An address was released.
    Released(Released),
    /// The release of an address does not matter any more.
    Forgotten(IpAddr),
}

/// A released address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// The address.
    pub address: IpAddr,
    /// When, on the boot clock.
    pub at: Duration,
    /// Who had it, for people who ask why it rests.
    pub of: Option<Packed<Former>>,
}

/// What the store holds: all there is to know apart from the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Leases, in no order.
    pub leases: Vec<Packed<Lease>>,
    /// Released addresses.
    pub released: Vec<Released>,
}

/// What is written as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The boot that the times in the store belong to, if that is to be written.
    pub boot_id: Option<String>,
}

impl Batch {
    /// Nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.boot_id.is_none()
    }
}

/// What is in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The boot that the times belong to; `None` in a new store.
    pub boot_id: Option<String>,
    /// Leases and released addresses.
    pub holdings: Holdings,
}
