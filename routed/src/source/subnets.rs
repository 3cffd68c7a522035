//! The subnets of a node as they are spelled at the end of a lease's key in flannel's etcd. Pure.
//!
//! `…/subnets/10.5.34.0-24` or, with both families, `…/subnets/10.5.34.0-24&fd00:5:34::-64`.

use ferrule_model::{IpNetwork, Ipv4Network, Ipv6Network};

/// The networks of one node's pods: at most one for each family, and at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnets {
    /// In IPv4.
    pub(super) v4: Option<Ipv4Network>,
    /// In IPv6.
    pub(super) v6: Option<Ipv6Network>,
}

/// What flannel writes where a lease has no IPv4 subnet.
const NO_V4: &str = "0.0.0.0-0";

impl Subnets {
    /// Reads them from the last part of a key; `None` if that is no subnet's.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (v4, v6) = match name.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (name, None),
        };
        let v4 = if v4 == NO_V4 { None } else { Some(as_v4(network(v4)?)?) };
        let v6 = match v6 {
            Some(v6) => Some(as_v6(network(v6)?)?),
            None => None,
        };
        let subnets = Self { v4, v6 };
        (subnets.v4.is_some() || subnets.v6.is_some()).then_some(subnets)
    }

    /// Takes them from a node's pod CIDRs; `None` unless there is one for each family at most.
    pub(super) fn of(cidrs: &[IpNetwork]) -> Option<Self> {
        let mut subnets = Self { v4: None, v6: None };
        for cidr in cidrs {
            let is_first = match cidr {
                IpNetwork::V4(network) => subnets.v4.replace(*network).is_none(),
                IpNetwork::V6(network) => subnets.v6.replace(*network).is_none(),
            };
            if !is_first {
                return None;
            }
        }
        (!cidrs.is_empty()).then_some(subnets)
    }

    /// The last part of the key.
    pub(super) fn name(&self) -> String {
        match self.v6 {
            Some(v6) => format!("{}&{}-{}", self.name_v4(), v6.ip(), v6.prefix()),
            None => self.name_v4(),
        }
    }

    fn name_v4(&self) -> String {
        self.v4.map_or_else(|| NO_V4.into(), |v4| format!("{}-{}", v4.ip(), v4.prefix()))
    }

    /// The beginning of the name that no other node may have: the IPv4 subnet if there is one, whatever stands beside
    /// it.
    pub(super) fn first(&self) -> String {
        if self.v4.is_some() { self.name_v4() } else { self.name() }
    }

    /// The subnets as pod CIDRs.
    pub(super) fn cidrs(&self) -> Vec<IpNetwork> {
        self.v4.map(IpNetwork::V4).into_iter().chain(self.v6.map(IpNetwork::V6)).collect()
    }

    /// Whether the two share an address.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        self.v4.zip(other.v4).is_some_and(|(one, other)| one.overlaps(other))
            || self.v6.zip(other.v6).is_some_and(|(one, other)| one.overlaps(other))
    }
}

fn network(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.rsplit_once('-')?;
    let network = IpNetwork::new(address.parse().ok()?, prefix.parse().ok()?).ok()?;
    let ip = network.ip();
    let is_odd = network.prefix() == 0 || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    (!is_odd && ip == network.network()).then_some(network)
}

fn as_v4(network: IpNetwork) -> Option<Ipv4Network> {
    match network {
        IpNetwork::V4(network) => Some(network),
        IpNetwork::V6(_) => None,
    }
}

fn as_v6(network: IpNetwork) -> Option<Ipv6Network> {
    match network {
        IpNetwork::V6(network) => Some(network),
        IpNetwork::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnets(name: &str) -> Subnets {
        Subnets::parse(name).unwrap()
    }

    #[test]
    fn keys_are_flannels() {
        for name in ["10.5.34.0-24", "10.5.34.0-24&fd00:5:34::-64", "0.0.0.0-0&fd00:5:34::-64"] {
            assert_eq!(subnets(name).name(), name);
        }
        assert_eq!(subnets("10.5.34.0-24&fd00:5:34::-64").first(), "10.5.34.0-24");
        assert_eq!(subnets("0.0.0.0-0&fd00::-64").first(), "0.0.0.0-0&fd00::-64");
        let odd = [
            "",
            "10.5.34.0",
            "10.5.34.1-24",
            "0.0.0.0-0",
            "10.5.34.0-33",
            "10.5.34.0-24&10.6.0.0-24",
            "a-24",
            "fd00::-64",
            "10.5.34.0-24&fd00::1-64",
            "10.5.34.0-24&",
            "224.0.0.0-24",
        ];
        for name in odd {
            assert_eq!(Subnets::parse(name), None, "{name}");
        }
    }
    proptest! {
        #[test]
        fn no_key_panics(name in ".{0,40}") {
            if let Some(subnets) = Subnets::parse(&name) {
                prop_assert_eq!(Subnets::parse(&subnets.name()), Some(subnets));
            }
        }
    }
}
