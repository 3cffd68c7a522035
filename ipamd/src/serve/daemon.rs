//! The running daemon. It puts the parts together, follows the files that the settings come from, performs queued
//! releases, and ends in an orderly way.

use crate::look::clock::{boot_clock, boot_id};
use crate::look::inputs::Inputs;
use crate::serve::pages::Outside;
use crate::serve::reclaim::search;
use crate::serve::rescue::{self, RescueError};
use crate::serve::writer::{Handle, StartError, Writer};
use crate::store::path_in;
use ferrule_config::ConfigError;
use ferrule_daemon::varlink::{Limits, Lock, SocketError, serve};
use ferrule_daemon::{CommonArgs, Heard, HttpLimits, Notifier, Signals, serve_metrics};
use ferrule_netlink::own_addresses;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// The name from which those of the socket and of its lock are made.
pub(crate) const PROGRAM: &str = "ipamd";

/// How often the queue of releases is looked at. The plugin queues only when the daemon did not answer, so this is
/// a directory read that almost always finds nothing.
const QUEUE_INTERVAL: Duration = Duration::from_millis(500);

/// How often the node's own addresses are looked at, which costs a system call and a short file. Only netlink would
/// report a change.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The daemon cannot run, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory cannot be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The store cannot be opened safely.
    #[error(transparent)]
    Rescue(#[from] RescueError),
    /// The store or the queue cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system refuses something basic.
    #[error("{doing}")]
    System {
        /// What it refuses.
        doing: &'static str,
        /// Its reason.
        #[source]
        source: io::Error,
    },
    /// The writer's thread ended, which is a fault in this program.
    #[error(
        "the writer's thread ended unexpectedly: this is a fault in ipamd, please report it with the log before it"
    )]
    WriterDied,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// See [`RunError`].
pub async fn run(common: &CommonArgs) -> Result<(), RunError> {
    let runtime_dir = common.runtime_dir.clone();
    let mut signals = Signals::catch().map_err(system("cannot catch signals"))?;
    let mut inputs = Inputs::open(common)?;
    let lock = Lock::take(&runtime_dir, PROGRAM)?;
    let passed = lock.passed()?;
    let opened = rescue::open(&path_in(inputs.config().ipam.state_dir.as_deref(), &runtime_dir))?;
    let boot_id = boot_id().map_err(system("cannot read the boot id from /proc"))?;
    let links = rescue::links(opened.state)?;
    let mut writer =
        Writer::open(opened.store, inputs.settings(), runtime_dir.clone(), boot_id, boot_clock())?;
    writer.adopt(&links)?;
    let leases = writer.leases();
    let (handle, thread) = writer.start()?;

    let (listener, socket_file) = match passed {
        Some(listener) => (listener, None),
        None => lock.listen().map(|(listener, file)| (listener, Some(file)))?,
    };
    let listener = {
        let _entered = handle.thread().enter();
        UnixListener::from_std(listener).map_err(system("cannot listen"))?
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let server = handle.thread().spawn(serve(listener, handle.clone(), Limits::production(), stopped));
    let outside = inputs.config().metrics.ipamd.map(|address| {
        let pages = Outside { handle: handle.clone() };
        tokio::spawn(serve_metrics(address, pages, HttpLimits::default()))
    });
    let (grace, asked) = watch::channel(inputs.config().ipam.reclaim_after);
    let search = tokio::spawn(search(handle.clone(), asked));
    tracing::info!(leases, runtime_dir = %runtime_dir.display(), "serving");
    Notifier.ready(&format!("serving, {leases} leases at the start"));

    let ended = attend(&mut inputs, &runtime_dir, &handle, &grace, &mut signals).await;
    Notifier.stopping();
    drop(socket_file);
    drop((stop, handle));
    search.abort();
    if let Some(outside) = outside {
        outside.abort();
    }
    // The server lets the calls that are under way finish. The writer ends when the server's last handle is dropped.
    let served = server.await;
    let wrote = spawn_blocking(move || thread.join()).await;
    ended?;
    match (served, wrote) {
        (Ok(()), Ok(Ok(()))) => Ok(()),
        _ => Err(RunError::WriterDied),
    }
}

/// The daemon's own loop: everything that has to be done besides answering calls.
async fn attend(
    inputs: &mut Inputs,
    runtime_dir: &Path,
    handle: &Handle,
    grace: &watch::Sender<Duration>,
    signals: &mut Signals,
) -> Result<(), RunError> {
    let mut watchdog = Notifier.watchdog();
    let mut queue = interval(QUEUE_INTERVAL);
    queue.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            heard = signals.next() => match heard {
                Heard::Stop(signal) => {
                    tracing::info!(signal, "stopping");
                    return Ok(());
                }
                Heard::Reload => {
                    inputs.read();
                    configure(inputs, handle, grace).await;
                }
            },
            () = handle.gone() => return Err(RunError::WriterDied),
            () = watchdog.beat() => {}
            () = inputs.changed() => configure(inputs, handle, grace).await,
            _ = look.tick() => {
                // This runs on a thread of its own, because the kernel makes it wait while somebody changes links.
                let found = spawn_blocking(own_addresses).await.unwrap_or_else(|error| Err(error.into()));
                if inputs.look(found) {
                    configure(inputs, handle, grace).await;
                }
            }
            _ = queue.tick() => {
                // If the queue cannot be read, the writer reports that once somebody needs it.
                if ferrule_wire::queued(runtime_dir).is_ok_and(|queued| !queued.is_empty()) {
                    handle.drain_queue().await;
                }
            }
        }
    }
}

async fn configure(inputs: &Inputs, handle: &Handle, grace: &watch::Sender<Duration>) {
    grace.send_if_modified(|grace| {
        std::mem::replace(grace, inputs.config().ipam.reclaim_after) != inputs.config().ipam.reclaim_after
    });
    handle.configure(inputs.settings()).await;
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}
