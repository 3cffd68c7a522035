//! Moving in and back out: the addresses of a node whose pods were given theirs by host-local (under bridge, ptp,
//! flannel) become leases, and leases become files of host-local again. No pod is touched.
//!
//! `host_local` reads and writes its files, `namespaces` looks where the addresses really are, `plan` decides (pure),
//! `command` does it. The daemon must not run meanwhile: before a move it would give out addresses that it does not
//! know to be taken, and after one host-local would not know of its own.

mod command;
mod host_local;
mod namespaces;
mod plan;

pub use command::{MoveError, Moving, export, import};
