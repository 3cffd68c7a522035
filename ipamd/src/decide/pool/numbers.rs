//! A set of addresses as numbers: a bit for each, in pages that exist where the set has something. What is given is
//! mostly given in a row, so a full /16 takes some kilobytes.

use std::collections::HashMap;

/// Numbers of a page, as a power of two.
const PAGE_BITS: u32 = 8;
const WORDS: usize = (1 << PAGE_BITS) / u64::BITS as usize;

/// The set.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    pages: HashMap<u128, [u64; WORDS]>,
    len: usize,
}

impl Numbers {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        let (page, word, bit) = place(number);
        self.pages.get(&page).is_some_and(|words| words[word] & bit != 0)
    }

    /// Whether it was not there before.
    pub(super) fn insert(&mut self, number: u128) -> bool {
        let (page, word, bit) = place(number);
        let word = &mut self.pages.entry(page).or_default()[word];
        let new = *word & bit == 0;
        *word |= bit;
        self.len += usize::from(new);
        new
    }

    /// Whether it was there before.
    pub(super) fn remove(&mut self, number: u128) -> bool {
        let (page, word, bit) = place(number);
        let Some(words) = self.pages.get_mut(&page) else { return false };
        let old = words[word] & bit != 0;
        words[word] &= !bit;
        if words.iter().all(|&word| word == 0) {
            self.pages.remove(&page);
        }
        self.len -= usize::from(old);
        old
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u128> {
        self.pages.iter().flat_map(|(page, words)| {
            let first = page << PAGE_BITS;
            (0..1 << PAGE_BITS).map(move |offset| first | offset).filter(|&number| {
                let (_, word, bit) = place(number);
                words[word] & bit != 0
            })
        })
    }
}

/// Page, word in it, and bit in that.
const fn place(number: u128) -> (u128, usize, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are what is wanted")]
    let low = number as u32 & ((1 << PAGE_BITS) - 1);
    (number >> PAGE_BITS, (low / u64::BITS) as usize, 1 << (low % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0_u128..600, any::<bool>()), 0..300)) {
            let (mut numbers, mut plain) = (Numbers::default(), BTreeSet::new());
            for (inserts, number, high) in steps {
                let number = if high { u128::MAX - number } else { number };
                match inserts {
                    true => prop_assert_eq!(numbers.insert(number), plain.insert(number)),
                    false => prop_assert_eq!(numbers.remove(number), plain.remove(&number)),
                }
                prop_assert_eq!(numbers.contains(number), inserts);
                prop_assert_eq!(numbers.len(), plain.len());
            }
            prop_assert_eq!(numbers.iter().collect::<BTreeSet<_>>(), plain);
        }
    }
}
