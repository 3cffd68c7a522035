//! The objects of every kind beside the device, and sets of them: pure.

use std::collections::{BTreeMap, BTreeSet};

use ferrule_model::{
    Address, AddressKey, Delta, FdbEntry, FdbKey, IfIndex, Link, Neighbour, NeighbourKey, Nexthop, NexthopId,
    Op, Peer, PeerKey, Route, RouteKey,
};

/// All links by their numbers.
pub type Links = BTreeMap<IfIndex, Link>;

/// All nexthop objects, other programs' included: their numbers are taken. `None` for the kinds that are none of ours.
pub type Nexthops = BTreeMap<NexthopId, Option<Nexthop>>;

/// The objects of every kind beside the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// Addresses of the VXLAN device.
    pub addresses: BTreeMap<AddressKey, Address>,
    /// FDB entries of the VXLAN device.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// Neighbours on the VXLAN device.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// Peers of the WireGuard device.
    pub peers: BTreeMap<PeerKey, Peer>,
    /// Nexthop objects.
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Route>,
}

/// Names of objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// Addresses.
    pub addresses: BTreeSet<AddressKey>,
    /// FDB entries.
    pub fdb: BTreeSet<FdbKey>,
    /// Neighbours.
    pub neighbours: BTreeSet<NeighbourKey>,
    /// Peers.
    pub peers: BTreeSet<PeerKey>,
    /// Nexthop objects.
    pub nexthops: BTreeSet<NexthopId>,
    /// Routes.
    pub routes: BTreeSet<RouteKey>,
}

impl Keys {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.addresses.len()
            + self.fdb.len()
            + self.neighbours.len()
            + self.peers.len()
            + self.nexthops.len()
            + self.routes.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// These names, too.
    pub fn extend(&mut self, more: Self) {
        self.addresses.extend(more.addresses);
        self.fdb.extend(more.fdb);
        self.neighbours.extend(more.neighbours);
        self.peers.extend(more.peers);
        self.nexthops.extend(more.nexthops);
        self.routes.extend(more.routes);
    }

    /// The names of these objects, too.
    pub fn include(&mut self, objects: &Objects) {
        self.addresses.extend(objects.addresses.keys());
        self.fdb.extend(objects.fdb.keys());
        self.neighbours.extend(objects.neighbours.keys());
        self.peers.extend(objects.peers.keys());
        self.nexthops.extend(objects.nexthops.keys());
        self.routes.extend(objects.routes.keys());
    }
}

impl Objects {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.addresses.len()
            + self.fdb.len()
            + self.neighbours.len()
            + self.peers.len()
            + self.nexthops.len()
            + self.routes.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of these names.
    #[must_use]
    pub fn only(&self, keys: &Keys) -> Self {
        Self {
            addresses: only(&self.addresses, &keys.addresses),
            fdb: only(&self.fdb, &keys.fdb),
            neighbours: only(&self.neighbours, &keys.neighbours),
            peers: only(&self.peers, &keys.peers),
            nexthops: only(&self.nexthops, &keys.nexthops),
            routes: only(&self.routes, &keys.routes),
        }
    }

    /// Puts `part` in the place of all objects of these names.
    pub fn replace(&mut self, keys: &Keys, part: Self) {
        replace(&mut self.addresses, &keys.addresses, part.addresses);
        replace(&mut self.fdb, &keys.fdb, part.fdb);
        replace(&mut self.neighbours, &keys.neighbours, part.neighbours);
        replace(&mut self.peers, &keys.peers, part.peers);
        replace(&mut self.nexthops, &keys.nexthops, part.nexthops);
        replace(&mut self.routes, &keys.routes, part.routes);
    }

    /// These, too.
    pub fn extend(&mut self, more: Self) {
        self.addresses.extend(more.addresses);
        self.fdb.extend(more.fdb);
        self.neighbours.extend(more.neighbours);
        self.peers.extend(more.peers);
        self.nexthops.extend(more.nexthops);
        self.routes.extend(more.routes);
    }

