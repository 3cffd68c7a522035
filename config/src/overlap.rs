//! Finds out which of many networks overlap, without comparing each with each.

use ferrule_model::ordinal;
use ipnetwork::IpNetwork;

/// Two of the networks that share an address, if there are any. No network may have bits set behind its prefix. O(n log
/// n).
///
/// Two networks are either nested or disjoint. The networks are sorted by first address and then by length. Then a
/// network that holds others is followed at once by one of them, so only neighbours have to be compared.
pub(crate) fn first_overlap<T>(
    mut networks: Vec<(IpNetwork, T)>,
) -> Option<((IpNetwork, T), (IpNetwork, T))> {
    networks.sort_by_cached_key(|(network, _)| (ordinal(network.ip()), network.prefix()));
    let at = networks.windows(2).position(|pair| contains(&pair[0].0, &pair[1].0))?;
    let mut pair = networks.into_iter().skip(at);
    pair.next().zip(pair.next())
}

/// True if every address of `inner` is in `outer`.
pub(crate) fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network() -> impl Strategy<Value = IpNetwork> {
        // There are few distinct bits, so that overlaps are common.
        let v4 = (0u32..64, 24u8..=32).prop_map(|(low, prefix)| {
            let network = ipnetwork::Ipv4Network::new((0x0a00_0000 | low).into(), prefix).unwrap();
            IpNetwork::new(network.network().into(), prefix).unwrap()
        });
        let v6 = (0u128..64, 120u8..=128).prop_map(|(low, prefix)| {
            let network = ipnetwork::Ipv6Network::new((0xfd << 120 | low).into(), prefix).unwrap();
            IpNetwork::new(network.network().into(), prefix).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn finds_an_overlap_exactly_when_some_pair_overlaps(networks in prop::collection::vec(network(), 0..8)) {
            let mut expected = false;
            for (index, one) in networks.iter().enumerate() {
                for other in &networks[index + 1..] {
                    expected |= contains(one, other) || contains(other, one);
                }
            }
            let found = first_overlap(networks.into_iter().map(|network| (network, ())).collect());
            prop_assert_eq!(found.is_some(), expected);
        }
    }
}
