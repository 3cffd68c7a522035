//! Who changes one nftables table. A program that keeps a table of thousands of elements does not want to be told of
//! its own changes, nor of what other tables hold.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockProtocol, recv};

use crate::Port;
use crate::events::{Caller, caller_of};
use crate::own::without;
use crate::socket::messages;
use crate::wake::{BUFFER, GROUP_NFTABLES, is_of_table, subscribe};

/// Hears of the changes of one table.
#[derive(Debug)]
pub struct TableWatch {
    socket: OwnedFd,
    table: &'static str,
}

impl TableWatch {
    /// Subscribes in the calling thread's network namespace to all changes of `table` from here on, except for those
    /// that `own` asks for.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open(table: &'static str, own: Port) -> io::Result<Self> {
        let socket = subscribe(SockProtocol::NetlinkNetFilter, GROUP_NFTABLES)?;
        without(socket.as_fd(), own)?;
        Ok(Self { socket, table })
    }

    /// Blocks until somebody has changed the table. Returns the process that did, if it is still there to be seen.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn wait(&self) -> io::Result<Option<Caller>> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let messages = messages(&buffer[..length]).map_err(io::Error::other)?;
                    if let Some(first) = messages.iter().find(|message| is_of_table(message, self.table)) {
                        return Ok(caller_of(first.port));
                    }
                }
                // What was lost may have been about the table.
                Err(Errno::ENOBUFS) => return Ok(None),
                Err(Errno::EAGAIN) => self.ready()?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn ready(&self) -> io::Result<()> {
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::netns;
    use crate::nft::{Change, Netfilter, NetfilterSocket, apply};
    use ferrule_model::Element;

    #[test]
    fn others_changes_of_this_table_alone_are_told() {
        let watch = || {
            let script = "table inet watched { set s { type inet_service; }\n}\n";
            apply(script).unwrap();
            let mut netfilter = NetfilterSocket::open().unwrap();
            let watch = TableWatch::open("watched", netfilter.port().unwrap()).unwrap();
            let port = |port| Element::of_set("s", vec![0, port], "ours".into());
            netfilter.change("watched", &[Change::Add(&port(80))], None).unwrap();
            apply("table inet of_others { set s { type inet_service; }\n}\n").unwrap();
            let (tell, told) = mpsc::channel();
            let waiting = std::thread::spawn(move || {
                tell.send(watch.wait().unwrap()).unwrap();
            });
            assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "nobody has changed the table");
            let mut other = NetfilterSocket::open().unwrap();
            other.change("watched", &[Change::Add(&port(81))], None).unwrap();
            told.recv_timeout(Duration::from_secs(5)).unwrap();
            waiting.join().unwrap();
        };
        netns::make().unwrap().run(watch).unwrap();
    }
}
