//! The data path in nftables: what the kernel holds for each frontend, and how that changes.
//!
//! A packet's way, for a Service with three endpoints. In `prerouting` the map `services4` is asked by (address,
//! protocol, port) and leads to the chain `pick-3`. That chain draws a slot, 0 to 2, and asks the map `endpoints4` by
//! (address, protocol, port, slot) for the endpoint's address and port. So a Service costs elements only: there are as
//! many chains, maps and rules with one Service as with 45,000. The kernel looks at every map each time a rule is added,
//! and many maps make that slow.
//!
//! [`script`] writes the table without its elements. [`layout`] says what a frontend needs in it, [`difference`] how one
//! layout becomes another one, and [`found`] reads what the kernel holds. Nothing here has effects; `sync` puts it into
//! the kernel.

pub mod difference;
pub mod found;
pub mod layout;
mod place;
pub mod script;
pub mod sets;
pub mod shared;

pub use difference::{Batch, difference};
pub use found::Found;
pub use layout::{Layout, Slots, View};
pub use script::Shape;
pub use shared::{Shared, SharedElement};

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "ferrule-services";

#[cfg(test)]
mod tests;
