//! The allocator: which address of a pool is given next, and how many are left.
//!
//! Pure: no clock, no I/O, no attachments. What an address is given for lives in `service`.
//!
//! A walk through one address of a /24: the cursor comes to 10.244.1.5. Nobody has ever had that address, so it is
//! given. When it is released, it goes to the end of the line of released addresses and rests for the cooldown. The
//! cursor goes on through addresses that nobody has had. Only when there are none left does the pool give the head of
//! the line, which is then the address that was released longest ago.
//!
//! Memory follows what was given, never the size of the subnet: a /64 costs what its leases cost.

mod numbers;

use ferrule_wire::messages::{AddressRange, Family};
use ipnetwork::IpNetwork;
use numbers::Numbers;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::Duration;

/// When the line has this many released addresses, the pool gives the one that was released longest ago rather than a
/// fresh one. Otherwise the line would grow for ever in a subnet that the cursor never gets through. A /16 never has so
/// many.
const LINE_CAP: usize = 1 << 16;

/// A pool as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name.
    pub name: String,
    /// Its subnets, none overlapping another, in the order in which they are used.
    pub subnets: Vec<IpNetwork>,
    /// Addresses and networks that are never given: gateways, other machines.
    pub reserved: Vec<IpNetwork>,
    /// A subnet that has some of these gives only addresses inside them.
    pub ranges: Vec<AddressRange>,
}

/// What a caller asks a pool for, beyond an address of each family.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Exactly these addresses, at most one of each family.
    pub requested: &'a [IpAddr],
    /// Only addresses inside one of these ranges, for the families that occur in them.
    pub ranges: &'a [AddressRange],
}

/// Why a pool gives nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No address is left. The counts are those of the family, or of its part inside the ranges that were asked for.
    Exhausted(Counts),
    /// The requested address is in use.
    InUse(IpAddr),
    /// This pool never gives the requested address.
    NotOurs(IpAddr),
    /// The node itself has the requested address.
    Held(IpAddr),
    /// The pool gives no address of this range.
    Outside(AddressRange),
}

/// An address taken from a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The address.
    pub address: IpAddr,
    /// Whether somebody had it before. Then the record of its release is to be removed.
    pub was_released: bool,
}

/// Counts of one family of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The family.
    pub family: Family,
    /// Its subnets.
    pub subnets: Vec<IpNetwork>,
    /// Given and not released.
    pub in_use: u64,
    /// Released, within the cooldown.
    pub resting: u64,
    /// Never given: network and broadcast addresses, reserved ones, those outside of the configured ranges, and those
    /// that the node itself has.
    pub reserved: u128,
    /// All addresses of the subnets.
    pub size: u128,
    /// What can be given without taking a resting address.
    pub free: u128,
}

/// A pool: one [`Space`] for each family it has, IPv4 first.
#[derive(Debug, Clone)]
pub struct Pool {
    name: String,
    spaces: Vec<Space>,
}

