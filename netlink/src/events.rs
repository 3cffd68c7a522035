//! All that the kernel tells, on one thread. Events that come together are read together.
//!
//! A pod that comes or goes causes a dozen events within two milliseconds, and none of them matters to anybody. To wake
//! up for each would cost more than they are worth, while the plugin that causes them waits for a core.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::Port;
use crate::monitor::{Event, Monitor};
use crate::wake::{Wake, Wakes};

pub use ferrule_model::Caller;

/// Length of `struct nlmsghdr`, and the place of its last field, `nlmsg_pid`.
const HEADER_LEN: usize = 16;
const PORT: usize = 12;
/// How long to wait for further events that belong to the first one. An ADD takes two milliseconds.
const GATHER: Duration = Duration::from_millis(5);

/// The events that came together, each with the netlink port that asked for the change (0: the kernel by itself).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Events of links, addresses, routes, neighbours and FDB entries.
    pub events: Vec<(Event, u32)>,
    /// Events of the other kinds.
    pub wakes: Vec<(Wake, u32)>,
    /// The process that asked for the first of them. It is looked up at once, because many processes end right after
    /// their change.
    pub first: Option<Caller>,
}

/// The process that has this netlink port, judged by its number. `None` if there is no process of this number here, or
/// if it may not be seen.
pub fn caller_of(port: u32) -> Option<Caller> {
    // Port 0 is the kernel by itself.
    let port = Some(port).filter(|port| *port != 0)?;
    let name = fs::read_to_string(format!("/proc/{port}/comm")).ok()?;
    Some(Caller { port, process: name.trim_end().to_owned() })
}

/// All subscriptions of a network namespace.
#[derive(Debug)]
pub struct Events {
    /// The monitor is read on this runtime, and only while somebody waits here.
    runtime: Runtime,
    monitor: Monitor,
    wakes: Wakes,
}

