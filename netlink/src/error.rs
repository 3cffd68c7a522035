//! What can go wrong between a program and the kernel. The kernel's own reason is kept.

use std::io;

use ferrule_model::Refusal;
use nix::errno::Errno;

use crate::netns::NetnsError;
use crate::rights;

/// A request got no answer, or not the answer that it needs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be opened or set up.
    #[error("cannot open a netlink socket: {}{}", .0, rights::behind(rights::of_socket(.0)))]
    Open(#[source] io::Error),
    /// The namespace for the socket cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Sending failed.
    #[error("cannot send to the kernel over netlink: {0}")]
    Send(#[source] io::Error),
    /// Receiving failed. If the deadline passed, the error is `EAGAIN`.
    #[error("no answer from the kernel over netlink: {0}")]
    Receive(#[source] io::Error),
    /// An answer could not be read.
    #[error("cannot read the kernel's answer: {0}")]
    Decode(String),
    /// The table changed during every attempt to list it (`NLM_F_DUMP_INTR`).
    #[error("the kernel's table changed during each of {0} attempts to list it")]
    Interrupted(u32),
    /// The kernel refused the request.
    #[error("{request}: {refusal}{}", rights::behind(rights::of_request(refusal.errno)))]
    Refused {
        /// The request, written as for `ip(8)`.
        request: String,
        /// Why not.
        #[source]
        refusal: Refusal,
    },
    /// A child process for a deletion could not be made.
    #[error("cannot fork: {0}")]
    Fork(#[source] Errno),
}

impl Error {
    /// The kernel's error number, if the kernel refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.errno),
            _ => None,
        }
    }
}
