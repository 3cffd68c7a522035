//! The one list of the kinds of objects beside the devices. All code that has a part for each kind is generated from
//! it.

/// Hands all kinds to the macro `$make`, in the order in which they are told. For each kind there is:
///
/// - the name of a field of it, its variant of [`Kind`] and its name in the log;
/// - the type that identifies an object, and the type of the rest of the object;
/// - both types as they are wanted, before nexthop objects have numbers.
macro_rules! for_kinds {
    ($make:ident) => {
        $make! {
            /// Addresses of our devices.
            addresses Addresses "addresses": AddressKey => Address, wanted AddressKey => Address;
            /// FDB entries of the VXLAN devices.
            fdb Fdb "FDB entries": FdbKey => FdbEntry, wanted FdbKey => FdbEntry;
            /// Neighbours on the VXLAN devices.
            neighbours Neighbours "neighbours": NeighbourKey => Neighbour, wanted NeighbourKey => Neighbour;
            /// Peers of the WireGuard device.
            peers Peers "peers": PeerKey => Peer, wanted PeerKey => Peer;
            /// Nexthop objects.
            nexthops Nexthops "nexthops": NexthopId => Nexthop, wanted HopKey => Nexthop;
            /// Routes.
            routes Routes "routes": RouteKey => Route, wanted RouteKey => Target;
        }
    };
}

pub(crate) use for_kinds;

use ferrule_model::Op;

macro_rules! kind {
    ($($(#[$doc:meta])* $field:ident $kind:ident $name:literal: $key:ty => $value:ty, wanted $hop:ty => $target:ty;)*) => {
        /// A kind of objects.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$kind),*];

            /// Its plural in the log.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

for_kinds!(kind);

impl Kind {
    /// The kind of what `op` changes; `None` if that is a device.
    pub const fn of(op: &Op) -> Option<Self> {
        Some(match op {
            Op::AddVxlan(_) | Op::SetLink(..) | Op::DeleteLink(_) => return None,
            Op::AddWireguard(_) | Op::SetWireguard(..) => return None,
            Op::PutPeer(..) | Op::DeletePeer(_) => Self::Peers,
            Op::PutAddress(..) | Op::DeleteAddress(_) => Self::Addresses,
            Op::PutFdb(..) | Op::DeleteFdb(..) => Self::Fdb,
            Op::PutNeighbour(..) | Op::DeleteNeighbour(_) => Self::Neighbours,
            Op::PutNexthop(..) | Op::AddNexthop(..) | Op::DeleteNexthop(_) => Self::Nexthops,
            Op::PutRoute(..) | Op::AddRoute(..) | Op::DeleteRoute(_) => Self::Routes,
        })
    }
}
