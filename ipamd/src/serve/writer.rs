//! The one thread that owns what changes: service and store. It gathers the calls that are waiting, performs them in
//! memory, commits all their changes as one, and only then lets the answers go (group commit). The log comes after
//! them.
//!
//! If the commit fails, no caller is told of a success: the service is built anew from what the store really holds, and
//! every call of the batch is answered `StoreFailed`.
//!
//! The writer performs queued releases too, always before an `Allocate`. A queued release of the same attachment was
//! meant for the earlier lease, and must never end the new one.

use crate::decide::adopt::adopt;
use crate::decide::holdings::Batch;
use crate::decide::holdings::Change;
use crate::decide::leaks::{Lost, is_still_lost};
use crate::decide::recover::{Doubled, recover};
use crate::decide::seen::{PodLink, Sight};
use crate::decide::service::{Answer, Service, ServiceRequest, Settings};
use crate::look::clock::Clock;
use crate::look::home::Home;
use crate::serve::figures::{Metrics, Reason, method};
use crate::serve::news::{News, joined, log_held};
use crate::serve::pace::{Pace, Part};
use crate::store::{Store, StoreError};
use ferrule_daemon::log_as_one;
use ferrule_model::chain;
use ferrule_wire::{CallError, ClaimError, Lease, QueueError, QueuedRelease};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::vec::Drain;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

/// Most calls in one commit. With more than some dozens, a commit does not get cheaper for each call, but all of them
/// get their answers later.
const BATCH_CAP: usize = 256;

/// How long a round waits for the next of the callers that shared the last round: as long as a caller takes to read an
/// answer and call again. If a round began with the first of them alone, all others would wait for its commit.
const PAUSE: Duration = Duration::from_micros(20);

/// How many calls can wait for the writer. When there are more, their connections have to wait.
const BACKLOG: usize = 1024;

