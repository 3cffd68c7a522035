//! The nodes of a Kubernetes cluster: pod CIDRs from `spec.podCIDRs`, addresses from `status.addresses`.
//!
//! A task of its own lists and watches ([`watcher`]), because a watch must not be cut off whenever the daemon hears of
//! something else. The VTEP's MAC is derived from the node's name, so that no node has to publish anything; an annotation
//! ([`VTEP_MAC`]) gives another one where that is needed. The one thing that is written is the node's condition
//! ([`condition`]).

mod api;
mod condition;
mod fault;
mod feed;
mod objects;
mod table;
mod watcher;

pub use api::{PERMISSIONS, Permission};
pub use objects::VTEP_MAC;

use std::path::PathBuf;

use tokio::sync::{mpsc, watch};

use super::{NodeEvent, Source};
use condition::Facts;
use watcher::Watcher;

/// Events that wait before the watch does. One may hold all nodes.
const WAITING: usize = 4;

/// A watched cluster.
#[derive(Debug)]
pub struct KubernetesSource {
    events: mpsc::Receiver<NodeEvent>,
    facts: watch::Sender<Facts>,
}

impl KubernetesSource {
    /// Begins to list and watch, as the user of `kubeconfig`, or of the pod that this runs in. Must be called within a
    /// tokio runtime. `own_name` is the node whose condition is kept.
    pub fn new(kubeconfig: Option<PathBuf>, own_name: &str) -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        let (facts, _) = watch::channel(Facts::default());
        let watcher = Watcher::new(kubeconfig.clone(), own_name.to_owned(), sender, facts.clone());
        tokio::spawn(watcher.run());
        tokio::spawn(condition::keep(kubeconfig, own_name.to_owned(), facts.subscribe()));
        Self { events, facts }
    }
}

impl Source for KubernetesSource {
    async fn next(&mut self) -> NodeEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends after its listener only.
            None => std::future::pending().await,
        }
    }

    fn in_kernel(&mut self) {
        self.facts.send_modify(|facts| facts.in_kernel = true);
    }
}
