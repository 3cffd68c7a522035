//! The thread on which the host's side is kept: nft and iptables are programs of their own, and with thousands of networks
//! they take longer than all routes together. No route waits for them.
//!
//! What is to be kept is decided in [`crate::host`]; when, in [`crate::pass::worker`].

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::decide::nodes::Cluster;
use crate::host::Host;
use crate::show::status::Status;

/// How often the sysctls are looked at that the kernel tells nothing of. What others change is to be right within a second.
const LOOK: Duration = Duration::from_millis(700);

/// What is to be kept.
#[derive(Debug)]
pub struct Job {
    /// The nodes.
    pub cluster: Arc<Cluster>,
    /// The packet filters are to be looked at.
    pub filters: bool,
    /// Who has changed our table, if that was told.
    pub by: Option<String>,
    /// The rest, once a pass has found it out.
    pub ground: Option<Ground>,
}

/// What a pass finds out of the node.
#[derive(Debug)]
pub struct Ground {
    /// The links to the other nodes.
    pub uplinks: Vec<String>,
    /// Our devices.
    pub tunnels: Vec<String>,
    /// The pods' MTU in bytes.
    pub mtu: u32,
    /// Nothing keeps packets from other nodes.
    pub whole: bool,
}

impl Job {
    /// What a later job leaves of this one to be done.
    fn and(self, later: Self) -> Self {
        Self {
            cluster: later.cluster,
            filters: self.filters || later.filters,
            by: self.by.or(later.by),
            ground: later.ground.or(self.ground),
        }
    }
}

/// Starts the thread; it ends when nobody can send any more.
///
/// # Errors
/// The system gives no thread.
pub fn start(host: Host, status: watch::Sender<Status>) -> io::Result<Sender<Job>> {
    let (jobs, inbox) = mpsc::channel();
    std::thread::Builder::new().name("host".into()).spawn(move || keep(host, &inbox, &status))?;
    Ok(jobs)
}

/// The next job; meanwhile what nobody tells of is looked at.
fn next(host: &mut Host, inbox: &Receiver<Job>) -> Option<Job> {
    loop {
        if !host.has_silent() {
            return inbox.recv().ok();
        }
        match inbox.recv_timeout(LOOK) {
            Ok(job) => return Some(job),
            Err(RecvTimeoutError::Timeout) => host.put_silent_right(),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

fn keep(mut host: Host, inbox: &Receiver<Job>, status: &watch::Sender<Status>) {
    while let Some(first) = next(&mut host, inbox) {
        let job = inbox.try_iter().fold(first, Job::and);
        status.send_if_modified(|status| {
            status.host_since = Some(Instant::now());
            false
        });
        let Job { cluster, filters, by, ground } = job;
        let outcome = host.outcome(&cluster);
        // nft takes its time: until then the worker would have to copy the nodes to change them.
        drop(cluster);
        if let Some(ground) = &ground {
            host.prepare(&ground.uplinks, &ground.tunnels);
        }
        if filters {
            host.filters(&outcome, by.as_deref());
        }
        let handed_over = ground.is_some_and(|ground| host.hand_over(&outcome, ground.mtu) && ground.whole);
        // Told at the end only: then the watchdog is fed again.
        status.send_modify(|status| {
            status.ready |= handed_over;
            status.host_since = None;
        });
    }
}
