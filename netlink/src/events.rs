//! All that the kernel tells, on one thread: what comes together is read together.
//!
//! A pod that comes or goes is a dozen events within two milliseconds, and none of them is anybody's concern. To be woken for
//! each of them, beside the plugin that makes them and waits for a core, costs more than they are worth.

use std::io;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::runtime::{Builder, Runtime};

use crate::Port;
use crate::monitor::{Event, Monitor};
use crate::wake::{Wake, Wakes};

/// How long the rest of what belongs together is waited for once something has come: an ADD takes two milliseconds.
const GATHER: Duration = Duration::from_millis(5);

/// What came together, each with the netlink port of who asked for the change (0: the kernel by itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Of links, addresses, routes, neighbours and FDB entries.
    pub events: Vec<(Event, u32)>,
    /// Of the rest.
    pub wakes: Vec<(Wake, u32)>,
}

/// All subscriptions of a network namespace.
#[derive(Debug)]
pub struct Events {
    /// The monitor is read on it, and only while somebody waits here.
    runtime: Runtime,
    monitor: Monitor,
    wakes: Wakes,
}

impl Events {
    /// Subscribes in the calling thread's network namespace: every change from here on is told, but not those that `own` asked
    /// for; of nftables those of the tables with these names. Not within a tokio runtime: it has its own.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn open(tables: &[&'static str], own: Option<Port>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let context = runtime.enter();
        let (monitor, wakes) = (Monitor::open(own)?, Wakes::open(tables, own)?);
        drop(context);
        Ok(Self { runtime, monitor, wakes })
    }

    /// Blocks until something comes, and [`GATHER`] longer: all that has come by then, which may be nothing that anybody asks for.
    ///
    /// # Errors
    /// A socket is broken.
    pub fn wait(&mut self) -> io::Result<Told> {
        self.ready(PollTimeout::NONE)?;
        thread::sleep(GATHER);
        let events = if self.ready(PollTimeout::ZERO)? {
            self.runtime.block_on(self.monitor.swarm()).ok_or(io::ErrorKind::UnexpectedEof)?
        } else {
            Vec::new()
        };
        Ok(Told { events, wakes: self.wakes.swarm()? })
    }

    /// Waits until something can be read; whether the monitor is among it.
    fn ready(&self, timeout: PollTimeout) -> io::Result<bool> {
        let [routing, tables] = self.wakes.sockets();
        let mut all = [self.monitor.socket(), routing, tables].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        loop {
            match poll(&mut all, timeout) {
                Ok(_) => return Ok(all[0].any().unwrap_or(false)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ferrule_model::{Change, IfIndex, LinkChange, Nexthop, NexthopId, Op, Route, RouteKey, Via};

    use super::*;
    use crate::{Kernel, Netlink, netns};

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
}
