//! One change of the kernel's state, as a value. The pure rooms make it, and `ferrule-netlink` carries it out.

use crate::{
    Address, AddressKey, FdbEntry, FdbKey, IfIndex, Mac, Neighbour, NeighbourKey, Nexthop, NexthopId, Peer,
    PeerKey, Route, RouteKey, VxlanSpec, WireguardSettings, WireguardSpec,
};

/// One change. `Put` makes an object, or replaces the one that has its key. `Delete` of an object that is not there is
/// an error, and the caller decides what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Make a VXLAN device, switched on.
    AddVxlan(VxlanSpec),
    /// Change a link.
    SetLink(IfIndex, LinkChange),
    /// Delete a link. A veth's other end goes with it.
    DeleteLink(IfIndex),
    /// Put an address on a link.
    PutAddress(AddressKey, Address),
    /// Take an address from a link.
    DeleteAddress(AddressKey),
    /// Make or replace a nexthop object.
    PutNexthop(NexthopId, Nexthop),
    /// Make a nexthop object. Its number must be free.
    AddNexthop(NexthopId, Nexthop),
    /// Delete a nexthop object; the kernel deletes its routes with it.
    DeleteNexthop(NexthopId),
    /// Make or replace a route.
    PutRoute(RouteKey, Route),
    /// Make a route. There must be no route with its key, of whatever protocol.
    AddRoute(RouteKey, Route),
    /// Delete a route of ours (the protocol is part of the request).
    DeleteRoute(RouteKey),
    /// Make or replace a neighbour.
    PutNeighbour(NeighbourKey, Neighbour),
    /// Delete a neighbour.
    DeleteNeighbour(NeighbourKey),
    /// Make or replace an FDB entry of a VXLAN device.
    PutFdb(FdbKey, FdbEntry),
    /// Delete an FDB entry.
    DeleteFdb(FdbKey, FdbEntry),
    /// Make a WireGuard device, switched off.
    AddWireguard(WireguardSpec),
    /// Give a WireGuard device its key and port.
    SetWireguard(IfIndex, WireguardSettings),
    /// Make or replace a peer of a WireGuard device.
    PutPeer(PeerKey, Peer),
    /// Remove a peer. It is not an error if there is none.
    DeletePeer(PeerKey),
}

/// What to change about a link. `None` leaves a property as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// `IFF_UP`.
    pub up: Option<bool>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<Mac>,
    /// The alias, which people and programs read.
    pub alias: Option<String>,
}

/// What an [`Op`] does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Makes, replaces or alters it.
    Put,
    /// Removes it.
    Delete,
}

impl Op {
    /// Whether the operation makes or removes its object.
    pub const fn change(&self) -> Change {
        match self {
            Self::AddVxlan(_)
            | Self::SetLink(..)
            | Self::PutAddress(..)
            | Self::PutNexthop(..)
            | Self::AddNexthop(..)
            | Self::PutRoute(..)
            | Self::AddRoute(..)
            | Self::PutNeighbour(..)
            | Self::PutFdb(..)
            | Self::AddWireguard(_)
            | Self::SetWireguard(..)
            | Self::PutPeer(..) => Change::Put,
            Self::DeleteLink(_)
            | Self::DeleteAddress(_)
            | Self::DeleteNexthop(_)
            | Self::DeleteRoute(_)
            | Self::DeleteNeighbour(_)
            | Self::DeleteFdb(..)
            | Self::DeletePeer(_) => Change::Delete,
        }
    }
}

impl std::fmt::Display for Op {
    /// Written as a command for `ip(8)`, `bridge(8)` or `wg(8)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddVxlan(spec) => write!(f, "link add {} type vxlan id {}", spec.name, spec.vxlan.vni),
            Self::SetLink(link, change) => write!(f, "link set dev {link}{change}"),
            Self::DeleteLink(link) => write!(f, "link del dev {link}"),
            Self::PutAddress(key, _) => write!(f, "addr add {} dev {}", key.prefix, key.link),
            Self::DeleteAddress(key) => write!(f, "addr del {} dev {}", key.prefix, key.link),
            Self::PutNexthop(id, nh) => {
                write!(f, "nexthop replace id {} via {} dev {}", id.0, nh.gateway, nh.link)
            }
            Self::AddNexthop(id, nh) => {
                write!(f, "nexthop add id {} via {} dev {}", id.0, nh.gateway, nh.link)
            }
            Self::DeleteNexthop(id) => write!(f, "nexthop del id {}", id.0),
            Self::PutRoute(key, _) => write!(f, "route replace {} table {}", key.dst, key.table),
            Self::AddRoute(key, _) => write!(f, "route add {} table {}", key.dst, key.table),
            Self::DeleteRoute(key) => write!(f, "route del {} table {}", key.dst, key.table),
            Self::PutNeighbour(key, _) => write!(f, "neigh replace {} dev {}", key.address, key.link),
            Self::DeleteNeighbour(key) => write!(f, "neigh del {} dev {}", key.address, key.link),
            Self::PutFdb(key, fdb) => write!(f, "fdb replace {} dev {} dst {}", key.mac, key.link, fdb.dst),
            Self::DeleteFdb(key, fdb) => write!(f, "fdb del {} dev {} dst {}", key.mac, key.link, fdb.dst),
            Self::AddWireguard(spec) => write!(f, "link add {} type wireguard", spec.name),
            Self::SetWireguard(link, settings) => {
                write!(f, "wg set {link} listen-port {} private-key ...", settings.port)
            }
            Self::PutPeer(key, _) => write!(f, "wg set {} peer {}", key.link, key.key),
            Self::DeletePeer(key) => write!(f, "wg set {} peer {} remove", key.link, key.key),
        }
    }
}

impl std::fmt::Display for LinkChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        if let Some(alias) = &self.alias {
            write!(f, " alias {alias:?}")?;
        }
        match self.up {
            Some(true) => f.write_str(" up"),
            Some(false) => f.write_str(" down"),
            None => Ok(()),
        }
    }
}