/// The writer cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store contradicts itself.
    #[error(transparent)]
    Doubled(#[from] Doubled),
    /// The queue of releases cannot be read.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No thread can be started.
    #[error("cannot start the writer's thread")]
    Thread(#[source] io::Error),
}

/// What the writer is asked to do.
enum Job {
    Call(Call),
    Configure(Settings),
    /// How many leases of each pool belong to pods that are gone.
    Missing(HashMap<String, u64>),
    DrainQueue,
    /// Take back a lease that nobody uses any more, if this last look confirms it.
    Reclaim(Lost, Arc<dyn Sight>),
}

impl Job {
    /// Whether the queued releases have to be performed first: a queued release would end the lease that an `Allocate`
    /// of the same attachment gives.
    const fn waits_for_queue(&self) -> bool {
        matches!(self, Self::DrainQueue | Self::Call(Call { request: ServiceRequest::Allocate(_), .. }))
    }
}

#[derive(Debug)]
struct Call {
    request: ServiceRequest,
    /// The time on the boot clock at which the caller stops waiting.
    expires_at: Option<Duration>,
    answer: oneshot::Sender<Result<Answer, CallError>>,
}

/// Requests go to the writer through this handle. The writer ends when the last handle is dropped.
#[derive(Clone)]
pub struct Handle {
    jobs: mpsc::Sender<Job>,
    clock: Clock,
    metrics: Arc<Metrics>,
    home: Arc<Home>,
    thread: runtime::Handle,
}

impl Handle {
    /// Has a request performed, and waits until its changes are durable. A request that the writer does not come to
    /// within `patience` changes nothing.
    ///
    /// # Errors
    /// As the interface file says.
    pub async fn ask(
        &self,
        request: ServiceRequest,
        patience: Option<Duration>,
    ) -> Result<Answer, CallError> {
        let (method, begun) = (method(&request), Instant::now());
        let answered = self.perform(request, patience).await;
        self.metrics.answered(method, begun.elapsed(), answered.as_ref().err());
        answered
    }

    /// Counters of the daemon's work.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where this process runs, as its callers show.
    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(crate) async fn perform(
        &self,
        request: ServiceRequest,
        patience: Option<Duration>,
    ) -> Result<Answer, CallError> {
        let expires_at = patience.map(|patience| (self.clock)().saturating_add(patience));
        let (answer, answered) = oneshot::channel();
        let stopped = || CallError::StoreFailed { reason: "ipamd is stopping".to_owned() };
        let job = Job::Call(Call { request, expires_at, answer });
        self.jobs.send(job).await.map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Changes the settings.
    pub async fn configure(&self, settings: Settings) {
        self.tell(Job::Configure(settings)).await;
    }

    /// Has the queued releases performed.
    pub async fn drain_queue(&self) {
        self.tell(Job::DrainQueue).await;
    }

    /// Tells the writer how many leases of each pool belong to pods that are gone, for callers who ask why a pool is
    /// full.
    pub(crate) async fn miss(&self, counts: HashMap<String, u64>) {
        self.tell(Job::Missing(counts)).await;
    }

    /// Has a lease taken back that was found lost, unless a last look right before the release says otherwise.
    pub async fn reclaim(&self, lost: Lost, sight: Arc<dyn Sight>) {
        self.tell(Job::Reclaim(lost, sight)).await;
    }

    /// The writer's thread, for the tasks that hand it calls. A task on this thread shares the writer's core and needs
    /// no waking to get its answer, and the calls of all tasks that are ready share one commit. While the store
    /// commits, these tasks stand still.
    #[must_use]
    pub const fn thread(&self) -> &runtime::Handle {
        &self.thread
    }

    /// The time now.
    pub(crate) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// Waits until the writer is gone. While a handle exists, that means that it died.
    pub async fn gone(&self) {
        self.jobs.closed().await;
    }

    async fn tell(&self, job: Job) {
        // If the writer is gone, the daemon ends; see `gone`.
        let _ = self.jobs.send(job).await;
    }
}

/// Service and store, and what is needed to build the service from the store.
pub struct Writer {
    store: Box<dyn Store>,
    /// `None` after a failure, until the store can be read again.
    service: Option<Service>,
    settings: Settings,
    runtime_dir: PathBuf,
    boot_id: String,
    clock: Clock,
    /// Whether the last commit failed. Then `Status` tries the store before it says that all is well.
    doubtful: bool,
    metrics: Arc<Metrics>,
    home: Arc<Home>,
}

/// A batch that is being made.
#[derive(Default)]
struct Round {
    /// The reason why there is no service, if there is none.
    unread: Option<CallError>,
    batch: Batch,
    calls: Vec<Pending>,
    claimed: Vec<QueuedRelease>,
    reclaimed: Vec<(Lease, Duration)>,
}

/// A call that was performed and waits for the commit.
struct Pending {
    answer: oneshot::Sender<Result<Answer, CallError>>,
    result: Result<Answer, CallError>,
}

impl Writer {
    /// Reads the store and performs the queued releases. The queue's directory in `runtime_dir` is made if needed.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn open(
        store: Box<dyn Store>,
        settings: Settings,
        runtime_dir: PathBuf,
        boot_id: String,
        clock: Clock,
    ) -> Result<Self, StartError> {
        ferrule_wire::make_queue(&runtime_dir)?;
        let metrics = Arc::default();
        let home = Arc::new(Home::open(&runtime_dir, &boot_id));
        let doubtful = false;
        let mut writer =
            Self { store, service: None, settings, runtime_dir, boot_id, clock, doubtful, metrics, home };
        let service = writer.read_store()?;
        log_held(service.held());
        writer.service = Some(service);
        let mut round = Round::default();
        writer.claim_queue(&mut round)?;
        if !round.batch.is_empty() {
            writer.store.commit(&round.batch)?;
        }
        finish(round, &writer.metrics).log();
        Ok(writer)
    }

    /// Makes leases for all addresses that the kernel routes to pods' links. Returns how many leases it made.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn adopt(&mut self, links: &BTreeMap<String, PodLink>) -> Result<usize, StartError> {
        let Some(service) = &self.service else { return Ok(0) };
        if links.is_empty() {
            return Ok(0);
        }
        let changes = adopt(service.all(), links, |address| service.pool_of(address), (self.clock)());
        if changes.is_empty() {
            return Ok(0);
        }
        for change in &changes {
            if let Change::Given(lease) = change {
                let lease = lease.open();
                tracing::warn!(
                    addresses = joined(&lease),
                    pod = lease.pod.as_ref().map(tracing::field::display),
                    container_id = lease.attachment.container_id,
                    "lease made anew: the store did not have it, and the kernel routes its addresses to a pod"
                );
            }
        }
        let given = changes.iter().filter(|change| matches!(change, Change::Given(_))).count();
        self.store.commit(&Batch { changes, boot_id: None })?;
        self.service = Some(self.read_store()?);
        Ok(given)
    }

    /// Number of leases.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.service.as_ref().map_or(0, Service::len)
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// [`StartError::Thread`].
    pub fn start(self) -> Result<(Handle, JoinHandle<()>), StartError> {
        let (jobs, waiting) = mpsc::channel(BACKLOG);
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let (clock, thread) = (self.clock.clone(), runtime.handle().clone());
        let handle =
            Handle { jobs, clock, metrics: Arc::clone(&self.metrics), home: Arc::clone(&self.home), thread };
        let named = thread::Builder::new().name("writer".to_owned());
        let run = move || runtime.block_on(self.run(waiting));
        let thread = named.spawn(run).map_err(StartError::Thread)?;
        Ok((handle, thread))
    }

    async fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH_CAP);
        self.metrics.leases(self.leases());
        let mut last = 0;
        while let Some(first) = waiting.recv().await {
            let mut pace = Pace::begin();
            jobs.push(first);
            gather(&mut waiting, &mut jobs, last).await;
            pace.spent_on(Part::Gather);
            last = jobs.len();
            let news = self.round(jobs.drain(..), &mut pace);
            // The answers go out before the log is written, because no caller needs the log.
            yield_now().await;
            pace.spent_on(Part::Answers);
            log_as_one(|| news.log());
            pace.spent_on(Part::Log);
            self.tell_if_slow(&pace, last);
        }
    }

    fn tell_if_slow(&self, pace: &Pace, calls: usize) {
        let Some((took, waited_for)) = pace.slow() else { return };
        self.metrics.slow();
        tracing::warn!(
            took_ms = took.as_millis(),
            calls,
            waited_for,
            "a round of calls took longer than 1 s: if it was for the disk, put [ipam] state_dir on a faster one; if for all a \
             little, the machine's cores are busy"
        );
    }

    /// Performs the jobs, commits, and answers. It leaves the log to the caller.
    fn round(&mut self, jobs: Drain<'_, Job>, pace: &mut Pace) -> News {
        let mut round = Round { unread: self.read_store_again().err(), ..Round::default() };
        let now = (self.clock)();
        // If a release was queued before one of these calls was made, it is in the queue by now.
        if jobs.as_slice().iter().any(Job::waits_for_queue) {
            self.drain_queue(&mut round);
            pace.spent_on(Part::Queue);
        }
        for job in jobs {
            match job {
                Job::Call(call) => self.perform(call, now, &mut round),
                Job::Configure(settings) => self.configure(settings, now, &mut round),
                Job::Reclaim(lost, sight) => self.reclaim(&lost, &*sight, now, &mut round),
                Job::Missing(counts) => self.miss(counts),
                Job::DrainQueue => {}
            }
        }
        pace.spent_on(Part::Calls);
        if round.batch.is_empty() {
            return finish(round, &self.metrics);
        }
        let begun = Instant::now();
        let committed = self.store.commit(&round.batch);
        self.metrics.committed(begun.elapsed(), committed.is_ok());
        match committed {
            Ok(waited) => {
                pace.of_it(Part::Keeper, waited.keeper);
                pace.of_it(Part::Disk, waited.disk);
                self.doubtful = false;
                self.metrics.leases(self.leases());
                finish(round, &self.metrics)
            }
            Err(error) => {
                pace.spent_on(Part::Disk);
                self.undo(round, &error);
                pace.spent_on(Part::Reread);
                News::default()
            }
        }
    }

    fn perform(&mut self, call: Call, now: Duration, round: &mut Round) {
        let Call { request, expires_at, answer } = call;
        let result = self.result(request, expires_at, now, round);
        round.calls.push(Pending { answer, result });
    }

    fn result(
        &mut self,
        request: ServiceRequest,
        expires_at: Option<Duration>,
        now: Duration,
        round: &mut Round,
    ) -> Result<Answer, CallError> {
        if expires_at.is_some_and(|at| at <= now) {
            return Err(CallError::DeadlineExceeded {});
        }
        let Some(service) = &mut self.service else {
            let not_read = || CallError::StoreFailed { reason: "it was not read".to_owned() };
            return Err(round.unread.clone().unwrap_or_else(not_read));
        };
        if self.doubtful && matches!(request, ServiceRequest::Status(_)) {
            // A write is needed, so that the answer tells whether the store can be written again.
            round.batch.boot_id = Some(self.boot_id.clone());
        }
        service.handle(request, now, &mut round.batch.changes)
    }

    fn configure(&mut self, settings: Settings, now: Duration, round: &mut Round) {
        self.settings = settings.clone();
        if let Some(service) = &mut self.service {
            let was_held = settings.held == service.settings().held;
            service.reconfigure(settings);
            if !was_held {
                log_held(service.held());
            }
            round.batch.changes.extend(service.forget_rested(now));
        }
    }

    /// After the service is built anew, it does not know these numbers until the next look.
    fn miss(&mut self, counts: HashMap<String, u64>) {
        self.metrics.missing(counts.values().sum());
        if let Some(service) = &mut self.service {
            service.miss(counts);
        }
    }

    /// The last look and the release are one step, so no `Allocate` of the same attachment can come between them.
    fn reclaim(&mut self, lost: &Lost, sight: &dyn Sight, now: Duration, round: &mut Round) {
        let Some(service) = &mut self.service else { return };
        let Some(lease) = service.lease(&lost.attachment) else { return };
        if lease.given_at_boottime_ms != lost.given_at_boottime_ms || !is_still_lost(&lease, sight) {
            return;
        }
        let release = ServiceRequest::Release(lost.attachment.clone());
        let released = service.handle(release, now, &mut round.batch.changes);
        debug_assert!(released.is_ok(), "a release always succeeds in memory");
        round.reclaimed.push((lease, now.saturating_sub(lost.since)));
    }

    /// Takes all queued releases into the round. If that is not possible, logs it.
    fn drain_queue(&mut self, round: &mut Round) {
        if let Err(error) = self.claim_queue(round) {
            tracing::error!(error = chain(&error), "the queued releases cannot be read");
        }
    }

    /// Takes all queued releases into the round.
    fn claim_queue(&mut self, round: &mut Round) -> Result<(), QueueError> {
        let now = (self.clock)();
        for queued in ferrule_wire::queued(&self.runtime_dir)? {
            self.claim(queued, now, round);
        }
        Ok(())
    }

    /// Takes one queued release into the round.
    fn claim(&mut self, mut queued: QueuedRelease, now: Duration, round: &mut Round) {
        let Some(service) = &mut self.service else { return };
        match queued.claim() {
            Ok(attachment) => {
                let released =
                    service.handle(ServiceRequest::Release(attachment), now, &mut round.batch.changes);
                debug_assert!(released.is_ok(), "a release always succeeds in memory");
                round.claimed.push(queued);
            }
            Err(error @ ClaimError::Broken { .. }) => {
                tracing::warn!(error = chain(&error), "a queued release is broken");
            }
            Err(error @ ClaimError::Queue(_)) => {
                tracing::error!(error = chain(&error), "a queued release cannot be read");
            }
        }
    }

    /// After a failed commit: goes back to what the store holds. Claimed releases stay in the queue.
    fn undo(&mut self, round: Round, error: &StoreError) {
        tracing::error!(
            error = chain(error),
            calls = round.calls.len(),
            "the store failed, nothing was changed"
        );
        self.doubtful = true;
        self.service = match self.read_store() {
            Ok(service) => Some(service),
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "the store cannot be read again, trying at the next call"
                );
                None
            }
        };
        for pending in round.calls {
            let _ = pending.answer.send(Err(store_failed(error)));
        }
    }

    /// Reads the store, if reading it failed the last time.
    fn read_store_again(&mut self) -> Result<(), CallError> {
        if self.service.is_none() {
            let service = self.read_store().map_err(|error| store_failed(&error))?;
            self.service = Some(service);
        }
        Ok(())
    }

    /// Builds a service from what the store holds.
    fn read_store(&mut self) -> Result<Service, StartError> {
        let contents = self.store.load()?;
        let (service, batch) = recover(contents, self.settings.clone(), &self.boot_id, (self.clock)())?;
        if !batch.is_empty() {
            self.store.commit(&batch)?;
        }
        for change in &batch.changes {
            // Leases that end here belong to another boot.
            if let Change::Ended(_) = change {
                self.metrics.reclaimed(Reason::Reboot);
            }
        }
        Ok(service)
    }
}

