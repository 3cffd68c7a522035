//! What this machine has itself, and no pod CIDR may contain: pure. A route to such a network would take the way of the
//! node's own packets. [`crate::decide::roll`] handles what nodes claim of each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrule_model::{IpNetwork, last_address, ordinal};

use crate::decide::desired::{Underlay, Why};

/// Addresses and networks that belong to no pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// The next hops of the default routes.
    gateways: Vec<IpAddr>,
    /// The machine's own addresses outside of its pods' networks.
    addresses: BTreeMap<(bool, u128), IpAddr>,
    /// The networks that the uplinks are connected to.
    networks: Vec<IpNetwork>,
    /// The networks that an operator has given to pods.
    given: Vec<IpNetwork>,
}

impl Taken {
    /// Collects what is taken, from the gateways, the machine's addresses, its pods' networks and its uplinks.
    pub fn new(
        gateways: Vec<IpAddr>,
        addresses: impl Iterator<Item = IpAddr>,
        pods: &[IpNetwork],
        underlay: &Underlay,
    ) -> Self {
        let is_pods = |address: &IpAddr| pods.iter().any(|cidr| cidr.contains(*address));
        let addresses = addresses.filter(|address| !is_pods(address));
        let addresses = addresses.map(|address| (ordinal(address), address)).collect();
        let connected = underlay.all().filter_map(|uplink| {
            let network = IpNetwork::new(uplink.address, uplink.prefix_len).ok()?;
            IpNetwork::new(network.network(), network.prefix()).ok()
        });
        Self { gateways, addresses, networks: connected.collect(), given: Vec::new() }
    }

    /// The same if an operator has given these networks to pods. An uplink may be connected to a larger network, such
    /// as 10.0.0.0/8; then none of its hosts are in the given networks. Gateways and addresses that are seen there
    /// count all the same.
    #[must_use]
    pub fn with_given(self, given: &[IpNetwork]) -> Self {
        Self { given: given.to_vec(), ..self }
    }

    /// The machine's own addresses outside of its pods' networks.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.values().copied()
    }

    /// Why a node cannot have these pod CIDRs, or at least one of them.
    pub fn clash<'a>(&self, mut cidrs: impl Iterator<Item = &'a IpNetwork>) -> Option<Why> {
        cidrs.find_map(|cidr| {
            if let Some(gateway) = self.gateways.iter().find(|gateway| cidr.contains(**gateway)) {
                return Some(Why::Gateway(*gateway));
            }
            let range = ordinal(cidr.network())..=ordinal(last_address(cidr));
            if let Some((_, address)) = self.addresses.range(range).next() {
                return Some(Why::OwnAddress(*address));
            }
            let overlaps =
                |network: &&IpNetwork| network.contains(cidr.network()) || cidr.contains(network.network());
            let is_given = self
                .given
                .iter()
                .any(|given| given.contains(cidr.network()) && given.prefix() <= cidr.prefix());
            let connected = self.networks.iter().find(overlaps).filter(|_| !is_given);
            connected.map(|network| Why::Connected(*network))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::desired::Uplink;
    use ferrule_model::IfIndex;

    #[test]
    fn what_is_the_machines_own_is_no_nodes_pods() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let uplink =
            Uplink { link: IfIndex(2), address, prefix_len: 24, mtu: 1500, usable: true, holds: false };
        let underlay = Underlay { v4: Some(uplink), v6: None };
        let addresses =
            ["192.0.2.1", "10.244.1.1", "172.17.0.1", "fd00:17::1"].map(|text| text.parse().unwrap());
        let pods = ["10.244.1.0/24".parse().unwrap()];
        let gateway: IpAddr = "198.51.100.1".parse().unwrap();
        let taken = Taken::new(vec![gateway], addresses.into_iter(), &pods, &underlay);
        let why = |cidr: &str| taken.clash([cidr.parse().unwrap()].iter());
        assert_eq!(why("10.244.1.0/24"), None, "gateways of pods are on the links of pods");
        assert_eq!(why("10.244.2.0/24"), None);
        assert_eq!(why("198.51.100.0/24"), Some(Why::Gateway(gateway)));
        assert_eq!(why("172.17.0.0/24"), Some(Why::OwnAddress("172.17.0.1".parse().unwrap())));
        assert_eq!(why("fd00:17::/64"), Some(Why::OwnAddress("fd00:17::1".parse().unwrap())));
        assert_eq!(why("192.0.0.0/16"), Some(Why::OwnAddress(address)));
        assert_eq!(why("192.0.2.64/26"), Some(Why::Connected("192.0.2.0/24".parse().unwrap())));
        let taken =
            taken.clone().with_given(&["192.0.2.64/26".parse().unwrap(), "198.51.100.0/24".parse().unwrap()]);
        let why = |cidr: &str| taken.clash([cidr.parse().unwrap()].iter());
        assert_eq!(why("192.0.2.64/27"), None, "an operator has given it to pods");
        assert_eq!(why("192.0.2.128/27"), Some(Why::Connected("192.0.2.0/24".parse().unwrap())));
        assert_eq!(why("198.51.100.0/25"), Some(Why::Gateway(gateway)), "that is seen, whatever is given");
    }
}
