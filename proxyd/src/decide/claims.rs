//! Which Service has which place, if several want the same one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Key, ServiceName};

/// A Service that wants a place. Of several the least has it: the oldest, then the first by name. So a new Service
/// takes nothing from one that works, and the order of events does not matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) created_s: i64,
    pub(super) name: Arc<ServiceName>,
}

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Who has each place.
    holders: HashMap<Key, Claim>,
    /// Who else wants it. Hardly any place is here.
    waiting: HashMap<Key, BTreeSet<Claim>>,
}

impl Claims {
    /// Who has the place.
    pub(super) fn holder(&self, key: &Key) -> Option<&Arc<ServiceName>> {
        self.holders.get(key).map(|claim| &claim.name)
    }

    /// Adds a claim. Adds to `affected` whom that concerns, apart from the Service itself.
    pub(super) fn add(&mut self, key: Key, claim: Claim, affected: &mut BTreeSet<Arc<ServiceName>>) {
        let mut holder = match self.holders.entry(key) {
            Entry::Vacant(place) => {
                place.insert(claim);
                return;
            }
            Entry::Occupied(holder) => holder,
        };
        let waiting = self.waiting.entry(key).or_default();
        if claim > *holder.get() {
            waiting.insert(claim);
            return;
        }
        // Those who wait are told that somebody else has it now.
        affected.extend(waiting.iter().map(|claim| Arc::clone(&claim.name)));
        affected.insert(Arc::clone(&holder.get().name));
        waiting.insert(holder.insert(claim));
    }

    /// Takes a claim back. Adds to `affected` whom that concerns, apart from the Service itself.
    pub(super) fn remove(&mut self, key: Key, claim: &Claim, affected: &mut BTreeSet<Arc<ServiceName>>) {
        let is_holder = self.holders.get(&key) == Some(claim);
        let Entry::Occupied(mut waiting) = self.waiting.entry(key) else {
            if is_holder {
                self.holders.remove(&key);
            }
            return;
        };
        if is_holder {
            affected.extend(waiting.get().iter().map(|claim| Arc::clone(&claim.name)));
            if let Some(next) = waiting.get_mut().pop_first() {
                self.holders.insert(key, next);
            }
        } else {
            waiting.get_mut().remove(claim);
        }
        if waiting.get().is_empty() {
            waiting.remove();
        }
    }
}
