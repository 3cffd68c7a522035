//! The thread that makes the passes, at its own pace: messages only mark work as due. Two other threads change the
//! kernel: that of [`crate::host`] and that of [`crate::keep`]. This one gives them their jobs.
//!
//! It shares nothing with the async side but two channels. So no lock is held while the kernel works, and a slow kernel
//! holds up nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use ferrule_model::table::TABLE;
use ferrule_netlink::events::{Told, caller_of};
use ferrule_netlink::monitor::Event;
use ferrule_netlink::nft::Netfilter;
use ferrule_netlink::wake::Wake;
use ferrule_netlink::{Error, Tunnels};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::decide::culprit::Culprits;
use crate::decide::drift::FULL_DIFF;
use crate::decide::guard;
use crate::decide::nodes::{Cluster, NodeChange};
use crate::decide::report::{Report, log_lines};
use crate::decide::senders;
use crate::host::thread::{Ground, Job};
use crate::keep::{self, Kept, Watch};
use crate::pass::apply::{Applier, PassError};
use crate::pass::gate::Gate;
use crate::show::outlook::{Outlook, View};
use crate::show::status::Status;

/// The least time between two passes that events start. The gap is also at least a multiple of the processor time of
/// the last pass, because a fight with another program must not use up a core. The time that a pass waited for a core
/// does not count: with it, repairs on a busy node would be late.
const LEAST_GAP: Duration = Duration::from_millis(100);
const GAP_FACTOR: u32 = 3;
/// The least time between two looks at what changes of the nodes mean for the host. Each costs more in a larger
/// cluster.
const HOST_GAP: Duration = Duration::from_secs(1);
/// The first wait after a pass that could not be made; it doubles up to [`FULL_DIFF`].
const RETRY: Duration = Duration::from_millis(500);

/// How long a sentence about a repair waits for the event that tells who made the repair necessary. Events are read in
/// batches, so a pass that was due anyway can come before them.
const CULPRIT: Duration = Duration::from_millis(50);

/// What the worker is told.
#[derive(Debug)]
pub enum Message {
    /// These are the nodes; this node itself is new or has changed.
    Cluster(Box<Cluster>),
    /// Other nodes have changed.
    Nodes(Vec<NodeChange>),
    /// The kernel told of changes.
    Kernel(Told),
    /// Pods were looked at.
    Kept(Kept),
}

impl From<Kept> for Message {
    fn from(kept: Kept) -> Self {
        Self::Kept(kept)
    }
}

/// The thread's state.
#[derive(Debug)]
pub struct Worker<K, N> {
    applier: Applier<K>,
    /// Which hosts may send into the tunnel.
    gate: Gate<N>,
    /// The failure of the gate that the log has named, if it still holds.
    gate_failure: Option<String>,
    culprits: Culprits,
    /// What the plugin made for pods. The thread of `keep` keeps it.
    watch: Watch,
    pods: Sender<keep::Job>,
    host: Sender<Job>,
    /// Whether the host's side depends on the other nodes, too.
    host_follows: bool,
    inbox: Receiver<Message>,
    /// Messages that came while the events of the kernel alone were wanted.
    put_by: VecDeque<Message>,
    status: watch::Sender<Status>,
    outlook: Arc<Outlook>,
    cluster: Option<Arc<Cluster>>,
    due: Due,
    /// The processor time of the last pass that read everything, and when it ended.
    last: Option<(Duration, Instant)>,
    /// When the host was looked at.
    last_host: Option<Instant>,
    /// How long to wait after a pass that could not be made.
    retry: Option<Duration>,
    /// The failure that the log has named, if it still holds.
    failure: Option<String>,
    refused: BTreeSet<String>,
    skipped: BTreeSet<String>,
    warnings: BTreeSet<String>,
    underlay: String,
    mtu: u32,
    hindered: bool,
}

/// What is to be done.
#[derive(Debug, Default)]
struct Due {
    /// When everything is to be compared.
    everything: Option<Instant>,
    /// When the host is to be looked at.
    host: Option<Instant>,
    /// When it is to be looked at who may send into the tunnel.
    gate: Option<Instant>,
    /// The changes of other nodes, by their names. They are carried out at once.
    changes: BTreeMap<String, NodeChange>,
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Everything,
    Changes,
    Host,
    Gate,
}

