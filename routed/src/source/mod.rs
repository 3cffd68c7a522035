//! Where the nodes of the cluster come from. A source tells a complete snapshot first, and whenever it is not sure what it
//! has missed; in between it may tell changes. What really is another than before is worked out in [`crate::decide::nodes`].
//!
//! A source never fails: one that cannot tell anything says so in the log and is silent, and what is in the kernel stays.

pub mod etcd;
mod file;
pub mod kubernetes;
mod lease;
mod pause;
mod subnets;

pub use etcd::EtcdSource;
pub use file::FileSource;
pub use kubernetes::KubernetesSource;
pub use lease::KnownMacs;

use std::future::Future;
use std::path::Path;

use ferrule_config::{Config, Routing};
use ferrule_model::WgKey;

use crate::decide::nodes::{Node, NodeUpdate};

/// What a source tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// All nodes there are.
    Snapshot(Vec<Node>),
    /// What is new of some of them.
    Changes(Vec<NodeUpdate>),
}

/// A source of nodes.
pub trait Source {
    /// Waits for the next news. Cancel safe. The first is a snapshot.
    fn next(&mut self) -> impl Future<Output = NodeEvent>;

    /// The first state that was told is in the kernel: a source that can say so to the cluster does.
    fn in_kernel(&mut self) {}

    /// What the source reads by itself is to be read again: a source that is told of everything has nothing to do.
    fn look_again(&mut self) {}

    /// The public key of this node's WireGuard device: a source that can tell the others does. Called once, before anything
    /// is asked for.
    fn publish(&mut self, _key: WgKey) {}
}

/// The source that the configuration names.
#[derive(Debug)]
pub enum AnySource {
    /// The nodes file.
    File(Box<FileSource>),
    /// The API server.
    Kubernetes(KubernetesSource),
    /// etcd.
    Etcd(EtcdSource),
}

impl AnySource {
    /// Begins to listen, for the node called `own_name`, whose VXLAN devices have these `macs`: the others may have them in
    /// their kernels. Must be called within a tokio runtime. What earlier runs left in `runtime_dir` counts.
    pub fn new(config: &Config, own_name: &str, runtime_dir: &Path, macs: KnownMacs) -> Self {
        let routing = &config.routing;
        match routing.source {
            ferrule_config::Source::File => Self::File(Box::new(FileSource::new(config, own_name))),
            ferrule_config::Source::Kubernetes => {
                Self::Kubernetes(KubernetesSource::new(config, own_name, macs))
            }
            ferrule_config::Source::Etcd => Self::Etcd(EtcdSource::new(config, own_name, runtime_dir, macs)),
        }
    }
}

impl AnySource {
    /// As [`AnySource::new`], but nothing is ever written where the nodes come from: no subnet is taken, no lease renewed, no
    /// annotation and no condition set.
    pub fn reading(config: &Config, own_name: &str, runtime_dir: &Path, macs: KnownMacs) -> Self {
        match config.routing.source {
            ferrule_config::Source::File => Self::new(config, own_name, runtime_dir, macs),
            ferrule_config::Source::Kubernetes => {
                Self::Kubernetes(KubernetesSource::reading(config, own_name, macs))
            }
            ferrule_config::Source::Etcd => {
                Self::Etcd(EtcdSource::reading(config, own_name, runtime_dir, macs))
            }
        }
    }
}

impl Source for AnySource {
    async fn next(&mut self) -> NodeEvent {
        match self {
            Self::File(source) => source.next().await,
            Self::Kubernetes(source) => source.next().await,
            Self::Etcd(source) => source.next().await,
        }
    }

    fn in_kernel(&mut self) {
        match self {
            Self::File(source) => source.in_kernel(),
            Self::Kubernetes(source) => source.in_kernel(),
            Self::Etcd(source) => source.in_kernel(),
        }
    }

    fn look_again(&mut self) {
        match self {
            Self::File(source) => source.look_again(),
            Self::Kubernetes(source) => source.look_again(),
            Self::Etcd(source) => source.look_again(),
        }
    }

    fn publish(&mut self, key: WgKey) {
        match self {
            Self::File(source) => source.publish(key),
            Self::Kubernetes(source) => source.publish(key),
            Self::Etcd(source) => source.publish(key),
        }
    }
}

/// What the nodes are called after where they come from, and what to do about a node that is not among them.
pub fn origin(routing: &Routing) -> (String, &'static str) {
    match routing.source {
        ferrule_config::Source::File => (
            routing.file.path.display().to_string(),
            "add [[node]] name with its address and pod_cidrs, or set [node] name to the name that it has there",
        ),
        ferrule_config::Source::Kubernetes => (
            "the Kubernetes API".into(),
            "see that the kubelet has registered it, and that it has a pod CIDR and an InternalIP, or set [node] name to \
             the name that it has there",
        ),
        ferrule_config::Source::Etcd => {
            ("etcd".into(), "see what the log says of its subnet; it takes one for itself")
        }
    }
}
