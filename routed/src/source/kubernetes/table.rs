//! The nodes of the API server as they were told last: pure. Changes that matter to nobody end here.

use std::collections::BTreeMap;

use super::objects::{Entry, Seen};
use crate::nodes::{Node, NodeUpdate};

/// All objects by name, and the next such table while a list is being read.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<String, Entry>,
    /// `None` when no list is being read.
    next: Option<BTreeMap<String, Entry>>,
}

impl Table {
    /// A list begins: the entries stay what they are until [`Table::end`].
    pub(super) fn begin(&mut self) {
        self.next = Some(BTreeMap::new());
    }

    /// The list that is being read has an object of this name already.
    pub(super) fn has_listed(&self, name: &str) -> bool {
        self.next.as_ref().is_some_and(|next| next.contains_key(name))
    }

    /// Takes an object; what it changes if no list is being read, and what is to be said about it.
    pub(super) fn put(&mut self, seen: Seen) -> (Option<NodeUpdate>, Option<String>) {
        let known = self.entries.get(&seen.name);
        let words = match (&seen.entry, known) {
            (entry, Some(known)) if entry == known => {
                if let Some(next) = &mut self.next {
                    next.insert(seen.name, seen.entry);
                }
                return (None, None);
            }
            (Err(reason), _) => Some(format!("node {} is left out: {reason}", seen.name)),
            (Ok(_), Some(Err(_))) => Some(format!("node {} can be used now", seen.name)),
            (Ok(_), _) => None,
        };
        if let Some(next) = &mut self.next {
            next.insert(seen.name, seen.entry);
            return (None, words);
        }
        let change = match (&seen.entry, known) {
            (Ok(node), _) => Some(NodeUpdate::Put(node.clone())),
            (Err(_), Some(Ok(_))) => Some(NodeUpdate::Remove(seen.name.clone())),
            (Err(_), _) => None,
        };
        self.entries.insert(seen.name, seen.entry);
        (change, words)
    }

    /// Takes it that the object of this name is gone; what that changes if no list is being read.
    pub(super) fn remove(&mut self, name: &str) -> Option<NodeUpdate> {
        if let Some(next) = &mut self.next {
            next.remove(name);
            return None;
        }
        self.entries.remove(name)?.ok().map(|_| NodeUpdate::Remove(name.to_owned()))
    }

    /// The list is complete.
    pub(super) fn end(&mut self) {
        if let Some(next) = self.next.take() {
            self.entries = next;
        }
    }

    /// There is an object of this name, whatever it is worth.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// All nodes there are, as of the last complete list and what followed.
    pub(super) fn nodes(&self) -> Vec<Node> {
        self.entries.values().filter_map(|entry| entry.as_ref().ok()).cloned().collect()
    }
}
