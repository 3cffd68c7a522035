//! All that is known of the Services, and what of it the thread that works on the kernel is told.

use std::collections::HashMap;
use std::sync::Arc;

use ferrule_config::{Config, NodeFile};
use ferrule_model::{Family, IpNetwork, host_prefix, merged};

use crate::decide::{Affected, Complaint, News, NodeFacts, Rules, ServiceName, Table};
use crate::nft::Shape;
use crate::sync::Wanted;
use crate::sync::thread::Job;

/// The Services, and what the log has said about them.
#[derive(Debug)]
pub struct Services {
    config: Config,
    table: Table,
    /// The networks of this node's own pods, once `routed` has told them.
    own_pods: Option<Vec<IpNetwork>>,
    complaints: HashMap<Arc<ServiceName>, Vec<Complaint>>,
    is_started: bool,
}

impl Services {
    /// No Services, on the node of this name.
    pub fn new(config: Config, node: NodeFacts) -> Self {
        let rules = Rules { external_cidrs: config.services.external_cidrs.clone() };
        let table = Table::new(rules, node);
        Self { config, table, own_pods: None, complaints: HashMap::new(), is_started: false }
    }

    /// What is known of this node before a source tells of it.
    pub fn node(config: &Config, name: &str) -> NodeFacts {
        let v4 = config.node.address.map(std::net::IpAddr::from);
        let v6 = config.node.address6.map(std::net::IpAddr::from);
        NodeFacts { addresses: v4.into_iter().chain(v6).collect(), ..NodeFacts::named(name) }
    }

    /// Takes news in, and returns what the kernel has to be told. Nothing, before all is known.
    pub fn take(&mut self, news: impl IntoIterator<Item = News>) -> Option<Job> {
        let mut affected = Affected::new();
        for news in news {
            affected.append(&mut self.table.take(news));
        }
        if !self.table.is_complete() {
            return None;
        }
        if !self.is_started {
            return Some(self.all());
        }
        let changes: Vec<_> = affected.into_iter().map(|name| self.wanted(name)).collect();
        (!changes.is_empty()).then_some(Job::Change(changes))
    }

    /// All Services.
    pub fn all(&mut self) -> Job {
        self.is_started = true;
        let names: Vec<_> = self.table.services().cloned().collect();
        Job::All(names.into_iter().map(|name| self.wanted(name)).collect())
    }

    /// Takes in what `routed` knows of this node. Returns whether that changes the node's networks.
    pub fn take_node_file(&mut self, file: NodeFile) -> bool {
        let own_pods = Some(file.pod_cidrs);
        let is_new = own_pods != self.own_pods;
        self.own_pods = own_pods;
        is_new
    }

    /// The node's networks. Before it is known which pods are this node's own, those of all nodes count: packets of other
    /// nodes' pods come translated already.
    pub fn shape(&self) -> Shape {
        let own_pods = self.own_pods.as_ref().unwrap_or(&self.config.cluster.pod_cidrs);
        Shape {
            own_pods: merged(own_pods.clone()),
            node_ports: self.node_ports(),
            service_cidrs: merged(self.config.cluster.service_cidrs.clone()),
            ..Shape::default()
        }
    }

    fn node_ports(&self) -> Vec<IpNetwork> {
        let configured = &self.config.services.node_port_addresses;
        if !configured.is_empty() {
            return merged(configured.clone());
        }
        let own = &self.table.node().addresses;
        if !own.is_empty() {
            return merged(own.iter().copied().map(host_prefix).collect());
        }
        Family::BOTH.iter().filter_map(|family| everything(*family)).collect()
    }

    fn wanted(&mut self, name: Arc<ServiceName>) -> Wanted {
        let served = self.table.served(&name);
        let told = self.complaints.get(&name).map(Vec::as_slice).unwrap_or_default();
        for complaint in served.complaints.iter().filter(|complaint| !told.contains(complaint)) {
            tracing::warn!("Service {name}: {complaint}");
        }
        if served.complaints.is_empty() {
            self.complaints.remove(&name);
        } else {
            self.complaints.insert(Arc::clone(&name), served.complaints);
        }
        (name, served.frontends)
    }
}

fn everything(family: Family) -> Option<IpNetwork> {
    match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    }
    .parse()
    .ok()
}
