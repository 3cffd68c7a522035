//! The nodes of a cluster that shares out its network in etcd. Each node takes a subnet for itself, by a lease that it
//! renews. From the leases of the others it learns how to reach them. Keys and values are flannel's, so that its nodes
//! and ours can share one network.
//!
//! etcd knows no names of nodes. Another node is named after the end of its subnet's key, such as `10.5.34.0-24`.
//!
//! One task does it all ([`watcher`]); [`grpc`] carries its requests ([`api`]). Pure: [`network`] (flannel's words, as
//! [`super::lease`] and [`super::subnets`]), [`choose`] (which subnet), [`identity`] (whose a lease is).

mod address;
mod api;
mod choose;
mod fault;
mod grpc;
mod identity;
mod message;
mod network;
mod watcher;

use std::path::Path;

use ferrule_config::{Config, NODE_FILE, NodeFile};
use ferrule_model::WgKey;
use tokio::sync::mpsc;

use super::subnets::Subnets;
use super::{KnownMacs, NodeEvent, Source};
use watcher::Watcher;

/// So many events may wait before the watch has to wait. One event may hold all nodes.
const WAITING: usize = 4;

/// A watched store.
#[derive(Debug)]
pub struct EtcdSource {
    events: mpsc::Receiver<NodeEvent>,
    /// The watcher until the first call. By then everything that the lease says must be known.
    idle: Option<Box<Watcher>>,
}

impl EtcdSource {
    /// A source for the node called `own_name`. It takes a subnet and watches from the first [`Source::next`] on. It
    /// knows the subnet of an earlier run from `node.json` in `runtime_dir`. `macs` are those that the other nodes may
    /// know of its VXLAN devices.
    pub fn new(config: &Config, own_name: &str, runtime_dir: &Path, macs: KnownMacs) -> Self {
        Self::begin(config, own_name, runtime_dir, macs, false)
    }

    /// The same, but it never writes: a node that has no subnet yet stays unknown.
    pub fn reading(config: &Config, own_name: &str, runtime_dir: &Path, macs: KnownMacs) -> Self {
        Self::begin(config, own_name, runtime_dir, macs, true)
    }

    fn begin(config: &Config, own_name: &str, runtime_dir: &Path, macs: KnownMacs, reads_only: bool) -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        let previous = NodeFile::load(&runtime_dir.join(NODE_FILE)).ok();
        let previous = previous.and_then(|file| Subnets::of(&file.pod_cidrs));
        let watcher = Watcher::new(config.clone(), own_name.to_owned(), sender, (previous, macs), reads_only);
        Self { events, idle: Some(Box::new(watcher)) }
    }
}

impl Source for EtcdSource {
    async fn next(&mut self) -> NodeEvent {
        if let Some(watcher) = self.idle.take() {
            tokio::spawn(watcher.run());
        }
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only after its listener.
            None => std::future::pending().await,
        }
    }

    fn publish(&mut self, key: WgKey) {
        if let Some(watcher) = &mut self.idle {
            watcher.has_key(key);
        }
    }
}
