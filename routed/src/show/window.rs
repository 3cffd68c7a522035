//! What the daemon shows to those outside: `routed.sock` (Varlink, `io.ferrule.Routed`) and the pages `/metrics`,
//! `/healthz` and `/readyz`. `ferrule_daemon` brings it to the caller. Nothing can be changed through it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrule_config::{Backend, Config};
use ferrule_daemon::varlink::{Caller, EndError, Service};
use ferrule_daemon::{Exposition, Kind, Page, Pages, process_figures};
use ferrule_model::Family;
use ferrule_netlink::nft::NetfilterSocket;
use ferrule_wire::routed::{self, Call, Failure, FailuresReply, NodesReply, StatusReply};
use ferrule_wire::{CallError, Incoming};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::PROGRAM;
use crate::decide::guard;
use crate::decide::nodes::Node;
use crate::show::outlook::{KINDS, Outlook, View};
use crate::show::status::Status;
use crate::source::origin;

/// At most so many nodes or failures are in one message. A name has at most 253 bytes, a reason some hundreds.
const PAGE: usize = 256;
/// How long the daemon's loop may take to answer. It never waits for anything but events.
const PATIENCE: Duration = Duration::from_secs(2);

/// A question to the daemon's loop: what is known of the nodes, and which nodes come after this name.
#[derive(Debug)]
pub struct Ask {
    /// The name.
    pub after: Option<String>,
    /// At most so many nodes are wanted.
    pub most: usize,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Known>,
}

/// What is known of the nodes.
#[derive(Debug, Default)]
pub struct Known {
    /// What the daemon waits for before it does anything.
    pub waiting_for: Option<String>,
    /// How many there are.
    pub nodes: usize,
    /// When the last complete list was told.
    pub snapshot: Option<Instant>,
    /// When anything new was told.
    pub news: Option<Instant>,
    /// The nodes that were asked for.
    pub page: Vec<Arc<Node>>,
}

/// The daemon as it is seen from outside.
#[derive(Debug, Clone)]
pub struct Window(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    node: String,
    backend: &'static str,
    source: String,
    asks: mpsc::Sender<Ask>,
    status: watch::Receiver<Status>,
    outlook: Arc<Outlook>,
}

/// The daemon's loop does not answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the daemon's loop does not answer")]
struct Stuck;

impl From<Stuck> for CallError {
    fn from(_: Stuck) -> Self {
        Self::Other { name: format!("{}.Stuck", routed::INTERFACE), parameters: serde_json::Map::new() }
    }
}

