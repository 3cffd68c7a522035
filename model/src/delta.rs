//! The difference between what there should be and what there is.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What has to change so that `observed` becomes `desired`.
///
/// ```
/// use std::collections::BTreeMap;
/// use ferrule_model::Delta;
///
/// // Destinations and the next hops that lead there.
/// let observed = BTreeMap::from([("10.1.0.0/24", "node1"), ("10.2.0.0/24", "node2"), ("10.9.0.0/24", "node9")]);
/// let desired = BTreeMap::from([("10.1.0.0/24", "node1"), ("10.2.0.0/24", "node7"), ("10.3.0.0/24", "node3")]);
///
/// let delta = Delta::between(&desired, &observed);
/// assert_eq!(delta.put, [("10.2.0.0/24", "node7"), ("10.3.0.0/24", "node3")]);
/// assert_eq!(delta.delete, [("10.9.0.0/24", "node9")]);
/// assert!(Delta::between(&desired, &desired).is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta<K, V> {
    /// Objects that are missing or different, in the order of the keys. They are to be made or replaced.
    pub put: Vec<(K, V)>,
    /// Objects that are there but not desired, with the values that they have, in the order of the keys.
    pub delete: Vec<(K, V)>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Delta<K, V> {
    /// The difference. `observed` holds only objects that are ours to delete.
    ///
    /// It walks along both maps side by side. Looking each key up in the other map would take several times as long.
    pub fn between(desired: &BTreeMap<K, V>, observed: &BTreeMap<K, V>) -> Self {
        let owned = |(key, value): (&K, &V)| (key.clone(), value.clone());
        let (mut put, mut delete) = (Vec::new(), Vec::new());
        let (mut wanted, mut found) = (desired.iter().peekable(), observed.iter().peekable());
        loop {
            let order = match (wanted.peek(), found.peek()) {
                (Some((wanted, _)), Some((found, _))) => wanted.cmp(found),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { put, delete },
            };
            match order {
                Ordering::Less => put.extend(wanted.next().map(owned)),
                Ordering::Greater => delete.extend(found.next().map(owned)),
                Ordering::Equal => {
                    let (wanted, found) = (wanted.next(), found.next());
                    put.extend(wanted.filter(|_| wanted != found).map(owned));
                }
            }
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.delete.is_empty()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.put.len() + self.delete.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(mut observed: BTreeMap<u8, u8>, delta: &Delta<u8, u8>) -> BTreeMap<u8, u8> {
        for (key, _) in &delta.delete {
            assert!(observed.remove(key).is_some(), "deletes only what is there");
        }
        observed.extend(delta.put.iter().copied());
        observed
    }

    proptest! {
        #[test]
        fn applied_to_observed_it_gives_desired(desired: BTreeMap<u8, u8>, observed: BTreeMap<u8, u8>) {
            let delta = Delta::between(&desired, &observed);
            prop_assert_eq!(apply(observed, &delta), desired);
        }

        #[test]
        fn nothing_changes_that_is_right_already(desired: BTreeMap<u8, u8>) {
            prop_assert!(Delta::between(&desired, &desired).is_empty());
        }
    }
}
