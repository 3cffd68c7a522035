//! `ipamd`: the addresses of one node's pods.
//!
//! A call walks through it so: `ferrule_daemon` reads it from the socket, and [`serve`] hands it to the writer, the one
//! thread that owns everything that changes. The writer asks the pure [`decide`] for answer and changes, gathers what
//! else is waiting, commits all changes to the [`store`] as one, and only then lets the answers go. [`look`] reads what
//! the node and its files say; `moving` takes over leases of host-local, and gives them back, while the daemon does not
//! run.

pub mod decide;
pub mod look;
mod moving;
pub mod serve;
pub mod store;

pub use moving::{MoveError, Moving, export, import};
pub use serve::daemon::{RunError, run};
pub use serve::tell::{Form, list, pools};
