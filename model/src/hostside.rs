//! What one attachment has on the host, as one value. The plugin makes it so and records the value, and `routed` keeps
//! it so.
//!
//! Both work out from this value, with the code here, what the kernel has to hold. So they can never disagree about it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{
    Attachment, IfIndex, IfName, Link, LinkChange, Mac, Neighbour, NeighbourKey, Op, Route, RouteKey, Via,
    host_mac, host_prefix, host_veth_name,
};

/// The host's side of an attachment.
///
/// ```
/// use ferrule_model::{Attachment, HostSide, IfIndex, Limits, Mac, Way};
///
/// let made = HostSide {
///     attachment: Attachment { network: "ferrule".into(), container_id: "c0ffee".into(), ifname: "eth0".into() },
///     pod: "shop/cart-0".into(),
///     netns: "/run/netns/cart-0".into(),
///     mtu: 1450,
///     way: Way::Routed {
///         pod_mac: Mac::local([2, 0, 0, 0, 0, 1]),
///         addresses: vec!["10.244.1.7".parse()?],
///     },
///     ports: None,
///     limits: Limits::default(),
/// };
/// // What the plugin does for each address in ADD, and `routed` again if somebody undoes it.
/// let ops: Vec<_> = made.ways(IfIndex(7)).flat_map(|way| way.ops()).map(|op| op.to_string()).collect();
/// assert_eq!(ops, ["neigh replace 10.244.1.7 dev 7", "route replace 10.244.1.7/32 table 254"]);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSide {
    /// The attachment that it belongs to. Name and MAC of the host's end are derived from it.
    pub attachment: Attachment,
    /// The attachment for people: the pod's name, or the attachment where nobody named the pod.
    pub pod: String,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// MTU of the host's end in bytes.
    pub mtu: u32,
    /// How packets get to the pod.
    pub way: Way,
    /// The pod's host ports. Few pods have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<HostPorts>,
    /// The pod's limits. Few pods have any.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
}

/// What a pod has in the table of host ports ([`crate::table`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPorts {
    /// The comment of the pod's elements.
    pub owner: String,
    /// The pod's ports, for people.
    pub names: String,
    /// Its elements.
    pub elements: Vec<PortElement>,
}

/// An element of a map, or of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortElement {
    /// Name of the map or set.
    pub set: String,
    /// What is looked up.
    #[serde(with = "hex")]
    pub key: Vec<u8>,
    /// What it leads to; empty in a set.
    #[serde(with = "hex", default, skip_serializing_if = "Vec::is_empty")]
    pub value: Vec<u8>,
}

/// How fast a pod may receive and send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The limit of what the pod receives, which is what the host's end sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receives: Option<Bucket>,
    /// The limit of what the pod sends. The host's end redirects what arrives to a device of the pod's own, and this is
    /// the limit of that device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sends: Option<Bucket>,
}

/// A token bucket: how fast a link may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may be sent at once. A packet that is longer is never sent.
    pub burst: u32,
}

impl Bucket {
    /// The longest time that a packet waits for its turn, in microseconds. A packet that would wait longer is dropped.
    /// The value is that of the reference bandwidth plugin.
    const LATENCY_MICROS: u64 = 25_000;
    /// The highest rate. The kernel is told the size of queue and burst together in 32 bits, and this rate's queue
    /// takes half of them.
    pub const RATE_MAX: u64 = u32::MAX as u64 / 2 / Self::LATENCY_MICROS * 1_000_000;
    /// The largest burst, for the same reason.
    pub const BURST_MAX: u32 = u32::MAX / 2;

    /// Bytes of queue and burst together. The kernel calls this the limit.
    #[must_use]
    pub fn limit(self) -> u32 {
        let queue = u128::from(self.rate) * u128::from(Self::LATENCY_MICROS) / 1_000_000;
        u32::try_from(queue + u128::from(self.burst)).unwrap_or(u32::MAX)
    }

    /// The bucket of which the kernel reports this rate and this limit.
    #[must_use]
    pub fn from_limit(rate: u64, limit: u32) -> Self {
        let queue = Self { rate, burst: 0 }.limit();
        Self { rate, burst: limit.saturating_sub(queue) }
    }
}

