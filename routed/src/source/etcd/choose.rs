//! Chooses the subnet that this node takes: pure. It is handed the taken subnets, and a random number.

use super::identity::Whose;
use super::network::{Network, Pool};
use crate::source::subnets::Subnets;
use ferrule_model::IpNetwork;

/// One of so many free subnets is taken at random, so that nodes which start at the same time seldom want the same.
const CANDIDATES: usize = 100;

/// What matters of a lease for the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its subnets.
    pub(super) subnets: Subnets,
    /// Whose lease it is.
    pub(super) whose: Whose,
    /// When it was made.
    pub(super) created: i64,
}

/// What the node has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Keep the lease at this place in the list: it is this node's.
    Mine(usize),
    /// Give back the lease at this place: it is this node's, but must not be used.
    GiveBack(usize),
    /// Take these subnets: they are free.
    Take(Subnets),
    /// Nothing: no subnet is free.
    Full,
}

/// Decides what to do. `previous` are the subnets that this node had.
pub(super) fn choose(network: &Network, taken: &[Taken], previous: Option<&Subnets>, chance: u64) -> Choice {
    let is_previous = |one: &Taken| previous == Some(&one.subnets);
    let is_mine = |one: &Taken| matches!(one.whose, Whose::Mine | Whose::MineElsewhere);
    let mine = taken.iter().enumerate().filter(|(_, one)| is_mine(one));
    let rank = |one: &Taken| (!is_previous(one), one.whose != Whose::Mine, one.created);
    if let Some((at, one)) = mine.min_by_key(|(_, one)| rank(one)) {
        let is_later = |other: &Taken| other.created < one.created && other.subnets.overlap(&one.subnets);
        let is_good = network.has(&one.subnets) && !taken.iter().any(is_later);
        return if is_good { Choice::Mine(at) } else { Choice::GiveBack(at) };
    }
    let is_free = |subnets: &Subnets| !taken.iter().any(|one| one.subnets.overlap(subnets));
    if let Some(subnets) = previous.filter(|subnets| network.has(subnets) && is_free(subnets)) {
        return Choice::Take(*subnets);
    }
    pick(network, taken, chance).map_or(Choice::Full, Choice::Take)
}

fn pick(network: &Network, taken: &[Taken], chance: u64) -> Option<Subnets> {
    let subnets = |v4: Option<IpNetwork>, v6: Option<IpNetwork>| {
        Subnets::of(&v4.into_iter().chain(v6).collect::<Vec<_>>())
    };
    let cidrs = |v4: bool| taken.iter().flat_map(move |one| cidrs_of(one, v4));
    match (&network.v4, &network.v6) {
        (Some(v4), Some(v6)) => {
            let (free4, free6) = (Free::new(v4, cidrs(true)), Free::new(v6, cidrs(false)));
            // Both subnets get the same number. Then a node that has its IPv4 subnet to itself has its IPv6 subnet to
            // itself, too.
            let pairs =
                free4.indexes().take_while(|index| *index < v6.count).filter(|index| free6.has(*index));
            let pair = by_chance(pairs, chance).map(|index| (index, index));
            // The other nodes choose each subnet by itself, and have left no pair.
            let (at4, at6) = pair.or_else(|| Some((free4.indexes().next()?, free6.indexes().next()?)))?;
            subnets(v4.subnet(at4), v6.subnet(at6))
        }
        (Some(v4), None) => {
            subnets(v4.subnet(by_chance(Free::new(v4, cidrs(true)).indexes(), chance)?), None)
        }
        (None, Some(v6)) => {
            subnets(None, v6.subnet(by_chance(Free::new(v6, cidrs(false)).indexes(), chance)?))
        }
        (None, None) => None,
    }
}

fn cidrs_of(one: &Taken, v4: bool) -> Option<IpNetwork> {
    if v4 { one.subnets.v4.map(IpNetwork::V4) } else { one.subnets.v6.map(IpNetwork::V6) }
}

fn by_chance(indexes: impl Iterator<Item = u128>, chance: u64) -> Option<u128> {
    let candidates: Vec<_> = indexes.take(CANDIDATES).collect();
    let at = usize::try_from(chance % u64::try_from(candidates.len().max(1)).unwrap_or(1)).unwrap_or(0);
    candidates.get(at).copied()
}

/// What is free in a pool. Its cost depends on how much is taken, not on the pool's size.
struct Free<'a> {
    pool: &'a Pool,
    taken: std::collections::HashSet<u128>,
    /// Taken networks of other lengths, from an earlier configuration.
    odd: Vec<IpNetwork>,
}

impl<'a> Free<'a> {
    fn new(pool: &'a Pool, cidrs: impl Iterator<Item = IpNetwork>) -> Self {
        let (mut taken, mut odd) = (std::collections::HashSet::new(), Vec::new());
        for cidr in cidrs {
            match pool.index_of(&cidr) {
                Some(index) => drop(taken.insert(index)),
                None => odd.push(cidr),
            }
        }
        Self { pool, taken, odd }
    }