    /// What is missing, another or too much here, compared with `desired`.
    pub fn differing(&self, desired: &Self) -> Keys {
        Keys {
            addresses: differing(&self.addresses, &desired.addresses),
            fdb: differing(&self.fdb, &desired.fdb),
            neighbours: differing(&self.neighbours, &desired.neighbours),
            peers: differing(&self.peers, &desired.peers),
            nexthops: differing(&self.nexthops, &desired.nexthops),
            routes: differing(&self.routes, &desired.routes),
        }
    }

    /// Moves by what the kernel has done, all of it. What is put is put at once.
    pub fn did_all(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::PutFdb(..) | Op::PutNeighbour(..) | Op::PutNexthop(..) | Op::AddNexthop(..) => {}
                Op::PutRoute(..) | Op::AddRoute(..) => {}
                op => self.did(op),
            }
        }
        put(&mut self.fdb, ops, |op| match op {
            Op::PutFdb(key, value) => Some((*key, *value)),
            _ => None,
        });
        put(&mut self.neighbours, ops, |op| match op {
            Op::PutNeighbour(key, value) => Some((*key, *value)),
            _ => None,
        });
        put(&mut self.nexthops, ops, |op| match op {
            Op::PutNexthop(id, value) | Op::AddNexthop(id, value) => Some((*id, *value)),
            _ => None,
        });
        put(&mut self.routes, ops, |op| match op {
            Op::PutRoute(key, value) | Op::AddRoute(key, value) => Some((*key, *value)),
            _ => None,
        });
    }

    /// Moves by what the kernel has done.
    pub fn did(&mut self, op: &Op) {
        match op {
            Op::PutAddress(key, value) => drop(self.addresses.insert(*key, *value)),
            Op::DeleteAddress(key) => drop(self.addresses.remove(key)),
            Op::PutFdb(key, value) => drop(self.fdb.insert(*key, *value)),
            Op::DeleteFdb(key, _) => drop(self.fdb.remove(key)),
            Op::PutNeighbour(key, value) => drop(self.neighbours.insert(*key, *value)),
            Op::DeleteNeighbour(key) => drop(self.neighbours.remove(key)),
            Op::PutNexthop(id, value) | Op::AddNexthop(id, value) => drop(self.nexthops.insert(*id, *value)),
            Op::DeleteNexthop(id) => drop(self.nexthops.remove(id)),
            Op::PutRoute(key, value) | Op::AddRoute(key, value) => drop(self.routes.insert(*key, *value)),
            Op::DeleteRoute(key) => drop(self.routes.remove(key)),
            Op::PutPeer(key, value) => drop(self.peers.insert(*key, value.clone())),
            Op::DeletePeer(key) => drop(self.peers.remove(key)),
            // Links are not among the objects.
            Op::AddVxlan(_) | Op::SetLink(..) | Op::DeleteLink(_) => {}
            Op::AddWireguard(_) | Op::SetWireguard(..) => {}
        }
    }
}

/// Thousands in order are put into a map faster at once than one by one.
fn put<K: Ord, V>(all: &mut BTreeMap<K, V>, ops: &[Op], of: impl Fn(&Op) -> Option<(K, V)>) {
    all.append(&mut ops.iter().filter_map(of).collect());
}

fn only<K: Ord + Copy, V: Clone>(all: &BTreeMap<K, V>, keys: &BTreeSet<K>) -> BTreeMap<K, V> {
    keys.iter().filter_map(|key| Some((*key, all.get(key)?.clone()))).collect()
}

fn replace<K: Ord + Copy, V>(all: &mut BTreeMap<K, V>, keys: &BTreeSet<K>, part: BTreeMap<K, V>) {
    for key in keys.iter().filter(|key| !part.contains_key(key)) {
        all.remove(key);
    }
    all.extend(part);
}

fn differing<K: Ord + Copy, V: Clone + PartialEq>(
    observed: &BTreeMap<K, V>,
    desired: &BTreeMap<K, V>,
) -> BTreeSet<K> {
    let Delta { put, delete } = Delta::between(desired, observed);
    put.into_iter().chain(delete).map(|(key, _)| key).collect()
}
