//! The decisions: which address a pod gets, which leases there are, and which of them nobody uses any more. Pure.
//!
//! [`service`] turns a call and the time into an answer and the changes that the store has to hold ([`holdings`]). It
//! asks [`pool`] for addresses, and keeps the leases in `table` and the former holders of resting addresses in
//! `resting`, both in the few bytes of [`compact`]. `check` says which arguments a call may have, `pools` which pools
//! the files describe.
//!
//! [`recover`] turns what the store holds into a service, [`adopt`] makes leases anew from the pods' links, and
//! [`leaks`] finds leases whose pods are gone. What they have to know of the node is handed to them in the types of
//! [`seen`].
//!
//! Nothing here has an effect: no clock, no file, no socket, no process, no thread. These modules import no neighbour.

pub mod adopt;
mod check;
pub mod compact;
pub mod holdings;
pub mod leaks;
pub mod pool;
pub(crate) mod pools;
pub mod recover;
mod resting;
pub mod seen;
pub mod service;
mod table;