    fn has(&self, index: u128) -> bool {
        let overlaps = |subnet: IpNetwork| {
            self.odd.iter().any(|odd| odd.contains(subnet.ip()) || subnet.contains(odd.ip()))
        };
        !self.taken.contains(&index) && !self.pool.subnet(index).is_none_or(overlaps)
    }

    fn indexes(&self) -> impl Iterator<Item = u128> {
        (0..self.pool.count).filter(|index| self.has(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_config::Routing;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        Network::parse(text.as_bytes(), &Routing::default()).unwrap()
    }

    fn taken(name: &str, whose: Whose, created: i64) -> Taken {
        Taken { subnets: Subnets::parse(name).unwrap(), whose, created }
    }

    fn mine(name: &str, created: i64) -> Taken {
        taken(name, Whose::Mine, created)
    }

    fn other(name: &str, created: i64) -> Taken {
        taken(name, Whose::Others, created)
    }

    fn take(name: &str) -> Choice {
        Choice::Take(Subnets::parse(name).unwrap())
    }

    const SMALL: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.3.0"}"#;

    #[test]
    fn a_lease_that_is_this_nodes_is_kept() {
        let all = [other("10.5.2.0-24", 3), mine("10.5.1.0-24", 2)];
        assert_eq!(choose(&network(SMALL), &all, None, 0), Choice::Mine(1));
        let twice = [mine("10.5.2.0-24", 3), mine("10.5.1.0-24", 2)];
        assert_eq!(choose(&network(SMALL), &twice, None, 0), Choice::Mine(1));
        let previous = twice[0].subnets;
        assert_eq!(choose(&network(SMALL), &twice, Some(&previous), 0), Choice::Mine(0));
        let moved =
            [taken("10.5.2.0-24", Whose::MineElsewhere, 3), taken("10.5.1.0-24", Whose::AtMyAddress, 2)];
        assert_eq!(choose(&network(SMALL), &moved, None, 0), Choice::Mine(0), "it had another address");
        let both = [moved[0], mine("10.5.3.0-24", 4)];
        assert_eq!(choose(&network(SMALL), &both, None, 0), Choice::Mine(1), "of two that of its address");
        assert_eq!(choose(&network(SMALL), &moved[1..], None, 0), take("10.5.2.0-24"), "another node's");
    }

    #[test]
    fn a_lease_that_is_not_of_the_network_or_that_another_had_first_is_given_back() {
        let elsewhere = [mine("10.6.2.0-24", 3)];
        assert_eq!(choose(&network(SMALL), &elsewhere, None, 0), Choice::GiveBack(0));
        let both = [mine("10.5.2.0-24&fd00::-64", 3), other("10.5.2.0-24", 2)];
        assert_eq!(choose(&network(SMALL), &both, None, 0), Choice::GiveBack(0));
        let both = [other("10.5.2.0-24&fd00::-64", 3), mine("10.5.2.0-24", 2)];
        assert_eq!(choose(&network(SMALL), &both, None, 0), Choice::Mine(1), "the first keeps it");
    }

    #[test]
    fn the_subnet_that_the_node_had_is_taken_again_if_it_is_free() {
        let previous = Subnets::parse("10.5.3.0-24").unwrap();
        let all = [other("10.5.1.0-24", 3)];
        assert_eq!(choose(&network(SMALL), &all, Some(&previous), 0), take("10.5.3.0-24"));
        let all = [other("10.5.1.0-24", 3), other("10.5.3.128-25", 3)];
        assert_eq!(choose(&network(SMALL), &all, Some(&previous), 0), take("10.5.2.0-24"));
        let elsewhere = Subnets::parse("10.6.3.0-24").unwrap();
        assert_eq!(choose(&network(SMALL), &all, Some(&elsewhere), 5), take("10.5.2.0-24"));
        let all = [other("10.5.0.0-22", 3)];
        assert_eq!(choose(&network(SMALL), &all, None, 0), Choice::Full);
    }

    #[test]
    fn of_both_families_those_of_one_number_are_taken_while_there_are_any() {
        let both = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.2.0","EnableIPv6":true,"IPv6Network":"fd00:5::/56"}"#;
        let first = choose(&network(both), &[], None, 0);
        assert_eq!(first, take("10.5.1.0-24&fd00:5:0:1::-64"));
        let all = [other("10.5.1.0-24&fd00:5:0:2::-64", 3)];
        assert_eq!(choose(&network(both), &all, None, 0), take("10.5.2.0-24&fd00:5:0:1::-64"));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_free_and_all_can_be_taken(chances in prop::collection::vec(any::<u64>(), 60)) {
            let network = network(
                r#"{"Network":"10.5.0.0/18","EnableIPv6":true,"IPv6Network":"fd00:5::/58","IPv6SubnetLen":64}"#,
            );
            let mut all = vec![other("10.5.9.0-24&fd00:5:0:3::-64", 0)];
            for (number, chance) in (1_u8..).zip(chances) {
                let Choice::Take(subnets) = choose(&network, &all, None, chance) else {
                    panic!("full after {number}");
                };
                prop_assert!(network.has(&subnets));
                prop_assert!(!all.iter().any(|one| one.subnets.overlap(&subnets)));
                all.push(Taken { subnets, whose: Whose::Others, created: number.into() });
            }
        }
    }
}
