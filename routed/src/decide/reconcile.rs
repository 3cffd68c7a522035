//! Walks from what is there to what should be, in a safe order: sans I/O.
//!
//! A [`Pass`] hands out batches of [`Op`]s and is told what the kernel answered to each op. Additions come before
//! deletions. An object is made only when what it needs is there, and removed only when nothing that is there needs it.
//! So a destination that is in the old state and in the new one keeps a route all the way, whatever the kernel refuses.
//! "Observed" changes only after the kernel said yes.
//!
//! A pass over some of the objects is a pass over two parts: `desired` and `observed`, cut down to the same keys. That
//! is as safe as a pass over all of them, as long as the rest is as it should be: a desired object never needs one that
//! is not desired.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ferrule_model::{
    Address, AddressKey, Delta, FdbEntry, FdbKey, IpNetwork, Neighbour, NeighbourKey, Nexthop, NexthopId, Op,
    Peer, PeerKey, Refusal, Route, RouteKey, RouteKind, Via, ordinal,
};

use crate::decide::backoff::{Backoff, Key};
use crate::decide::kinds::{Kind, for_kinds};
use crate::decide::objects::{Keys, Objects};

/// The batches of a pass, in their order.
const STAGES: [Stage; 13] = [
    Stage::Put(Kind::Addresses),
    Stage::FreeGateways,
    Stage::Put(Kind::Fdb),
    Stage::Put(Kind::Neighbours),
    Stage::Put(Kind::Peers),
    Stage::Put(Kind::Nexthops),
    Stage::Put(Kind::Routes),
    Stage::Delete(Kind::Routes),
    Stage::Delete(Kind::Peers),
    Stage::Delete(Kind::Nexthops),
    Stage::Delete(Kind::Neighbours),
    Stage::Delete(Kind::Fdb),
    Stage::Delete(Kind::Addresses),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Put(Kind),
    /// Addresses of this node that are to be other nodes' are removed before anything leads to them.
    FreeGateways,
    Delete(Kind),
}

/// One walk from observed to desired.
#[derive(Debug)]
pub struct Pass<'a> {
    desired: &'a Objects,
    observed: Objects,
    known: Option<&'a Objects>,
    backoff: &'a mut Backoff,
    now: Instant,
    stage: usize,
    excess: Excess,
    /// How many objects were found to be missing, different or too much, and still are.
    open: usize,
}

