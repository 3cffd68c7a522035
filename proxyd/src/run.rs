//! The daemon: connects source, table, the thread that works on the kernel and the service manager, and nothing more.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use ferrule_config::{Config, ConfigError, NODE_FILE, NodeFile, NodeNameError, ServiceSource};
use ferrule_daemon::{
    Alone, CommonArgs, FileWatch, Heard, HttpLimits, NotAlone, Notifier, Signals, block_on, serve_metrics,
};
use ferrule_netlink::nft::{self, NetfilterSocket, NftError};
use ferrule_netlink::{Port, TableWatch, rights};
use tokio::sync::{Notify, oneshot, watch};

use crate::PROGRAM;
use crate::decide::NodeFacts;
use crate::nft::{Shape, TABLE};
use crate::pages::Window;
use crate::services::Services;
use crate::source::{FileSource, KubernetesSource, Source};
use crate::sync::DataPath;
use crate::sync::thread::{self, Figures, Job, Links, Status};

/// Why the daemon, or a command, cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration, or the services file, is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node has no name.
    #[error(transparent)]
    Name(#[from] NodeNameError),
    /// Another daemon works here.
    #[error(transparent)]
    NotAlone(#[from] NotAlone),
    /// The kernel cannot be talked to.
    #[error(transparent)]
    Netlink(#[from] ferrule_netlink::Error),
    /// nft does not do what it is told.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The daemon cannot hear who changes the table.
    #[error("cannot subscribe to the kernel's events: {}{}", .0, rights::behind(rights::of_events(.0)))]
    Events(#[source] io::Error),
    /// The operating system refused something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The thread that works on the kernel has ended.
    #[error("the thread that works on the kernel has ended; this is a fault of proxyd's")]
    WorkerEnded,
}

pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// Runs the daemon until it is asked to stop. What is in the kernel then stays.
///
/// # Errors
/// See [`RunError`].
pub fn daemon(args: &CommonArgs) -> Result<(), RunError> {
    let config = args.load_config()?;
    let name = CommonArgs::node_name(&config)?;
    block_on(serve(config, &name, &args.runtime_dir)).map_err(system("start the runtime"))?
}

async fn serve(config: Config, name: &str, runtime_dir: &Path) -> Result<(), RunError> {
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let _alone = Alone::be(PROGRAM)?;
    let notifier = Notifier;
    let facts = Services::node(&config, name);
    let (mut source, from) = source(&config, facts.clone());
    let node_file = runtime_dir.join(NODE_FILE);
    let mut node_watch = FileWatch::new(&node_file);
    notifier.status(&format!("waiting for the Services of {from}"));
    let metrics = config.metrics.proxyd;
    let mut services = Services::new(config, facts);
    look_at_node(&mut services, &node_file);
    let (jobs, mut status, figures, again, mut broken) = start(services.shape())?;
    if let Some(address) = metrics {
        let window = Window::new(status.clone(), figures);
        tokio::spawn(serve_metrics(address, window, HttpLimits::default()));
    }
    tracing::info!("proxyd {} starts on node {name}", env!("CARGO_PKG_VERSION"));
    let mut watchdog = notifier.watchdog();
    let mut told = Status::default();
    loop {
        let job = tokio::select! {
            heard = signals.next() => match heard {
                Heard::Stop(signal) => {
                    tracing::info!("stopping on {signal}; everything stays as it is in the kernel");
                    notifier.stopping();
                    return Ok(());
                }
                Heard::Reload => {
                    source.look_again();
                    continue;
                }
            },
            news = source.next() => {
                let before = services.shape();
                let job = services.take(news);
                let shape = services.shape();
                if before != shape {
                    jobs.send(Job::Networks(shape)).map_err(|_| RunError::WorkerEnded)?;
                }
                job
            }
            () = node_watch.changed() => {
                look_at_node(&mut services, &node_file).then(|| Job::Networks(services.shape()))
            }
            () = again.notified() => Some(services.all()),
            error = &mut broken => return Err(RunError::Events(error.unwrap_or_else(|_| closed()))),
            changed = status.changed() => {
                changed.map_err(|_| RunError::WorkerEnded)?;
                report(notifier, &mut told, &status.borrow_and_update());
                None
            }
            () = watchdog.beat() => None,
        };
        if let Some(job) = job {
            jobs.send(job).map_err(|_| RunError::WorkerEnded)?;
        }
    }
}

/// The source that the configuration names, and what to call it.
fn source(config: &Config, node: NodeFacts) -> (Source, String) {
    match config.services.source {
        ServiceSource::File => {
            let path = &config.services.path;
            (Source::File(Box::new(FileSource::new(path, node))), path.display().to_string())
        }
        ServiceSource::Kubernetes => {
            let cluster = KubernetesSource::new(&config.kubernetes, &node.name);
            (Source::Kubernetes(cluster), "the API server".to_owned())
        }
    }
}

/// What [`start`] has started: the way to the thread, what it tells, and how a broken subscription is told.
type Started =
    (Sender<Job>, watch::Receiver<Status>, Arc<Figures>, Arc<Notify>, oneshot::Receiver<io::Error>);

fn start(shape: Shape) -> Result<Started, RunError> {
    let netfilter = NetfilterSocket::open()?;
    let port = netfilter.port()?;
    let (status, statuses) = watch::channel(Status::default());
    let (figures, again) = (Arc::new(Figures::default()), Arc::new(Notify::new()));
    let links = Links { status, figures: Arc::clone(&figures), again: Arc::clone(&again) };
    let path = DataPath::new(netfilter, shape);
    let jobs = thread::start(path, NetfilterSocket::open, links).map_err(system("start a thread"))?;
    let broken = listen(port, jobs.clone())?;
    Ok((jobs, statuses, figures, again, broken))
}

/// Starts a thread that hears of others' changes of the table. It ends with the process, or with an error, which is told.
fn listen(own: Port, jobs: Sender<Job>) -> Result<oneshot::Receiver<io::Error>, RunError> {
    let watch = TableWatch::open(TABLE, own).map_err(RunError::Events)?;
    let (tell, broken) = oneshot::channel();
    let hand_on = move || {
        loop {
            match watch.wait() {
                Ok(by) => {
                    let by = by.map(|by| format!("{}, process {}", by.process, by.port));
                    if jobs.send(Job::Touched(by)).is_err() {
                        return;
                    }
                }
                Err(error) => return drop(tell.send(error)),
            }
        }
    };
    std::thread::Builder::new().name("events".into()).spawn(hand_on).map_err(system("start a thread"))?;
    Ok(broken)
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the socket was closed")
}

/// Reads what `routed` knows of this node. Returns whether that says something new.
fn look_at_node(services: &mut Services, file: &Path) -> bool {
    match NodeFile::load(file) {
        Ok(node) => services.take_node_file(node),
        // Without routed there is none.
        Err(error) if error.is_missing() => false,
        Err(error) => {
            tracing::warn!("{error}; what is known of the node stays");
            false
        }
    }
}

/// Tells the service manager what is new.
fn report(notifier: Notifier, told: &mut Status, status: &Status) {
    let text = text(status);
    if status.ready && !told.ready {
        tracing::info!("ready: {text}");
        notifier.ready(&text);
    } else if *status != *told {
        notifier.status(&text);
    }
    told.clone_from(status);
}

fn text(status: &Status) -> String {
    match (&status.trouble, status.refused.len()) {
        (Some(trouble), _) => trouble.clone(),
        (None, 0) => format!("{} Services at {} places", status.services, status.frontends),
        (None, refused) => {
            format!("{} Services at {} places, {refused} refused", status.services, status.frontends)
        }
    }
}

/// Removes the table, and says so.
///
/// # Errors
/// See [`RunError`].
pub fn cleanup() -> Result<(), RunError> {
    // A running daemon would put it back.
    let _alone = Alone::be(PROGRAM)?;
    if nft::list_rules("inet", TABLE)?.is_none() {
        tracing::info!("there is no nftables table inet {TABLE}");
        return Ok(());
    }
    nft::apply(&nft::removal("inet", TABLE))?;
    tracing::info!("removed: the nftables table inet {TABLE}");
    Ok(())
}
