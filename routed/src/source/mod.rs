//! Where the nodes of the cluster come from. A source tells a complete snapshot first, and again whenever it may have
//! missed something. In between it may tell changes. [`crate::decide::nodes`] works out what has really changed.
//!
//! A source never fails. If it cannot tell anything, it says so in the log and is silent, and what is in the kernel
//! stays.

pub mod etcd;
mod file;
pub mod kubernetes;
mod lease;
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
    /// What has changed for some nodes.
    Changes(Vec<NodeUpdate>),
}

/// A source of nodes.
pub trait Source {
    /// Waits for the next news. Cancel safe. The first one is a snapshot.
    fn next(&mut self) -> impl Future<Output = NodeEvent>;

    /// Says that the first state that was told is in the kernel. A source that can tell the cluster does so.
    fn in_kernel(&mut self) {}

    /// Asks the source to read again what it reads by itself. A source that is notified of everything has nothing to
    /// do.
    fn look_again(&mut self) {}

    /// Hands over the public key of this node's WireGuard device. A source that can tell the others does so. Called
    /// once, before the first request.
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
    /// Begins to listen, for the node called `own_name`. Its VXLAN devices have these `macs`, which the others may have
    /// in their kernels. What earlier runs left in `runtime_dir` counts. Must be called within a tokio runtime.
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
    /// As [`AnySource::new`], but nothing is ever written to the place that the nodes come from: no subnet is taken, no
    /// lease is renewed, no annotation and no condition is set.
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

/// The name of the place that the nodes come from, and what to do about a node that is missing there.
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