macro_rules! excess {
    ($($(#[$doc:meta])* $field:ident $kind:ident $name:literal: $key:ty => $value:ty, wanted $hop:ty => $target:ty;)*) => {
        /// What is there and not desired. The one comparison of each kind finds it, and it is kept here until it can
        /// go.
        #[derive(Debug, Default)]
        struct Excess {
            $($field: Vec<($key, $value)>,)*
        }
    };
}

for_kinds!(excess);

fn hop_of(route: &Route) -> Option<NexthopId> {
    match route.kind {
        RouteKind::Unicast(Via::Nexthop(id)) => Some(id),
        RouteKind::Unicast(Via::Gateway { .. } | Via::Link(_)) | RouteKind::Unreachable => None,
    }
}

fn leaves_by_link(route: &Route) -> bool {
    matches!(route.kind, RouteKind::Unicast(Via::Link(_)))
}

impl<'a> Pass<'a> {
    /// A walk from `observed` to `desired`, at `now`. Refused keys are left alone until `backoff` allows them. A new
    /// route must not replace another program's. It may do so if ours had the place in `known`, which is what the last
    /// pass left.
    pub fn new(
        desired: &'a Objects,
        observed: Objects,
        known: Option<&'a Objects>,
        backoff: &'a mut Backoff,
        now: Instant,
    ) -> Self {
        Self { desired, observed, known, backoff, now, stage: 0, excess: Excess::default(), open: 0 }
    }

    /// What is there now, as far as the kernel has answered.
    pub fn observed(&self) -> &Objects {
        &self.observed
    }

    /// The next batch, never empty; `None` at the end of the walk. [`Pass::answered`] must follow each.
    pub fn next_batch(&mut self) -> Option<Vec<Op>> {
        while let Some(stage) = STAGES.get(self.stage) {
            self.stage += 1;
            let mut ops = self.stage_ops(*stage);
            if !self.backoff.is_empty() {
                ops.retain(|op| self.backoff.allows(&Key::of(op, &self.observed), self.now));
            }
            if !ops.is_empty() {
                return Some(ops);
            }
        }
        None
    }

    /// Takes the kernel's answer to each op of the last batch. Returns the ops that it refused.
    pub fn answered(&mut self, ops: Vec<Op>, answers: Vec<Result<(), Refusal>>) -> Vec<(Op, Refusal)> {
        let mut refused = Vec::new();
        if self.backoff.is_empty() && answers.iter().all(Result::is_ok) {
            self.open -= ops.len();
            self.observed.did_all(&ops);
            return refused;
        }
        for (op, answer) in ops.into_iter().zip(answers) {
            let key = Key::of(&op, &self.observed);
            match answer {
                Err(refusal) if !is_gone(&op, &refusal) => {
                    self.backoff.refused(key, self.now);
                    refused.push((op, refusal));
                }
                Ok(()) | Err(_) => {
                    self.open -= 1;
                    self.backoff.accepted(&key);
                    self.observed.did(&op);
                }
            }
        }
        refused
    }

    /// Records what was refused and why, for those who ask.
    pub fn explain(&mut self, op: &Op, object: String, reason: String) {
        let key = Key::of(op, &self.observed);
        self.backoff.explain(&key, object, reason);
    }

    /// Ends the walk. Returns what is there, and the names of what is not as desired.
    pub fn finish(self) -> (Objects, Keys) {
        let differing = if self.open == 0 { Keys::default() } else { self.observed.differing(self.desired) };
        debug_assert_eq!(self.open == 0, self.observed.differing(self.desired).is_empty());
        (self.observed, differing)
    }

    /// What is missing or different, of one kind. What is too much goes to `excess`. Only the two stages of this kind
    /// change that later.
    fn missing<K: Ord + Clone, V: PartialEq + Clone>(
        open: &mut usize,
        desired: &BTreeMap<K, V>,
        observed: &BTreeMap<K, V>,
        excess: &mut Vec<(K, V)>,
    ) -> Vec<(K, V)> {
        let Delta { put, delete } = Delta::between(desired, observed);
        *open += put.len() + delete.len();
        *excess = delete;
        put
    }

    fn stage_ops(&mut self, stage: Stage) -> Vec<Op> {
        let (open, excess) = (&mut self.open, &mut self.excess);
        let (want, have) = (self.desired, &self.observed);
        match stage {
            Stage::Put(Kind::Addresses) => {
                let put = Self::missing(open, &want.addresses, &have.addresses, &mut excess.addresses);
                put.into_iter().map(|(key, value)| Op::PutAddress(key, value)).collect()
            }
            Stage::FreeGateways => self.addresses_of_gateways(),
            Stage::Put(Kind::Fdb) => {
                let put = Self::missing(open, &want.fdb, &have.fdb, &mut excess.fdb);
                put.into_iter().map(|(key, value)| Op::PutFdb(key, value)).collect()
            }
            Stage::Put(Kind::Neighbours) => {
                let put = Self::missing(open, &want.neighbours, &have.neighbours, &mut excess.neighbours);
                let all = want.fdb == have.fdb;
                let ready = put.into_iter().filter(|(key, value)| all || self.has_fdb_for(key, value));
                ready.map(|(key, value)| Op::PutNeighbour(key, value)).collect()
            }
            Stage::Put(Kind::Peers) => {
                let put = Self::missing(open, &want.peers, &have.peers, &mut excess.peers);
                put.into_iter().map(|(key, value)| Op::PutPeer(key, value)).collect()
            }
            Stage::Put(Kind::Nexthops) => {
                let put = Self::missing(open, &want.nexthops, &have.nexthops, &mut excess.nexthops);
                self.put_nexthops(put)
            }
            Stage::Put(Kind::Routes) => {
                let put = Self::missing(open, &want.routes, &have.routes, &mut excess.routes);
                self.put_routes(put)
            }
            Stage::Delete(Kind::Routes) => {
                let delete = std::mem::take(&mut excess.routes);
                delete.into_iter().map(|(key, _)| Op::DeleteRoute(key)).collect()
            }
            Stage::Delete(Kind::Peers) => self.unused_peers(),
            Stage::Delete(Kind::Nexthops) => self.unused_nexthops(),
            Stage::Delete(Kind::Neighbours) => self.unused_neighbours(),
            Stage::Delete(Kind::Fdb) => self.unused_fdb(),
            Stage::Delete(Kind::Addresses) => {
                let delete = std::mem::take(&mut excess.addresses);
                delete.into_iter().map(|(key, _)| Op::DeleteAddress(key)).collect()
            }
        }
    }

    /// An address that this node had and another node has now. The kernel does not accept it as a gateway while it is
    /// on this node. No packet needs the address here: it only tells our device apart from the others.
    fn addresses_of_gateways(&mut self) -> Vec<Op> {
        if self.excess.addresses.is_empty() {
            return Vec::new();
        }
        let gateways: BTreeSet<_> = self.desired.nexthops.values().map(|hop| ordinal(hop.gateway)).collect();
        let is_gateway = |(key, _): &(AddressKey, Address)| gateways.contains(&ordinal(key.prefix.ip()));
        let (now, later) = std::mem::take(&mut self.excess.addresses).into_iter().partition(is_gateway);
        self.excess.addresses = later;
        let now: Vec<(AddressKey, Address)> = now;
        now.into_iter().map(|(key, _)| Op::DeleteAddress(key)).collect()
    }

    fn put_nexthops(&self, put: Vec<(NexthopId, Nexthop)>) -> Vec<Op> {
        let (want, have) = (self.desired, &self.observed);
        let all = want.neighbours == have.neighbours;
        let ready = put.into_iter().filter(|(_, value)| all || self.has_neighbour_for(value));
        let is_there = |id: &NexthopId| have.nexthops.contains_key(id);
        let op = |(id, hop)| if is_there(&id) { Op::PutNexthop(id, hop) } else { Op::AddNexthop(id, hop) };
        ready.map(op).collect()
    }

    fn put_routes(&self, put: Vec<(RouteKey, Route)>) -> Vec<Op> {
        let (want, have) = (self.desired, &self.observed);
        let (all, lone) = (want.nexthops == have.nexthops, self.networks_without_peer());
        let ready = put.into_iter().filter(|(key, route)| {
            (all || self.has_nexthop_for(route)) && !(leaves_by_link(route) && lone.contains(&key.dst))
        });
        let was_ours = |key: &RouteKey| self.known.is_some_and(|known| known.routes.contains_key(key));
        let op = |(key, route)| {
            if have.routes.contains_key(&key) || was_ours(&key) {
                Op::PutRoute(key, route)
            } else {
                Op::AddRoute(key, route)
            }
        };
        ready.map(op).collect()
    }

    /// Whether the FDB entry for its MAC is there as wanted, if one is wanted.
    fn has_fdb_for(&self, key: &NeighbourKey, value: &Neighbour) -> bool {
        let Some(mac) = value.mac else { return true };
        let fdb = FdbKey { link: key.link, mac };
        self.desired.fdb.get(&fdb).is_none_or(|entry| self.observed.fdb.get(&fdb) == Some(entry))
    }

    fn has_neighbour_for(&self, nexthop: &Nexthop) -> bool {
        let key = NeighbourKey { link: nexthop.link, address: nexthop.gateway };
        let wanted = self.desired.neighbours.get(&key);
        wanted.is_none_or(|neighbour| self.observed.neighbours.get(&key) == Some(neighbour))
    }

    fn has_nexthop_for(&self, route: &Route) -> bool {
        hop_of(route).is_none_or(|id| self.observed.nexthops.get(&id) == self.desired.nexthops.get(&id))
    }

    /// The networks that are to lead to a peer which is missing or different.
    fn networks_without_peer(&self) -> BTreeSet<IpNetwork> {
        let is_missing = |(key, peer): &(&PeerKey, &Peer)| self.observed.peers.get(*key) != Some(*peer);
        let missing = self.desired.peers.iter().filter(is_missing);
        missing.flat_map(|(_, peer)| peer.allowed.iter().copied()).collect()
    }

    /// A peer that goes takes the way of its networks with it, unless they belong to another peer by now.
    fn unused_peers(&mut self) -> Vec<Op> {
        let delete = std::mem::take(&mut self.excess.peers);
        if delete.is_empty() {
            return Vec::new();
        }
        let stay = self.observed.peers.iter().filter(|(key, _)| self.desired.peers.contains_key(*key));
        let served: BTreeSet<_> = stay.flat_map(|(_, peer)| &peer.allowed).collect();
        let is_used = |peer: &Peer| {
            peer.allowed.iter().filter(|network| !served.contains(network)).any(|network| {
                self.observed.routes.get(&RouteKey::main(*network)).is_some_and(leaves_by_link)
            })
        };
        delete.into_iter().filter(|(_, peer)| !is_used(peer)).map(|(key, _)| Op::DeletePeer(key)).collect()
    }

    /// The kernel deletes a nexthop's routes with it. So a nexthop goes only when no route that uses it is left.
    fn unused_nexthops(&mut self) -> Vec<Op> {
        let delete = std::mem::take(&mut self.excess.nexthops);
        let used = || self.observed.routes.values().filter_map(hop_of).collect();
        unused(delete, used).into_iter().map(|(id, _)| Op::DeleteNexthop(id)).collect()
    }

    fn unused_neighbours(&mut self) -> Vec<Op> {
        let delete = std::mem::take(&mut self.excess.neighbours);
        let needs = |nh: &Nexthop| NeighbourKey { link: nh.link, address: nh.gateway };
        let used = || self.observed.nexthops.values().map(needs).collect();
        unused(delete, used).into_iter().map(|(key, _)| Op::DeleteNeighbour(key)).collect()
    }

    fn unused_fdb(&mut self) -> Vec<Op> {
        let delete = std::mem::take(&mut self.excess.fdb);
        let needs =
            |(key, value): (&NeighbourKey, &Neighbour)| Some(FdbKey { link: key.link, mac: value.mac? });
        let used = || self.observed.neighbours.iter().filter_map(needs).collect();
        unused(delete, used).into_iter().map(|(key, entry)| Op::DeleteFdb(key, entry)).collect()
    }
}

/// What is to be deleted and is not `used`. What is used is worked out only if something is to be deleted.
fn unused<K: Ord, V>(mut delete: Vec<(K, V)>, used: impl Fn() -> BTreeSet<K>) -> Vec<(K, V)> {
    if !delete.is_empty() {
        let used = used();
        delete.retain(|(key, _)| !used.contains(key));
    }
    delete
}

/// Whether the kernel says that the object to be deleted is not there: then what was asked for holds.
fn is_gone(op: &Op, refusal: &Refusal) -> bool {
    use nix::errno::Errno;
    op.change() == ferrule_model::Change::Delete
        && matches!(refusal.errno, Errno::ESRCH | Errno::ENOENT | Errno::EADDRNOTAVAIL | Errno::ENODEV)
}
