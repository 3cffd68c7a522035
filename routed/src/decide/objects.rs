//! The objects of every kind beside the device, and sets of them: pure.

use std::collections::{BTreeMap, BTreeSet};

use ferrule_model::{
    Address, AddressKey, Delta, FdbEntry, FdbKey, IfIndex, Link, Neighbour, NeighbourKey, Nexthop, NexthopId,
    Op, Peer, PeerKey, Route, RouteKey,
};

use crate::decide::kinds::{Kind, for_kinds};

/// All links by their numbers.
pub type Links = BTreeMap<IfIndex, Link>;

/// All nexthop objects, including other programs', because their numbers are taken. `None` for kinds that we never
/// make.
pub type Nexthops = BTreeMap<NexthopId, Option<Nexthop>>;

macro_rules! objects {
    ($($(#[$doc:meta])* $field:ident $kind:ident $name:literal: $key:ty => $value:ty, wanted $hop:ty => $target:ty;)*) => {
        /// The objects of every kind beside the devices.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Objects {
            $($(#[$doc])* pub $field: BTreeMap<$key, $value>,)*
        }

        /// Names of objects.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Keys {
            $($(#[$doc])* pub $field: BTreeSet<$key>,)*
        }

        impl Keys {
            /// How many there are of each kind, as [`Kind::ALL`] has them.
            pub fn counts(&self) -> [usize; Kind::ALL.len()] {
                [$(self.$field.len()),*]
            }

            /// Adds these names.
            pub fn extend(&mut self, more: Self) {
                $(self.$field.extend(more.$field);)*
            }

            /// Adds the names of these objects.
            pub fn include(&mut self, objects: &Objects) {
                $(self.$field.extend(objects.$field.keys());)*
            }
        }

        impl Objects {
            /// How many there are of each kind, as [`Kind::ALL`] has them.
            pub fn counts(&self) -> [usize; Kind::ALL.len()] {
                [$(self.$field.len()),*]
            }

            /// The objects that have these names.
            #[must_use]
            pub fn only(&self, keys: &Keys) -> Self {
                Self { $($field: only(&self.$field, &keys.$field),)* }
            }

            /// Replaces all objects of these names by `part`.
            pub fn replace(&mut self, keys: &Keys, part: Self) {
                $(replace(&mut self.$field, &keys.$field, part.$field);)*
            }

            /// Adds these objects.
            pub fn extend(&mut self, more: Self) {
                $(self.$field.extend(more.$field);)*
            }

            /// The names of what is missing, different or too much here, compared with `desired`.
            pub fn differing(&self, desired: &Self) -> Keys {
                Keys { $($field: differing(&self.$field, &desired.$field),)* }
            }
        }
    };
}

for_kinds!(objects);

impl Keys {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.counts().iter().sum()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Objects {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.counts().iter().sum()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Applies what the kernel has done, all of it. What is added is added in one go.
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

    /// Applies what the kernel has done.
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

/// A map takes thousands of sorted entries faster in one go than one by one.
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
