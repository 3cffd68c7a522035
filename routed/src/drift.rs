//! Whether something that the kernel tells disagrees with what we believe of it: pure. Echoes of our own changes agree,
//! so they start nothing.

use ferrule_model::{Change, IfIndex, IfName, Link, PROTOCOL, RouteKey, VxlanSpec};
use ferrule_netlink::monitor::Event;

use crate::nodes::Node;
use crate::observe::Links;
use crate::owner;
use crate::reconcile::Objects;
use crate::wake::NexthopEvent;

/// What we believe is in the kernel.
#[derive(Debug, Clone)]
pub struct Belief {
    /// All links, kept up to date by [`Belief::hears`].
    pub links: Links,
    /// The number of our VXLAN device.
    pub device: Option<IfIndex>,
    /// What the device was to be.
    pub spec: Option<VxlanSpec>,
    /// The name that our VXLAN device has or would have.
    pub device_name: IfName,
    /// The links that hold the node's addresses.
    pub uplinks: Vec<IfIndex>,
    /// The node that we are.
    pub own: Node,
    /// What is ours.
    pub ours: Objects,
    /// Routes of other programs that stand where ours should be.
    pub blocked: Vec<RouteKey>,
}

/// What an event means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// It agrees with what we believe, or is none of our business.
    None,
    /// An object is not as we left it: look again.
    Object,
    /// The ground has changed: look again, and try again what was refused.
    Ground,
}

impl Belief {
    /// Takes note of an event.
    pub fn hears(&mut self, event: &Event) -> Concern {
        let differs = match event {
            Event::Overrun => return Concern::Ground,
            Event::Link(change, link) => return self.hears_link(*change, link),
            Event::Address(change, key, _) => {
                let known = self.ours.addresses.contains_key(key);
                if self.is_own(key.prefix.ip()) && self.device != Some(key.link) {
                    return Concern::Ground;
                }
                let mine = self.device == Some(key.link) && owner::is_our_address(key);
                mine && known != (*change == Change::Put)
            }
            Event::Route(Change::Put, key, route) => {
                let ours = owner::is_ours(route, |index| self.links.get(&index));
                let known = self.ours.routes.get(key);
                (ours || known.is_some()) && known != Some(route)
            }
            Event::Route(Change::Delete, key, route) => {
                self.blocked.contains(key)
                    || (route.protocol == PROTOCOL && self.ours.routes.contains_key(key))
            }
            Event::Neighbour(Change::Put, key, value) => {
                self.device == Some(key.link) && self.ours.neighbours.get(key) != Some(value)
            }
            Event::Neighbour(Change::Delete, key, _) => self.ours.neighbours.contains_key(key),
            Event::Fdb(Change::Put, key, value) => {
                self.device == Some(key.link) && self.ours.fdb.get(key) != Some(value)
            }
            Event::Fdb(Change::Delete, key, _) => self.ours.fdb.contains_key(key),
        };
        if differs { Concern::Object } else { Concern::None }
    }

    /// Takes note of an event of a nexthop object.
    pub fn hears_nexthop(&self, event: &NexthopEvent) -> Concern {
        let known = self.ours.nexthops.get(&event.id);
        let differs = match event.change {
            Change::Put => match event.nexthop {
                Some(nexthop) => (nexthop.protocol == PROTOCOL || known.is_some()) && known != Some(&nexthop),
                None => known.is_some(),
            },
            Change::Delete => known.is_some(),
        };
        if differs { Concern::Object } else { Concern::None }
    }

    fn hears_link(&mut self, change: Change, link: &Link) -> Concern {
        let before = match change {
            Change::Put => self.links.insert(link.index, link.clone()),
            Change::Delete => self.links.remove(&link.index),
        };
        let matters = self.device == Some(link.index)
            || self.uplinks.contains(&link.index)
            || link.name == self.device_name;
        let same = change == Change::Put && before.as_ref() == Some(link);
        if matters && !same { Concern::Ground } else { Concern::None }
    }

    fn is_own(&self, address: std::net::IpAddr) -> bool {
        self.own.address(ferrule_model::Family::of(address)) == Some(address)
    }
}
