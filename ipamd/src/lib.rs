//! `ipamd`: the addresses of one node's pods.
//!
//! A call walks through it so: `ferrule_daemon` reads it from the socket, `connection` hands it to the `writer`, one thread that owns
//! everything that changes; it asks the pure `service` (which asks the pure `pool`) for answer and changes, gathers what
//! else is waiting, commits all changes to the `store` as one, and only then lets the answers go. `recover` turns
//! what the store holds into a service at start.

pub mod decide;
pub mod look;
mod moving;
mod reasons;
pub mod serve;
pub mod store;

pub use decide::{adopt, compact, leaks, pool, recover, service};
pub use look::{clock, home, sight};
pub use serve::{rescue, writer};

pub(crate) use decide::{check, pools, resting, table};
pub(crate) use look::{flannel, inputs};
pub(crate) use serve::{daemon, metrics, news, pace, reclaim, tell};

pub use daemon::{RunError, run};
pub use moving::{MoveError, Moving, export, import};
pub use reasons::chain;
pub use tell::{Form, list, pools};
