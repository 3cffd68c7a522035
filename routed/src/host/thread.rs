//! The thread that keeps the host's side. nft and iptables are separate programs, and with thousands of networks they
//! take longer than all routes together. So no route waits for them.
//!
//! [`crate::host`] decides what is to be kept, [`crate::pass::worker`] decides when.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::decide::nodes::Cluster;
use crate::host::Host;
use crate::show::status::Status;

/// How often the sysctls are looked at whose changes the kernel does not tell. What others change is to be right again
/// within a second.
const LOOK: Duration = Duration::from_millis(700);

/// How long the sentence about a repair waits for the job that names who made the repair necessary. The worker's next
/// job may wait for the gap between two looks at the host.
const CULPRIT: Duration = Duration::from_millis(250);

/// A job: what is to be kept.
#[derive(Debug)]
pub struct Job {
    /// The nodes.
    pub cluster: Arc<Cluster>,
    /// The packet filters are to be looked at.
    pub filters: bool,
    /// Who has changed our table, if the kernel told.
    pub by: Option<String>,
    /// The rest, once a pass has found it.
    pub ground: Option<Ground>,
}

/// What a pass finds out about the node.
#[derive(Debug)]
pub struct Ground {
    /// The links to the other nodes.
    pub uplinks: Vec<String>,
    /// Our devices.
    pub tunnels: Vec<String>,
    /// The pods' MTU in bytes.
    pub mtu: u32,
    /// Whether nothing keeps packets from other nodes.
    pub whole: bool,
}

impl Job {
    /// Joins this job with a later one.
    fn and(self, later: Self) -> Self {
        Self {
            cluster: later.cluster,
            filters: self.filters || later.filters,
            by: self.by.or(later.by),
            ground: later.ground.or(self.ground),
        }
    }
}

/// Starts the thread. It ends when nobody can send any more.
///
/// # Errors
/// The system gives no thread.
pub fn start(host: Host, status: watch::Sender<Status>) -> io::Result<Sender<Job>> {
    let (jobs, inbox) = mpsc::channel();
    std::thread::Builder::new().name("host".into()).spawn(move || keep(host, &inbox, &status))?;
    Ok(jobs)
}

/// The next job. While there is none, it looks at the sysctls whose changes nobody tells.
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

/// Waits for a job that says who has changed our table. The jobs that come meanwhile are joined in `later`.
fn named_later(inbox: &Receiver<Job>, later: &mut Option<Job>) -> Option<String> {
    let until = Instant::now() + CULPRIT;
    loop {
        if let Some(by) = later.as_ref().and_then(|job| job.by.clone()) {
            return Some(by);
        }
        let job = inbox.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
        *later = Some(match later.take() {
            Some(earlier) => earlier.and(job),
            None => job,
        });
    }
}

fn keep(mut host: Host, inbox: &Receiver<Job>, status: &watch::Sender<Status>) {
    let mut later = None;
    while let Some(first) = later.take().or_else(|| next(&mut host, inbox)) {
        let job = inbox.try_iter().fold(first, Job::and);
        status.send_if_modified(|status| {
            status.host_since = Some(Instant::now());
            false
        });
        let Job { cluster, filters, by, ground } = job;
        let outcome = host.outcome(&cluster);
        // nft takes its time. While this reference lives, the worker has to copy the nodes to change them.
        drop(cluster);
        if let Some(ground) = &ground {
            host.prepare(&ground.uplinks, &ground.tunnels);
        }
        if filters {
            host.filters(&outcome, &mut || by.clone().or_else(|| named_later(inbox, &mut later)));
        }
        let handed_over = ground.is_some_and(|ground| host.hand_over(&outcome, ground.mtu) && ground.whole);
        // The status is told only at the end, because that feeds the watchdog again.
        status.send_modify(|status| {
            status.ready |= handed_over;
            status.host_since = None;
        });
    }
}
