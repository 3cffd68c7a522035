//! What `routed` does with the Node objects that it is told: it keeps the table of them, notes what concerns this node's
//! own object, and tells the nodes.

use ferrule_cluster::kind::ObjectName;
use ferrule_cluster::{Deaf, Item, Listener};
use ferrule_config::Config;
use tokio::sync::{mpsc, watch};

use super::condition::Facts;
use super::flannel::{self, View};
use super::objects::{Object, Seen};
use super::table::Table;
use crate::decide::nodes::NodeUpdate;
use crate::decide::roll::Roll;
use crate::source::NodeEvent;
use crate::source::lease::Public;

/// The Node objects as they were last told.
pub(super) struct Nodes {
    own_name: String,
    events: mpsc::Sender<NodeEvent>,
    facts: watch::Sender<Facts>,
    table: Table,
    /// How objects are read if flannel's nodes share the network, and what this node's annotations are.
    flannel: Option<(View, watch::Sender<flannel::Told>)>,
    /// What has to be told.
    news: Option<NodeEvent>,
}

impl Nodes {
    /// No objects, until some are told.
    pub(super) fn new(
        config: &Config,
        own_name: String,
        events: mpsc::Sender<NodeEvent>,
        facts: watch::Sender<Facts>,
    ) -> Self {
        let table = Table::new(Roll::new(&own_name, config));
        Self { own_name, events, facts, table, flannel: None, news: None }
    }

    /// From now on reads objects by flannel's annotations. Returns what has to be known for this node's annotations.
    pub(super) fn look_at_flannel(&mut self, view: View) -> watch::Receiver<flannel::Told> {
        let (sender, told) = watch::channel(flannel::Told::default());
        self.flannel = Some((view, sender));
        told
    }

    /// Notes what an object says of this node, and which addresses another one is reached by.
    fn look(&mut self, seen: &mut Seen) {
        if let Some((view, sender)) = &mut self.flannel
            && let Some(told) = view.look(seen)
        {
            sender.send_if_modified(|before| std::mem::replace(before, told) != *before);
        }
        if seen.name == self.own_name {
            let (is_told, told_key, told_public) =
                (seen.network_is_available, seen.wireguard_key, seen.public);
            self.facts.send_if_modified(|facts| {
                let now = Facts { seen: true, is_told, told_key, told_public, ..*facts };
                std::mem::replace(facts, now) != now
            });
        } else if let Ok(node) = &mut seen.entry
            && self.flannel.is_none()
        {
            // This node itself has other addresses. Beside flannel, the annotations hold the published ones.
            let public = seen.overwrite.or(seen.public).or(Public { v4: node.v4, v6: node.v6 });
            (node.v4, node.v6) = (public.v4, public.v6);
        }
    }

    fn changed(&mut self, changes: Vec<NodeUpdate>) {
        self.news = (!changes.is_empty()).then_some(NodeEvent::Changes(changes));
    }
}

impl Listener for Nodes {
    type Kind = Object;

    fn begin(&mut self) {
        self.table.begin();
    }

    fn put(&mut self, item: Item<Object>) -> bool {
        let mut seen = Seen::from(item);
        let is_new = !self.table.has_listed(&seen.name);
        self.look(&mut seen);
        let (changes, words) = self.table.put(seen);
        say(&words);
        self.changed(changes);
        is_new
    }

    fn gone(&mut self, name: ObjectName) {
        let (changes, words) = self.table.remove(&name.name);
        say(&words);
        if name.name == self.own_name && !self.table.is_listing() {
            self.facts.send_modify(|facts| facts.seen = false);
        }
        self.changed(changes);
    }

    fn end(&mut self) {
        let (nodes, words) = self.table.end();
        say(&words);
        if !self.table.has(&self.own_name) {
            self.facts.send_modify(|facts| facts.seen = false);
        }
        self.news = Some(NodeEvent::Snapshot(nodes));
    }

    async fn tell(&mut self) -> Result<(), Deaf> {
        match self.news.take() {
            Some(event) => self.events.send(event).await.map_err(|_| Deaf),
            None => Ok(()),
        }
    }
}

fn say(words: &[String]) {
    words.iter().for_each(|words| tracing::warn!("{words}"));
}