/// Takes every job that is there into the round. Callers that are ready hand in their calls meanwhile, and callers that
/// just got an answer call again soon. As long as calls come without a pause, one commit serves them all. While the
/// round has fewer calls than the `last` one, it waits for [`PAUSE`] for the next call.
async fn gather(waiting: &mut mpsc::Receiver<Job>, jobs: &mut Vec<Job>, last: usize) {
    let mut came = Instant::now();
    while jobs.len() < BATCH_CAP {
        let had = jobs.len();
        yield_now().await;
        while jobs.len() < BATCH_CAP
            && let Ok(job) = waiting.try_recv()
        {
            jobs.push(job);
        }
        if jobs.len() > had {
            came = Instant::now();
        } else if had >= last || came.elapsed() >= PAUSE {
            return;
        }
    }
}

/// The batch is durable: removes the performed releases from the queue, and answers the callers. Returns what is to be
/// logged.
fn finish(round: Round, metrics: &Metrics) -> News {
    for _ in &round.reclaimed {
        metrics.reclaimed(Reason::Gone);
    }
    for change in &round.batch.changes {
        metrics.changed(change);
    }
    // The queue comes before the answers: a caller with an answer may allocate again, and a release that is still in
    // the queue would end that lease.
    for queued in round.claimed {
        if let Err(error) = queued.done() {
            tracing::error!(error = chain(&error), "a performed release stays in the queue");
        }
    }
    for pending in round.calls {
        // If the caller is gone, its lease stays. The caller releases it, or asks for it again.
        let _ = pending.answer.send(pending.result);
    }
    News { changes: round.batch.changes, reclaimed: round.reclaimed }
}

fn store_failed(error: &dyn std::error::Error) -> CallError {
    CallError::StoreFailed { reason: chain(error) }
}
