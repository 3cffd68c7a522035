//! The thread that works on the kernel. Whoever has news leaves a job; jobs that have gathered are done together.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use ferrule_daemon::{Counter, Histogram};
use ferrule_netlink::Error;
use ferrule_netlink::nft::Netfilter;
use tokio::sync::{Notify, watch};

use super::path::{DataPath, Report, SyncError};
use super::unit::Wanted;
use crate::nft::Shape;

/// The first wait after a failure of all, and the longest one.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// What the thread is to do.
#[derive(Debug)]
pub enum Job {
    /// These are all Services.
    All(Vec<Wanted>),
    /// These have changed.
    Change(Vec<Wanted>),
    /// The node's networks.
    Networks(Shape),
    /// Somebody may have changed the table; the process, if it is known.
    Touched(Option<String>),
}

/// How things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the kernel has held all Services once.
    pub ready: bool,
    /// How many Services the kernel serves.
    pub services: usize,
    /// How many frontends they have.
    pub frontends: usize,
    /// The Services that the kernel refused, with reasons.
    pub refused: Vec<String>,
    /// Why nothing can be done, if nothing can.
    pub trouble: Option<String>,
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Figures {
    /// How long each round took.
    pub rounds: Histogram,
    /// Elements added and deleted.
    pub elements: Counter,
    /// Transactions.
    pub transactions: Counter,
    /// What others did and was undone.
    pub repaired: Counter,
    /// Remembered endpoints and connections that were forgotten.
    pub forgotten: Counter,
    /// Rounds that failed.
    pub failed: Counter,
}

/// What connects the thread with the rest.
#[derive(Debug)]
pub struct Links {
    /// How things are.
    pub status: watch::Sender<Status>,
    /// What was done.
    pub figures: Arc<Figures>,
    /// Notified when the thread needs all Services again.
    pub again: Arc<Notify>,
}

/// Starts the thread. `open` opens the way to the kernel, again after a failure.
///
/// # Errors
/// The thread cannot be started.
pub fn start<N: Netfilter + Send + 'static>(
    path: DataPath<N>,
    open: fn() -> Result<N, Error>,
    links: Links,
) -> io::Result<Sender<Job>> {
    let (jobs, inbox) = channel();
    let worker = Worker { path, open, links, has_all: false, pause: FIRST, failure: None };
    std::thread::Builder::new().name("kernel".into()).spawn(move || worker.run(&inbox))?;
    Ok(jobs)
}

struct Worker<N> {
    path: DataPath<N>,
    open: fn() -> Result<N, Error>,
    links: Links,
    /// Whether the kernel was made to hold all Services.
    has_all: bool,
    pause: Duration,
    /// What the log last said about a failure, and when to try again.
    failure: Option<(String, Instant)>,
}

/// The jobs that have gathered, as one.
#[derive(Debug, Default)]
struct Gathered {
    networks: Option<Shape>,
    all: Option<Vec<Wanted>>,
    changes: Vec<Wanted>,
    touched: Option<Option<String>>,
}

impl Gathered {
    fn take(&mut self, job: Job) {
        match job {
            Job::Networks(networks) => self.networks = Some(networks),
            Job::All(all) => {
                self.changes.clear();
                self.all = Some(all);
            }
            Job::Change(changes) => {
                // The last word about a Service counts.
                self.changes.retain(|(name, _)| changes.iter().all(|(newer, _)| newer != name));
                self.changes.extend(changes);
            }
            Job::Touched(by) => {
                let before = self.touched.take().flatten();
                self.touched = Some(before.or(by));
            }
        }
    }
}

impl<N: Netfilter> Worker<N> {
    fn run(mut self, inbox: &Receiver<Job>) {
        loop {
            let mut gathered = Gathered::default();
            match self.wait(inbox) {
                Ok(job) => gathered.take(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            inbox.try_iter().for_each(|job| gathered.take(job));
            let begun = Instant::now();
            let done = self.round(gathered, begun);
            self.links.figures.rounds.observe(begun.elapsed());
            self.tell(done);
        }
    }

    fn wait(&self, inbox: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        let due = match &self.failure {
            Some((_, due)) => Some(*due),
            None if self.has_all => self.path.due(),
            None => None,
        };
        match due {
            Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn round(&mut self, gathered: Gathered, now: Instant) -> Result<(), SyncError> {
        let Gathered { networks, all, changes, touched } = gathered;
        if let Some(networks) = networks {
            if self.has_all {
                self.path.reshape(networks)?;
            } else {
                self.path.set_networks(networks);
            }
        }
        if let Some(all) = all {
            // Until all are there, a failure asks for all of them again.
            self.has_all = false;
            let report = self.path.start(all, now)?;
            self.has_all = true;
            self.count(&report);
        }
        if !self.has_all {
            if self.failure.as_ref().is_some_and(|(_, due)| *due <= now) {
                self.links.again.notify_one();
            }
            return Ok(());
        }
        if !changes.is_empty() {
            let report = self.path.change(changes, now)?;
            self.count(&report);
        }
        if let Some(by) = touched {
            let report = self.path.look(by.as_deref(), now)?;
            self.count(&report);
        }
        if self.path.due().is_some_and(|due| due <= now) {
            let report = self.path.turn(now)?;
            self.count(&report);
        }
        Ok(())
    }

    fn count(&self, report: &Report) {
        let figures = &self.links.figures;
        figures.elements.add(report.elements as u64);
        figures.transactions.add(report.transactions as u64);
        figures.forgotten.add(report.forgotten as u64);
        if let Some(repaired) = &report.repaired {
            figures.repaired.increment();
            tracing::warn!("{repaired}");
        }
        report.complaints.iter().for_each(|complaint| tracing::error!("{complaint}; it is tried again"));
    }

    /// Says how things are. After a failure the way to the kernel is opened again, and everything is read.
    fn tell(&mut self, done: Result<(), SyncError>) {
        match done {
            Ok(()) if self.has_all => {
                if self.failure.take().is_some() {
                    tracing::info!("Services are kept again");
                }
                self.pause = FIRST;
            }
            Ok(()) => {}
            Err(error) => self.failed(&error),
        }
        let (services, frontends) = self.path.counts();
        let trouble = self.failure.as_ref().map(|(error, _)| error.clone());
        self.links.status.send_if_modified(|status| {
            let ready = status.ready || self.has_all;
            let now = Status { ready, services, frontends, refused: self.path.refused(), trouble };
            let is_new = *status != now;
            *status = now;
            is_new
        });
    }

    fn failed(&mut self, error: &SyncError) {
        self.links.figures.failed.increment();
        self.has_all = false;
        let text = error.to_string();
        if self.failure.as_ref().is_none_or(|(told, _)| *told != text) {
            tracing::error!("{text}; it is tried again");
        }
        self.failure = Some((text, Instant::now() + self.pause));
        self.pause = (self.pause * 2).min(LONGEST);
        if let Ok(netfilter) = (self.open)() {
            self.path.reopen(netfilter);
        }
    }
}
