//! Which objects the kernel has refused, and when each may be tried again: pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ferrule_model::{AddressKey, FdbKey, IfIndex, NeighbourKey, Op, PeerKey, RouteKey};

use crate::decide::objects::{Keys, Objects};

/// The first wait after a refusal.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait. The full comparison looks at everything this often anyway.
const LONGEST: Duration = crate::decide::drift::FULL_DIFF;

/// One of our devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The VXLAN device.
    Vxlan,
    /// The second VXLAN device, if IPv6 has one of its own.
    Vxlan6,
    /// The WireGuard device.
    Wireguard,
}

/// Identifies an object over several passes. A nexthop object is identified by its content, because its number may be
/// different the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A link.
    Link(IfIndex),
    /// A device, whether or not it has a number.
    Device(Which),
    /// An address.
    Address(AddressKey),
    /// An FDB entry.
    Fdb(FdbKey),
    /// A neighbour.
    Neighbour(NeighbourKey),
    /// A nexthop object.
    Nexthop(IfIndex, IpAddr),
    /// A nexthop object of which nothing but the number is known.
    StrangeNexthop(u32),
    /// A peer.
    Peer(PeerKey),
    /// A route.
    Route(RouteKey),
}

/// The refused objects.
#[derive(Debug, Default)]
pub struct Backoff(BTreeMap<Key, Retry>);

#[derive(Debug)]
struct Retry {
    wait: Duration,
    due: Instant,
    object: String,
    reason: String,
}

/// An object that the kernel has refused, described for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which object it is.
    pub key: Key,
    /// As in `route 10.244.2.0/24`.
    pub object: String,
    /// The kernel's own words, and what a person can do.
    pub reason: String,
    /// When it is tried again.
    pub due: Instant,
}

impl Key {
    /// The object that `op` changes.
    pub fn of(op: &Op, observed: &Objects) -> Self {
        match op {
            Op::AddVxlan(_) => Self::Device(Which::Vxlan),
            Op::AddWireguard(_) => Self::Device(Which::Wireguard),
            Op::SetLink(link, _) | Op::DeleteLink(link) | Op::SetWireguard(link, _) => Self::Link(*link),
            Op::PutPeer(key, _) | Op::DeletePeer(key) => Self::Peer(*key),
            Op::PutAddress(key, _) | Op::DeleteAddress(key) => Self::Address(*key),
            Op::PutFdb(key, _) | Op::DeleteFdb(key, _) => Self::Fdb(*key),
            Op::PutNeighbour(key, _) | Op::DeleteNeighbour(key) => Self::Neighbour(*key),
            Op::PutNexthop(_, nexthop) | Op::AddNexthop(_, nexthop) => {
                Self::Nexthop(nexthop.link, nexthop.gateway)
            }
            Op::DeleteNexthop(id) => match observed.nexthops.get(id) {
                Some(nexthop) => Self::Nexthop(nexthop.link, nexthop.gateway),
                None => Self::StrangeNexthop(id.0),
            },
            Op::PutRoute(key, _) | Op::AddRoute(key, _) | Op::DeleteRoute(key) => Self::Route(*key),
        }
    }
}

impl Backoff {
    /// Nothing is refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the object may be tried at `now`.
    pub fn allows(&self, key: &Key, now: Instant) -> bool {
        self.0.get(key).is_none_or(|retry| retry.due <= now)
    }

    /// The kernel refused the object. It has to wait twice as long as the last time.
    pub fn refused(&mut self, key: Key, now: Instant) {
        let wait = self.0.get(&key).map_or(FIRST, |retry| (retry.wait * 2).min(LONGEST));
        let (object, reason) = (String::new(), String::new());
        self.0.insert(key, Retry { wait, due: now + wait, object, reason });
    }

    /// Records what was refused and why, for those who ask.
    pub fn explain(&mut self, key: &Key, object: String, reason: String) {
        if let Some(retry) = self.0.get_mut(key) {
            (retry.object, retry.reason) = (object, reason);
        }
    }

    /// All refused objects.
    pub fn refused_objects(&self) -> impl Iterator<Item = Refused> {
        self.0.iter().map(|(key, retry)| Refused {
            key: *key,
            object: retry.object.clone(),
            reason: retry.reason.clone(),
            due: retry.due,
        })
    }

    /// The kernel accepted the object.
    pub fn accepted(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Something changed that may make the kernel accept what it refused: everything may be tried at once.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// These objects are wanted in another form than before, so they may be tried at once. `objects` holds the
    /// nexthops.
    pub fn forget_these(&mut self, keys: &Keys, objects: [&Objects; 2]) {
        if self.0.is_empty() {
            return;
        }
        let hops = keys.nexthops.iter().flat_map(|id| objects.map(|objects| objects.nexthops.get(id)));
        let hops = hops.flatten().map(|hop| Key::Nexthop(hop.link, hop.gateway));
        let others = keys.addresses.iter().map(|key| Key::Address(*key));
        let others = others.chain(keys.fdb.iter().map(|key| Key::Fdb(*key)));
        let others = others.chain(keys.neighbours.iter().map(|key| Key::Neighbour(*key)));
        let others = others.chain(keys.peers.iter().map(|key| Key::Peer(*key)));
        let others = others.chain(keys.routes.iter().map(|key| Key::Route(*key)));
        for key in others.chain(hops) {
            self.0.remove(&key);
        }
    }

    /// A walk ended at `now`. An object that was due and was not refused again is no longer wanted, or waits for
    /// something else.
    pub fn walked(&mut self, now: Instant) {
        self.0.retain(|_, retry| retry.due > now);
    }

    /// When the next refused object may be tried.
    pub fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|retry| retry.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_doubles_the_wait_up_to_the_longest() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let mut waits = Vec::new();
        let mut now = start;
        for _ in 0..7 {
            backoff.refused(Key::Device(Which::Vxlan), now);
            assert!(!backoff.allows(&Key::Device(Which::Vxlan), now));
            let due = backoff.next_due().unwrap();
            assert!(backoff.allows(&Key::Device(Which::Vxlan), due));
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn another_object_does_not_wait_and_an_accepted_one_starts_afresh() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        backoff.refused(Key::Device(Which::Vxlan), now);
        assert!(backoff.allows(&Key::Link(IfIndex(1)), now));
        backoff.accepted(&Key::Device(Which::Vxlan));
        assert!(backoff.allows(&Key::Device(Which::Vxlan), now));
        assert_eq!(backoff.next_due(), None);
    }
}
