//! The task that lists and watches. It never ends, tells what changed, and says in the log what it cannot do.
//!
//! A round begins with a list, or resumes a watch where the last one ended. The list is streamed if the server can do
//! that. If anything keeps the server from it, the same round asks for pages, and the next list tries streaming again.
//! Any other fault ends the round. Nothing is told then, so what is in the kernel stays. The next round follows after a
//! pause.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use ferrule_config::Config;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::api::{Api, Watch};
use super::condition::Facts;
use super::fault::{Fault, MALFORMED};
use super::flannel::{self, View};
use super::objects::{Seen, Told};
use super::table::Table;
use crate::decide::nodes::NodeUpdate;
use crate::decide::roll::Roll;
use crate::source::NodeEvent;
use crate::source::lease::Public;
use ferrule_daemon::Pause;

/// A round that lasted this long was a good one. The next pause is short again.
const GOOD: Duration = Duration::from_secs(30);
/// After a round that was shorter than this the next one has to wait, even if nothing went wrong.
const SHORT: Duration = Duration::from_secs(1);

/// The task's state.
pub(super) struct Watcher {
    kubeconfig: Option<PathBuf>,
    own_name: String,
    events: mpsc::Sender<NodeEvent>,
    facts: watch::Sender<Facts>,
    table: Table,
    /// How objects are read if flannel's nodes share the network, and what this node's annotations are.
    flannel: Option<(View, watch::Sender<flannel::Told>)>,
    /// `None` after a fault, because the files of the credentials may have been renewed.
    api: Option<Api>,
    /// The version of the table; `None` if the nodes have to be listed.
    version: Option<String>,
    /// Whether the log says that the server does not stream lists.
    said_pages: bool,
    pause: Pause,
    /// The faults that the log has named, and that still hold.
    said: BTreeSet<String>,
}

/// Nobody listens any more.
struct Deaf;

/// Why a round ended.
enum End {
    /// The server ended it regularly.
    Closed,
    Fault(Fault),
    Deaf,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Deaf> for End {
    fn from(_: Deaf) -> Self {
        Self::Deaf
    }
}

impl Watcher {
    /// A watcher that has not begun.
    pub(super) fn new(
        config: &Config,
        own_name: String,
        events: mpsc::Sender<NodeEvent>,
        facts: watch::Sender<Facts>,
    ) -> Self {
        Self {
            kubeconfig: config.routing.kubernetes.kubeconfig.clone(),
            table: Table::new(Roll::new(&own_name, config)),
            own_name,
            events,
            facts,
            flannel: None,
            api: None,
            version: None,
            said_pages: false,
            pause: Pause::new(),
            said: BTreeSet::new(),
        }
    }

    /// From now on reads objects by flannel's annotations. Returns what has to be known for this node's annotations.
    pub(super) fn look_at_flannel(&mut self, view: View) -> watch::Receiver<flannel::Told> {
        let (sender, told) = watch::channel(flannel::Told::default());
        self.flannel = Some((view, sender));
        told
    }

