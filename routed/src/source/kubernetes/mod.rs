//! The nodes of a Kubernetes cluster: pod CIDRs from `spec.podCIDRs`, addresses from `status.addresses`.
//!
//! A separate task lists and watches (`ferrule_cluster`) and tells [`nodes`], because a watch must not be cut off whenever
//! the daemon hears of something else. The MAC of a VTEP is derived from the node's name, so that no node has to publish anything. An
//! annotation ([`VTEP_MAC`]) gives another MAC if that is needed. If flannel's nodes share the network ([`flannel`]),
//! its annotations give the MAC instead.
//!
//! The daemon writes the node's condition. With WireGuard it also writes the node's public key, and if the node is
//! reached by other addresses than its own, its public addresses ([`condition`]). Beside flannel it writes those
//! annotations ([`patch`]).

mod condition;
mod flannel;
mod nodes;
mod objects;
mod patch;
mod table;

pub use objects::{PUBLIC_ADDRESS, VTEP_MAC, WIREGUARD_KEY};

use ferrule_cluster::kind::Permission;
use ferrule_cluster::{Access, Selector, Watcher};
use ferrule_config::Config;
use ferrule_model::WgKey;
use tokio::sync::{mpsc, watch};

use super::lease::Public;
use super::{KnownMacs, NodeEvent, Source};
use condition::Facts;
use flannel::View;
use nodes::Nodes;
use objects::NODES;

/// So many events may wait before the watch has to wait. One event may hold all nodes.
const WAITING: usize = 4;

/// All rights that are ever needed. Exactly these stand in `conf/kubernetes/rbac.yaml`.
pub const PERMISSIONS: [Permission; 3] = [NODES.list(), NODES.watch(), NODES.patch_status()];

/// A watched cluster.
#[derive(Debug)]
pub struct KubernetesSource {
    events: mpsc::Receiver<NodeEvent>,
    facts: watch::Sender<Facts>,
}

impl KubernetesSource {
    /// Begins to list and watch, as the user of the kubeconfig, or of the pod that this runs in. Must be called within
    /// a tokio runtime. `own_name` is the node whose condition is kept. If flannel's annotations are wanted, they are
    /// kept too, and tell the `macs` of the node's VXLAN devices.
    pub fn new(config: &Config, own_name: &str, macs: KnownMacs) -> Self {
        Self::begin(config, own_name, macs, false)
    }

    /// The same, but nothing is ever written.
    pub fn reading(config: &Config, own_name: &str, macs: KnownMacs) -> Self {
        Self::begin(config, own_name, macs, true)
    }

    fn begin(config: &Config, own_name: &str, macs: KnownMacs, reads_only: bool) -> Self {
        let access = Access::new(&config.kubernetes);
        let (sender, events) = mpsc::channel(WAITING);
        let public = Public::configured(&config.node);
        let (facts, _) = watch::channel(Facts { public, ..Facts::default() });
        let mut nodes = Nodes::new(config, own_name.to_owned(), sender, facts.clone());
        if config.routing.flannel.annotations {
            let told = nodes.look_at_flannel(View::new(config.clone(), own_name.to_owned(), macs));
            if !reads_only {
                tokio::spawn(patch::keep(access.clone(), own_name.to_owned(), flannel::MATTER, told));
            }
        }
        tokio::spawn(Watcher::new(access.clone(), Selector::default(), nodes).run());
        let matters =
            if reads_only { Vec::new() } else { vec![condition::MATTER, condition::KEY, condition::PUBLIC] };
        for matter in matters {
            tokio::spawn(patch::keep(access.clone(), own_name.to_owned(), matter, facts.subscribe()));
        }
        Self { events, facts }
    }
}

impl Source for KubernetesSource {
    async fn next(&mut self) -> NodeEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only after its listener.
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
