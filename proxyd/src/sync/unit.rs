//! The changes of Services that have to be made together.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decide::{Frontend, Key, ServiceName};
use crate::nft::{Batch, Layout, Slots, difference};

/// A Service and all its frontends. A Service without frontends has nothing in the kernel.
pub type Wanted = (Arc<ServiceName>, Vec<Frontend>);

/// What one transaction has to change at least.
#[derive(Debug, Default)]
pub(super) struct Unit {
    pub(super) parts: Vec<Part>,
    pub(super) batch: Batch,
}

/// Units that share a transaction only because they are small.
#[derive(Debug, Default)]
pub(super) struct Pack {
    units: Vec<Unit>,
    size: usize,
}

impl Pack {
    /// How many elements they change.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Takes one in.
    pub(super) fn push(&mut self, unit: Unit) {
        self.size += unit.batch.len();
        self.units.push(unit);
    }

    /// What all of them change.
    pub(super) fn batch(&self) -> Batch {
        let mut whole = Batch::default();
        self.units.iter().for_each(|unit| whole.append(unit.batch.clone()));
        whole
    }

    /// The units.
    pub(super) fn units(self) -> Vec<Unit> {
        self.units
    }
}

/// One Service of a unit.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: Arc<ServiceName>,
    /// What the kernel holds for it.
    pub(super) before: Vec<Layout>,
    /// What the kernel holds after the unit's transaction.
    pub(super) after: Vec<Layout>,
    /// The same, as it was asked for. `None` if nothing was asked for, and the kernel is only put right.
    pub(super) wanted: Option<Vec<Frontend>>,
}

impl Unit {
    /// The change of one Service. Its batch is empty if nothing is to be changed.
    pub(super) fn new((name, wanted): Wanted, before: Vec<Layout>) -> Self {
        let old: HashMap<_, _> = before.iter().map(|layout| (layout.key, layout)).collect();
        let after: Vec<_> = wanted
            .iter()
            .map(|frontend| {
                let slots = old.get(&frontend.key).map_or_else(Slots::default, |layout| layout.slots());
                Layout::of(frontend, &slots)
            })
            .collect();
        let new: HashMap<_, _> = after.iter().map(|layout| (layout.key, layout)).collect();
        let mut batch = Batch::default();
        for layout in before.iter().filter(|layout| !new.contains_key(&layout.key)) {
            batch.append(difference(Some(layout), None));
        }
        for layout in &after {
            batch.append(difference(old.get(&layout.key).copied(), Some(layout)));
        }
        Self { parts: vec![Part { name, before, after, wanted: Some(wanted) }], batch }
    }

    fn append(&mut self, other: Self) {
        self.parts.extend(other.parts);
        self.batch.append(other.batch);
    }
}

/// Joins those units where one takes over a frontend of another one. A packet to it sees the one or the other Service.
pub(super) fn joined(units: Vec<Unit>) -> Vec<Unit> {
    let mut releasing: HashMap<Key, usize> = HashMap::new();
    for (number, unit) in units.iter().enumerate() {
        releasing.extend(unit.released().map(|key| (key, number)));
    }
    // The unit in which each of them ends.
    let mut into: Vec<usize> = (0..units.len()).collect();
    for (number, unit) in units.iter().enumerate() {
        for other in unit.gained().filter_map(|key| releasing.get(&key)) {
            let (from, to) = (find(&into, number), find(&into, *other));
            into[from.max(to)] = from.min(to);
        }
    }
    let mut joined: Vec<Option<Unit>> = Vec::new();
    for (number, unit) in units.into_iter().enumerate() {
        let root = find(&into, number);
        joined.push(None);
        match joined.get_mut(root).and_then(Option::as_mut) {
            Some(whole) => whole.append(unit),
            None => joined[root] = Some(unit),
        }
    }
    joined.into_iter().flatten().collect()
}

fn find(into: &[usize], mut number: usize) -> usize {
    while into[number] != number {
        number = into[number];
    }
    number
}

impl Unit {
    fn released(&self) -> impl Iterator<Item = Key> {
        self.parts.iter().flat_map(|part| without(&part.before, &part.after))
    }

    fn gained(&self) -> impl Iterator<Item = Key> {
        self.parts.iter().flat_map(|part| without(&part.after, &part.before))
    }
}

/// The keys of those layouts that the others have not.
fn without<'a>(layouts: &'a [Layout], others: &'a [Layout]) -> impl Iterator<Item = Key> + 'a {
    let keys = layouts.iter().map(|layout| layout.key);
    keys.filter(|key| !others.iter().any(|other| other.key == *key))
}
