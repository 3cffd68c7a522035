//! Serving a Varlink interface on a unix socket of the runtime directory: the lock and the socket's file ([`Lock`]), callers
//! and what keeps them from harming each other ([`serve`], [`Limits`]), and the talk with one of them ([`Caller`]). What the
//! calls do is the [`Service`]'s.

mod caller;
mod server;
mod socket;

pub use caller::{Caller, EndError};
pub use server::{Limits, Service, serve};
pub use socket::{Lock, SocketError, SocketFile};
