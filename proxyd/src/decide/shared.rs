//! Equal values of many objects, kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Values that many objects have in common: the names of nodes, zones and ports. With thousands of endpoints they would
/// take more room than all else.
#[derive(Debug)]
pub(crate) struct Shared<T: ?Sized + Eq + Hash> {
    known: HashSet<Arc<T>>,
    /// At how many values those that nobody has any more are forgotten.
    limit: usize,
}

const LEAST: usize = 64;

impl<T: ?Sized + Eq + Hash> Default for Shared<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), limit: LEAST }
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    /// Replaces `value` by the equal one that others have.
    pub(crate) fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.known.get(value) {
            *value = Arc::clone(known);
            return;
        }
        if self.known.len() >= self.limit {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.limit = LEAST.max(2 * self.known.len());
        }
        self.known.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once_and_unused_ones_are_forgotten() {
        let mut shared = Shared::<str>::default();
        let (mut one, mut other) = (Arc::from("node-a"), Arc::from("node-a"));
        shared.share(&mut one);
        shared.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
        for number in 0..10 * LEAST {
            shared.share(&mut Arc::from(number.to_string()));
        }
        assert!(shared.known.len() <= 2 * LEAST, "{} values are kept", shared.known.len());
        let mut again = Arc::from("node-a");
        shared.share(&mut again);
        assert!(Arc::ptr_eq(&one, &again), "a value that is used is not forgotten");
    }
}