impl Limits {
    /// Whether nothing is limited.
    pub const fn is_none(&self) -> bool {
        self.receives.is_none() && self.sends.is_none()
    }
}

/// Serialises bytes as hex digits.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
        let text: String = bytes.iter().flat_map(digits).flatten().collect();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format!("`{text}` is not made of pairs of hex digits"));
        let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or_else(wrong)?;
        let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).map_err(|_| wrong());
        digits.chunks_exact(2).map(byte).collect()
    }
}

/// How packets get from the node to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By a route and a permanent neighbour for each of the pod's addresses.
    Routed {
        /// MAC of the pod's end.
        pod_mac: Mac,
        /// The pod's addresses.
        addresses: Vec<IpAddr>,
    },
    /// By a bridge, to which the host's end belongs.
    Bridge {
        /// Its name.
        name: IfName,
        /// Its MAC, which pods have in their neighbour tables.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<Mac>,
        /// Whether the pod exchanges frames only with ports that are not isolated.
        isolated: bool,
        /// The gateways' addresses. The bridge has them.
        gateways: Vec<IpNetwork>,
        /// The pod's end. The records of earlier versions do not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<PodEnd>,
    },
}

/// The pod's end of the veth pair, as its ADD made it: what the pod may send under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodEnd {
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses, apart from the link-local one of IPv6, which the kernel makes ([`Mac::link_local`]).
    pub addresses: Vec<IpAddr>,
}

impl HostSide {
    /// Name of the host's end.
    pub fn link(&self) -> IfName {
        host_veth_name(&self.attachment)
    }

    /// What has to be changed so that the host's end is as it should be.
    pub fn change(&self, link: &Link) -> Option<LinkChange> {
        link_change(link, host_mac(&self.attachment), Some(self.mtu))
    }

    /// The neighbour and the route for each address, out of the host's end `link`. With a bridge there are none.
    pub fn ways(&self, link: IfIndex) -> impl Iterator<Item = WayTo> {
        let (mac, addresses) = match &self.way {
            Way::Routed { pod_mac, addresses } => (*pod_mac, addresses.as_slice()),
            Way::Bridge { .. } => (host_mac(&self.attachment), [].as_slice()),
        };
        addresses.iter().map(move |address| WayTo::new(link, *address, mac))
    }
}

/// What has to be changed so that `link` is up and has this MAC and MTU.
pub fn link_change(link: &Link, mac: Mac, mtu: Option<u32>) -> Option<LinkChange> {
    let change = LinkChange {
        up: (!link.up).then_some(true),
        mtu: mtu.filter(|mtu| *mtu != link.mtu),
        mac: (link.mac != Some(mac)).then_some(mac),
        alias: None,
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
    /// The way to `address` of the pod with this MAC, which is behind the host's end `link`.
    pub fn new(link: IfIndex, address: IpAddr, pod_mac: Mac) -> Self {
        let neighbour = Neighbour { mac: Some(pod_mac), permanent: true };
        let route = (RouteKey::main(host_prefix(address)), Route::ours(Via::Link(link)));
        Self { neighbour: (NeighbourKey { link, address }, neighbour), route }
    }

    /// The operations that make it, in this order.
    pub fn ops(&self) -> [Op; 2] {
        let ((address, neighbour), (dst, route)) = (self.neighbour, self.route);
        [Op::PutNeighbour(address, neighbour), Op::PutRoute(dst, route)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_earlier_version_does_not_say_what_the_pod_on_a_bridge_may_send_under() {
        let earlier = r#"{"bridge":{"name":"ferrule0","isolated":false,"gateways":["10.244.1.1/24"]}}"#;
        let way: Way = serde_json::from_str(earlier).unwrap();
        assert!(matches!(way, Way::Bridge { pod: None, .. }), "{way:?}");
        assert_eq!(serde_json::to_string(&way).unwrap(), earlier);
    }

    #[test]
    fn a_limit_tells_the_burst() {
        for bucket in [
            Bucket { rate: 125_000, burst: 1500 },
            Bucket { rate: 1, burst: 1 },
            Bucket { rate: Bucket::RATE_MAX, burst: Bucket::BURST_MAX },
        ] {
            assert_eq!(Bucket::from_limit(bucket.rate, bucket.limit()), bucket);
        }
    }
}