    /// Works until nobody takes the events any more.
    pub(super) async fn run(mut self) {
        loop {
            let begin = Instant::now();
            let end = self.round().await.unwrap_or_else(|end| end);
            if begin.elapsed() >= GOOD {
                self.pause.reset();
                self.said.clear();
            }
            match end {
                End::Deaf => return,
                End::Closed if begin.elapsed() >= SHORT => {}
                End::Closed => tokio::time::sleep(self.pause.next_wait()).await,
                End::Fault(fault) => {
                    let wait = self.pause.next_wait().max(fault.retry_after());
                    self.fail(&fault);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<End, End> {
        let api = match self.api.take() {
            Some(api) => api,
            None => Api::open(self.kubeconfig.as_deref()).await?,
        };
        let mut watch = match &self.version {
            Some(version) => {
                let watch = api.resume(version).await?;
                self.answered();
                watch
            }
            None => self.list(&api).await?,
        };
        loop {
            match watch.next().await {
                Ok(Some(told)) => self.take(told).await?,
                Ok(None) => break,
                Err(fault) => {
                    // Not even a bookmark came: a program on the way may hold back what the server says.
                    if matches!(fault, Fault::Silent(_)) {
                        self.version = None;
                    }
                    return Err(fault.into());
                }
            }
        }
        self.api = Some(api);
        Ok(End::Closed)
    }

    /// Lists all nodes, and returns a watch from there.
    async fn list(&mut self, api: &Api) -> Result<Watch, End> {
        let streaming = match self.streamed_list(api).await {
            Ok(watch) => {
                self.said_pages = false;
                return Ok(watch);
            }
            Err(End::Fault(fault)) => fault,
            Err(end) => return Err(end),
        };
        tokio::time::sleep(streaming.retry_after()).await;
        let version = match self.paged_list(api).await {
            Ok(version) => version,
            // The fault would be the same for every request, or the right to watch is missing anyhow.
            Err(End::Fault(_)) if streaming.is_the_clients() => return Err(streaming.into()),
            Err(end) => return Err(end),
        };
        if !std::mem::replace(&mut self.said_pages, true) {
            tracing::info!(
                "the API server does not stream the list of nodes, it is asked for pages: {streaming}"
            );
        }
        Ok(api.resume(&version).await?)
    }

    async fn streamed_list(&mut self, api: &Api) -> Result<Watch, End> {
        let mut watch = api.stream().await?;
        self.table.begin();
        let mut last = Instant::now();
        loop {
            // A server that does not know streaming, and does not say so, never sends the last bookmark.
            match watch.next_of_list(last).await? {
                Told::Bookmark { version, initial_end: true } => {
                    watch.has_begun();
                    self.listed(version).await?;
                    return Ok(watch);
                }
                Told::Put(seen) => {
                    if !self.table.has_listed(&seen.name) {
                        last = Instant::now();
                    }
                    self.put(*seen);
                }
                Told::Gone { name, .. } => drop(self.table.remove(&name)),
                Told::Bookmark { .. } => {}
            }
        }
    }

    async fn paged_list(&mut self, api: &Api) -> Result<String, End> {
        self.table.begin();
        let mut next = String::new();
        loop {
            let page = api.list(&next).await?;
            for seen in page.seen {
                self.put(seen);
            }
            next = page.next;
            if next.is_empty() {
                self.listed(page.version.clone()).await?;
                return Ok(page.version);
            }
        }
    }

    /// Completes a list.
    async fn listed(&mut self, version: String) -> Result<(), Deaf> {
        let (nodes, words) = self.table.end();
        say(&words);
        if !self.table.has(&self.own_name) {
            self.facts.send_modify(|facts| facts.seen = false);
        }
        self.version = Some(version);
        self.answered();
        self.tell(NodeEvent::Snapshot(nodes)).await
    }

    async fn take(&mut self, told: Told) -> Result<(), Deaf> {
        let (changes, version) = match told {
            Told::Put(seen) => {
                let version = seen.version.clone();
                (self.put(*seen), version)
            }
            Told::Gone { name, version } => {
                if name == self.own_name {
                    self.facts.send_modify(|facts| facts.seen = false);
                }
                let (changes, words) = self.table.remove(&name);
                say(&words);
                (changes, version)
            }
            Told::Bookmark { version, .. } => (Vec::new(), version),
        };
        if !version.is_empty() {
            self.version = Some(version);
        }
        if changes.is_empty() { Ok(()) } else { self.tell(NodeEvent::Changes(changes)).await }
    }

    fn put(&mut self, mut seen: Seen) -> Vec<NodeUpdate> {
        if let Some((view, sender)) = &mut self.flannel
            && let Some(told) = view.look(&mut seen)
        {
            sender.send_if_modified(|before| std::mem::replace(before, told) != *before);
        }
        if seen.name == self.own_name {
            let (is_told, told_key, told_public) =
                (seen.network_is_available, seen.wireguard_key, seen.public);
            self.facts.send_if_modified(|facts| {
                let now = Facts { seen: true, is_told, told_key, told_public, ..*facts };
                std::mem::replace(facts, now) != now
            });
        } else if let Ok(node) = &mut seen.entry
            && self.flannel.is_none()
        {
            // This node itself has other addresses. Beside flannel, the annotations hold the published ones.
            let public = seen.overwrite.or(seen.public).or(Public { v4: node.v4, v6: node.v6 });
            (node.v4, node.v6) = (public.v4, public.v6);
        }
        let (changes, words) = self.table.put(seen);
        say(&words);
        changes
    }

    async fn tell(&self, event: NodeEvent) -> Result<(), Deaf> {
        self.events.send(event).await.map_err(|_| Deaf)
    }

    /// Notes that the server gave what it was asked for. Its content may still be unreadable.
    fn answered(&mut self) {
        let before = self.said.len();
        self.said.retain(|class| class == MALFORMED);
        if self.said.len() < before {
            tracing::info!("the API server answers again");
        }
    }

    /// Draws the consequences of a fault.
    fn fail(&mut self, fault: &Fault) {
        if fault.doubts_the_version() {
            self.version = None;
        }
        match fault {
            Fault::Expired(_) => tracing::info!("{fault}: all nodes are listed again"),
            fault => {
                if self.said.insert(fault.class()) {
                    tracing::error!("{fault}; it is tried again, everything stays as it is until then");
                }
            }
        }
    }
}

fn say(words: &[String]) {
    words.iter().for_each(|words| tracing::warn!("{words}"));
}