impl Events {
    /// Subscribes in the calling thread's network namespace. Every change from here on is told, except for those that
    /// `own` asked for. Of nftables only changes of the tables with these names are told. Must not be called within a
    /// tokio runtime, because it has its own.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn open(tables: &[&'static str], own: Option<Port>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let (monitor, wakes) = (Monitor::open(own)?, Wakes::open(tables, own)?);
        drop(context);
        Ok(Self { runtime, monitor, wakes })
    }

    /// Blocks until something comes, and [`GATHER`] longer. Returns all that has come by then, which may be nothing
    /// that matters.
    ///
    /// # Errors
    /// A socket is broken.
    pub fn wait(&mut self) -> io::Result<Told> {
        let mut told = Told::default();
        for socket in self.ready(PollTimeout::NONE)? {
            match asker(socket) {
                Ok(port) => told.first = told.first.or_else(|| caller_of(port)),
                // Telling this once is enough.
                Err(Errno::ENOBUFS) => told.wakes.push((Wake::Overrun, 0)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        thread::sleep(GATHER);
        let monitor = self.monitor.socket().as_raw_fd();
        if self.ready(PollTimeout::ZERO)?.iter().any(|socket| socket.as_raw_fd() == monitor) {
            // What cannot be read as a message is skipped. Then there may be no other message to wait for.
            let swarm = async { timeout(GATHER, self.monitor.swarm()).await };
            let swarm = self.runtime.block_on(swarm).unwrap_or_else(|_| Some(Vec::new()));
            told.events = swarm.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        told.wakes.extend(self.wakes.swarm()?);
        Ok(told)
    }

    /// Waits until something can be read. Returns the sockets that can be read.
    fn ready(&self, timeout: PollTimeout) -> io::Result<Vec<BorrowedFd<'_>>> {
        let [routing, tables] = self.wakes.sockets();
        let sockets = [self.monitor.socket(), routing, tables];
        let mut all = sockets.map(|socket| PollFd::new(socket, PollFlags::POLLIN));
        loop {
            match poll(&mut all, timeout) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let is_ready = |(_, polled): &(BorrowedFd<'_>, PollFd<'_>)| polled.any().unwrap_or(false);
        Ok(sockets.into_iter().zip(all).filter(is_ready).map(|(socket, _)| socket).collect())
    }
}

/// The port that asked for the next message. The message stays to be read.
fn asker(socket: BorrowedFd<'_>) -> nix::Result<u32> {
    let mut header = [0; HEADER_LEN];
    let length = recv(socket.as_raw_fd(), &mut header, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?;
    let port = header[..length].get(PORT..).and_then(|field| field.try_into().ok());
    Ok(port.map_or(0, u32::from_ne_bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use ferrule_model::{Change, IfIndex, LinkChange, Nexthop, NexthopId, Op, Route, RouteKey, Via};

    use nix::sys::socket::{
        AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, getsockname, sendto, socket,
    };

    use super::*;
    use crate::{Kernel, Netlink, netns, nft};

    #[test]
    fn what_comes_together_is_told_at_once() {
        netns::make()
            .unwrap()
            .run(|| {
                let lo = IfIndex(1);
                let mut kernel = Netlink::open().unwrap();
                let up = LinkChange { up: Some(true), ..LinkChange::default() };
                kernel.apply(&[Op::SetLink(lo, up)]).unwrap();
                let mut events = Events::open(&[], None).unwrap();
                let hop =
                    Nexthop { gateway: "192.0.2.9".parse().unwrap(), link: lo, onlink: true, protocol: 70 };
                let keys = ["10.1.0.0/24", "10.2.0.0/24"].map(|dst| RouteKey::main(dst.parse().unwrap()));
                for _ in 0..3 {
                    let routes = keys.map(|key| Op::PutRoute(key, Route::ours(Via::Link(lo))));
                    let made = [vec![Op::PutNexthop(NexthopId(5), hop)], routes.to_vec()].concat();
                    let answers = kernel.apply(&made).unwrap();
                    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
                    let told = events.wait().unwrap();
                    let put = |key| {
                        told.events.iter().any(
                            |(event, _)| matches!(event, Event::Route(Change::Put, told, _) if *told == key),
                        )
                    };
                    assert!(keys.into_iter().all(put), "{told:?}");
                    assert!(matches!(told.wakes[..], [(Wake::Nexthop(_), _)]), "{told:?}");
                    let gone = keys.map(Op::DeleteRoute);
                    kernel.apply(&[gone.to_vec(), vec![Op::DeleteNexthop(NexthopId(5))]].concat()).unwrap();
                    let told = events.wait().unwrap();
                    assert_eq!((told.events.len(), told.wakes.len()), (2, 1), "{told:?}");
                }
            })
            .unwrap();
    }

    #[test]
    fn who_asked_is_looked_up_at_once() {
        netns::make()
            .unwrap()
            .run(|| {
                let mut events = Events::open(&[], None).unwrap();
                let mut ip = Command::new("ip");
                ip.args(["-batch", "-"]).stdin(Stdio::piped());
                let mut ip = ip.spawn().unwrap_or_else(|error| panic!("ip: {error}; install iproute2"));
                let mut input = ip.stdin.take().unwrap();
                writeln!(input, "route add unreachable 10.1.0.0/24").unwrap();
                let told = events.wait().unwrap();
                assert_eq!(told.first, Some(Caller { port: ip.id(), process: "ip".into() }), "{told:?}");
                drop(input);
                assert!(ip.wait().unwrap().success());
            })
            .unwrap();
    }

    /// A process that may change the network may send to any netlink socket in it.
    #[test]
    fn nonsense_holds_up_nothing() {
        netns::make()
            .unwrap()
            .run(|| {
                let mut events = Events::open(&["ferrule"], None).unwrap();
                let to: NetlinkAddr = getsockname(events.monitor.socket().as_raw_fd()).unwrap();
                let kind = SockProtocol::NetlinkRoute;
                let from =
                    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, kind).unwrap();
                // A message about a link (RTM_NEWLINK, 16) whose content is only four bytes long.
                let nonsense = [[20, 0, 0, 0], [16, 0, 0, 0], [0; 4], [0; 4], [0xff; 4]].concat();
                let to = NetlinkAddr::new(to.pid(), 0);
                sendto(from.as_raw_fd(), &nonsense, &to, MsgFlags::empty()).unwrap();
                assert_eq!(events.wait().unwrap(), Told::default());
                nft::apply("add table inet ferrule").unwrap();
                let told = events.wait().unwrap();
                assert!(matches!(told.wakes[..], [(Wake::Table("ferrule"), _)]), "{told:?}");
            })
            .unwrap();
    }
}
