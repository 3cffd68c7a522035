//! Accepts callers: one task for each, a bound on their number and on what their unfinished calls hold, and a stop that
//! lets each finish its call.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use ferrule_wire::{Calls, Incoming};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::caller::{Caller, EndError, converse, refuse};

/// What is served. Each caller gets a copy.
pub trait Service: Clone + Send + Sync + 'static {
    /// The calls of the interface.
    type Call: Calls;
    /// The program's name.
    const PRODUCT: &'static str;
    /// The interface's name.
    const INTERFACE: &'static str;
    /// The interface's definition.
    const DEFINITION: &'static str;

    /// Answers a call, with the means that `caller` offers.
    fn serve(
        &self,
        caller: &mut Caller,
        request: Incoming<Self::Call>,
    ) -> impl Future<Output = Result<(), EndError>> + Send;

    /// Called when a caller was turned away because it may not call.
    fn refused(&self) {}
}

/// Limits that keep callers from harming each other.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Users that may call.
    pub uids: BTreeSet<u32>,
    /// How long a caller may take until its next call has arrived whole.
    pub idle: Duration,
    /// How long a caller may take to read an answer.
    pub write: Duration,
    /// Callers at the same time. Further callers wait in the socket's backlog, and callers that were silent for
    /// `crowded` make room.
    pub connections: usize,
    /// How long a caller may be without a whole call while others wait for its place. For one that may not call, it
    /// counts always.
    pub crowded: Duration,
    /// Bytes that all unanswered calls may hold together.
    pub held: usize,
    /// How long a stop waits for the calls in progress.
    pub stop: Duration,
}

impl Limits {
    /// The limits in production: root and this process's own user may call.
    #[must_use]
    pub fn production() -> Self {
        Self {
            uids: BTreeSet::from([0, nix::unistd::geteuid().as_raw()]),
            // This is longer than a person types by hand. The plugin's calls take milliseconds.
            idle: Duration::from_secs(60),
            write: Duration::from_secs(10),
            // kubelet starts some dozens of pods at once. Each costs a task and one of the usual 1024 file descriptors.
            connections: 900,
            // The plugin sends its call as it connects, and waits 5 s for the answer.
            crowded: Duration::from_secs(1),
            // Calls are some hundred bytes long, except a GC's.
            held: 32 << 20,
            stop: Duration::from_secs(5),
        }
    }
}

/// How long to wait when the kernel has no descriptor or memory for another caller.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all callers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) limits: Arc<Limits>,
    /// Set when the daemon stops.
    pub(super) stopped: watch::Receiver<bool>,
    /// Set when no place is left, and others may be waiting for one.
    pub(super) crowded: watch::Receiver<bool>,
    /// Bytes of all calls that are not answered yet.
    pub(super) held: Arc<AtomicUsize>,
}

/// Serves until `stop` is ready, then lets the calls under way finish.
pub async fn serve<S: Service>(
    listener: UnixListener,
    service: S,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let limits = Arc::new(limits);
    let (stopping, stopped) = watch::channel(false);
    let (crowding, crowded) = watch::channel(false);
    let shared = Shared { limits: Arc::clone(&limits), stopped, crowded, held: Arc::default() };
    let mut callers = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let is_full = callers.len() >= limits.connections;
        crowding.send_if_modified(|crowded| std::mem::replace(crowded, is_full) != is_full);
        tokio::select! {
            () = &mut stop => break,
            Some(_) = callers.join_next() => {}
            accepted = listener.accept(), if !is_full => match accepted {
                Ok((stream, _)) => greet(stream, &service, &shared, &mut callers),
                Err(error) => {
                    tracing::warn!(%error, "no caller can be accepted now");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // This fails only if no caller is there to hear it.
    let _ = stopping.send(true);
    let finished = timeout(limits.stop, async { while callers.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        tracing::warn!(callers = callers.len(), "callers were cut off at the stop");
    }
}

fn greet<S: Service>(stream: UnixStream, service: &S, shared: &Shared, callers: &mut JoinSet<()>) {
    let shared = shared.clone();
    match stream.peer_cred().map(|peer| peer.uid()) {
        Ok(uid) if shared.limits.uids.contains(&uid) => {
            drop(callers.spawn(converse(stream, service.clone(), shared)));
        }
        Ok(uid) => {
            service.refused();
            tracing::warn!(uid, "refused a caller: only root and the daemon's own user may call");
            drop(callers.spawn(refuse(stream, shared)));
        }
        Err(error) => tracing::warn!(%error, "refused a caller whose user cannot be told"),
    }
}
