//! The daemon: connects source, kernel events, worker and service manager, and nothing more.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use ferrule_config::{Config, ConfigError, NodeNameError, Routing, Tunnel};
use ferrule_daemon::varlink::{self, Limits, Lock, SocketError, SocketFile};
use ferrule_daemon::{
    Alone, CommonArgs, FolderWatch, Heard, HttpLimits, NotAlone, Notifier, Signals, Written, block_on,
    serve_metrics,
};
use ferrule_model::vtep_mac;
use ferrule_netlink::events::{Events, caller_of};
use ferrule_netlink::nft::NetfilterSocket;
use ferrule_netlink::{Netlink, Port, rights};
use ferrule_wire::Records;
use tokio::sync::{Notify, oneshot, watch};

use crate::PROGRAM;
use crate::again;
use crate::decide::culprit::Culprits;
use crate::decide::senders::Senders;
use crate::decide::wireguard::Identity;
use crate::feed::{self, Fed, Feed};
use crate::host::{CleanError, Host, thread};
use crate::keep::guard::Guard;
use crate::keep::ports::Ports;
use crate::keep::{self, Keeper};
use crate::node_table::NodeTable;
use crate::pass::apply::{Applier, PassError};
use crate::pass::gate::Gate;
use crate::pass::uplink::UplinkError;
use crate::pass::wireguard::key::KeyError;
use crate::pass::worker::{Message, Worker};
use crate::show::outlook::Outlook;
use crate::show::status::Status;
use crate::show::window::Window;
use crate::source::origin;

