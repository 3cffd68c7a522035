//! The thread on which all of the kernel's state is changed, at its own pace: messages only mark work as due.
//!
//! It shares nothing with the async side but two channels, so no lock is held while the kernel works, and a slow kernel
//! holds up nobody.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ferrule_netlink::Kernel;
use ferrule_netlink::monitor::Event;
use tokio::sync::watch;

use crate::apply::{Applier, PassError};
use crate::host::Host;
use crate::nodes::Cluster;
use crate::report::Report;
use ferrule_netlink::wake::Wake;

/// Everything is compared this often, whatever the events say: what they cannot tell (a sysctl, an IPv4 route that went
/// with its link) is found then at the latest.
pub const FULL_DIFF: Duration = Duration::from_secs(30);
/// Changes come in swarms; the pass waits this long for the rest of one.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// The least time between two passes that events start: a fight with another program must not eat a core.
const LEAST_GAP: Duration = Duration::from_millis(100);
/// The first wait after a pass that could not be made; it doubles up to [`FULL_DIFF`].
const RETRY: Duration = Duration::from_millis(500);
/// Lines of one kind that a pass logs before it only counts.
const LINES: usize = 8;

/// What the worker is told.
#[derive(Debug)]
pub enum Message {
    /// The nodes are these.
    Cluster(Box<Cluster>),
    /// The kernel told of a change.
    Kernel(Event),
    /// The kernel told of another change.
    Wake(Wake),
}

/// How it goes, for the service manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The first pass is through.
    pub ready: bool,
    /// One line for a person.
    pub text: String,
    /// Since when a pass has been going on.
    pub busy_since: Option<Instant>,
}

/// The thread's state.
#[derive(Debug)]
pub struct Worker<K> {
    applier: Applier<K>,
    host: Host,
    inbox: Receiver<Message>,
    status: watch::Sender<Status>,
    cluster: Option<Cluster>,
    due: Due,
    /// When the last pass ended.
    last: Option<Instant>,
    /// How long to wait after a pass that could not be made.
    retry: Option<Duration>,
    /// What the log says, and still holds.
    failure: Option<String>,
    refused: BTreeSet<String>,
    skipped: BTreeSet<String>,
    underlay: String,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Due {
    /// Because the nodes changed: at once.
    nodes: bool,
    /// Because the kernel's state did: not too often.
    kernel: bool,
    /// The masquerade table is to be looked at.
    table: bool,
}

impl<K: Kernel> Worker<K> {
    /// A worker that takes its messages from `inbox` and ends when nobody can send any.
    pub fn new(
        applier: Applier<K>,
        host: Host,
        inbox: Receiver<Message>,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            applier,
            host,
            inbox,
            status,
            cluster: None,
            due: Due::default(),
            last: None,
            retry: None,
            failure: None,
            refused: BTreeSet::new(),
            skipped: BTreeSet::new(),
            underlay: String::new(),
        }
    }

    /// Works until the other end of the inbox is gone. What is in the kernel then stays.
    pub fn run(mut self) {
        while self.wait() {
            let due = std::mem::take(&mut self.due);
            let Some(cluster) = self.cluster.clone() else { continue };
            self.busy(Some(Instant::now()));
            if due.nodes || due.kernel {
                self.pass(&cluster);
            } else if due.table {
                self.host.masquerade(&cluster);
            }
            self.busy(None);
        }
    }

    /// Told at the end of the work only: then the watchdog is fed again.
    fn busy(&self, since: Option<Instant>) {
        self.status.send_if_modified(|status| {
            status.busy_since = since;
            since.is_none()
        });
    }

