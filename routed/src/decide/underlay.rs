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
    /// The length of its prefix. Hosts in that network are on the link.
    pub prefix_len: u8,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on and connected, so that it takes routes.
    pub usable: bool,
    /// Whether it only holds the address, as `lo` does, and packets leave by other links.
    pub holds: bool,
}

/// The uplinks, at most one for each family.
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

    /// The uplink that carries the tunnels of `own`. It is that of IPv4 if the node has an IPv4 address, whether or not
    /// the address is there now.
    pub fn tunnel(&self, own: &Node) -> Option<Uplink> {
        if own.v4.is_some() { self.v4 } else { self.v6 }
    }

    /// Takes in a link with the node's address, unless there is one already that is as good. A link that is off carries
    /// nothing, whatever address it was left with.
    pub fn offer(&mut self, uplink: Uplink) {
        let place = match Family::of(uplink.address) {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        if place.is_none_or(|known| uplink.usable && !known.usable) {
            *place = Some(uplink);
        }
    }

    /// All uplinks there are.
    pub fn all(&self) -> impl Iterator<Item = Uplink> {
        [self.v4, self.v6].into_iter().flatten()
    }
}

impl Uplink {
    /// Whether `other` is a neighbour on this link, and not behind a router.
    pub fn has_on_link(&self, other: IpAddr) -> bool {
        let network = IpNetwork::new(self.address, self.prefix_len);
        !self.holds && network.is_ok_and(|network| network.contains(other))
    }
}

/// Whether a link has addresses, but no packet leaves the node by it.
pub fn only_holds(link: &Link) -> bool {
    match &link.kind {
        LinkKind::Loopback => true,
        LinkKind::Other(kind) => kind == "dummy",
        _ => false,
    }
}
