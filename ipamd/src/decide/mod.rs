//! The decisions: which address a pod gets, which leases there are, and which of them nobody uses any more. Pure.
//!
//! [`service`] turns a call and the time into an answer and the changes that the store has to hold; it asks [`pool`] for
//! addresses, keeps the leases in `table` and the former holders of resting addresses in `resting`, in the few bytes of [`compact`].
//! `check` says which arguments a call may have, `pools` which pools the files describe. [`recover`] turns what the store
//! holds into a service, [`adopt`] makes leases anew from the pods' links, and [`leaks`] finds leases whose pods are gone.
//! Nothing here has an effect: no clock, no file, no socket, no process, no thread.

pub mod adopt;
mod check;
pub mod compact;
pub mod leaks;
pub mod pool;
pub(crate) mod pools;
pub mod recover;
mod resting;
pub mod service;
mod table;
