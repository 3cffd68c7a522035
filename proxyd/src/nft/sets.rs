//! The names of the table's sets and maps, one for each family, and the keys of their elements.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ferrule_model::Family;

use crate::decide::{Key, Place, Protocol};

/// A set or map of the table, by the names that it has for IPv4 and for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair(pub &'static str, pub &'static str);

impl Pair {
    /// The one of this family.
    pub const fn of(self, family: Family) -> &'static str {
        match family {
            Family::V4 => self.0,
            Family::V6 => self.1,
        }
    }
}

/// A frontend's verdict for clients outside, by (address, protocol, port).
pub const SERVICES: Pair = Pair("services4", "services6");
/// The same for the node itself and its pods, if it is another one.
pub const INSIDE: Pair = Pair("inside4", "inside6");
/// What happens to packets to a frontend that nobody translated.
pub const UNSERVED: Pair = Pair("unserved4", "unserved6");
/// The chain that remembers the endpoint of a client.
pub const STICKY: Pair = Pair("sticky4", "sticky6");
/// The endpoints, by (address, protocol, port, slot).
pub const ENDPOINTS: Pair = Pair("endpoints4", "endpoints6");
/// The same five of node ports, by (protocol, port) and (protocol, port, slot).
pub const NODE_SERVICES: Pair = Pair("node_services4", "node_services6");
/// See [`NODE_SERVICES`].
pub const NODE_INSIDE: Pair = Pair("node_inside4", "node_inside6");
/// See [`NODE_SERVICES`].
pub const NODE_UNSERVED: Pair = Pair("node_unserved4", "node_unserved6");
/// See [`NODE_SERVICES`].
pub const NODE_STICKY: Pair = Pair("node_sticky4", "node_sticky6");
/// See [`NODE_SERVICES`].
pub const NODE_ENDPOINTS: Pair = Pair("node_endpoints4", "node_endpoints6");
/// The frontends that only some clients may use.
pub const RESTRICTED: Pair = Pair("restricted4", "restricted6");
/// These clients: (address, protocol, port, first to last client).
pub const SOURCES: Pair = Pair("sources4", "sources6");
/// The cluster IPs.
pub const CLUSTER_IPS: Pair = Pair("cluster_ips4", "cluster_ips6");
/// The endpoints on this node, each as a pair of twice the same address. So one set answers two questions: whether a
/// packet goes to such an endpoint, and whether it also comes from there.
pub const LOCAL: Pair = Pair("local4", "local6");
/// Which endpoint a client stays with, by (client, address, protocol, port). The kernel writes it, for IPv4 alone.
pub const AFFINITY: &str = "affinity4";

/// The sets and maps that frontends have their own elements in.
pub const OF_FRONTENDS: [Pair; 12] = [
    SERVICES,
    INSIDE,
    UNSERVED,
    STICKY,
    ENDPOINTS,
    NODE_SERVICES,
    NODE_INSIDE,
    NODE_UNSERVED,
    NODE_STICKY,
    NODE_ENDPOINTS,
    RESTRICTED,
    SOURCES,
];
/// The sets whose elements several frontends may share.
pub const SHARED: [Pair; 2] = [CLUSTER_IPS, LOCAL];

/// Those of node ports, whose keys have no address.
pub const OF_NODES: [Pair; 5] = [NODE_SERVICES, NODE_INSIDE, NODE_UNSERVED, NODE_STICKY, NODE_ENDPOINTS];

/// How many slots a frontend has for one kind of clients. Those of the node and its pods come behind those of the
/// others.
pub const SLOTS: u32 = 1 << 16;

/// The address's bytes.
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The key of a frontend: its address, unless it is a node port, its protocol and port.
pub fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = match key.place {
        Place::Address(address) => address_bytes(address),
        Place::Node(_) => Vec::new(),
    };
    bytes.extend([key.protocol.number(), 0, 0, 0]);
    bytes.extend(port_bytes(key.port));
    bytes
}

/// An endpoint.
pub fn endpoint_bytes(address: IpAddr, port: NonZeroU16) -> Vec<u8> {
    let mut bytes = address_bytes(address);
    bytes.extend(port_bytes(port));
    bytes
}

fn port_bytes(port: NonZeroU16) -> [u8; 4] {
    let [high, low] = port.get().to_be_bytes();
    [high, low, 0, 0]
}

/// Reads what [`key_bytes`] wrote for frontends of this family, and returns the rest too. `None` if it is nothing that
/// could have been written.
pub fn read_key(bytes: &[u8], family: Family, is_node: bool) -> Option<(Key, &[u8])> {
    let (place, bytes) = if is_node {
        (Place::Node(family), bytes)
    } else {
        let (address, rest) = read_address(bytes, family)?;
        (Place::Address(address), rest)
    };
    let (protocol, rest) = bytes.split_at_checked(4)?;
    let (port, rest) = rest.split_at_checked(4)?;
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|known| protocol == [known.number(), 0, 0, 0])?;
    Some((Key { place, protocol, port: read_port(port)? }, rest))
}

/// Reads what [`endpoint_bytes`] wrote.
pub fn read_endpoint(bytes: &[u8], family: Family) -> Option<(IpAddr, NonZeroU16)> {
    let (address, rest) = read_address(bytes, family)?;
    Some((address, read_port(rest)?))
}

fn read_address(bytes: &[u8], family: Family) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => bytes.split_first_chunk::<4>().map(|(address, rest)| (IpAddr::from(*address), rest)),
        Family::V6 => bytes.split_first_chunk::<16>().map(|(address, rest)| (IpAddr::from(*address), rest)),
    }
}

fn read_port(bytes: &[u8]) -> Option<NonZeroU16> {
    match bytes {
        [high, low, 0, 0] => NonZeroU16::new(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}
