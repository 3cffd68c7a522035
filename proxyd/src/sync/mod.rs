//! Puts the data path into the kernel, and keeps it there.
//!
//! [`DataPath`] knows what the kernel holds, because it read it once, and changes only what differs: all that belongs to
//! a Service in one transaction. It reads again if somebody else has changed the table, or if the kernel's answer shows
//! that it holds something else. [`thread`] runs it. Which elements there have to be is decided in [`crate::nft`].

mod clients;
mod commit;
mod flows;
mod path;
mod refusals;
pub mod thread;
mod unit;

pub use path::{DataPath, Report, SyncError};
pub use unit::Wanted;

#[cfg(test)]
mod tests;
