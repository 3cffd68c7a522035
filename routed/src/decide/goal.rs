//! What there should be in the kernel, with numbers, updated as nodes change: pure.
//!
//! [`Goal::new`] works everything out from all nodes. [`Goal::change`] updates the result by what changed; its cost
//! depends on the changes and not on the size of the cluster. Both lead to the same result, apart from the numbers of
//! nexthop objects. If nodes claim the same, what one of them gets depends on the others; then only the first way is
//! possible.

use std::collections::{BTreeMap, BTreeSet};

use ferrule_model::{Nexthop, NexthopId};

use crate::decide::desired::{Ground, Skipped, Ways};
use crate::decide::nexthops::{self, Ids};
use crate::decide::nodes::{Cluster, NodeChange};
use crate::decide::objects::Nexthops;
use crate::decide::objects::{Keys, Objects};
use crate::decide::wanted::{HopKey, Wanted};

/// Everything that should be there, apart from the device.
#[derive(Debug, Clone)]
pub struct Goal {
    ground: Ground,
    objects: Objects,
    ids: Ids,
    /// What is left out, by the name of the node.
    skipped: BTreeMap<String, Vec<Skipped>>,
    clashes: bool,
    /// Numbers of other programs' nexthop objects.
    foreign: BTreeSet<NexthopId>,
    /// The search for a free number continues here.
    free: u32,
}

impl Goal {
    /// What the cluster needs. Objects keep the numbers that they have in `present`, which includes other programs'
    /// nexthop objects.
    pub fn new(ground: Ground, cluster: &Cluster, present: &Nexthops) -> Self {
        let wanted = ground.objects(cluster.others.values().map(AsRef::as_ref));
        Self::of(ground, wanted, present)
    }

    /// The same, if what the cluster needs is worked out already.
    pub fn of(ground: Ground, mut wanted: Wanted, present: &Nexthops) -> Self {
        let ids = nexthops::number(&wanted, present);
        let mut skipped = BTreeMap::<String, Vec<Skipped>>::new();
        for left_out in std::mem::take(&mut wanted.skipped) {
            skipped.entry(left_out.node.clone()).or_default().push(left_out);
        }
        let is_ours = |id: &NexthopId, nexthop: &Option<Nexthop>| {
            nexthop.is_some_and(|nexthop| ids.get(&HopKey::of(&nexthop)) == Some(id))
        };
        let foreign =
            present.iter().filter(|(id, nexthop)| !is_ours(id, nexthop)).map(|(id, _)| *id).collect();
        let clashes = wanted.clashes;
        let objects = nexthops::numbered(wanted, &ids);
        Self { ground, objects, ids, skipped, clashes, foreign, free: nexthops::FIRST }
    }

    /// The objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What the goal was worked out from, apart from the other nodes.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Notes by which next hops packets to these addresses leave. Later changes of nodes go by it.
    pub fn learn(&mut self, ways: Ways) {
        self.ground.ways.extend(ways);
    }

    /// Notes that this number may belong to another program's nexthop object.
    pub fn has_foreign(&mut self, id: NexthopId) {
        if !self.objects.nexthops.contains_key(&id) {
            self.foreign.insert(id);
        }
    }

    /// What is left out, and why.
    pub fn skipped(&self) -> impl Iterator<Item = &Skipped> {
        self.skipped.values().flatten()
    }

    /// Updates the goal by what changed. `observed` are our objects in the kernel. Returns the names of all objects
    /// that have changed, and perhaps of some that have not. `None` means that the goal cannot be updated piece by
    /// piece; it is useless then.
    pub fn change(&mut self, changes: &[NodeChange], observed: &Objects) -> Option<Keys> {
        if self.clashes {
            return None;
        }
        let (mut touched, mut spare) = (Keys::default(), Ids::new());
        for before in changes.iter().filter_map(|change| change.before.as_ref()) {
            let part = self.ground.part(before);
            spare.extend(part.nexthops.keys().filter_map(|hop| Some((*hop, *self.ids.get(hop)?))));
            self.skipped.remove(&before.name);
            let part = nexthops::numbered(part, &self.ids);
            let mut keys = Keys::default();
            keys.include(&part);
            self.objects.replace(&keys, Objects::default());
            touched.include(&part);
        }
        for hop in spare.keys() {
            self.ids.remove(hop);
        }
        let kept: BTreeSet<_> = spare.values().copied().collect();
        for after in changes.iter().filter_map(|change| change.after.as_ref()) {
            let mut part = self.ground.part(after);
            if self.clashes_with(&part) {
                return None;
            }
            for hop in part.nexthops.keys() {
                let id = spare.remove(hop).unwrap_or_else(|| self.free_id(&kept, observed));
                self.ids.insert(*hop, id);
            }
            let left_out = std::mem::take(&mut part.skipped);
            if !left_out.is_empty() {
                self.skipped.insert(after.name.clone(), left_out);
            }
            let part = nexthops::numbered(part, &self.ids);
            touched.include(&part);
            self.objects.extend(part);
        }
        Some(touched)
    }

    fn clashes_with(&self, part: &Wanted) -> bool {
        part.nexthops.keys().any(|hop| self.ids.contains_key(hop))
            || part.fdb.keys().any(|key| self.objects.fdb.contains_key(key))
            || part.neighbours.keys().any(|key| self.objects.neighbours.contains_key(key))
            || part.peers.keys().any(|key| self.objects.peers.contains_key(key))
            || part.routes.keys().any(|key| self.objects.routes.contains_key(key))
    }

    /// A number that no program uses, as far as is known. An object that is to be deleted still has its number.
    fn free_id(&mut self, kept: &BTreeSet<NexthopId>, observed: &Objects) -> NexthopId {
        let Self { objects, foreign, free, .. } = self;
        nexthops::take_free(free, |id| {
            objects.nexthops.contains_key(&id)
                || observed.nexthops.contains_key(&id)
                || foreign.contains(&id)
                || kept.contains(&id)
        })
    }
}
