//! What is wanted in the kernel, before nexthop objects have numbers: the parts of single nodes, and all of them
//! together. What the parts are is worked out in [`crate::decide::desired`].

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use ferrule_model::{
    Address, AddressKey, Family, FdbEntry, FdbKey, IfIndex, Neighbour, NeighbourKey, Nexthop, PROTOCOL, Peer,
    PeerKey, RouteKey, family, ordinal,
};

use crate::decide::desired::{Skipped, Why};
use crate::decide::kinds::for_kinds;
use crate::decide::nodes::Node;

/// Where a wanted route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: the kernel refuses packets to the destination.
    Unreachable,
    /// To the nexthop object of this gateway and link.
    Hop(HopKey),
    /// The same, but the route itself names gateway and link, because other nodes may have the same next hop.
    Via(HopKey),
    /// Out of this link, which finds the way itself.
    Link(IfIndex),
}

/// A nexthop object without its number. Ordered by link and gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopKey {
    /// The link.
    pub link: IfIndex,
    /// The next hop.
    pub gateway: IpAddr,
}

impl HopKey {
    /// The key of this object.
    pub fn of(nexthop: &Nexthop) -> Self {
        Self { link: nexthop.link, gateway: nexthop.gateway }
    }
}

/// Hashes the gateway alone, in one step, because there are few links.
impl Hash for HopKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(ordinal(self.gateway).1);
    }
}

impl Ord for HopKey {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.link, ordinal(self.gateway)).cmp(&(other.link, ordinal(other.gateway)))
    }
}

impl PartialOrd for HopKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

macro_rules! wanted {
    ($($(#[$doc:meta])* $field:ident $kind:ident $name:literal: $key:ty => $value:ty, wanted $hop:ty => $target:ty;)*) => {
        /// Everything that should be there beside the devices.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Wanted {
            $($(#[$doc])* pub $field: BTreeMap<$hop, $target>,)*
            /// What is left out, and why.
            pub skipped: Vec<Skipped>,
            /// Whether nodes claim the same, so that what one of them gets depends on the others.
            pub clashes: bool,
        }

        /// The parts of nodes before they are sorted. Sorting thousands of them in one go is faster than sorting each
        /// in.
        #[derive(Debug, Default)]
        pub(super) struct Pieces {
            $(pub(super) $field: Vec<($hop, $target)>,)*
            pub(super) skipped: Vec<Skipped>,
        }

        impl Pieces {
            fn len(&self) -> usize {
                [$(self.$field.len()),*].iter().sum()
            }

            /// Collects the parts, one after another, in order.
            fn collect(self) -> Wanted {
                Wanted { $($field: self.$field.into_iter().collect(),)* skipped: self.skipped, clashes: false }
            }
        }

        impl Wanted {
            fn len(&self) -> usize {
                [$(self.$field.len()),*].iter().sum()
            }

            fn has_any_of(&self, part: &Self) -> bool {
                $(part.$field.keys().any(|key| self.$field.contains_key(key)))||*
            }

            fn extend(&mut self, part: Self) {
                $(self.$field.extend(part.$field);)*
                self.skipped.extend(part.skipped);
            }
        }
    };
}

for_kinds!(wanted);

impl Pieces {
    pub(super) fn reach(&mut self, node: &Node, family: Family, hop: HopKey, onlink: bool) {
        let HopKey { link, gateway } = hop;
        self.nexthops.push((hop, Nexthop { gateway, link, onlink, protocol: PROTOCOL }));
        for cidr in node.pod_cidrs_of(family) {
            self.routes.push((RouteKey::main(cidr), Target::Hop(hop)));
        }
    }

    pub(super) fn skip(&mut self, node: &Node, of: Family, why: Why) {
        let cidrs = node.pod_cidrs.iter().copied().filter(|cidr| family(cidr) == of).collect();
        self.skipped.push(Skipped { node: node.name.clone(), cidrs, why });
    }

    /// All parts in order.
    pub(super) fn sorted(mut self) -> Wanted {
        // The maps sort as well, but find little left to do. Sorted here, each entry is moved once, and only short keys
        // are compared.
        self.fdb.sort_by_cached_key(|(key, _)| key.mac);
        self.neighbours.sort_by_cached_key(|(key, _)| ordinal(key.address).1);
        self.nexthops.sort_by_cached_key(|(key, _)| ordinal(key.gateway).1);
        self.routes.sort_by_cached_key(|(key, _)| ordinal(key.dst.ip()).1);
        self.collect()
    }

    /// The same; `None` if a piece is there twice.
    pub(super) fn distinct(self) -> Option<Wanted> {
        let count = self.len();
        let wanted = self.sorted();
        (wanted.len() == count).then_some(wanted)
    }
}

impl Wanted {
    /// Adds the part of `node`, unless some of it is taken.
    pub(super) fn take(&mut self, node: &Node, part: Self) {
        if self.has_any_of(&part) {
            self.clashes = true;
            self.skipped.push(Skipped {
                node: node.name.clone(),
                cidrs: node.pod_cidrs.clone(),
                why: Why::Clash,
            });
            return;
        }
        self.extend(part);
    }
}
