//! The links that carry packets between the nodes, as they are now: pure. They are found by [`crate::pass::observe`].

use std::net::IpAddr;

use ferrule_model::{Family, IfIndex, IpNetwork, Link, LinkKind};

use crate::decide::nodes::Node;

/// The link that carries packets between the nodes in one family, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// The link that holds this node's address.
    pub link: IfIndex,
    /// That address.
    pub address: IpAddr,
    /// The length of its prefix: what lies in that network is on the link.
    pub prefix_len: u8,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Switched on and connected: it takes routes.
    pub usable: bool,
    /// It has the address and nothing else, as `lo` does: packets leave by other links.
    pub holds: bool,
}

/// The uplinks, one a family at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Underlay {
    /// For IPv4.
    pub v4: Option<Uplink>,
    /// For IPv6.
    pub v6: Option<Uplink>,
}

impl Underlay {
    /// The uplink of `family`.
    pub fn of(&self, family: Family) -> Option<Uplink> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The one that carries the tunnels of `own`: IPv4 if the node has an IPv4 address, whether or not it is there now.
    pub fn tunnel(&self, own: &Node) -> Option<Uplink> {
        if own.v4.is_some() { self.v4 } else { self.v6 }
    }

    /// Takes a link with the node's address, unless there is one already that is as good: one that is off carries nothing,
    /// whatever address it was left with.
    pub fn offer(&mut self, uplink: Uplink) {
        let place = match Family::of(uplink.address) {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        if place.is_none_or(|known| uplink.usable && !known.usable) {
            *place = Some(uplink);
        }
    }

    /// All there are.
    pub fn all(&self) -> impl Iterator<Item = Uplink> {
        [self.v4, self.v6].into_iter().flatten()
    }
}

impl Uplink {
    /// Whether `other` is a neighbour on this link, rather than behind a router.
    pub fn has_on_link(&self, other: IpAddr) -> bool {
        let network = IpNetwork::new(self.address, self.prefix_len);
        !self.holds && network.is_ok_and(|network| network.contains(other))
    }
}

/// A link that has addresses, and that no packet leaves the node by.
pub fn only_holds(link: &Link) -> bool {
    match &link.kind {
        LinkKind::Loopback => true,
        LinkKind::Other(kind) => kind == "dummy",
        _ => false,
    }
}
