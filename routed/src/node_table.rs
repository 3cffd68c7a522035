//! Turns what a source tells into the table of nodes, and logs what the table means for this node. The worker is told
//! what changed.

use std::time::Instant;

use ferrule_config::Config;
use ferrule_daemon::Notifier;
use ferrule_model::WgKey;

use crate::decide::interface::Chosen;
use crate::decide::nodes::{Cluster, NodeUpdate, Nodes, OwnNode};
use crate::decide::report::{LINES, log_lines};
use crate::pass::worker::Message;
use crate::show::window::{Ask, Known};
use crate::source::{NodeEvent, origin};

/// The nodes, and what the log has said about them.
#[derive(Debug)]
pub(crate) struct NodeTable {
    /// When the last complete list was told, and when anything new was told.
    snapshot: Option<Instant>,
    news: Option<Instant>,
    nodes: Nodes,
    config: Config,
    said_override: bool,
    /// Whether the log says that the source no longer has this node.
    said_left: bool,
    notifier: Notifier,
    /// This node's WireGuard key, and the key of the source about which the log has complained.
    key: Option<WgKey>,
    said_key: Option<Option<WgKey>>,
    /// The link that `[node] interface` means.
    chosen: Option<Chosen>,
}

impl NodeTable {
    /// A table that knows no node yet.
    pub(crate) fn new(name: &str, config: Config, notifier: Notifier) -> Self {
        let nodes = Nodes::new(name);
        Self {
            snapshot: None,
            news: None,
            nodes,
            config,
            said_override: false,
            said_left: false,
            notifier,
            key: None,
            said_key: None,
            chosen: None,
        }
    }

    /// Notes the link by which the other nodes reach this one.
    pub(crate) fn has_chosen(&mut self, chosen: Chosen) {
        self.chosen = Some(chosen);
    }

    /// The same, with this node's WireGuard key.
    pub(crate) fn with_key(self, key: Option<WgKey>) -> Self {
        Self { key, ..self }
    }

    /// This node's name.
    pub(crate) fn own_name(&self) -> &str {
        self.nodes.own_name()
    }

    /// The configuration that runs.
    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// Takes in what a source tells. Returns what the worker has to know, once this node is known.
    pub(crate) fn take(&mut self, news: NodeEvent) -> Option<Message> {
        let was_known = self.nodes.is_own_known();
        self.news = Some(Instant::now());
        let changes = match news {
            NodeEvent::Snapshot(nodes) => {
                self.snapshot = self.news;
                let (changes, own) = self.nodes.snapshot(nodes);
                self.tell_own(own);
                changes
            }
            NodeEvent::Changes(updates) => {
                let own = self.nodes.own_name();
                let own = updates.iter().rev().find_map(|update| match update {
                    NodeUpdate::Put(node) => (node.name == own).then_some(OwnNode::Present),
                    NodeUpdate::Remove(name) => (name == own && was_known).then_some(OwnNode::Left),
                });
                own.into_iter().for_each(|own| self.tell_own(own));
                self.nodes.update(updates)
            }
        };
        let lines: Vec<_> = changes.iter().take(LINES + 1).map(ToString::to_string).collect();
        log_lines(&lines, changes.len(), "more nodes came, went or changed", |line| tracing::info!("{line}"));
        let own = self.nodes.own_name();
        if was_known && changes.iter().all(|change| change.name != own) {
            return (!changes.is_empty()).then_some(Message::Nodes(changes));
        }
        let mut cluster = self.nodes.cluster()?;
        self.override_own(&mut cluster);
        self.compare_key(cluster.own.wireguard_key);
        Some(Message::Cluster(Box::new(cluster)))
    }

    /// Answers a question from outside with what is known of the nodes.
    pub(crate) fn answer(&self, ask: Ask, link: Option<String>) {
        let (nodes, origin) = (&self.nodes, origin(&self.config.routing).0);
        let waiting_for = match (nodes.is_own_known(), self.snapshot) {
            (true, _) => None,
            (false, None) => link.or_else(|| Some(format!("the nodes in {origin}"))),
            (false, Some(_)) => Some(format!("a node called {} in {origin}", nodes.own_name())),
        };
        let page = nodes.page(ask.after.as_deref(), ask.most);
        let (snapshot, news) = (self.snapshot, self.news);
        // Sending fails only if nobody waits any more.
        let _ = ask.reply.send(Known { waiting_for, nodes: nodes.len(), snapshot, news, page });
    }

    fn tell_own(&mut self, own: OwnNode) {
        // The node is gone in each later list too, and the log says so only once.
        let was_gone = std::mem::replace(&mut self.said_left, own == OwnNode::Left);
        let ((origin, remedy), name) = (origin(&self.config.routing), self.nodes.own_name());
        match own {
            OwnNode::Present if was_gone => tracing::info!("{origin} has this node, {name}, again"),
            OwnNode::Present => {}
            OwnNode::Left if was_gone => {}
            OwnNode::Unknown => {
                self.notifier.status(&format!("waiting for a node called {name} in {origin}"));
                tracing::error!(
                    "{origin} has no node called {name}, which is this one; {remedy}; nothing is changed before"
                );
            }
            OwnNode::Left => tracing::warn!(
                "{origin} has no node called {name}, which is this one, any more: the others lose their routes to its pods; what was \
                 known of it stays here; {remedy}"
            ),
        }
    }

    /// Compares this node's key with that in a nodes file, which the other nodes go by. Other sources have the key from
    /// this daemon.
    fn compare_key(&mut self, told: Option<WgKey>) {
        let Some(key) = self.key.filter(|key| told != Some(*key)) else { return };
        let is_file = self.config.routing.source == ferrule_config::Source::File;
        if is_file && self.said_key.replace(told) != Some(told) {
            let origin = origin(&self.config.routing).0;
            tracing::error!(
                "{origin} does not have this node's WireGuard key: nobody can send to it; write wireguard_key = \"{key}\" into \
                 its [[node]] table, on every node"
            );
        }
    }

    /// Applies `[node] interface`, `address` and `address6`. They win for this node alone; the others go by the nodes
    /// file.
    fn override_own(&mut self, cluster: &mut Cluster) {
        let (own, node) = (&mut cluster.own, &self.config.node);
        cluster.uplink = self.chosen.as_ref().map(|chosen| chosen.link.clone());
        let (v4, v6) = match &self.chosen {
            Some(chosen) => chosen.addresses((own.v4, own.v6)),
            None => (node.address.or(own.v4), node.address6.or(own.v6)),
        };
        // The address in a nodes file may be that of a NAT. Then the configuration names it as well.
        let told = (node.public_address.or(v4), node.public_address6.or(v6));
        if told != (own.v4, own.v6)
            && (v4, v6) != (own.v4, own.v6)
            && !std::mem::replace(&mut self.said_override, true)
        {
            match &self.chosen {
                // With any other source the other nodes learn the address of the link.
                Some(_) if self.config.routing.source != ferrule_config::Source::File => {}
                Some(chosen) => tracing::warn!(
                    "the link {} of [node] interface does not have the address that the nodes file gives this node; other nodes \
                     send to the address in the nodes file",
                    chosen.link
                ),
                None => tracing::warn!(
                    "[node] address of this node's configuration is not what the nodes file says of it; other nodes send to \
                     the address in the nodes file"
                ),
            }
        }
        (own.v4, own.v6) = (v4, v6);
    }
}