impl Due {
    /// Adds a change of a node, and merges it with an earlier one.
    fn change(&mut self, change: NodeChange) {
        match self.changes.entry(change.name.clone()) {
            std::collections::btree_map::Entry::Occupied(mut entry) => entry.get_mut().after = change.after,
            std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(change)),
        }
    }

    fn everything_by(&mut self, at: Instant) {
        self.everything = Some(self.everything.map_or(at, |before| before.min(at)));
    }

    fn host_by(&mut self, at: Instant) {
        self.host = Some(self.host.map_or(at, |before| before.min(at)));
    }
}

impl<K: Tunnels, N: Netfilter> Worker<K, N> {
    /// A worker that takes its messages from `inbox` and ends when nobody can send any. What concerns the host goes to
    /// `host`; if `host_follows`, the other nodes go there too, as soon as they change. What concerns the plugin's
    /// objects goes to `pods`.
    pub fn new(
        (applier, gate): (Applier<K>, Gate<N>),
        (host, host_follows): (Sender<Job>, bool),
        pods: Sender<keep::Job>,
        inbox: Receiver<Message>,
        status: watch::Sender<Status>,
        outlook: Arc<Outlook>,
    ) -> Self {
        Self {
            applier,
            gate,
            gate_failure: None,
            culprits: Culprits::new(caller_of),
            watch: Watch::new(caller_of),
            pods,
            host,
            host_follows,
            inbox,
            put_by: VecDeque::new(),
            status,
            outlook,
            cluster: None,
            due: Due::default(),
            last: None,
            last_host: None,
            retry: None,
            failure: None,
            refused: BTreeSet::new(),
            skipped: BTreeSet::new(),
            warnings: BTreeSet::new(),
            underlay: String::new(),
            mtu: 0,
            hindered: false,
        }
    }

    /// Works until the other end of the inbox is gone. What is in the kernel stays.
    pub fn run(mut self) {
        while let Some(work) = self.wait() {
            let Some(mut cluster) = self.cluster.take() else { continue };
            self.busy(Some(Instant::now()));
            match work {
                Work::Everything => {
                    self.due.everything = None;
                    let changes = self.take_changes(&mut cluster);
                    self.everything(&cluster, changes.is_empty());
                }
                Work::Changes => {
                    let changes = self.take_changes(&mut cluster);
                    self.changes(&cluster, &changes);
                }
                Work::Host => {
                    self.due.host = None;
                    self.keep_host(&cluster, true);
                }
                Work::Gate => self.keep_gate(self.is_settled()),
            }
            self.cluster = Some(cluster);
            self.busy(None);
        }
    }

    fn take_changes(&mut self, cluster: &mut Arc<Cluster>) -> Vec<NodeChange> {
        let changes = std::mem::take(&mut self.due.changes).into_values();
        let changes: Vec<_> = changes.filter(|change| change.before != change.after).collect();
        if !changes.is_empty() {
            Arc::make_mut(cluster).change(&changes);
            self.gate.senders().change(&changes);
        }
        changes
    }

    /// Tells since when it works. The end is told only when all work is done, because that feeds the watchdog.
    fn busy(&self, since: Option<Instant>) {
        self.status.send_if_modified(|status| {
            status.busy_since = since;
            since.is_none()
        });
    }

