//! Who has which address in the lab: pure arithmetic over the node's number. The underlay uses the prefixes reserved for
//! documentation, pods the ones Ferrule's own documentation uses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// How the nodes carry pod packets to each other; decides the shape of the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Routes to the nodes' addresses: all nodes on one segment.
    Native,
    /// VXLAN: two segments with a router between them.
    Vxlan,
    /// Routes within a segment, VXLAN across: the same two segments, with several nodes on each.
    Auto,
}

impl Backend {
    /// The value of `routing.backend`.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Native => "native",
            Backend::Vxlan => "vxlan",
            Backend::Auto => "auto",
        }
    }

    /// How many segments the underlay has.
    pub fn segments(self) -> usize {
        match self {
            Backend::Native => 1,
            Backend::Vxlan | Backend::Auto => 2,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An IPv4 and an IPv6 address of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The IPv4 one.
    pub v4: Ipv4Addr,
    /// The IPv6 one.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// The address of a family.
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// `4` or `6`, as the tools' options have it.
    pub fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// Bytes of an ICMP echo that are not its payload: IP header and ICMP header.
    pub fn echo_overhead(self) -> u32 {
        match self {
            Family::V4 => 20 + 8,
            Family::V6 => 40 + 8,
        }
    }
}

/// The most nodes the lab's prefixes have room for.
pub const MAX_NODES: usize = 200;

/// A node's address on its segment.
pub fn node(segment: usize, number: usize) -> Pair {
    host(segment, number as u16)
}

/// The router's address on a segment.
pub fn gateway(segment: usize) -> Pair {
    host(segment, 254)
}

/// The host outside the cluster.
pub fn outside() -> Pair {
    Pair { v4: Ipv4Addr::new(203, 0, 113, 10), v6: Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0x10) }
}

/// The router's address towards the host outside.
pub fn outside_gateway() -> Pair {
    Pair { v4: Ipv4Addr::new(203, 0, 113, 254), v6: Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0xfe) }
}

fn host(segment: usize, number: u16) -> Pair {
    let v4 = if segment == 0 { [192, 0, 2] } else { [198, 51, 100] };
    Pair {
        v4: Ipv4Addr::new(v4[0], v4[1], v4[2], number as u8),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 1 + segment as u16, 0, 0, 0, 0, number),
    }
}

/// The pod CIDRs of a node, IPv4 first.
pub fn pod_cidrs(number: usize) -> [String; 2] {
    [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")]
}

/// The CIDRs all pods of the cluster are in.
pub const CLUSTER_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
