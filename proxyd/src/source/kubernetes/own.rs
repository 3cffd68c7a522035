//! This node's own object as it was last told.

use ferrule_cluster::kind::ObjectName;
use ferrule_cluster::{Deaf, Item, Listener};
use tokio::sync::mpsc;

use super::node::Object;
use super::unread::Unread;
use crate::decide::{News, NodeFacts};

/// A listener for the Node objects with this node's name.
pub(super) struct OwnNode {
    name: String,
    /// The object in the list that is being read; `None` outside a list.
    listed: Option<Option<NodeFacts>>,
    /// Whether the log says that there is no such object.
    said_missing: bool,
    unread: Unread,
    news: Option<NodeFacts>,
    sender: mpsc::Sender<News>,
}

impl OwnNode {
    /// Tells `sender`.
    pub(super) fn new(name: &str, sender: mpsc::Sender<News>) -> Self {
        let (name, unread) = (name.to_owned(), Unread::default());
        Self { name, listed: None, said_missing: false, unread, news: None, sender }
    }

    /// What is told of a node whose object is not there, or cannot be read. Services go on without its zone.
    fn nameless(&self) -> NodeFacts {
        NodeFacts::named(&self.name)
    }

    fn missing(&mut self) {
        if !std::mem::replace(&mut self.said_missing, true) {
            tracing::warn!(
                "the Kubernetes API has no node called {}, which is this one: Services are served without its zone; see \
                 that the kubelet has registered it, or set [node] name to the name that it has there",
                self.name
            );
        }
    }
}

impl Listener for OwnNode {
    type Kind = Object;

    fn begin(&mut self) {
        self.listed = Some(None);
        self.unread.begin();
    }

    fn put(&mut self, item: Item<Object>) -> bool {
        let name = item.identity.name;
        if name.name != self.name {
            // A server that knows no selectors tells all nodes.
            return false;
        }
        if let Some(line) = self.unread.note("Node", &name, &item.object) {
            tracing::warn!("{line}");
        }
        let facts = item.object.map_or_else(|_| self.nameless(), |object| object.facts(&self.name));
        self.said_missing = false;
        match &mut self.listed {
            Some(listed) => listed.replace(facts).is_none(),
            None => {
                self.news = Some(facts);
                true
            }
        }
    }

    fn gone(&mut self, name: ObjectName) {
        if name.name != self.name {
            return;
        }
        self.unread.forget(&name);
        match &mut self.listed {
            Some(listed) => *listed = None,
            None => {
                self.missing();
                self.news = Some(self.nameless());
            }
        }
    }

    fn end(&mut self) {
        self.unread.end();
        let listed = self.listed.take().flatten();
        if listed.is_none() {
            self.missing();
        }
        self.news = Some(listed.unwrap_or_else(|| self.nameless()));
    }

    async fn tell(&mut self) -> Result<(), Deaf> {
        match self.news.take() {
            Some(facts) => self.sender.send(News::Node(facts)).await.map_err(|_| Deaf),
            None => Ok(()),
        }
    }
}