impl Pool {
    /// A pool that has given no address yet. Released addresses rest for `cooldown`.
    #[must_use]
    pub fn new(spec: &PoolSpec, cooldown: Duration) -> Self {
        let spaces = [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .map(|family| Space::new(family, spec, cooldown))
            .filter(|space| !space.subnets.is_empty())
            .collect();
        Self { name: spec.name.clone(), spaces }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives one address of each family: all of them or none.
    ///
    /// # Errors
    /// The refusal of the first family that cannot give one.
    pub fn allocate(&mut self, wish: Wish<'_>, now: Duration) -> Result<Vec<Taken>, Refusal> {
        if let Some(&stray) = wish.requested.iter().find(|&&address| !self.may_give(address)) {
            return Err(Refusal::NotOurs(stray));
        }
        if let Some(&stray) = wish.ranges.iter().find(|range| !self.spaces.iter().any(|s| s.meets(range))) {
            return Err(Refusal::Outside(stray));
        }
        let choose = |space: &mut Space| space.choose(wish, now);
        let chosen = self.spaces.iter_mut().map(choose).collect::<Result<Vec<_>, _>>()?;
        Ok(self.spaces.iter_mut().zip(chosen).map(|(space, number)| space.take(number)).collect())
    }

    /// Whether this pool gives the address, now or once it is free.
    #[must_use]
    pub fn may_give(&self, address: IpAddr) -> bool {
        self.spaces.iter().any(|s| s.family == family_of(address) && s.may_give(number_of(address)))
    }

    /// Sets which addresses the node itself has. The pool does not give them while the node has them.
    pub fn hold(&mut self, held: &[IpAddr]) {
        for space in &mut self.spaces {
            let ours =
                held.iter().copied().filter(|&address| family_of(address) == space.family).map(number_of);
            space.held = ours.collect();
            // The cursor may have passed over addresses that the node no longer has.
            space.cursor = (0, 0);
        }
    }

    /// Whether [`allocate`](Self::allocate) would succeed now.
    ///
    /// # Errors
    /// As for `allocate`.
    pub fn probe(&mut self, now: Duration) -> Result<(), Counts> {
        let full =
            self.spaces.iter_mut().find_map(|space| space.next(now).is_none().then(|| space.counts(now)));
        full.map_or(Ok(()), Err)
    }

    /// Takes an address back. Returns `false` if this pool did not give it, or if it is no longer the pool's.
    pub fn release(&mut self, address: IpAddr, now: Duration) -> bool {
        self.space(address).is_some_and(|space| space.release(number_of(address), now))
    }

    /// Marks an address as given, as the store says. Returns `false` if the pool may not give it, or if it is marked
    /// already.
    pub fn restore_given(&mut self, address: IpAddr) -> bool {
        self.space(address).is_some_and(|space| space.restore_given(number_of(address)))
    }

    /// Puts an address into the line of released ones, as the store says. Returns `false` if the pool may not give it,
    /// or if it is marked already.
    pub fn restore_released(&mut self, address: IpAddr, released_at: Duration) -> bool {
        self.space(address).is_some_and(|space| space.restore_released(number_of(address), released_at))
    }

    /// Whether it has subnets of this family.
    #[must_use]
    pub fn has_family(&self, family: Family) -> bool {
        self.spaces.iter().any(|space| space.family == family)
    }

    /// Whether this pool holds the address as given.
    #[must_use]
    pub fn has_given(&self, address: IpAddr) -> bool {
        self.spaces.iter().any(|s| s.family == family_of(address) && s.given.contains(number_of(address)))
    }

    /// The released addresses with the time of their release. Within a family, the one released longest ago comes
    /// first.
    pub fn released(&self) -> impl Iterator<Item = (IpAddr, Duration)> {
        self.spaces.iter().flat_map(|s| s.line.iter().map(|&(at, number)| (s.address_of(number), at)))
    }

    /// The addresses that rest at `now` and come after (`time`, `address`), at most `most` of them. The one released
    /// longest ago comes first.
    pub(crate) fn resting(
        &self,
        after: Option<(Duration, IpAddr)>,
        now: Duration,
        most: usize,
    ) -> Vec<(Duration, IpAddr)> {
        let spaces = self.spaces.iter();
        let mut found: Vec<_> = spaces.flat_map(|space| space.resting(after, now).take(most)).collect();
        found.sort_unstable();
        found.truncate(most);
        found
    }

    /// The counts of each family.
    pub fn counts(&self, now: Duration) -> impl Iterator<Item = Counts> {
        self.spaces.iter().map(move |space| space.counts(now))
    }

    fn space(&mut self, address: IpAddr) -> Option<&mut Space> {
        let family = family_of(address);
        self.spaces.iter_mut().find(|space| space.family == family)
    }
}

/// One family of a pool. Addresses are numbers here.
#[derive(Debug, Clone)]
struct Space {
    family: Family,
    subnets: Vec<IpNetwork>,
    cooldown: Duration,
    /// What may be given: the first and last number of each stretch, in the order of use.
    stretches: Vec<(u128, u128)>,
    /// The same with the first number as the key and the last as the value, to find the stretch of an address.
    index: BTreeMap<u128, u128>,
    /// The stretch, and the offset in it. Every address before this place has been given at some time.
    cursor: (usize, u128),
    given: Numbers,
    /// The line: released addresses, ordered by the time of their release.
    line: BTreeSet<(Duration, u128)>,
    released_at: HashMap<u128, Duration>,
    line_cap: usize,
    /// Addresses that the node itself has. There are few.
    held: BTreeSet<u128>,
}

impl Space {
    fn new(family: Family, spec: &PoolSpec, cooldown: Duration) -> Self {
        let ours = |networks: &[IpNetwork]| -> Vec<IpNetwork> {
            networks.iter().filter(|network| Family::of(network) == family).copied().collect()
        };
        let subnets = ours(&spec.subnets);
        let mut reserved: Vec<_> = ours(&spec.reserved).iter().map(bounds).collect();
        reserved.sort_unstable();
        let ranges: Vec<_> = spec.ranges.iter().filter_map(|range| numbers_of(family, range)).collect();
        let stretches: Vec<_> = subnets
            .iter()
            .flat_map(|subnet| inside(subnet, &ranges))
            .flat_map(|stretch| without(stretch, &reserved))
            .collect();
        Self {
            family,
            subnets,
            cooldown,
            index: stretches.iter().copied().collect(),
            stretches,
            cursor: (0, 0),
            given: Numbers::default(),
            line: BTreeSet::new(),
            released_at: HashMap::new(),
            line_cap: LINE_CAP,
            held: BTreeSet::new(),
        }
    }

    /// The address to give next. It stays the same until something changes.
    fn next(&mut self, now: Duration) -> Option<u128> {
        let oldest = self.line.iter().find(|(_, number)| !self.held.contains(number)).copied();
        if self.line.len() >= self.line_cap
            && let Some((at, number)) = oldest
            && at + self.cooldown <= now
        {
            return Some(number);
        }
        // The head of the line has rested longest: if it still rests, all the others do too.
        self.fresh().or(oldest.map(|(_, number)| number))
    }

    /// The next address that nobody has had. It takes amortised constant time, because the cursor passes each address
    /// once.
    fn fresh(&mut self) -> Option<u128> {
        while let Some(&(first, last)) = self.stretches.get(self.cursor.0) {
            if self.cursor.1 > last - first {
                self.cursor = (self.cursor.0 + 1, 0);
                continue;
            }
            let number = first + self.cursor.1;
            if self.is_fresh(number) {
                return Some(number);
            }
            self.cursor.1 += 1;
        }
        None
    }

    /// The address that meets the wish.
    fn choose(&mut self, wish: Wish<'_>, now: Duration) -> Result<u128, Refusal> {
        let requested = wish.requested.iter().copied().find(|&address| family_of(address) == self.family);
        if let Some(address) = requested {
            let number = number_of(address);
            return match (self.given.contains(number), self.held.contains(&number)) {
                (true, _) => Err(Refusal::InUse(address)),
                (false, true) => Err(Refusal::Held(address)),
                (false, false) => Ok(number),
            };
        }
        let ranges: Vec<_> = wish.ranges.iter().filter_map(|range| numbers_of(self.family, range)).collect();
        if ranges.is_empty() {
            return self.next(now).ok_or_else(|| Refusal::Exhausted(self.counts(now)));
        }
        let stretches = self.stretches_in(&ranges);
        // This passes at most as many addresses as are given or in the line.
        let fresh =
            stretches.iter().find_map(|&(first, last)| (first..=last).find(|&number| self.is_fresh(number)));
        let among = |number: &u128| {
            !self.held.contains(number)
                && stretches.iter().any(|&(first, last)| (first..=last).contains(number))
        };
        let longest = || self.line.iter().map(|&(_, number)| number).find(among);
        fresh.or_else(longest).ok_or_else(|| Refusal::Exhausted(self.counts_in(&ranges, now)))
    }

    /// Whether there is an address in the range that may be given.
    fn meets(&self, range: &AddressRange) -> bool {
        numbers_of(self.family, range).is_some_and(|range| !self.stretches_in(&[range]).is_empty())
    }

    /// The parts of the stretches that lie inside the ranges, in the order of use.
    fn stretches_in(&self, ranges: &[(u128, u128)]) -> Vec<(u128, u128)> {
        let parts = self
            .stretches
            .iter()
            .flat_map(|&stretch| ranges.iter().filter_map(move |&range| common(stretch, range)));
        parts.collect()
    }

    fn take(&mut self, number: u128) -> Taken {
        let released_at = self.released_at.remove(&number);
        if let Some(at) = released_at {
            self.line.remove(&(at, number));
        }
        self.given.insert(number);
        Taken { address: self.address_of(number), was_released: released_at.is_some() }
    }

    fn release(&mut self, number: u128, now: Duration) -> bool {
        self.given.remove(number) && self.restore_released(number, now)
    }

    fn restore_given(&mut self, number: u128) -> bool {
        self.may_give(number) && !self.is_known(number) && self.given.insert(number)
    }

    fn restore_released(&mut self, number: u128, at: Duration) -> bool {
        if !self.may_give(number) || self.is_known(number) {
            return false;
        }
        self.released_at.insert(number, at);
        self.line.insert((at, number))
    }

    fn is_known(&self, number: u128) -> bool {
        self.given.contains(number) || self.released_at.contains_key(&number)
    }

    /// Whether nobody has had the address, and the node does not have it either.
    fn is_fresh(&self, number: u128) -> bool {
        !self.is_known(number) && !self.held.contains(&number)
    }

    /// How many addresses would be free if the node did not have them.
    fn withheld(&self, now: Duration, among: impl Fn(u128) -> bool) -> u128 {
        let rests = |number| self.released_at.get(&number).is_some_and(|&at| at + self.cooldown > now);
        let kept = self.held.iter().filter(|&&number| {
            among(number) && self.may_give(number) && !self.given.contains(number) && !rests(number)
        });
        kept.count() as u128
    }

    fn may_give(&self, number: u128) -> bool {
        self.index.range(..=number).next_back().is_some_and(|(_, &last)| number <= last)
    }

    fn counts(&self, now: Duration) -> Counts {
        // An address has rested if released_at + cooldown <= now. Soon after a boot the subtraction would go below
        // zero; then no address has rested yet.
        let resting = match now.checked_sub(self.cooldown) {
            Some(since) => self.line.iter().rev().take_while(|(at, _)| *at > since).count(),
            None => self.line.len(),
        };
        let (in_use, resting) = (self.given.len() as u64, resting as u64);
        let size = self.subnets.iter().map(bounds).map(length).fold(0, u128::saturating_add);
        let givable = self.stretches.iter().copied().map(length).fold(0, u128::saturating_add);
        let givable = givable - self.withheld(now, |_| true);
        Counts {
            family: self.family,
            subnets: self.subnets.clone(),
            in_use,
            resting,
            reserved: size - givable,
            size,
            free: givable.saturating_sub(u128::from(in_use) + u128::from(resting)),
        }
    }

    fn resting(
        &self,
        after: Option<(Duration, IpAddr)>,
        now: Duration,
    ) -> impl Iterator<Item = (Duration, IpAddr)> {
        let from = match after {
            // Addresses that were released at the same time are in order, IPv4 before IPv6.
            Some((at, address)) if family_of(address) == self.family => Excluded((at, number_of(address))),
            Some((at, _)) if self.family == Family::Ipv4 => Excluded((at, u128::MAX)),
            Some((at, _)) => Included((at, 0)),
            None => Unbounded,
        };
        let resting = self.line.range((from, Unbounded)).filter(move |(at, _)| *at + self.cooldown > now);
        resting.map(|&(at, number)| (at, self.address_of(number)))
    }

    /// The counts of the addresses inside the ranges.
    fn counts_in(&self, ranges: &[(u128, u128)], now: Duration) -> Counts {
        let among = |number: u128| ranges.iter().any(|&(first, last)| (first..=last).contains(&number));
        let in_use = self.given.iter().filter(|&number| among(number)).count() as u64;
        let rests = |at: Duration| at + self.cooldown > now;
        let line = self.line.iter().filter(|&&(at, number)| rests(at) && among(number));
        let resting = line.count() as u64;
        let size = ranges.iter().copied().map(length).fold(0, u128::saturating_add);
        let stretches = self.stretches_in(ranges);
        let givable = stretches.into_iter().map(length).fold(0, u128::saturating_add);
        let givable = givable.saturating_sub(self.withheld(now, among));
        Counts {
            family: self.family,
            subnets: self.subnets.clone(),
            in_use,
            resting,
            reserved: size.saturating_sub(givable),
            size,
            free: givable.saturating_sub(u128::from(in_use) + u128::from(resting)),
        }
    }

    fn address_of(&self, number: u128) -> IpAddr {
        match self.family {
            // The numbers of an IPv4 space are made from IPv4 addresses, so the conversion loses nothing.
            #[expect(clippy::cast_possible_truncation, reason = "an IPv4 number has 32 bits")]
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }
}

const fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::Ipv4,
        IpAddr::V6(_) => Family::Ipv6,
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// First and last number of a range, if it is of this family and not empty.
fn numbers_of(family: Family, range: &AddressRange) -> Option<(u128, u128)> {
    let (first, last) = (number_of(range.first), number_of(range.last));
    let ours = family_of(range.first) == family && family_of(range.last) == family;
    (ours && first <= last).then_some((first, last))
}

/// The stretches of a subnet's hosts. If the subnet has ranges, they are the parts inside these, in the order of the
/// ranges, which is the order of use.
fn inside(subnet: &IpNetwork, ranges: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let whole = bounds(subnet);
    let mut own = ranges.iter().filter(|&&range| common(whole, range).is_some()).peekable();
    if own.peek().is_none() {
        return vec![hosts(subnet)];
    }
    own.filter_map(|&range| common(hosts(subnet), range)).collect()
}

/// The numbers that are in both stretches.
fn common(one: (u128, u128), other: (u128, u128)) -> Option<(u128, u128)> {
    let (first, last) = (one.0.max(other.0), one.1.min(other.1));
    (first <= last).then_some((first, last))
}

/// First and last address of a network.
fn bounds(network: &IpNetwork) -> (u128, u128) {
    (number_of(network.network()), number_of(network.broadcast()))
}

/// First and last address that a host may have. The network address (in IPv6 the routers' anycast address, RFC 4291
/// section 2.6.1) and the IPv4 broadcast address are left out. Networks of one or two addresses have neither (RFC 3021,
/// RFC 6164).
fn hosts(network: &IpNetwork) -> (u128, u128) {
    let (first, last) = bounds(network);
    match network {
        _ if last - first < 2 => (first, last),
        IpNetwork::V4(_) => (first + 1, last - 1),
        IpNetwork::V6(_) => (first + 1, last),
    }
}

fn length((first, last): (u128, u128)) -> u128 {
    (last - first).saturating_add(1)
}

/// What is left of a stretch without the reserved addresses, which are sorted.
fn without((first, last): (u128, u128), reserved: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut left = Vec::new();
    let mut from = first;
    for &(low, high) in reserved {
        if high < from {
            continue;
        }
        if low > last {
            break;
        }
        if low > from {
            left.push((from, low - 1));
        }
        if high >= last {
            return left;
        }
        from = high + 1;
    }
    left.push((from, last));
    left
}

#[cfg(test)]
mod tests;
