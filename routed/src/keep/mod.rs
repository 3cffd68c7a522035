//! Keeps what the plugin made on the host for each pod: link, neighbours and routes, its place on a bridge and the
//! bridge, limits, host ports. It also keeps the tables that stop pods from sending what they must not ([`guard`]), and
//! what in them says which pod on a bridge may send under what ([`bridge_ports`]).
//!
//! The plugin writes down what it made (`ferrule_wire::Records`). ADD does so as its last step; DEL removes the record
//! first. A record says what has to be in the kernel, and its existence says that it still has to be there. This room
//! compares the records with the kernel in three cases:
//!
//! - when the kernel tells of something that is not as it was ([`Watch`], which the worker asks about each event);
//! - at the start;
//! - every 30 s, whatever the events say.
//!
//! [`Keeper`] does that on a thread of its own, so that pods wait for no pass. What differs is put back ([`repair`],
//! [`ports`]) and logged, with who did it if the kernel tells.
//!
//! A pod that comes or goes causes no comparison: what ADD does makes nothing doubtful, and what DEL does is over, with
//! the link, before the doubt is looked into. Only the guard follows it: a record that is new is read at once, and what
//! was put for it is taken away after its link.
//!
//! Pure: `watch`, `suspects`, `repair`, `share`. This room imports [`crate::decide`] and no other.

pub mod bridge;
mod bridge_ports;
pub mod guard;
mod keeper;
pub mod limits;
pub mod plan;
pub mod ports;
pub mod repair;
mod share;
mod suspects;
mod watch;

pub use keeper::{Job, Keeper, Kept, start};
pub use suspects::{Settled, Suspects};
pub use watch::Watch;
