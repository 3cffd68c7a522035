//! At most one daemon of a kind runs in a network namespace, whatever directories it uses: two would each undo what the
//! other does.
//!
//! The lock is a unix socket with an abstract name. Each network namespace has its own such names. They need no file,
//! and they are free again as soon as their process ends, however it ends.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

/// How long a daemon that is ending may still hold the name. A program that it was just starting, such as nft, holds
/// its files a moment longer than the daemon itself. Whoever starts the daemon anew need not wait for that.
const LEAVING: Duration = Duration::from_secs(2);
/// Time between two tries, because nothing tells when the name is free.
const AGAIN: Duration = Duration::from_millis(20);

/// The right to be the only daemon of this name here, until it is dropped or its process dies.
#[derive(Debug)]
pub struct Alone {
    _held: Option<UnixListener>,
}

/// Another daemon of this name runs here.
#[derive(Debug, thiserror::Error)]
#[error(
    "another {daemon} runs in this network namespace, as process {process}: each of the two would undo what the other does; stop it first"
)]
pub struct NotAlone {
    daemon: &'static str,
    process: i32,
}

impl Alone {
    /// Takes the right, if nobody has it.
    ///
    /// If the name is held by a process that cannot be such a daemon, this daemon runs all the same, and logs that.
    ///
    /// # Errors
    /// [`NotAlone`].
    pub fn be(daemon: &'static str) -> Result<Self, NotAlone> {
        let until = Instant::now() + LEAVING;
        loop {
            match Self::try_be(daemon) {
                Err(_) if Instant::now() < until => std::thread::sleep(AGAIN),
                done => return done,
            }
        }
    }

    fn try_be(daemon: &'static str) -> Result<Self, NotAlone> {
        match bind(daemon) {
            Ok(held) => return Ok(Self { _held: Some(held) }),
            Err(error) if error.kind() != ErrorKind::AddrInUse => {
                tracing::warn!(%error, "cannot tell whether another {daemon} runs in this network namespace");
                return Ok(Self { _held: None });
            }
            Err(_) => {}
        }
        match holder(daemon) {
            Ok((uid, process)) if uid == 0 || uid == geteuid().as_raw() => Err(NotAlone { daemon, process }),
            Ok((uid, process)) => {
                tracing::warn!(uid, process, "a stranger has the name @{}: it is ignored", name(daemon));
                Ok(Self { _held: None })
            }
            // The other process has just ended.
            Err(_) => Ok(Self { _held: bind(daemon).ok() }),
        }
    }
}

fn name(daemon: &str) -> String {
    format!("ferrule/{daemon}")
}

fn bind(daemon: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name(daemon))?)
}

/// User and process that listen there.
fn holder(daemon: &str) -> io::Result<(u32, i32)> {
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name(daemon))?)?;
    let peer = getsockopt(&stream, PeerCredentials)?;
    Ok((peer.uid(), peer.pid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_in_a_namespace_until_it_ends() {
        let first = Alone::be("test-alone").unwrap();
        let error = Alone::be("test-alone").unwrap_err().to_string();
        let named =
            format!("another test-alone runs in this network namespace, as process {}", std::process::id());
        assert!(error.starts_with(&named), "{error}");
        Alone::be("test-another").unwrap();
        drop(first);
        Alone::be("test-alone").unwrap();
    }
}
