//! The running daemon: it takes calls, answers them, and shows what it does.
//!
//! `daemon` puts the parts together and ends them. `connection` hands each call to the [`writer`], the one thread that
//! owns what changes; `pace` times its rounds, and `news` logs what it did. `reclaim` searches for leases whose pods
//! are gone, [`rescue`] opens the store and replaces a damaged one, `figures` counts, and `pages` shows figures and
//! health. `tell` is the other side of the socket: the commands `list` and `pools`, which ask the daemon that runs.
//! These modules may import all neighbours but `moving`.

mod connection;
pub(crate) mod daemon;
mod figures;
mod news;
mod pace;
mod pages;
mod reclaim;
pub mod rescue;
pub(crate) mod tell;
pub mod writer;
