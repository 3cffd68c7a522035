//! A watcher of a kind of which only the names are read, and what it has been told.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use ferrule_cluster::kind::{Identity, Kind, Metadata, ObjectName, Resource};
use ferrule_cluster::{Access, Deaf, Item, Listener};
use ferrule_cluster::{Selector, Watcher};
use serde::Deserialize;
use tokio::sync::mpsc;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Longer than the first pause after a fault.
pub(crate) const QUIET: Duration = Duration::from_millis(1500);

/// A node, of which only the name is read.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    metadata: Metadata,
}

impl Kind for Node {
    const RESOURCE: Resource = Resource { group: "", version: "v1", plural: "nodes" };

    fn take_identity(&mut self) -> Identity {
        self.metadata.take_identity()
    }
}

/// An EndpointSlice. Its `ports` must be a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Slice {
    metadata: Metadata,
    #[serde(default, rename = "ports")]
    _ports: Option<Vec<serde_json::Value>>,
}

impl Kind for Slice {
    const RESOURCE: Resource =
        Resource { group: "discovery.k8s.io", version: "v1", plural: "endpointslices" };

    fn take_identity(&mut self) -> Identity {
        self.metadata.take_identity()
    }
}

/// The names of all objects; those that cannot be read have a question mark behind them.
type Names = BTreeSet<String>;

struct Collector<K> {
    known: Names,
    /// The list that is being read.
    next: Option<Names>,
    /// What was told last.
    told: Option<Names>,
    names: mpsc::UnboundedSender<Names>,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Kind> Listener for Collector<K> {
    type Kind = K;

    fn begin(&mut self) {
        self.next = Some(Names::new());
    }

    fn put(&mut self, item: Item<K>) -> bool {
        let mark = if item.object.is_ok() { "" } else { "?" };
        let name = item.identity.name.to_string();
        let into = self.next.as_mut().unwrap_or(&mut self.known);
        let is_new = !into.remove(&name) & !into.remove(&format!("{name}?"));
        into.insert(format!("{name}{mark}"));
        is_new
    }

    fn gone(&mut self, name: ObjectName) {
        let name = name.to_string();
        let from = self.next.as_mut().unwrap_or(&mut self.known);
        from.retain(|known| known.trim_end_matches('?') != name);
    }

    fn end(&mut self) {
        self.known = self.next.take().unwrap();
    }

    async fn tell(&mut self) -> Result<(), Deaf> {
        if self.next.is_some() || self.told.as_ref() == Some(&self.known) {
            return Ok(());
        }
        self.told = Some(self.known.clone());
        self.names.send(self.known.clone()).map_err(|_| Deaf)
    }
}

/// What a watcher has told.
pub(crate) struct Follower {
    names: mpsc::UnboundedReceiver<Names>,
    last: Names,
}

impl Follower {
    /// Begins to watch. Must be called within a runtime.
    pub(crate) fn new<K: Kind>(access: &Access, selector: Selector) -> Self {
        let (sender, names) = mpsc::unbounded_channel();
        let (known, kind) = (Names::new(), std::marker::PhantomData::<fn() -> K>);
        let collector = Collector { known, next: None, told: None, names: sender, kind };
        tokio::spawn(Watcher::new(access.clone(), selector, collector).run());
        Self { names, last: Names::new() }
    }

    /// Waits until exactly these objects are known.
    pub(crate) async fn wait_for(&mut self, names: &[&str]) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while !self.last.iter().eq(names) {
            let told = tokio::time::timeout_at(deadline, self.names.recv()).await;
            self.last =
                told.unwrap_or_else(|_| panic!("{names:?} do not come, but {:?}", self.last)).unwrap();
        }
    }

    /// What is told next, if anything is within this time.
    pub(crate) async fn next(&mut self, wait: Duration) -> Option<&BTreeSet<String>> {
        self.last = tokio::time::timeout(wait, self.names.recv()).await.ok()?.unwrap();
        Some(&self.last)
    }

    /// Checks that nothing is told for a while.
    pub(crate) async fn is_quiet(&mut self) {
        let told = self.next(QUIET).await;
        assert!(told.is_none(), "{told:?}");
    }
}

/// A socket of the test's own namespace.
pub(crate) fn listener(address: &str) -> TcpListener {
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(status.expect("install iproute2").success());
    TcpListener::bind(address).unwrap()
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}
