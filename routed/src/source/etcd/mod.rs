//! The nodes of a cluster that shares its network out in etcd: each takes a subnet for itself, by a lease that it renews, and
//! learns from the others' leases how to reach them. Keys and values are flannel's, so that its nodes and ours can share one
//! network.
//!
//! etcd knows no names of nodes: another node is called as its subnet's key ends, such as `10.5.34.0-24`.
//!
//! A task of its own does it all ([`keeper`]); [`grpc`] carries its requests ([`api`]). Pure: [`lease`] and [`network`] (flannel's
//! words), [`choose`] (which subnet).

mod address;
mod api;
mod choose;
mod fault;
mod grpc;
mod keeper;
mod lease;
mod message;
mod network;

use std::path::Path;

use ferrule_config::{Config, NODE_FILE, NodeFile, Vxlan};
use ferrule_model::{LinkKind, Mac};
use ferrule_netlink::{Kernel, Netlink};
use tokio::sync::mpsc;

use super::{NodeEvent, Source};
use keeper::Keeper;
use lease::Subnets;

/// Events that wait before the watch does. One may hold all nodes.
const WAITING: usize = 4;

/// A watched store.
#[derive(Debug)]
pub struct EtcdSource {
    events: mpsc::Receiver<NodeEvent>,
}

impl EtcdSource {
    /// Begins to take a subnet and to watch, for the node called `own_name`. Must be called within a tokio runtime. The subnet
    /// of an earlier run is known from `node.json` in `runtime_dir`, and the MAC that the other nodes know from the VXLAN
    /// device that is there.
    pub fn new(config: &Config, own_name: &str, runtime_dir: &Path) -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        let previous = NodeFile::load(&runtime_dir.join(NODE_FILE)).ok();
        let previous = previous.and_then(|file| Subnets::of(&file.pod_cidrs));
        let known = (previous, device_mac(&config.routing.vxlan));
        tokio::spawn(Keeper::new(config.clone(), own_name.to_owned(), sender, known).run());
        Self { events }
    }
}

impl Source for EtcdSource {
    async fn next(&mut self) -> NodeEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends after its listener only.
            None => std::future::pending().await,
        }
    }
}

/// The MAC of the VXLAN device, if there is one of this name and number: the others may have it in their kernels.
fn device_mac(settings: &Vxlan) -> Option<Mac> {
    let link = Netlink::open().and_then(|mut kernel| kernel.link(&settings.device)).ok().flatten()?;
    match link.kind {
        LinkKind::Vxlan(vxlan) if vxlan.vni == settings.vni => link.mac,
        _ => None,
    }
}