    /// Waits until something is due; `None` at the end.
    fn wait(&mut self) -> Option<Work> {
        loop {
            // Messages that have arrived already are taken in first.
            while let Some(message) = self.put_by.pop_front() {
                self.take(message);
            }
            loop {
                match self.inbox.try_recv() {
                    Ok(message) => self.take(message),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return None,
                }
            }
            let now = Instant::now();
            if self.watch.due().is_some_and(|due| due <= now) {
                self.look_at_pods();
            }
            let (work, at) = self.next(now);
            if at <= now {
                return Some(work);
            }
            let at = self.watch.due().map_or(at, |due| due.min(at));
            match self.inbox.recv_timeout(at - now) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Hands the pods that are due to their thread. It is no work of this thread, so pods wait neither for a pass nor
    /// for the nodes.
    fn look_at_pods(&mut self) {
        let (suspects, culprits) = self.watch.take();
        if self.pods.send(keep::Job { suspects, culprits }).is_err() {
            tracing::error!("the thread that keeps what pods have has ended; this is a fault of routed's");
        }
    }

    /// What is due next, and when.
    fn next(&self, now: Instant) -> (Work, Instant) {
        let later = (Work::Everything, now + FULL_DIFF);
        if self.cluster.is_none() {
            return later;
        }
        // After a pass that could not be made, refused objects have to wait for the next pass.
        let refused = self.applier.next_due().filter(|_| self.retry.is_none());
        let changes = (!self.due.changes.is_empty()).then_some(now).or(refused);
        let all = [
            (Work::Everything, self.due.everything),
            (Work::Changes, changes),
            (Work::Host, self.due.host),
            (Work::Gate, self.due.gate),
        ];
        let all = all.into_iter().filter_map(|(work, at)| Some((work, at?)));
        all.min_by_key(|(_, at)| *at).unwrap_or(later)
    }

    fn take(&mut self, message: Message) {
        let now = Instant::now();
        match message {
            Message::Cluster(cluster) => {
                self.gate.senders().know(&cluster);
                self.cluster = Some(Arc::new(*cluster));
                self.due.changes.clear();
                self.due.everything_by(now);
                self.applier.start_over();
            }
            Message::Nodes(changes) => changes.into_iter().for_each(|change| self.due.change(change)),
            Message::Kernel(Told { events, wakes, first }) => {
                self.culprits.knows(first.clone());
                self.watch.knows(first);
                events.into_iter().for_each(|(event, port)| self.hear(&event, port, now));
                wakes.into_iter().for_each(|(wake, port)| self.wake(&wake, port, now));
            }
            Message::Kept(Kept { settled, all, repaired, .. }) => {
                self.outlook.counts.repaired.add(u64::try_from(repaired).unwrap_or(u64::MAX));
                self.watch.settled(settled, all);
            }
        }
    }

    fn wake(&mut self, wake: &Wake, port: u32, now: Instant) {
        match wake {
            Wake::Nexthop(event) => {
                let differs = self.applier.hears_nexthop(event);
                if differs {
                    self.culprits.woke(wake, port);
                }
                self.kernel_differs(differs, now);
            }
            Wake::Element(owner) if owner == senders::COMMENT => self.due.gate = Some(now),
            Wake::Table(TABLE | guard::TABLE) | Wake::Element(_) | Wake::Traffic { .. } => {
                if *wake == Wake::Table(guard::TABLE) {
                    self.due.gate = Some(now);
                }
                self.watch.wakes(wake, port, now);
            }
            Wake::Rule => {
                let differs = self.applier.hears_rule();
                self.kernel_differs(differs, now);
            }
            Wake::Table(_) | Wake::Sysctl => {
                self.culprits.woke(wake, port);
                let gap = self.last_host.map_or(now, |last| last + LEAST_GAP);
                self.due.host_by(gap.max(now));
            }
            Wake::Overrun => {
                let differs = self.applier.hears(&Event::Overrun);
                self.kernel_differs(differs, now);
                self.watch.suspect_all(now);
                self.due.host_by(now);
                self.due.gate = Some(now);
            }
        }
    }

    fn hear(&mut self, event: &Event, port: u32, now: Instant) {
        self.watch.hears(event, port, now);
        let differs = self.applier.hears(event);
        if differs {
            self.culprits.saw(event, port, self.applier.belief().map(|belief| &belief.links));
        }
        self.kernel_differs(differs, now);
    }

    fn kernel_differs(&mut self, differs: bool, now: Instant) {
        if differs {
            let gap = self.last.map_or(now, |(took, end)| end + LEAST_GAP.max(took * GAP_FACTOR));
            self.due.everything_by(gap.max(now));
        }
    }

    /// Reads and compares everything. `same` says that the cluster is the one of the last pass.
    fn everything(&mut self, cluster: &Arc<Cluster>, same: bool) {
        let (begin, used) = (Instant::now(), processor_time());
        self.keep_gate(false);
        // The packet filters need nothing that a pass finds.
        let by = self.culprits.take_table();
        self.ask(Job { cluster: Arc::clone(cluster), filters: true, by, ground: None });
        let result =
            if same { self.applier.check(cluster, begin) } else { self.applier.pass(cluster, begin) };
        let took = begin.elapsed();
        self.last = Some((processor_time().saturating_sub(used), Instant::now()));
        self.ended(cluster, result, (took, true));
        self.keep_host(cluster, false);
        self.culprits.forget();
    }

    /// Carries out what changes of other nodes mean, and tries again what was refused and is due.
    fn changes(&mut self, cluster: &Cluster, changes: &[NodeChange]) {
        let begin = Instant::now();
        self.keep_gate(false);
        let result = self.applier.update(cluster, changes, begin);
        self.ended(cluster, result, (begin.elapsed(), false));
        let concerns_host = |change: &NodeChange| {
            let pods = |node: &Option<Arc<crate::decide::nodes::Node>>| {
                node.as_ref().map_or(Vec::new(), |node| node.pod_cidrs.clone())
            };
            pods(&change.before) != pods(&change.after)
        };
        if self.host_follows && changes.iter().any(concerns_host) {
            let now = Instant::now();
            self.due.host_by(self.last_host.map_or(now, |last| (last + HOST_GAP).max(now)));
        }
    }

    fn ended(&mut self, cluster: &Cluster, result: Result<Report, PassError>, took: (Duration, bool)) {
        let next = match result {
            Ok(report) => {
                self.retry = None;
                self.mtu = report.mtu;
                self.hindered = report.hindered.is_some();
                self.tell(&report, took.0);
                if let Some(standing) = self.applier.standing() {
                    self.outlook.passed(View::new(standing, cluster, &report), &report, took);
                }
                let text = status_text(cluster, &report);
                self.status.send_modify(|status| status.text = text);
                self.keep_gate(true);
                FULL_DIFF
            }
            Err(error) => {
                let wait = self.retry.map_or(RETRY, |wait| (wait * 2).min(FULL_DIFF));
                self.retry = Some(wait);
                self.fail(&error);
                wait
            }
        };
        self.due.everything_by(Instant::now() + next);
    }

    /// Whether the kernel has what was last told of the nodes.
    fn is_settled(&self) -> bool {
        let is_due = self.due.everything.is_some_and(|at| at <= Instant::now());
        self.applier.belief().is_some() && !is_due && self.due.changes.is_empty()
    }

    /// Lets all nodes in that there are. If `is_in_kernel`, the last pass has taken away what no longer is, and the
    /// addresses of nodes that are gone are shut out.
    fn keep_gate(&mut self, is_in_kernel: bool) {
        self.due.gate = None;
        if is_in_kernel {
            self.gate.senders().routes_are_there();
        }
        let done = self.gate.let_in().and_then(|gone| {
            let more = if is_in_kernel { self.gate.shut_out()? } else { 0 };
            Ok(gone + more)
        });
        match done {
            Ok(gone) => {
                self.gate_failure = None;
                if gone > 0 {
                    let (elements, table) = (counted(gone), guard::TABLE);
                    tracing::warn!(
                        "{elements} of the nftables table inet {table} were removed by someone else; put back"
                    );
                    self.outlook.counts.repaired.add(u64::try_from(gone).unwrap_or(u64::MAX));
                }
            }
            Err(error) => self.gate_failed(&error),
        }
    }

    fn gate_failed(&mut self, error: &Error) {
        self.due.gate = Some(Instant::now() + RETRY);
        let text = error.to_string();
        if self.gate_failure.as_ref() != Some(&text) {
            tracing::error!(
                "the addresses of the nodes cannot be put into the nftables table inet {}: {text}; until then                  VXLAN packets of nodes that are new may be dropped here",
                guard::TABLE
            );
        }
        self.gate_failure = Some(text);
    }

    fn keep_host(&mut self, cluster: &Arc<Cluster>, filters: bool) {
        let Some(belief) = self.applier.belief() else { return };
        let (uplinks, tunnels) = belief.names();
        let ground = Ground { uplinks, tunnels, mtu: self.mtu, whole: !self.hindered };
        let by = self.culprits.take_table();
        self.ask(Job { cluster: Arc::clone(cluster), filters, by, ground: Some(ground) });
        self.last_host = Some(Instant::now());
    }

    fn ask(&self, job: Job) {
        if self.host.send(job).is_err() {
            tracing::error!("the thread that keeps the host's side has ended; this is a fault of routed's");
        }
    }

    fn tell(&mut self, report: &Report, took: Duration) {
        if self.underlay != report.underlay {
            tracing::info!("this node is {}; the pods' MTU is {}", report.underlay, report.mtu);
            self.underlay.clone_from(&report.underlay);
        }
        report.done.iter().for_each(|line| tracing::info!("{line}"));
        self.hear_of_culprits(&report.repaired);
        let repaired: Vec<_> = report.repaired.iter().map(|line| self.culprits.named(line)).collect();
        log_lines(&repaired, repaired.len(), "more things put back", |line| {
            tracing::warn!("{line}");
        });
        if report.tally.total() > 0 {
            tracing::info!("applied in {:.1} ms: {}", took.as_secs_f64() * 1e3, report.tally);
        }
        let fresh: Vec<_> = report.warnings.difference(&self.warnings).cloned().collect();
        log_lines(&fresh, fresh.len(), "more warnings", |line| tracing::warn!("{line}"));
        self.warnings.clone_from(&report.warnings);
        if self.failure.take().is_some() {
            tracing::info!("the kernel's state is kept again");
        }
        let skipped: BTreeSet<_> = report.skipped.iter().map(ToString::to_string).collect();
        let fresh: Vec<_> = skipped.difference(&self.skipped).cloned().collect();
        log_lines(&fresh, fresh.len(), "more networks are left out", |line| tracing::warn!("{line}"));
        self.skipped = skipped;
        let fresh: Vec<_> = report.refused.difference(&self.refused).cloned().collect();
        log_lines(&fresh, fresh.len(), "more objects are refused", |line| tracing::error!("{line}"));
        if report.pending == 0 {
            self.refused.clear();
        }
        // An object that waits for its next try is not refused in this pass, but still counts as refused.
        self.refused.extend(report.refused.iter().cloned());
    }

    /// Takes in the events of the next moments if they may tell who made one of these repairs necessary.
    fn hear_of_culprits(&mut self, repaired: &[String]) {
        let until = Instant::now() + CULPRIT;
        while repaired.iter().any(|line| self.culprits.named(line) == *line) {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Kernel(told)) => {
                    self.note_culprits(&told);
                    self.take(Message::Kernel(told));
                }
                // Another message may replace the nodes, which the pass that is about to end still uses.
                Ok(message) => self.put_by.push_back(message),
                Err(_) => return,
            }
        }
    }

    /// Notes who made these changes. The kernel is as it should be again, so the events no longer differ from it.
    fn note_culprits(&mut self, told: &Told) {
        self.culprits.knows(told.first.clone());
        let links = self.applier.belief().map(|belief| &belief.links);
        for (event, port) in &told.events {
            self.culprits.saw(event, *port, links);
        }
        for (wake, port) in &told.wakes {
            self.culprits.woke(wake, *port);
        }
    }

    fn fail(&mut self, error: &PassError) {
        let text = error.to_string();
        self.outlook.failed(text.clone());
        if self.failure.as_ref() != Some(&text) {
            tracing::error!("{text}; nothing is changed until then");
        }
        self.failure = Some(text.clone());
        self.status.send_modify(|status| status.text = text);
    }
}

fn counted(elements: usize) -> String {
    if elements == 1 { "1 node's address".to_owned() } else { format!("{elements} addresses of nodes") }
}

/// The processor time of the calling thread, including that in the kernel.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
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
