//! The allocator against plain expectations, and against a naive reference under random sequences.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const COOLDOWN: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn spec(subnets: &[&str], reserved: &[&str]) -> PoolSpec {
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    PoolSpec {
        name: "p".into(),
        subnets: networks(subnets),
        reserved: networks(reserved),
        ranges: Vec::new(),
    }
}

fn pool(subnets: &[&str], reserved: &[&str]) -> Pool {
    Pool::new(&spec(subnets, reserved), COOLDOWN)
}

fn give(pool: &mut Pool, now: u64) -> Vec<String> {
    pool.allocate(Wish::default(), at(now)).unwrap().iter().map(|taken| taken.address.to_string()).collect()
}

fn give_all(pool: &mut Pool) -> Vec<String> {
    std::iter::from_fn(|| pool.allocate(Wish::default(), at(0)).ok())
        .map(|taken| taken[0].address.to_string())
        .collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn network_and_broadcast_addresses_are_never_given() {
    assert_eq!(give_all(&mut pool(&["10.0.0.0/29"], &[])), [1, 2, 3, 4, 5, 6].map(|n| format!("10.0.0.{n}")));
    assert_eq!(give_all(&mut pool(&["fd00::/126"], &[])), ["fd00::1", "fd00::2", "fd00::3"]);
}

#[test]
fn networks_of_one_or_two_addresses_give_them_all() {
    assert_eq!(give_all(&mut pool(&["10.0.0.2/31"], &[])), ["10.0.0.2", "10.0.0.3"]);
    assert_eq!(give_all(&mut pool(&["10.0.0.7/32"], &[])), ["10.0.0.7"]);
    assert_eq!(give_all(&mut pool(&["fd00::4/127"], &[])), ["fd00::4", "fd00::5"]);
    assert_eq!(give_all(&mut pool(&["fd00::9/128"], &[])), ["fd00::9"]);
}

#[test]
fn reserved_addresses_and_networks_are_never_given() {
    let mut pool =
        pool(&["10.0.0.0/28"], &["10.0.0.1/32", "10.0.0.4/30", "10.0.0.5/32", "10.0.0.8/30", "10.0.0.15/32"]);
    assert_eq!(give_all(&mut pool), [2, 3, 12, 13, 14].map(|n| format!("10.0.0.{n}")));
    let counts = pool.counts(at(0)).next().unwrap();
    assert_eq!((counts.size, counts.reserved, counts.in_use, counts.free), (16, 11, 5, 0));
}

#[test]
fn the_ends_of_the_address_space_hold_no_trap() {
    assert_eq!(give_all(&mut pool(&["255.255.255.252/30"], &["255.255.255.253/32"])), ["255.255.255.254"]);
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127";
    assert_eq!(give_all(&mut pool(&[last], &[last])), Vec::<String>::new());
    assert_eq!(give_all(&mut pool(&[last], &[])).len(), 2);
    let everything = pool(&["::/0"], &[]).counts(at(0)).next().unwrap();
    assert_eq!(everything.size, u128::MAX);
}

fn range(first: &str, last: &str) -> AddressRange {
    AddressRange { first: ip(first), last: ip(last) }
}

#[test]
fn a_subnet_with_ranges_gives_only_what_is_inside() {
    let mut spec = spec(&["10.0.0.0/29", "10.0.1.0/30", "fd00::/64"], &["10.0.0.5/32"]);
    spec.ranges =
        vec![range("10.0.0.5", "10.0.0.7"), range("10.0.0.1", "10.0.0.2"), range("fd00::9", "fd00::b")];
    let mut pool = Pool::new(&spec, COOLDOWN);
    let given: Vec<_> = (0..3).map(|_| give(&mut pool, 0)).collect();
    assert_eq!(given, [["10.0.0.6", "fd00::9"], ["10.0.0.1", "fd00::a"], ["10.0.0.2", "fd00::b"]]);
    let counts: Vec<_> = pool.counts(at(0)).collect();
    assert_eq!((counts[0].size, counts[0].reserved, counts[0].free), (12, 7, 2));
    assert_eq!((counts[1].in_use, counts[1].free), (3, 0));
}

#[test]
fn a_requested_address_is_given_or_refused_by_name() {
    let mut pool = pool(&["10.0.0.0/24", "fd00::/64"], &["10.0.0.9/32"]);
    let mut ask = |address: &str, now| {
        let requested = [ip(address)];
        let wish = Wish { requested: &requested, ..Wish::default() };
        let taken = pool.allocate(wish, at(now))?;
        Ok(taken.iter().map(|taken| taken.address.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(ask("10.0.0.7", 0).unwrap(), ["10.0.0.7", "fd00::1"]);
    assert_eq!(ask("fd00::5", 0).unwrap(), ["10.0.0.1", "fd00::5"]);
    assert_eq!(ask("10.0.0.7", 0), Err(Refusal::InUse(ip("10.0.0.7"))));
    for stray in ["10.0.0.0", "10.0.0.255", "10.0.0.9", "10.0.1.1", "fd00::", "fd01::1"] {
        assert_eq!(ask(stray, 0), Err(Refusal::NotOurs(ip(stray))));
    }
    assert!(pool.release(ip("10.0.0.7"), at(1)));
    let requested = [ip("10.0.0.7"), ip("fd00::9")];
    let taken = pool.allocate(Wish { requested: &requested, ..Wish::default() }, at(2)).unwrap();
    assert_eq!(taken[0], Taken { address: ip("10.0.0.7"), was_released: true }, "resting, but asked for");
    assert_eq!(taken[1].address, ip("fd00::9"));
}

#[test]
fn requested_ranges_narrow_one_family_fresh_ones_first() {
    let mut pool = pool(&["10.0.0.0/24", "fd00::/64"], &["10.0.0.4/32"]);
    let ranges = [range("10.0.0.3", "10.0.0.5"), range("10.0.0.254", "10.0.1.9")];
    let ask = |pool: &mut Pool, now| pool.allocate(Wish { ranges: &ranges, ..Wish::default() }, at(now));
    let give = |taken: Result<Vec<Taken>, Refusal>| taken.unwrap()[0].address.to_string();
    assert_eq!(give(ask(&mut pool, 0)), "10.0.0.3");
    assert!(pool.release(ip("10.0.0.3"), at(1)));
    assert_eq!(give(ask(&mut pool, 100)), "10.0.0.5", "nobody had it");
    assert_eq!(give(ask(&mut pool, 100)), "10.0.0.254");
    assert_eq!(give(ask(&mut pool, 100)), "10.0.0.3");
    let Err(Refusal::Exhausted(counts)) = ask(&mut pool, 100) else { panic!() };
    assert_eq!((counts.in_use, counts.reserved, counts.size, counts.free), (3, 12, 15, 0));
    let outside = [range("10.1.0.0", "10.1.0.9")];
    let refused = pool.allocate(Wish { ranges: &outside, ..Wish::default() }, at(0));
    assert_eq!(refused, Err(Refusal::Outside(outside[0])));
}

#[test]
fn subnets_are_used_in_their_order() {
    let mut pool = pool(&["10.9.0.0/31", "10.1.0.0/31"], &[]);
    assert_eq!(give_all(&mut pool), ["10.9.0.0", "10.9.0.1", "10.1.0.0", "10.1.0.1"]);
}

#[test]
fn dual_stack_is_all_or_nothing() {
    let mut pool = pool(&["fd00::/64", "10.0.0.0/30"], &[]);
    assert_eq!(give(&mut pool, 0), ["10.0.0.1", "fd00::1"]);
    assert_eq!(give(&mut pool, 0), ["10.0.0.2", "fd00::2"]);
    let Err(Refusal::Exhausted(counts)) = pool.allocate(Wish::default(), at(0)) else { panic!() };
    assert_eq!((counts.family, counts.in_use, counts.reserved), (Family::Ipv4, 2, 2));
    assert!(pool.release(ip("10.0.0.1"), at(1)));
    assert_eq!(give(&mut pool, 100), ["10.0.0.1", "fd00::3"], "the failed call took no IPv6 address");
}

#[test]
fn fresh_ones_come_before_released_ones_and_those_in_the_order_of_release() {
    let mut pool = pool(&["10.0.0.0/29"], &[]);
    for _ in 0..4 {
        give(&mut pool, 0);
    }
    assert!(pool.release(ip("10.0.0.3"), at(1)));
    assert!(pool.release(ip("10.0.0.1"), at(2)));
    let order: Vec<String> = (0..4).flat_map(|_| give(&mut pool, 1000)).collect();
    assert_eq!(order, ["10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.1"]);
    assert!(pool.allocate(Wish::default(), at(1000)).is_err());
}

#[test]
fn only_resting_ones_left_the_oldest_is_taken() {
    let mut pool = pool(&["10.0.0.0/31"], &[]);
    give(&mut pool, 0);
    give(&mut pool, 0);
    assert!(pool.release(ip("10.0.0.1"), at(10)));
    assert!(pool.release(ip("10.0.0.0"), at(11)));
    assert_eq!(pool.counts(at(12)).next().unwrap().resting, 2);
    let taken = pool.allocate(Wish::default(), at(12)).unwrap();
    assert_eq!(taken, [Taken { address: ip("10.0.0.1"), was_released: true }]);
}

#[test]
fn counts_tell_resting_from_rested() {
    let mut pool = pool(&["10.0.0.0/29"], &[]);
    for _ in 0..3 {
        give(&mut pool, 0);
    }
    assert!(pool.release(ip("10.0.0.1"), at(5)));
    assert!(pool.release(ip("10.0.0.2"), at(20)));
    let resting = |now| pool.counts(at(now)).map(|c| (c.in_use, c.resting, c.free)).next().unwrap();
    assert_eq!(resting(20), (1, 2, 3));
    assert_eq!(resting(34), (1, 2, 3));
    assert_eq!(resting(35), (1, 1, 4));
    assert_eq!(resting(50), (1, 0, 5));
}

#[test]
fn what_the_pool_may_not_give_is_not_restored_nor_released() {
    let mut pool = pool(&["10.0.0.0/29"], &["10.0.0.3/32"]);
    for address in ["10.0.0.0", "10.0.0.3", "10.0.0.7", "10.0.1.1", "fd00::1"] {
        assert!(!pool.restore_given(ip(address)), "{address}");
        assert!(!pool.restore_released(ip(address), at(0)), "{address}");
        assert!(!pool.release(ip(address), at(0)), "{address}");
    }
    assert!(pool.restore_given(ip("10.0.0.1")));
    assert!(!pool.restore_given(ip("10.0.0.1")), "given to two");
    assert!(pool.restore_released(ip("10.0.0.2"), at(0)));
    assert!(!pool.restore_given(ip("10.0.0.2")));
    assert_eq!(give(&mut pool, 0), ["10.0.0.4"]);
}

#[test]
fn a_large_subnet_costs_nothing_and_the_line_stays_bounded() {
    let mut pool = pool(&["10.0.0.0/8", "fd00::/64"], &[]);
    pool.spaces.iter_mut().for_each(|space| space.line_cap = 10);
    for second in 0..10_000 {
        for taken in pool.allocate(Wish::default(), at(second)).unwrap() {
            assert!(pool.release(taken.address, at(second)));
        }
    }
    // 30 s of cooldown at one release a second, and what the cap lets pile up before.
    assert!(pool.released().count() <= 2 * 31, "{}", pool.released().count());
}

/// All there is to know, the slow way.
#[derive(Debug, Default)]
struct Naive {
    fresh: VecDeque<IpAddr>,
    given: Vec<IpAddr>,
    released: Vec<(Duration, IpAddr)>,
}

impl Naive {
    fn new(spec: &PoolSpec) -> Self {
        let mut fresh = VecDeque::new();
        for subnet in &spec.subnets {
            for address in subnet.iter() {
                let small = subnet.prefix() >= 31;
                let special = address == subnet.network() || address == subnet.broadcast();
                let reserved = spec.reserved.iter().any(|reserved| reserved.contains(address));
                if (small || !special) && !reserved {
                    fresh.push_back(address);
                }
            }
        }
        Self { fresh, ..Self::default() }
    }

    fn allocate(&mut self) -> Option<IpAddr> {
        self.released.sort();
        let address = self.fresh.pop_front().or_else(|| {
            let oldest = (!self.released.is_empty()).then(|| self.released.remove(0));
            oldest.map(|(_, address)| address)
        })?;
        self.given.push(address);
        Some(address)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Allocate,
    Release(usize),
    Wait(u64),
    /// The pool is built anew from what is given and released, as after a restart.
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Allocate),
        3 => any::<usize>().prop_map(Step::Release),
        1 => (0u64..40).prop_map(Step::Wait),
        1 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 0..200)
}

fn specs() -> impl Strategy<Value = PoolSpec> {
    let subnets = prop::collection::btree_set(0u32..4, 1..4);
    let reserved = prop::collection::vec((0u32..64, 28u8..=32), 0..4);
    (subnets, 28u8..=32, reserved).prop_map(|(subnets, prefix, reserved)| {
        let network = |host: u32, prefix| {
            let network = ipnetwork::Ipv4Network::new((0x0a00_0000 + host).into(), prefix).unwrap();
            IpNetwork::new(network.network().into(), prefix).unwrap()
        };
        PoolSpec {
            name: "p".into(),
            subnets: subnets.into_iter().rev().map(|n| network(n * 16, prefix)).collect(),
            reserved: reserved.into_iter().map(|(host, prefix)| network(host, prefix)).collect(),
            ranges: Vec::new(),
        }
    })
}

proptest! {
    #[test]
    fn agrees_with_the_naive_reference(spec in specs(), steps in steps()) {
        let mut pool = Pool::new(&spec, COOLDOWN);
        let mut naive = Naive::new(&spec);
        let mut now = at(0);
        for step in steps {
            match step {
                Step::Wait(seconds) => now += at(seconds),
                Step::Allocate => {
                    prop_assert_eq!(pool.probe(now).is_ok(), pool.clone().allocate(Wish::default(), now).is_ok());
                    let taken = pool.allocate(Wish::default(), now).ok().map(|taken| taken[0].address);
                    prop_assert_eq!(taken, naive.allocate());
                }
                Step::Release(choice) if naive.given.is_empty() => {
                    let never_given = ip(&format!("10.0.0.{}", choice % 256));
                    prop_assert!(!pool.release(never_given, now));
                }
                Step::Release(choice) => {
                    let address = naive.given.swap_remove(choice % naive.given.len());
                    prop_assert!(pool.release(address, now));
                    naive.released.push((now, address));
                }
                Step::Restore => {
                    pool = Pool::new(&spec, COOLDOWN);
                    prop_assert!(naive.given.iter().all(|&address| pool.restore_given(address)));
                    prop_assert!(naive.released.iter().all(|&(at, address)| pool.restore_released(address, at)));
                }
            }
            let counts = pool.counts(now).next().unwrap();
            let resting = naive.released.iter().filter(|(at, _)| *at + COOLDOWN > now).count() as u64;
            prop_assert_eq!((counts.in_use, counts.resting), (naive.given.len() as u64, resting));
            let sum = u128::from(counts.in_use + counts.resting) + counts.reserved + counts.free;
            prop_assert_eq!(sum, counts.size);
        }
    }
}
