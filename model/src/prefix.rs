//! Small functions on prefixes that more than one room needs.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `address`.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address as a number that has the address's order, IPv4 first. Numbers are compared several times as quickly as
/// addresses, which counts where thousands are sorted and looked up.
pub const fn ordinal(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (false, v4.to_bits() as u128),
        IpAddr::V6(v6) => (true, v6.to_bits()),
    }
}

/// The family of `prefix`.
pub const fn family(prefix: &IpNetwork) -> Family {
    match prefix {
        IpNetwork::V4(_) => Family::V4,
        IpNetwork::V6(_) => Family::V6,
    }
}

/// The prefix that holds only `address`: /32 or /128.
pub fn host_prefix(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// The last address of `prefix`.
pub fn last_address(prefix: &IpNetwork) -> IpAddr {
    match prefix {
        IpNetwork::V4(network) => network.broadcast().into(),
        IpNetwork::V6(network) => network.broadcast().into(),
    }
}

/// The first address of `prefix`. No pod ever gets it, because it is the VTEP's.
pub fn network_address(prefix: &IpNetwork) -> IpAddr {
    prefix.network()
}

/// `prefix` with its host bits cleared, as the kernel stores a route's destination.
pub(crate) fn canonical(prefix: IpNetwork) -> IpNetwork {
    match prefix {
        IpNetwork::V4(p) => Ipv4Network::new(p.network(), p.prefix()).map_or(prefix, IpNetwork::V4),
        IpNetwork::V6(p) => Ipv6Network::new(p.network(), p.prefix()).map_or(prefix, IpNetwork::V6),
    }
}
