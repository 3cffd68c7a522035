//! The running daemon: parts put together, `node.json` followed, releases drained, and the end.

use crate::clock::{boot_clock, boot_id};
use crate::pools::settings;
use crate::reasons::chain;
use crate::server::{Limits, serve};
use crate::socket::{Lock, SocketError};
use crate::store::SledStore;
use crate::writer::{Handle, StartError, Writer};
use ferrule_config::{Config, ConfigError, NODE_FILE, NodeFile};
use ferrule_daemon::{FileWatch, Notifier, Shutdown, WatchError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

/// Name of the store's directory in the runtime directory.
const STORE_NAME: &str = "ipam";

/// How often the queue of releases is looked at. The plugin queues only when the daemon did not answer, so this is
/// a directory read that almost always finds nothing.
const QUEUE_INTERVAL: Duration = Duration::from_millis(500);

/// The daemon cannot run, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The directory cannot be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Store or queue cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// `node.json` cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The system refuses something basic.
    #[error("{doing}")]
    System {
        /// What.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The writer's thread ended: a fault in this program.
    #[error(
        "the writer's thread ended unexpectedly: this is a fault in ipamd, please report it with the log before it"
    )]
    WriterDied,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, runtime_dir: PathBuf) -> Result<(), RunError> {
    let mut shutdown = Shutdown::catch().map_err(system("cannot catch signals"))?;
    let lock = Lock::take(&runtime_dir)?;
    // The watch before the first look, so that no change falls between.
    let watch = FileWatch::new(runtime_dir.join(NODE_FILE))?;
    let mut node = Node { config, path: runtime_dir.join(NODE_FILE), last: None };
    let store = Box::new(SledStore::new(&runtime_dir.join(STORE_NAME)));
    let boot_id = boot_id().map_err(system("cannot read the boot id from /proc"))?;
    let writer = Writer::open(store, node.read(), runtime_dir.clone(), boot_id, boot_clock())?;
    let leases = writer.leases();
    let (handle, thread) = writer.start()?;

    let (listener, socket_file) = lock.listen()?;
    let listener = UnixListener::from_std(listener).map_err(system("cannot listen"))?;
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let server = tokio::spawn(serve(listener, handle.clone(), Limits::production(), stopped));
    tracing::info!(leases, runtime_dir = %runtime_dir.display(), "serving");
    Notifier.ready(&format!("serving, {leases} leases at the start"));

    let ended = attend(&mut node, watch, &runtime_dir, &handle, &mut shutdown).await;
    Notifier.stopping();
    drop(socket_file);
    drop((stop, handle));
    // The server lets the calls under way finish; with its handles the writer ends.
    let served = server.await;
    let wrote = tokio::task::spawn_blocking(move || thread.join()).await;
    ended?;
    match (served, wrote) {
        (Ok(()), Ok(Ok(()))) => Ok(()),
        _ => Err(RunError::WriterDied),
    }
}

/// The daemon's own loop: what has to be done besides answering.
async fn attend(
    node: &mut Node,
    mut watch: FileWatch,
    runtime_dir: &Path,
    handle: &Handle,
    shutdown: &mut Shutdown,
) -> Result<(), RunError> {
    let mut watchdog = Notifier.watchdog();
    let mut queue = interval(QUEUE_INTERVAL);
    queue.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            signal = shutdown.requested() => {
                tracing::info!(signal, "stopping");
                return Ok(());
            }
            () = handle.gone() => return Err(RunError::WriterDied),
            () = watchdog.beat() => {}
            changed = watch.changed() => {
                changed?;
                let settings = node.read();
                handle.configure(settings).await;
            }
            _ = queue.tick() => {
                // What cannot be read is the writer's to report, once somebody needs it.
                if ferrule_wire::queued(runtime_dir).is_ok_and(|queued| !queued.is_empty()) {
                    handle.drain_queue().await;
                }
            }
        }
    }
}

/// `node.json` as last read.
struct Node {
    config: Config,
    path: PathBuf,
    last: Option<NodeFile>,
}

impl Node {
    /// Reads the file and tells what follows from it. Of a file that is gone or broken the last good state stays.
    fn read(&mut self) -> crate::service::Settings {
        let fault = match NodeFile::load(&self.path) {
            Ok(node) => {
                tracing::info!(pod_cidrs = ?node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), mtu = node.mtu, "node.json read");
                self.last = Some(node);
                None
            }
            Err(error) if error.is_missing() => {
                if self.config.ipam.pools.is_empty() {
                    tracing::info!("no node.json: waiting for routed to write it");
                }
                None
            }
            Err(error) => Some(self.report(&error)),
        };
        settings(&self.config, self.last.as_ref(), fault.as_deref())
    }

    fn report(&self, error: &ConfigError) -> String {
        let kept = if self.last.is_some() { "the last good state stays" } else { "there is none before it" };
        tracing::error!(error = chain(error), "node.json cannot be used, {kept}");
        error.to_string()
    }
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}
