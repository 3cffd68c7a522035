//! `ipamd`: the addresses of one node's pods.
//!
//! A call walks through it so: `ferrule_daemon` reads it from the socket, `connection` hands it to the `writer`, one thread that owns
//! everything that changes; it asks the pure `service` (which asks the pure `pool`) for answer and changes, gathers what
//! else is waiting, commits all changes to the `store` as one, and only then lets the answers go. `recover` turns
//! what the store holds into a service at start.

pub mod adopt;
mod check;
pub mod clock;
pub mod compact;
pub mod home;
pub mod leaks;
pub mod pool;
pub mod recover;
pub mod service;
pub mod sight;
pub mod store;
pub mod writer;

mod connection;
mod daemon;
mod flannel;
mod inputs;
mod metrics;
mod moving;
mod news;
mod pace;
mod pools;
mod reasons;
mod reclaim;
pub mod rescue;
mod resting;
mod table;
mod tell;

pub use daemon::{RunError, run};
pub use moving::{MoveError, Moving, export, import};
pub use reasons::chain;
pub use tell::{Form, list, pools};
