//! What one attachment has on the host, as one value: the plugin makes it so and writes the value down, `routed` keeps it so.
//!
//! Both work out from the value here what the kernel has to hold, so that the two cannot come to think differently of it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{
    Attachment, IfIndex, IfName, Link, LinkChange, Mac, Neighbour, NeighbourKey, Op, Route, RouteKey, Via,
    host_mac, host_prefix, host_veth_name,
};

/// The host's side of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSide {
    /// Whose it is. Name and MAC of the host's end derive from it.
    pub attachment: Attachment,
    /// The same for a person: the pod, or where nobody named it the attachment.
    pub pod: String,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// MTU of the host's end in bytes.
    pub mtu: u32,
    /// How packets get to the pod.
    pub way: Way,
}

/// How packets get from the node to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By a route and a permanent neighbour for each address.
    Routed {
        /// MAC of the pod's end.
        pod_mac: Mac,
        /// The pod's addresses.
        addresses: Vec<IpAddr>,
    },
    /// By a bridge, on which the host's end is.
    Bridge {
        /// Its name, from which its MAC is made.
        name: IfName,
        /// The pod exchanges frames with ports that are not isolated alone.
        isolated: bool,
        /// The gateways' addresses, which the bridge has.
        gateways: Vec<IpNetwork>,
    },
}

impl HostSide {
    /// Name of the host's end.
    pub fn link(&self) -> IfName {
        host_veth_name(&self.attachment)
    }

    /// What the host's end lacks of being as it has to be.
    pub fn change(&self, link: &Link) -> Option<LinkChange> {
        link_change(link, host_mac(&self.attachment), Some(self.mtu))
    }

    /// The neighbour and the route of each address, out of the host's end `link`; none where there is a bridge.
    pub fn ways(&self, link: IfIndex) -> impl Iterator<Item = WayTo> {
        let (mac, addresses) = match &self.way {
            Way::Routed { pod_mac, addresses } => (*pod_mac, addresses.as_slice()),
            Way::Bridge { .. } => (host_mac(&self.attachment), [].as_slice()),
        };
        addresses.iter().map(move |address| WayTo::new(link, *address, mac))
    }
}

/// What `link` lacks of being up, with this MAC and MTU.
pub fn link_change(link: &Link, mac: Mac, mtu: Option<u32>) -> Option<LinkChange> {
    let change = LinkChange {
        up: (!link.up).then_some(true),
        mtu: mtu.filter(|mtu| *mtu != link.mtu),
        mac: (link.mac != Some(mac)).then_some(mac),
    };
    (change != LinkChange::default()).then_some(change)
}

/// What the node needs to reach one address of a routed pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WayTo {
    /// The entry of the ARP or NDP table: its key, and what it says.
    pub neighbour: (NeighbourKey, Neighbour),
    /// The route: its key, and what it says.
    pub route: (RouteKey, Route),
}

impl WayTo {
    /// To `address` of the pod with this MAC behind the host's end `link`.
    pub fn new(link: IfIndex, address: IpAddr, pod_mac: Mac) -> Self {
        let neighbour = Neighbour { mac: Some(pod_mac), permanent: true };
        let route = (RouteKey::main(host_prefix(address)), Route::ours(Via::Link(link)));
        Self { neighbour: (NeighbourKey { link, address }, neighbour), route }
    }

    /// What makes it, in this order.
    pub fn ops(&self) -> [Op; 2] {
        let ((address, neighbour), (dst, route)) = (self.neighbour, self.route);
        [Op::PutNeighbour(address, neighbour), Op::PutRoute(dst, route)]
    }
}