/// Why the daemon, or the cleanup, cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node has no name.
    #[error(transparent)]
    Name(#[from] NodeNameError),
    /// The link by which this node is reached is not known.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// The source does not tell of this node.
    #[error("{origin} does not tell of a node called {name}, which is this one; there is nothing to plan by")]
    NoNodes {
        /// This node's name.
        name: String,
        /// Where the nodes come from.
        origin: String,
    },
    /// The nodes file cannot be used, and the command does not wait for a better one.
    #[error(transparent)]
    NodesFile(ConfigError),
    /// Another daemon works here.
    #[error(transparent)]
    NotAlone(#[from] NotAlone),
    /// Another daemon serves the runtime directory.
    #[error(transparent)]
    Taken(#[from] SocketError),
    /// The kernel cannot be talked to.
    #[error(transparent)]
    Netlink(#[from] ferrule_netlink::Error),
    /// The daemon cannot get the kernel's events.
    #[error("cannot subscribe to the kernel's events: {}{}", .0, rights::behind(rights::of_events(.0)))]
    Events(#[source] io::Error),
    /// There is no WireGuard key.
    #[error(transparent)]
    Key(#[from] KeyError),
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
    #[error("the thread that works on the kernel has ended; this is a fault of routed's")]
    WorkerEnded,
    /// The kernel's state could not be cleaned up, or no pass could be planned.
    #[error(transparent)]
    Clean(#[from] PassError),
    /// The rest could not be cleaned up.
    #[error(transparent)]
    CleanHost(#[from] CleanError),
    /// The kernel refused to remove something.
    #[error("{0} objects could not be removed")]
    Left(usize),
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
    let end = block_on(serve(config, name, args)).map_err(system("start the runtime"))??;
    match end {
        End::Stopped => Ok(()),
        End::Over => again::start_over().map(|never| match never {}),
    }
}

/// Why the daemon ends.
enum End {
    /// Somebody asked it to stop.
    Stopped,
    /// Another configuration takes effect.
    Over,
}

async fn serve(config: Config, name: String, args: &CommonArgs) -> Result<End, RunError> {
    let runtime_dir = &args.runtime_dir;
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let lock = lock(runtime_dir)?;
    let _alone = Alone::be(PROGRAM)?;
    let identity = identity(&config.routing)?;
    let key = identity.as_ref().map(|identity| identity.key);
    let notifier = Notifier;
    let mut feed = Feed::new(&config, (&name, key), runtime_dir, notifier);
    let kernel = Netlink::open()?;
    // The events are subscribed to before anything is read from the kernel, so that no change in between is missed.
    let (inbox, messages) = mpsc::channel();
    let mut broken = listen(Host::tables(&config), kernel.port()?, inbox.clone(), feed.links())?;
    let outlook = Arc::new(Outlook::default());
    let gate = Gate::new(NetfilterSocket::open, Senders::new(&config.routing));
    let applier = Applier::new(kernel, config.routing.clone())
        .with_given(&config.cluster.pod_cidrs)
        .with_identity(identity);
    let pods = start_pods(&config, runtime_dir, inbox.clone())?;
    let mut status =
        start_worker((applier, gate, pods), messages, &config, runtime_dir, Arc::clone(&outlook))?;
    let mut watchdog = notifier.watchdog();
    notifier.status(&format!("waiting for the nodes in {}", origin(&config.routing).0));
    let (window, mut asks) = Window::new(&name, &config, status.clone(), outlook);
    let _socket = open_window(&window, lock.as_ref(), &config)?;
    let mut table = NodeTable::new(&name, config, notifier).with_key(key);
    tracing::info!("routed {} starts on node {}", env!("CARGO_PKG_VERSION"), table.own_name());
    let mut told = Status::default();
    loop {
        let message = tokio::select! {
            heard = signals.next() => match heard {
                Heard::Stop(signal) => {
                    tracing::info!("stopping on {signal}; everything stays as it is in the kernel");
                    notifier.stopping();
                    return Ok(End::Stopped);
                }
                Heard::Reload if again::is_due(args, table.config()) => return Ok(End::Over),
                Heard::Reload => {
                    feed.look_again();
                    continue;
                }
            },
            fed = feed.next() => match fed {
                Fed::News(news) => match table.take(news) {
                    Some(message) => message,
                    None => continue,
                },
                Fed::Chosen(chosen) => {
                    table.has_chosen(chosen);
                    continue;
                }
                Fed::Moved => return Ok(End::Over),
            },
            error = &mut broken => return Err(RunError::Events(error.unwrap_or_else(|_| closed()))),
            changed = status.changed() => {
                changed.map_err(|_| RunError::WorkerEnded)?;
                if report(notifier, &mut told, &status.borrow_and_update()) {
                    feed.in_kernel();
                }
                continue;
            }
            Some(ask) = asks.recv() => {
                table.answer(ask, feed.waiting_for());
                continue;
            }
            () = watchdog.beat(), if status.borrow().turns() => continue,
        };
        inbox.send(message).map_err(|_| RunError::WorkerEnded)?;
    }
}

/// The right to serve the runtime directory. Routes matter more than the socket: if nothing can be made in the
/// directory, only the socket is lost.
fn lock(runtime_dir: &Path) -> Result<Option<Lock>, SocketError> {
    match Lock::take(runtime_dir, PROGRAM) {
        Ok(lock) => Ok(Some(lock)),
        Err(error @ (SocketError::Taken { .. } | SocketError::Passed { .. })) => Err(error),
        Err(error @ SocketError::Make { .. }) => {
            warn_no_socket(&error);
            Ok(None)
        }
    }
}

fn warn_no_socket(error: &SocketError) {
    let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!("{error}: {reason}; there is no routed.sock, everything else goes on");
}

/// Serves the socket, and the pages if there is an address for them.
fn open_window(
    window: &Window,
    lock: Option<&Lock>,
    config: &Config,
) -> Result<Option<SocketFile>, RunError> {
    if let Some(address) = config.metrics.routed {
        tokio::spawn(serve_metrics(address, window.clone(), HttpLimits::default()));
    }
    let (listener, file) = match lock.map(Lock::listen) {
        Some(Ok(listening)) => listening,
        Some(Err(error)) => {
            warn_no_socket(&error);
            return Ok(None);
        }
        None => return Ok(None),
    };
    let listener = tokio::net::UnixListener::from_std(listener).map_err(system("listen"))?;
    let never = std::future::pending();
    tokio::spawn(varlink::serve(listener, window.clone(), Limits::production(), never));
    Ok(Some(file))
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the socket was closed")
}

/// This node's identity, if there is to be a WireGuard device.
pub(crate) fn identity(routing: &Routing) -> Result<Option<Identity>, KeyError> {
    let is_needed = routing.has(Tunnel::Wireguard);
    is_needed.then(|| Identity::keep(&routing.wireguard.key_file)).transpose()
}

/// Starts the thread that keeps what the plugin made for pods.
fn start_pods(
    config: &Config,
    runtime_dir: &Path,
    inbox: Sender<Message>,
) -> Result<Sender<keep::Job>, RunError> {
    let guard = Guard::new(config, [NetfilterSocket::open, NetfilterSocket::bridge]);
    let keeper = Keeper::new((Netlink::open()?, Ports::new(NetfilterSocket::open), guard), runtime_dir);
    // The watch begins before the first look at everybody, so that no pod is missed in between.
    let records = FolderWatch::new(Records::new(runtime_dir).directory());
    let jobs = keep::start(keeper, inbox).map_err(system("start a thread"))?;
    tokio::spawn(hand_on_records(records, jobs.clone()));
    Ok(jobs)
}

/// Tells the thread of the pods whose ADD is at its end, so that the guard follows at once.
async fn hand_on_records(mut records: FolderWatch, pods: Sender<keep::Job>) {
    loop {
        let suspects = match records.written().await {
            Written::Files(names) => {
                let added = names.iter().filter_map(|name| Records::link_of(name)).collect();
                keep::Suspects { added, ..keep::Suspects::default() }
            }
            Written::Anything => keep::Suspects { guard: true, ..keep::Suspects::default() },
        };
        if pods.send(keep::Job { suspects, culprits: Culprits::new(caller_of) }).is_err() {
            return;
        }
    }
}

fn start_worker(
    (applier, gate, pods): (Applier<Netlink>, Gate<NetfilterSocket>, Sender<keep::Job>),
    messages: Receiver<Message>,
    config: &Config,
    runtime_dir: &Path,
    outlook: Arc<Outlook>,
) -> Result<watch::Receiver<Status>, RunError> {
    let (status, statuses) = watch::channel(Status::default());
    let host = Host::new(config.clone(), runtime_dir);
    let follows = host.depends_on_others();
    let host_jobs = thread::start(host, status.clone()).map_err(system("start a thread"))?;
    let worker = Worker::new((applier, gate), (host_jobs, follows), pods, messages, status, outlook);
    // The thread is not joined: a pass at the end may be cut short anywhere, as a kill would do.
    let thread = std::thread::Builder::new().name("kernel".into()).spawn(move || worker.run());
    thread.map(drop).map_err(system("start a thread"))?;
    Ok(statuses)
}

/// Subscribes to the kernel's events, except for those of `own`, and starts a thread that hands them on. The thread
/// ends with the worker, with the process, or with an error, which is told.
fn listen(
    tables: &'static [&'static str],
    own: Port,
    inbox: Sender<Message>,
    links: Option<Arc<Notify>>,
) -> Result<oneshot::Receiver<io::Error>, RunError> {
    let (tell_broken, broken) = oneshot::channel();
    let (tell_opened, opened) = mpsc::sync_channel(1);
    let hand_on = move || {
        let mut events = match Events::open(tables, Some(own)) {
            Ok(events) => events,
            Err(error) => return drop(tell_opened.send(Err(error))),
        };
        drop(tell_opened.send(Ok(())));
        loop {
            match events.wait() {
                Ok(told) => {
                    if let Some(links) = &links
                        && told.events.iter().any(|(event, _)| feed::concerns(event))
                    {
                        links.notify_one();
                    }
                    if inbox.send(Message::Kernel(told)).is_err() {
                        return;
                    }
                }
                Err(error) => return drop(tell_broken.send(error)),
            }
        }
    };
    let thread = std::thread::Builder::new().name("events".into()).spawn(hand_on);
    thread.map(drop).map_err(system("start a thread"))?;
    opened.recv().map_err(|_| RunError::Events(closed()))?.map_err(RunError::Events)?;
    Ok(broken)
}

/// Tells the service manager what is new. Returns whether that is the readiness.
fn report(notifier: Notifier, told: &mut Status, status: &Status) -> bool {
    let is_first = status.ready && !told.ready;
    if is_first {
        tracing::info!("ready: {}", status.text);
        notifier.ready(&status.text);
    } else if status.text != told.text {
        notifier.status(&status.text);
    }
    told.clone_from(status);
    is_first
}

/// Prints the public key of this node, which is made if there is none.
///
/// # Errors
/// See [`RunError`].
pub fn wireguard_key(args: &CommonArgs) -> Result<(), RunError> {
    let config = args.load_config()?;
    let identity = Identity::keep(&config.routing.wireguard.key_file)?;
    writeln!(io::stdout(), "{}", identity.key).map_err(system("write to standard output"))
}

/// Removes all that is ours, and prints what it removed.
///
/// # Errors
/// See [`RunError`]. What could be removed is gone even then.
pub fn cleanup(args: &CommonArgs) -> Result<(), RunError> {
    let config = args.load_config()?;
    let name = CommonArgs::node_name(&config)?;
    // A running daemon would put it all back.
    let _alone = Alone::be(PROGRAM)?;
    let mut applier = Applier::new(Netlink::open()?, config.routing.clone());
    let kernel = applier.clean(vtep_mac(&name), Instant::now());
    let host = Host::new(config, &args.runtime_dir).clean();
    let report = kernel?;
    for line in &report.refused {
        tracing::error!("{line}");
    }
    tracing::info!("removed from the kernel: {}", report.tally);
    for thing in host? {
        tracing::info!("removed: {thing}");
    }
    if report.pending > 0 { Err(RunError::Left(report.pending)) } else { Ok(()) }
}
