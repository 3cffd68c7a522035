//! What the kernel holds of the table, by frontend.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use ferrule_model::{Element, Family};

use super::difference::Batch;
use super::layout::{Layout, Slots};
use super::sets::{
    ENDPOINTS, NODE_ENDPOINTS, OF_FRONTENDS, OF_NODES, Pair, SHARED, SLOTS, read_endpoint, read_key,
};
use crate::decide::Key;

/// The elements of the table, as they were read. What a layout claims is taken out; in the end the rest is what nobody
/// wants.
#[derive(Debug, Default)]
pub struct Found {
    frontends: HashMap<Key, Vec<Element>>,
    shared: HashSet<Element>,
    /// What cannot be anybody's.
    strange: Vec<Element>,
}

/// Every set and map that has to be read, with its family.
pub fn sets() -> impl Iterator<Item = (Pair, Family)> {
    OF_FRONTENDS.into_iter().chain(SHARED).flat_map(|pair| Family::BOTH.map(|family| (pair, family)))
}

impl Found {
    /// Takes in the elements of one set.
    pub fn extend(&mut self, (pair, family): (Pair, Family), elements: Vec<Element>) {
        if SHARED.contains(&pair) {
            self.shared.extend(elements);
            return;
        }
        for element in elements {
            match read_key(&element.key, family, OF_NODES.contains(&pair)) {
                Some((key, _)) => self.frontends.entry(key).or_default().push(element),
                None => self.strange.push(element),
            }
        }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.frontends.values().map(Vec::len).sum::<usize>() + self.shared.len() + self.strange.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which endpoint is in each slot of this frontend.
    pub fn slots(&self, key: &Key) -> Slots {
        let mut slots = Slots::default();
        let family = key.place.family();
        let own = self.frontends.get(key).into_iter().flatten();
        for element in
            own.filter(|element| [ENDPOINTS.of(family), NODE_ENDPOINTS.of(family)].contains(&element.set))
        {
            put(&mut slots, element, family);
        }
        slots
    }

    /// What has to change so that these frontends are as laid out. They are taken out.
    pub fn claim(&mut self, layouts: &[Layout]) -> Batch {
        let mut batch = Batch::default();
        for layout in layouts {
            let found = self.frontends.remove(&layout.key).unwrap_or_default();
            let wanted = layout.elements();
            let (there, here): (HashSet<_>, HashSet<_>) = (found.iter().collect(), wanted.iter().collect());
            let stale = there.difference(&here).map(|element| (**element).clone());
            let missing = wanted.iter().filter(|element| !there.contains(element)).cloned();
            batch.delete.extend(stale);
            batch.add.extend(missing);
        }
        batch
    }

    /// What is missing of the elements that frontends share. Those are taken out.
    pub fn claim_shared(&mut self, mut wanted: Vec<Element>) -> Vec<Element> {
        wanted.retain(|element| !self.shared.remove(element));
        wanted
    }

    /// What is left and has to go: one batch for each frontend, and one for the rest.
    pub fn rest(self) -> Vec<Batch> {
        let gone = |delete| Batch { delete, add: Vec::new() };
        let mut batches: Vec<_> = self.frontends.into_values().map(gone).collect();
        batches.push(gone(self.shared.into_iter().chain(self.strange).collect()));
        batches
    }
}

fn put(Slots([outside, inside]): &mut Slots, element: &Element, family: Family) {
    let is_node = element.set == NODE_ENDPOINTS.of(family);
    let Some((_, number)) = read_key(&element.key, family, is_node) else { return };
    let Ok(number) = number.try_into().map(u32::from_ne_bytes) else { return };
    let endpoint: Option<(IpAddr, NonZeroU16)> = read_endpoint(element.value.data(), family);
    let (slots, slot) = if number < SLOTS { (outside, number) } else { (inside, number - SLOTS) };
    // Whatever others have written there: a frontend has no more slots than these.
    if slot >= SLOTS {
        return;
    }
    let slot = slot as usize;
    if slots.len() <= slot {
        slots.resize(slot + 1, None);
    }
    slots[slot] = endpoint;
}