impl Window {
    /// The window, and the end at which its questions come out.
    pub fn new(
        node: &str,
        config: &Config,
        status: watch::Receiver<Status>,
        outlook: Arc<Outlook>,
    ) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(16);
        let backend = match config.routing.backend {
            Backend::Vxlan => "vxlan",
            Backend::Native => "native",
            Backend::Auto => "auto",
            Backend::Wireguard => "wireguard",
        };
        let source = origin(&config.routing).0;
        (Self(Arc::new(Inside { node: node.to_owned(), backend, source, asks, status, outlook })), asked)
    }

    async fn ask(&self, after: Option<String>, most: usize) -> Result<Known, Stuck> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.0.asks.send(Ask { after, most, reply }).await.map_err(|_| Stuck)?;
            answer.await.map_err(|_| Stuck)
        };
        timeout(PATIENCE, asked).await.map_err(|_| Stuck)?
    }

    /// Whether both loops run.
    async fn health(&self) -> Result<(), String> {
        self.ask(None, 0).await.map_err(|stuck| stuck.to_string())?;
        if self.0.status.borrow().turns() { Ok(()) } else { Err("a pass over the kernel hangs".to_owned()) }
    }

    /// Whether the first list of nodes is in the kernel and nothing keeps packets from other nodes; else the reason.
    async fn readiness(&self) -> Result<(), String> {
        let view = self.0.outlook.view();
        if self.0.status.borrow().ready {
            return view.last_error.or(view.hindered).map_or(Ok(()), Err);
        }
        let known = self.ask(None, 0).await.map_err(|stuck| stuck.to_string())?;
        Err(self.waiting_for(&known, &view))
    }

    fn waiting_for(&self, known: &Known, view: &View) -> String {
        known.waiting_for.clone().unwrap_or_else(|| {
            match view.last_error.as_ref().or(view.hindered.as_ref()) {
                Some(error) => error.clone(),
                None => "the first pass over the kernel".to_owned(),
            }
        })
    }

    async fn status(&self) -> Result<StatusReply, Stuck> {
        let known = self.ask(None, 0).await?;
        let view = self.0.outlook.view();
        let ready = self.0.status.borrow().ready;
        let age_ms =
            |at: Option<Instant>| at.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        Ok(StatusReply {
            node: self.0.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.0.backend.to_owned(),
            source: self.0.source.clone(),
            ready,
            waiting_for: (!ready).then(|| self.waiting_for(&known, &view)),
            nodes: u64::try_from(known.nodes).unwrap_or(u64::MAX),
            snapshot_age_ms: age_ms(known.snapshot),
            news_age_ms: age_ms(known.news),
            last_error: view.last_error.or(view.hindered),
            underlay: view.underlay,
            mtu: view.mtu,
            objects: view.objects,
        })
    }

    async fn nodes(&self, caller: &mut Caller) -> Result<(), EndError> {
        let mut after = None;
        loop {
            let page = match self.ask(after, PAGE).await {
                Ok(known) => known.page,
                Err(stuck) => return caller.fail(&stuck.into()).await,
            };
            after = page.last().map(|node| node.name.clone());
            let continues = page.len() == PAGE;
            let errors = self.0.outlook.view().errors;
            let nodes = page.iter().map(|node| told(node, errors.get(&node.name).cloned())).collect();
            caller.page(&NodesReply { nodes }, continues).await?;
            if !continues {
                return Ok(());
            }
        }
    }

    async fn failures(&self, caller: &mut Caller) -> Result<(), EndError> {
        let now = Instant::now();
        let left_ms =
            |due: Instant| u64::try_from(due.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX);
        let refused = self.0.outlook.view().refused.into_iter();
        let mut failures: Vec<_> = refused
            .map(|one| Failure { object: one.object, reason: one.reason, next_try_ms: left_ms(one.due) })
            .collect();
        loop {
            let rest = failures.split_off(failures.len().min(PAGE));
            let continues = !rest.is_empty();
            caller.page(&FailuresReply { failures }, continues).await?;
            if !continues {
                return Ok(());
            }
            failures = rest;
        }
    }

    async fn metrics(&self) -> String {
        let mut page = Exposition::new();
        page.family("ferrule_routed_build_info", Kind::Gauge, "The version that runs; always 1.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        let help = "Whether the first list of nodes has been carried out in the kernel.";
        page.family("ferrule_routed_ready", Kind::Gauge, help)
            .sample(&[], u8::from(self.0.status.borrow().ready));
        // If the loop does not answer, the rest is still worth reading.
        if let Ok(known) = self.ask(None, 0).await {
            write_nodes(&mut page, &known);
        }
        write_view(&mut page, &self.0.outlook.view());
        write_counts(&mut page, &self.0.outlook);
        write_guard(&mut page);
        process_figures(&mut page);
        page.into_text()
    }
}

fn told(node: &Node, last_error: Option<String>) -> routed::Node {
    routed::Node {
        name: node.name.clone(),
        addresses: Family::BOTH.iter().filter_map(|family| node.address(*family)).collect(),
        pod_cidrs: node.pod_cidrs.clone(),
        vtep_mac: node.vtep_mac.to_string(),
        last_error,
    }
}

fn kind_name(kind: routed::Kind) -> &'static str {
    match kind {
        routed::Kind::Links => "links",
        routed::Kind::Addresses => "addresses",
        routed::Kind::Fdb => "fdb",
        routed::Kind::Neighbours => "neighbours",
        routed::Kind::Peers => "peers",
        routed::Kind::Nexthops => "nexthops",
        routed::Kind::Routes => "routes",
    }
}

fn write_nodes(page: &mut Exposition, known: &Known) {
    page.family("ferrule_routed_nodes", Kind::Gauge, "Nodes that are known, this one among them.")
        .sample(&[], known.nodes);
    let ages = [
        ("ferrule_routed_snapshot_age_seconds", "Since the last complete list of nodes.", known.snapshot),
        ("ferrule_routed_news_age_seconds", "Since anything new was told of a node.", known.news),
    ];
    for (name, help, at) in ages {
        if let Some(at) = at {
            page.family(name, Kind::Gauge, help).sample(&[], at.elapsed().as_secs_f64());
        }
    }
}

fn write_view(page: &mut Exposition, view: &View) {
    let help = "Objects by state: desired, observed (ours in the kernel), pending (not as desired), failed (refused by \
                the kernel, or another program's route takes their packets).";
    page.family("ferrule_routed_objects", Kind::Gauge, help);
    for objects in &view.objects {
        let states = [
            ("desired", objects.desired),
            ("observed", objects.observed),
            ("pending", objects.pending),
            ("failed", objects.failed),
        ];
        for (state, count) in states {
            page.sample(&[("kind", kind_name(objects.kind)), ("state", state)], count);
        }
    }
    let help = "Nodes that, or networks of which, are not reached; always 1. Method Nodes tells why.";
    page.family("ferrule_routed_node_failed", Kind::Gauge, help);
    for name in view.errors.keys() {
        page.sample(&[("node", name)], 1);
    }
    page.family("ferrule_routed_mtu_bytes", Kind::Gauge, "MTU of the pods; 0 before it is known.")
        .sample(&[], view.mtu);
}