    /// Waits until something is due; `false` at the end.
    fn wait(&mut self) -> bool {
        while self.due == Due::default() {
            let timeout =
                self.next_pass().map_or(FULL_DIFF, |at| at.saturating_duration_since(Instant::now()));
            match self.inbox.recv_timeout(timeout) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => self.due.kernel = self.cluster.is_some(),
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        self.gather()
    }

    /// Takes what comes shortly after the first message, and more if the last pass was a moment ago.
    fn gather(&mut self) -> bool {
        let debounced = Instant::now() + DEBOUNCE;
        loop {
            let gap = self.last.map_or(debounced, |last| (last + LEAST_GAP).max(debounced));
            let until = if self.due.nodes { debounced } else { gap };
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Cluster(cluster) => {
                self.cluster = Some(*cluster);
                self.due.nodes = true;
                self.applier.forget_refusals();
            }
            Message::Kernel(event) => self.due.kernel |= self.applier.hears(&event),
            Message::Wake(Wake::Nexthop(event)) => self.due.kernel |= self.applier.hears_nexthop(&event),
            Message::Wake(Wake::Table) => self.due.table = true,
            Message::Wake(Wake::Overrun) => self.due.kernel |= self.applier.hears(&Event::Overrun),
        }
        self.due.kernel &= self.cluster.is_some();
        self.due.table &= self.cluster.is_some();
    }

    /// When a pass is due without any message.
    fn next_pass(&self) -> Option<Instant> {
        let last = self.last?;
        let by_clock = last + self.retry.unwrap_or(FULL_DIFF);
        Some(self.applier.next_due().map_or(by_clock, |due| due.min(by_clock)))
    }

    fn pass(&mut self, cluster: &Cluster) {
        let begin = Instant::now();
        let result = self.applier.pass(cluster, begin);
        self.last = Some(Instant::now());
        match result {
            Ok(report) => {
                self.retry = None;
                self.tell(&report, begin.elapsed());
                self.keep_host(cluster, &report);
            }
            Err(error) => {
                self.retry = Some(self.retry.map_or(RETRY, |wait| (wait * 2).min(FULL_DIFF)));
                self.fail(&error);
            }
        }
    }

    fn keep_host(&mut self, cluster: &Cluster, report: &Report) {
        let belief = self.applier.belief();
        let name = |index| belief.and_then(|b| b.links.get(index)).map(|link| link.name.to_string());
        let uplinks: Vec<_> = belief.map_or(&[][..], |b| &b.uplinks).iter().filter_map(name).collect();
        let device = belief.filter(|b| b.device.is_some()).map(|b| b.device_name.to_string());
        self.host.prepare(&uplinks, device.as_deref());
        self.host.masquerade(cluster);
        let handed_over = self.host.hand_over(cluster, report.mtu);
        let text = status_text(cluster, report);
        self.status.send_modify(|status| {
            status.ready |= handed_over;
            status.text = text;
        });
    }

    fn tell(&mut self, report: &Report, took: Duration) {
        if self.underlay != report.underlay {
            tracing::info!("this node is {}; the pods' MTU is {}", report.underlay, report.mtu);
            self.underlay.clone_from(&report.underlay);
        }
        log_lines(&report.repaired, "more things put back", |line| tracing::warn!("{line}"));
        if report.tally.total() > 0 {
            tracing::info!("applied in {:.1} ms: {}", took.as_secs_f64() * 1e3, report.tally);
        }
        if self.failure.take().is_some() {
            tracing::info!("the kernel's state is kept again");
        }
        let skipped: BTreeSet<_> = report.skipped.iter().map(ToString::to_string).collect();
        let fresh: Vec<_> = skipped.difference(&self.skipped).cloned().collect();
        log_lines(&fresh, "more networks are left out", |line| tracing::warn!("{line}"));
        self.skipped = skipped;
        let fresh: Vec<_> = report.refused.difference(&self.refused).cloned().collect();
        log_lines(&fresh, "more objects are refused", |line| tracing::error!("{line}"));
        if report.pending == 0 {
            self.refused.clear();
        }
        // One that waits for its next try is not refused in this pass, and still is.
        self.refused.extend(report.refused.iter().cloned());
    }

    fn fail(&mut self, error: &PassError) {
        let text = error.to_string();
        if self.failure.as_ref() != Some(&text) {
            tracing::error!("{text}; nothing is changed until then");
        }
        self.failure = Some(text.clone());
        self.status.send_modify(|status| status.text = text);
    }
}

fn status_text(cluster: &Cluster, report: &Report) -> String {
    let nodes = cluster.others.len() + 1;
    let mut text = format!("{nodes} nodes, {} objects in the kernel, MTU {}", report.objects, report.mtu);
    if report.pending > 0 {
        text.push_str(&format!(", {} pending", report.pending));
    }
    if !report.skipped.is_empty() {
        text.push_str(&format!(", {} networks left out", report.skipped.len()));
    }
    text
}

/// Logs the first lines, and how many more there are.
fn log_lines(lines: &[String], rest: &str, log: impl Fn(&str)) {
    lines.iter().take(LINES).for_each(|line| log(line));
    if lines.len() > LINES {
        log(&format!("{} {rest}", lines.len() - LINES));
    }
}
