//! Services of a Kubernetes cluster, from its API server: Services, EndpointSlices and this node's own Node object.
//!
//! Each kind has a task that lists and watches (`ferrule_cluster`), and all tell one channel. Nothing is told before all
//! three lists are complete, so that no Service is seen without its endpoints. After that each change is told as it
//! comes. A server that is away tells nothing.
//!
//! [`service`], [`slice`] and [`node`] know what matters of an object, and [`unread`] which ones cannot be used; they are
//! pure. [`follow`] and [`own`] keep what
//! has been told.

mod follow;
mod followed;
mod node;
mod own;
mod service;
mod slice;
mod unread;

use ferrule_cluster::kind::Permission;
use ferrule_cluster::{Access, Selector, Watcher};
use ferrule_config::Kubernetes;
use tokio::sync::mpsc;

use crate::decide::{EndpointSlice, News, Service};
use follow::Follow;
use own::OwnNode;

/// So many pieces of news may wait before a watch has to wait.
const WAITING: usize = 256;

/// Which Services and EndpointSlices are asked for: none of another proxy, and none that is headless. This is the
/// selector of kube-proxy (`ProxyServer.Run` in `cmd/kube-proxy/app/server.go`).
pub const SERVED: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// All rights that are ever needed.
pub const PERMISSIONS: [Permission; 6] = [
    service::SERVICES.list(),
    service::SERVICES.watch(),
    slice::SLICES.list(),
    slice::SLICES.watch(),
    node::NODES.list(),
    node::NODES.watch(),
];

/// A watched cluster.
#[derive(Debug)]
pub struct KubernetesSource {
    news: mpsc::Receiver<News>,
    /// `None` once all three lists are complete.
    first: Option<First>,
}

/// What was told before all lists were complete.
#[derive(Debug, Default)]
struct First {
    news: Vec<News>,
    services: bool,
    slices: bool,
    node: bool,
}

impl First {
    /// Takes in a piece of news.
    fn take(&mut self, news: News) {
        match news {
            News::Services(_) => self.services = true,
            News::Slices(_) => self.slices = true,
            News::Node(_) => self.node = true,
            News::PutService(_) | News::DeleteService(_) | News::PutSlice(_) | News::DeleteSlice(_) => {}
        }
        self.news.push(news);
    }

    fn is_complete(&self) -> bool {
        self.services && self.slices && self.node
    }
}

impl KubernetesSource {
    /// Begins to list and watch, for the node called `own_name`. Must be called within a tokio runtime.
    pub fn new(settings: &Kubernetes, own_name: &str) -> Self {
        let (sender, news) = mpsc::channel(WAITING);
        let access = Access::new(settings);
        let served = Selector { labels: SERVED.into(), fields: String::new() };
        let own = Selector { labels: String::new(), fields: format!("metadata.name={own_name}") };
        let services = Follow::<Service>::new(sender.clone());
        let slices = Follow::<EndpointSlice>::new(sender.clone());
        tokio::spawn(Watcher::new(access.clone(), served.clone(), services).run());
        tokio::spawn(Watcher::new(access.clone(), served, slices).run());
        tokio::spawn(Watcher::new(access, own, OwnNode::new(own_name, sender)).run());
        Self { news, first: Some(First::default()) }
    }

    /// Waits for news, and returns all that there are. The first batch has all Services, all EndpointSlices and this
    /// node. Cancel safe.
    pub async fn next(&mut self) -> Vec<News> {
        loop {
            let mut batch = Vec::new();
            if self.news.recv_many(&mut batch, WAITING).await == 0 {
                // The tasks end only after their listener.
                std::future::pending::<()>().await;
            }
            let Some(first) = &mut self.first else { return batch };
            batch.into_iter().for_each(|news| first.take(news));
            if first.is_complete()
                && let Some(first) = self.first.take()
            {
                return first.news;
            }
        }
    }
}