fn write_counts(page: &mut Exposition, outlook: &Outlook) {
    let counts = &outlook.counts;
    let help = "Passes over the kernel: full ones read everything, the others carry out what changed.";
    page.family("ferrule_routed_pass_duration_seconds", Kind::Histogram, help)
        .histogram(&[("pass", "full")], &counts.full)
        .histogram(&[("pass", "changes")], &counts.changes);
    page.family("ferrule_routed_passes_failed_total", Kind::Counter, "Passes that could not be made.")
        .sample(&[], counts.failed.get());
    page.family("ferrule_routed_changes_total", Kind::Counter, "Changes made in the kernel.");
    for (kind, counters) in KINDS.into_iter().zip(&counts.objects) {
        for (change, counter) in ["put", "delete"].into_iter().zip(counters) {
            page.sample(&[("kind", kind_name(kind)), ("change", change)], counter.get());
        }
    }
    let help = "Objects put back that another program had deleted or changed, those of pods included.";
    page.family("ferrule_routed_repaired_total", Kind::Counter, help).sample(&[], counts.repaired.get());
    page.family("ferrule_routed_callers_refused_total", Kind::Counter, "Callers that may not call.")
        .sample(&[], counts.refused_callers.get());
}

/// What the guard has counted since its table was made. The kernel answers at once.
fn write_guard(page: &mut Exposition) {
    let mut counted = BTreeMap::<_, u64>::new();
    for open in [NetfilterSocket::open, NetfilterSocket::bridge] {
        let counters = open().and_then(|mut netfilter| netfilter.counters(guard::TABLE));
        for (reason, packets) in counters.unwrap_or_default() {
            *counted.entry(reason).or_default() += packets;
        }
    }
    let help = "Packets of pods that were dropped: a forged source (forged), for the node's loopback addresses (loopback), what \
                only routers send (routers), for the port of a tunnel (tunnel), connections beyond a \
                pod's share (connections), on a bridge also answers of DHCP (leases), what \
                is neither IPv4 nor IPv6 nor ARP (frames), from one isolated pod to another (isolation) and too much to everybody \
                (floods).";
    let is_of_tunnels = |reason: &str| guard::OF_TUNNELS.contains(&reason);
    let mut write = |name, help, of_tunnels| {
        page.family(name, Kind::Counter, help);
        for (reason, packets) in counted.iter().filter(|(reason, _)| is_of_tunnels(reason) == of_tunnels) {
            page.sample(&[("reason", reason)], packets);
        }
    };
    write("ferrule_routed_pod_packets_dropped_total", help, false);
    let help = "VXLAN packets that were dropped: from a host that is no node (stranger), or with a source inside that no node can \
                have sent (inner).";
    write("ferrule_routed_tunnel_packets_dropped_total", help, true);
}

impl Service for Window {
    type Call = Call;
    const PRODUCT: &'static str = PROGRAM;
    const INTERFACE: &'static str = routed::INTERFACE;
    const DEFINITION: &'static str = routed::DEFINITION;

    async fn serve(&self, caller: &mut Caller, request: Incoming<Call>) -> Result<(), EndError> {
        match request.call {
            Call::Status(_) => match self.status().await {
                Ok(status) => caller.succeed(&status, request.oneway).await,
                Err(_) if request.oneway => Ok(()),
                Err(stuck) => caller.fail(&stuck.into()).await,
            },
            Call::Nodes(_) | Call::Failures(_) if request.oneway => Ok(()),
            Call::Nodes(_) | Call::Failures(_) if !request.more => {
                caller.fail(&CallError::ExpectedMore {}).await
            }
            Call::Nodes(_) => self.nodes(caller).await,
            Call::Failures(_) => self.failures(caller).await,
        }
    }

    fn refused(&self) {
        self.0.outlook.counts.refused_callers.increment();
    }
}

impl Pages for Window {
    async fn page(&self, path: &str) -> Option<Page> {
        let page = |result: Result<(), String>| match result {
            Ok(()) => Page { good: true, text: "ok\n".to_owned() },
            Err(reason) => Page { good: false, text: format!("{reason}\n") },
        };
        match path {
            "/metrics" => Some(Page { good: true, text: self.metrics().await }),
            "/healthz" => Some(page(self.health().await)),
            "/readyz" => Some(page(self.readiness().await)),
            _ => None,
        }
    }
}
