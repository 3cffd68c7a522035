//! Which slot each backend has.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::sets::SLOTS;
use crate::decide::Backend;

/// Gives each of the `wanted` backends a slot; the first one has slot 0. One that had a slot `before` keeps it, unless
/// there are fewer slots now. So a backend that goes moves one other at most. `wanted` is sorted, and has no backend
/// twice. What is more than [`SLOTS`] is left out.
pub(super) fn place(before: &[Option<(IpAddr, NonZeroU16)>], wanted: &[Backend]) -> Box<[Backend]> {
    let wanted = &wanted[..wanted.len().min(SLOTS as usize)];
    let mut slots = vec![None; wanted.len()];
    let mut has_slot = vec![false; wanted.len()];
    for (slot, there) in slots.iter_mut().zip(before) {
        let Some(there) = there else { continue };
        let at = wanted.binary_search_by_key(there, |backend| (backend.address, backend.port));
        if let Ok(at) = at
            && !std::mem::replace(&mut has_slot[at], true)
        {
            *slot = Some(wanted[at]);
        }
    }
    let mut rest = wanted.iter().zip(has_slot).filter(|(_, has_slot)| !has_slot).map(|(backend, _)| *backend);
    slots.into_iter().filter_map(|slot| slot.or_else(|| rest.next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backend(number: u8) -> Backend {
        let port = NonZeroU16::new(80).unwrap();
        Backend { address: IpAddr::from([10, 244, 0, number]), port, is_local: false }
    }

    fn told(slots: &[Backend]) -> Vec<Option<(IpAddr, NonZeroU16)>> {
        slots.iter().map(|backend| Some((backend.address, backend.port))).collect()
    }

    fn backends(numbers: &[u8]) -> Vec<Backend> {
        numbers.iter().copied().map(backend).collect()
    }

    #[test]
    fn the_last_one_moves_into_the_slot_that_became_free() {
        let before = told(&backends(&[1, 2, 3, 4]));
        assert_eq!(*place(&before, &backends(&[1, 3, 4])), backends(&[1, 4, 3])[..]);
        assert_eq!(*place(&before, &backends(&[0, 1, 2, 3, 4])), backends(&[1, 2, 3, 4, 0])[..]);
        assert_eq!(*place(&before, &backends(&[1, 2, 4, 9])), backends(&[1, 2, 9, 4])[..]);
        assert_eq!(*place(&[None, before[0], before[0]], &backends(&[1, 7, 8])), backends(&[7, 1, 8])[..]);
    }

    proptest! {
        #[test]
        fn each_has_one_slot_and_few_move(
            before in prop::collection::btree_set(0_u8..40, 0..30),
            after in prop::collection::btree_set(0_u8..40, 0..30),
        ) {
            let [before, after] = [before, after].map(|set| backends(&set.into_iter().collect::<Vec<_>>()));
            let placed = place(&told(&before), &after);
            let mut sorted = placed.to_vec();
            sorted.sort_unstable();
            prop_assert_eq!(&sorted, &after);
            let moved = before.iter().zip(&placed).filter(|(was, is)| was != is && after.contains(was)).count();
            let gone = before.iter().filter(|backend| !after.contains(backend)).count();
            prop_assert!(moved <= gone, "{moved} of those that stayed have moved, and {gone} have gone");
        }
    }
}
