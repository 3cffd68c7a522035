//! Lists of networks: in order, and merged into as few as possible.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::family;

/// The same addresses in as few networks as possible, in order. The networks of thousands of nodes, given out in a row,
/// make a handful.
pub fn merged(networks: Vec<IpNetwork>) -> Vec<IpNetwork> {
    let mut merged: Vec<IpNetwork> = Vec::new();
    for mut network in in_order(networks) {
        if merged.last().is_some_and(|last| last.contains(network.network())) {
            continue;
        }
        while let Some(parent) = merged.last().and_then(|last| parent_of(last, &network)) {
            merged.pop();
            network = parent;
        }
        merged.push(network);
    }
    merged
}

/// Sorts networks by their first addresses; a network comes before those inside it. The bits behind each prefix are
/// cleared once, beforehand. Then the order of the type itself is this order.
pub fn in_order(mut networks: Vec<IpNetwork>) -> Vec<IpNetwork> {
    for network in &mut networks {
        *network = IpNetwork::new(network.network(), network.prefix()).unwrap_or(*network);
    }
    networks.sort();
    networks
}

/// The network of which these are the two halves.
fn parent_of(lower: &IpNetwork, upper: &IpNetwork) -> Option<IpNetwork> {
    if family(lower) != family(upper) || lower.prefix() != upper.prefix() || lower.prefix() == 0 {
        return None;
    }
    let parent = IpNetwork::new(lower.network(), lower.prefix() - 1).ok()?;
    (parent.network() == lower.network() && parent.contains(upper.network()) && is_other(lower, upper.ip()))
        .then_some(parent)
}

fn is_other(network: &IpNetwork, address: IpAddr) -> bool {
    !network.contains(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn neighbouring_networks_become_one() {
        let nodes: Vec<_> = (0..=255).map(|n| format!("10.244.{n}.0/24").parse().unwrap()).collect();
        assert_eq!(merged(nodes), networks(&["10.244.0.0/16"]));
        let some =
            networks(&["10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "fd00:0:0:2::/64", "fd00:0:0:3::/64"]);
        assert_eq!(merged(some), networks(&["10.0.1.0/24", "10.0.2.0/23", "fd00:0:0:2::/63"]));
    }

    proptest! {
        #[test]
        fn no_address_comes_or_goes(parts in prop::collection::vec((any::<u8>(), 24u8..=32), 0..40)) {
            let network = |(last, prefix): &(u8, u8)| {
                let network: IpNetwork = IpNetwork::new([10, 0, 0, *last].into(), *prefix).unwrap();
                IpNetwork::new(network.network(), *prefix).unwrap()
            };
            let given: Vec<_> = parts.iter().map(network).collect();
            let merged = merged(given.clone());
            for last in 0..=255u8 {
                let address = [10, 0, 0, last].into();
                let times = merged.iter().filter(|network| network.contains(address)).count();
                prop_assert_eq!(times, usize::from(given.iter().any(|network| network.contains(address))));
            }
        }
    }
}
