//! The nodes as the API server last told them: pure. Changes that matter to nobody end here.

use std::collections::BTreeMap;

use super::objects::Seen;
use crate::decide::nodes::{Node, NodeUpdate};
use crate::decide::roll::{Rank, Roll};

/// The node in an object, or why there is none.
type Entry = Result<(Node, Rank), String>;

/// All objects by name, and the next such table while a list is being read.
#[derive(Debug)]
pub(super) struct Table {
    roll: Roll,
    /// Why these objects are no usable nodes.
    unusable: BTreeMap<String, String>,
    /// `None` when no list is being read.
    next: Option<BTreeMap<String, Entry>>,
}

impl Table {
    /// A table without any object. `roll` decides which of the nodes that clash count.
    pub(super) fn new(roll: Roll) -> Self {
        Self { roll, unusable: BTreeMap::new(), next: None }
    }

    /// Begins a list. The entries stay as they are until [`Table::end`].
    pub(super) fn begin(&mut self) {
        self.next = Some(BTreeMap::new());
    }

    /// Whether a list is being read.
    pub(super) fn is_listing(&self) -> bool {
        self.next.is_some()
    }

    /// Whether the list that is being read has an object of this name already.
    pub(super) fn has_listed(&self, name: &str) -> bool {
        self.next.as_ref().is_some_and(|next| next.contains_key(name))
    }

    /// Takes in an object. Returns what it changes if no list is being read, and the lines to be logged.
    pub(super) fn put(&mut self, seen: Seen) -> (Vec<NodeUpdate>, Vec<String>) {
        let (name, rank) = (seen.name, seen.rank);
        let known = self.unusable.get(&name);
        let words = match &seen.entry {
            Err(reason) if known != Some(reason) => Some(format!("node {name} is left out: {reason}")),
            Ok(_) if known.is_some() => Some(format!("node {name} can be used now")),
            _ => None,
        };
        let mut words: Vec<_> = words.into_iter().collect();
        let entry = seen.entry.map(|node| (node, rank));
        if let Some(next) = &mut self.next {
            next.insert(name, entry);
            return (Vec::new(), words);
        }
        let changes = match entry {
            Ok((node, rank)) => {
                self.unusable.remove(&name);
                self.roll.put(node, rank)
            }
            Err(reason) => {
                let changes = self.roll.remove(&name);
                self.unusable.insert(name, reason);
                changes
            }
        };
        words.extend(self.roll.lines());
        (changes, words)
    }

    /// Takes out the object of this name. Returns what that changes if no list is being read, and the lines to be
    /// logged.
    pub(super) fn remove(&mut self, name: &str) -> (Vec<NodeUpdate>, Vec<String>) {
        if let Some(next) = &mut self.next {
            next.remove(name);
            return (Vec::new(), Vec::new());
        }
        self.unusable.remove(name);
        (self.roll.remove(name), self.roll.lines())
    }

    /// Ends the list. Returns all nodes that count, and the lines to be logged.
    pub(super) fn end(&mut self) -> (Vec<Node>, Vec<String>) {
        let (mut usable, mut unusable) = (Vec::new(), BTreeMap::new());
        for (name, entry) in self.next.take().unwrap_or_default() {
            match entry {
                Ok(node) => usable.push(node),
                Err(reason) => drop(unusable.insert(name, reason)),
            }
        }
        self.unusable = unusable;
        (self.roll.replace(usable), self.roll.lines())
    }

    /// Whether there is an object of this name, usable or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.unusable.contains_key(name) || self.roll.get(name).is_some()
    }
}
