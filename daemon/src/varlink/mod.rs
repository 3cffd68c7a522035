//! Serves a Varlink interface on a unix socket in the runtime directory: the lock and the socket's file ([`Lock`]),
//! callers and what keeps them from harming each other ([`serve`], [`Limits`]), and the talk with one of them
//! ([`Caller`]). The [`Service`] does what the calls ask for.

mod caller;
mod server;
mod socket;

pub use caller::{Caller, EndError};
pub use server::{Limits, Service, serve};
pub use socket::{Lock, SocketError, SocketFile};
