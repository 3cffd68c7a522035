//! The nodes of a Kubernetes cluster: pod CIDRs from `spec.podCIDRs`, addresses from `status.addresses`.
//!
//! A task of its own lists and watches ([`watcher`]), because a watch must not be cut off whenever the daemon hears of
//! something else. The VTEP's MAC is derived from the node's name, so that no node has to publish anything; an annotation
//! ([`VTEP_MAC`]) gives another one where that is needed. Where flannel's nodes share the network ([`flannel`]), its
//! annotations say it instead. What is written is the node's condition and,
//! with WireGuard, its public key, and its public addresses if it has others itself ([`condition`]), and beside flannel those annotations ([`patch`]).

mod api;
mod condition;
mod fault;
mod feed;
mod flannel;
mod objects;
mod patch;
mod table;
mod watcher;

pub use api::{PERMISSIONS, Permission};
pub use objects::{PUBLIC_ADDRESS, VTEP_MAC, WIREGUARD_KEY};

use ferrule_config::Config;
use ferrule_model::WgKey;
use tokio::sync::{mpsc, watch};

use super::lease::Public;
use super::{KnownMacs, NodeEvent, Source};
use condition::Facts;
use flannel::View;
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
    /// Begins to list and watch, as the user of the kubeconfig, or of the pod that this runs in. Must be called within a
    /// tokio runtime. `own_name` is the node whose condition is kept, and flannel's annotations if they are wanted: those
    /// tell the `macs` of its VXLAN devices.
    pub fn new(config: &Config, own_name: &str, macs: KnownMacs) -> Self {
        Self::begin(config, own_name, macs, false)
    }

    /// The same without ever writing.
    pub fn reading(config: &Config, own_name: &str, macs: KnownMacs) -> Self {
        Self::begin(config, own_name, macs, true)
    }

    fn begin(config: &Config, own_name: &str, macs: KnownMacs, reads_only: bool) -> Self {
        let kubeconfig = config.routing.kubernetes.kubeconfig.clone();
        let (sender, events) = mpsc::channel(WAITING);
        let public = Public::configured(&config.node);
        let (facts, _) = watch::channel(Facts { public, ..Facts::default() });
        let mut watcher = Watcher::new(config, own_name.to_owned(), sender, facts.clone());
        if config.routing.flannel.annotations {
            let told = watcher.look_at_flannel(View::new(config.clone(), own_name.to_owned(), macs));
            if !reads_only {
                tokio::spawn(patch::keep(kubeconfig.clone(), own_name.to_owned(), flannel::MATTER, told));
            }
        }
        tokio::spawn(watcher.run());
        let matters =
            if reads_only { Vec::new() } else { vec![condition::MATTER, condition::KEY, condition::PUBLIC] };
        for matter in matters {
            tokio::spawn(patch::keep(kubeconfig.clone(), own_name.to_owned(), matter, facts.subscribe()));
        }
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

    fn publish(&mut self, key: WgKey) {
        self.facts.send_modify(|facts| facts.key = Some(key));
    }
}
