//! What there should be, with its numbers, kept up with the nodes: pure.
//!
//! [`Goal::new`] works everything out from all nodes; [`Goal::change`] moves it by what changed, at a cost that goes by
//! the changes and not by the cluster. Both ways lead to the same, numbers of nexthop objects aside. Where nodes claim
//! the same, what one gets depends on the others: then there is only the first way.

use std::collections::{BTreeMap, BTreeSet};

use ferrule_model::{Nexthop, NexthopId};

use crate::decide::desired::{Ground, Skipped, Ways};
use crate::decide::nexthops::{self, Ids};
use crate::decide::nodes::{Cluster, NodeChange};
use crate::decide::objects::Nexthops;
use crate::decide::objects::{Keys, Objects};
use crate::decide::wanted::{HopKey, Wanted};

/// Everything that should be there beside the device.
#[derive(Debug, Clone)]
pub struct Goal {
    ground: Ground,
    objects: Objects,
    ids: Ids,
    /// What is left out, by node.
    skipped: BTreeMap<String, Vec<Skipped>>,
    clashes: bool,
    /// Numbers of other programs' nexthop objects.
    foreign: BTreeSet<NexthopId>,
    /// Where the search for a free number goes on.
    free: u32,
}

impl Goal {
    /// What the cluster needs, with the numbers of what is `present`, other programs' nexthop objects included.
    pub fn new(ground: Ground, cluster: &Cluster, present: &Nexthops) -> Self {
        let wanted = ground.objects(cluster.others.values().map(AsRef::as_ref));
        Self::of(ground, wanted, present)
    }

    /// The same, with what the cluster needs worked out already.
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

    /// What it was worked out from, beside the other nodes.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Packets to these addresses leave so; a change of nodes to come goes by it.
    pub fn learn(&mut self, ways: Ways) {
        self.ground.ways.extend(ways);
    }

    /// Another program has made a nexthop object, perhaps.
    pub fn has_foreign(&mut self, id: NexthopId) {
        if !self.objects.nexthops.contains_key(&id) {
            self.foreign.insert(id);
        }
    }

    /// What is left out, and why.
    pub fn skipped(&self) -> impl Iterator<Item = &Skipped> {
        self.skipped.values().flatten()
    }

    /// Moves by what changed; `observed` are our objects in the kernel. Gives the names of all objects that are not as
    /// they were, and perhaps of some that are. `None` if it cannot be done piece by piece: the goal is then useless.
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

    /// A number that no program uses, as far as is known; what is to be deleted, is still there.
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
