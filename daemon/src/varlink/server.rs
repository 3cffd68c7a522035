//! Accepting callers: one task each, a bound on their number, and a stop that lets each finish its call.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ferrule_wire::{Calls, Request};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::caller::{Caller, EndError, converse, refuse};

/// What is served; a copy for each caller.
pub trait Service: Clone + Send + Sync + 'static {
    /// The calls of the interface.
    type Call: Calls;
    /// The program's name.
    const PRODUCT: &'static str;
    /// The interface's name.
    const INTERFACE: &'static str;
    /// The interface's definition.
    const DEFINITION: &'static str;

    /// Answers a call, by what `caller` offers for that.
    fn serve(
        &self,
        caller: &mut Caller,
        request: Request<Self::Call>,
    ) -> impl Future<Output = Result<(), EndError>> + Send;

    /// A caller who may not call was turned away.
    fn refused(&self) {}
}

/// How callers are kept from harming each other.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Users that may call.
    pub uids: BTreeSet<u32>,
    /// How long a caller may take until its next call has arrived whole.
    pub idle: Duration,
    /// How long a caller may take to read an answer.
    pub write: Duration,
    /// Callers at once; the next wait in the socket's backlog.
    pub connections: usize,
    /// How long a stop waits for calls under way.
    pub stop: Duration,
}

impl Limits {
    /// The limits in production: root and this process's own user may call.
    #[must_use]
    pub fn production() -> Self {
        Self {
            uids: BTreeSet::from([0, nix::unistd::geteuid().as_raw()]),
            // Longer than a person types by hand; the plugin's calls take milliseconds.
            idle: Duration::from_secs(60),
            write: Duration::from_secs(10),
            // kubelet starts some dozens of pods at once; each costs a task and a file descriptor of the usual 1024.
            connections: 900,
            stop: Duration::from_secs(5),
        }
    }
}

/// How long to wait when the kernel has no descriptor or memory for another caller.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is ready, then lets the calls under way finish.
pub async fn serve<S: Service>(
    listener: UnixListener,
    service: S,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let limits = Arc::new(limits);
    let (stopping, stopped) = watch::channel(false);
    let mut callers = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = callers.join_next() => {}
            accepted = listener.accept(), if callers.len() < limits.connections => match accepted {
                Ok((stream, _)) => greet(stream, &service, &limits, &stopped, &mut callers),
                Err(error) => {
                    tracing::warn!(%error, "no caller can be accepted now");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Fails only if no caller is there to hear it.
    let _ = stopping.send(true);
    let finished = timeout(limits.stop, async { while callers.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        tracing::warn!(callers = callers.len(), "callers were cut off at the stop");
    }
}

fn greet<S: Service>(
    stream: UnixStream,
    service: &S,
    limits: &Arc<Limits>,
    stopped: &watch::Receiver<bool>,
    callers: &mut JoinSet<()>,
) {
    let limits = Arc::clone(limits);
    match stream.peer_cred().map(|peer| peer.uid()) {
        Ok(uid) if limits.uids.contains(&uid) => {
            drop(callers.spawn(converse(stream, service.clone(), limits, stopped.clone())));
        }
        Ok(uid) => {
            service.refused();
            tracing::warn!(uid, "refused a caller: only root and the daemon's own user may call");
            drop(callers.spawn(refuse(stream, limits)));
        }
        Err(error) => tracing::warn!(%error, "refused a caller whose user cannot be told"),
    }
}
