//! What is promised of addresses, as plain as it can be said: sets, no cursors, no lines, nothing kept that follows
//! from something else.

use super::common::attachment;
use ferrule_wire::{
    Allocate, AllocateReply, Attachment, CallError, Check, Collect, Family, Lease, PoolStatus,
};
use ipamd::decide::pool::PoolSpec;
use ipamd::decide::service::Settings;
use ipnetwork::IpNetwork;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

pub type Verdict = Result<(), TestCaseError>;

/// Subnets that come and go, each of both families: pool, and those of its addresses that are reserved.
const SUBNETS: [(&str, [&str; 2], &[&str]); 4] = [
    ("one", ["10.1.0.0/30", "fd01::/126"], &[]),
    ("one", ["10.2.0.0/31", "fd02::/127"], &[]),
    ("one", ["10.3.0.0/29", "fd03::/125"], &["10.3.0.2/32", "fd03::2/128"]),
    ("two", ["10.4.0.0/30", "fd04::/126"], &[]),
];

/// What the configuration says: a bit for each of [`SUBNETS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub subnets: u8,
    pub cooldown_s: u64,
}

impl Said {
    pub fn settings(self) -> Settings {
        let mut pools: Vec<PoolSpec> = Vec::new();
        for (name, subnets, reserved) in self.chosen() {
            if pools.iter().all(|pool| pool.name != name) {
                pools.push(PoolSpec { name: name.to_owned(), ..PoolSpec::default() });
            }
            let pool = pools.iter_mut().find(|pool| pool.name == name).unwrap();
            pool.subnets.extend(subnets.map(|subnet| subnet.parse::<IpNetwork>().unwrap()));
            pool.reserved.extend(reserved.iter().map(|address| address.parse::<IpNetwork>().unwrap()));
        }
        let cooldown = Duration::from_secs(self.cooldown_s);
        Settings {
            pools,
            cooldown,
            mtu: None,
            why_no_pool: "none is chosen".to_owned(),
            held: BTreeMap::new(),
        }
    }

    /// The same as `ferrule.toml`.
    pub fn toml(self) -> String {
        let mut text = format!("[ipam]\ncooldown_s = {}\n", self.cooldown_s);
        for pool in self.settings().pools {
            let list = |networks: &[IpNetwork]| {
                networks.iter().map(|network| format!("\"{network}\"")).collect::<Vec<_>>().join(", ")
            };
            let (subnets, reserved) = (list(&pool.subnets), list(&pool.reserved));
            let name = pool.name;
            write!(
                text,
                "[[ipam.pool]]\nname = \"{name}\"\nsubnets = [{subnets}]\nreserved = [{reserved}]\n"
            )
            .unwrap();
        }
        text
    }

    fn chosen(self) -> impl Iterator<Item = (&'static str, [&'static str; 2], &'static [&'static str])> {
        SUBNETS.into_iter().enumerate().filter(move |(bit, _)| self.subnets & (1 << bit) != 0).map(|(_, s)| s)
    }

    fn pools(self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.chosen().map(|(name, ..)| name).collect();
        names.dedup();
        names
    }

    /// All addresses of a pool's family that may be given at some time.
    fn givable(self, pool: &str, family: Family) -> BTreeSet<IpAddr> {
        let subnets = self.chosen().filter(|(name, ..)| *name == pool);
        let addresses = subnets.flat_map(|(_, subnets, reserved)| {
            let subnet: IpNetwork = subnets[usize::from(family == Family::Ipv6)].parse().unwrap();
            let small = subnet.prefix() >= if subnet.is_ipv4() { 31 } else { 127 };
            let special =
                move |ip| !small && (ip == subnet.network() || subnet.is_ipv4() && ip == subnet.broadcast());
            let is_reserved = move |ip: IpAddr| reserved.contains(&IpNetwork::from(ip).to_string().as_str());
            subnet.iter().filter(move |&ip| !special(ip) && !is_reserved(ip)).collect::<Vec<_>>()
        });
        addresses.collect()
    }

    fn owner(self, address: IpAddr) -> Option<&'static str> {
        let family = family_of(address);
        self.pools().into_iter().find(|pool| self.givable(pool, family).contains(&address))
    }
}

fn family_of(address: IpAddr) -> Family {
    Family::of(&IpNetwork::from(address))
}

/// Attachments of two networks.
pub fn whom(id: u8) -> Attachment {
    let network = if id % 4 == 3 { "other" } else { "pods" };
    Attachment { network: network.to_owned(), ..attachment(&id.to_string()) }
}

/// Who has what, who had what until when, and what the time is.
#[derive(Debug, Clone)]
pub struct Reference {
    pub leases: BTreeMap<Attachment, Lease>,
    pub released: BTreeMap<IpAddr, Duration>,
    pub said: Said,
    pub now: Duration,
}

impl Reference {
    pub fn new(said: Said) -> Self {
        let now = Duration::from_secs(1000);
        Self { leases: BTreeMap::new(), released: BTreeMap::new(), said, now }
    }

    fn rests(&self, address: &IpAddr) -> bool {
        let cooldown = Duration::from_secs(self.said.cooldown_s);
        self.released.get(address).is_some_and(|at| *at + cooldown > self.now)
    }

    fn leased(&self) -> BTreeSet<IpAddr> {
        self.leases.values().flat_map(|lease| &lease.addresses).map(IpNetwork::ip).collect()
    }

    /// What may be given next: one that nobody had if there is one, else one that was released longest ago.
    fn candidates(&self, pool: &str, family: Family) -> BTreeSet<IpAddr> {
        let leased = self.leased();
        let free: BTreeSet<_> =
            self.said.givable(pool, family).into_iter().filter(|ip| !leased.contains(ip)).collect();
        let fresh: BTreeSet<_> = free.iter().copied().filter(|ip| !self.released.contains_key(ip)).collect();
        if !fresh.is_empty() {
            return fresh;
        }
        let oldest = free.iter().filter_map(|ip| self.released.get(ip)).min();
        free.iter().copied().filter(|ip| self.released.get(ip) == oldest).collect()
    }

    pub fn release(&mut self, whom: &Attachment) -> Vec<IpNetwork> {
        let addresses = self.leases.remove(whom).map(|lease| lease.addresses).unwrap_or_default();
        self.released.extend(addresses.iter().map(|address| (address.ip(), self.now)));
        addresses
    }

    /// Whoever is of the call's network and not valid.
    pub fn collect(&mut self, call: &Collect) -> Vec<Attachment> {
        let gone = |whom: &&Attachment| whom.network == call.network && !call.valid.contains(whom);
        let gone: Vec<_> = self.leases.keys().filter(gone).cloned().collect();
        for whom in &gone {
            self.release(whom);
        }
        gone
    }

    /// What is of no pool any more is forgotten once it has rested: at a change of the configuration and at a start.
    pub fn forget(&mut self) {
        let keep: BTreeSet<_> = self
            .released
            .keys()
            .copied()
            .filter(|ip| self.said.owner(*ip).is_some() || self.rests(ip))
            .collect();
        self.released.retain(|ip, _| keep.contains(ip));
    }

    /// All leases are over; all addresses that were in use or rested rest from now on.
    pub fn reboot(&mut self) {
        let held: Vec<_> = self.leases.keys().cloned().collect();
        for whom in held {
            self.release(&whom);
        }
        self.released.values_mut().for_each(|at| *at = self.now);
    }

    /// Whether an Allocate was answered rightly; then it counts.
    pub fn allocated(&mut self, call: &Allocate, answer: &Result<AllocateReply, CallError>) -> Verdict {
        if let Some(lease) = self.leases.get(&call.attachment) {
            let has = |ip: &IpAddr| lease.addresses.contains(&IpNetwork::from(*ip));
            match answer {
                Ok(reply) => prop_assert!(
                    reply.existing && reply.lease == *lease && call.requested.iter().all(has),
                    "{reply:?} for {lease:?}"
                ),
                Err(CallError::LeaseMismatch { .. }) => prop_assert!(!call.requested.iter().all(has)),
                Err(other) => prop_assert!(false, "{other:?} for {lease:?}"),
            }
            return Ok(());
        }
        let owner = call.requested.first().and_then(|ip| self.said.owner(*ip));
        let pools = self.said.pools();
        let asked = call.pool.as_deref().or(owner).or(pools.first().copied());
        let Some(pool) = asked.filter(|asked| pools.contains(asked)) else {
            prop_assert!(matches!(answer, Err(CallError::NoPool { .. })), "{answer:?}");
            return Ok(());
        };
        let stray = |ip: &&IpAddr| !self.said.givable(pool, family_of(**ip)).contains(*ip);
        if call.requested.iter().any(|ip| stray(&ip)) {
            let refused =
                matches!(answer, Err(CallError::InvalidArgument { field, .. }) if field == "requested");
            prop_assert!(refused, "{answer:?}");
            return Ok(());
        }
        self.given(call, pool, answer)
    }

    fn given(&mut self, call: &Allocate, pool: &str, answer: &Result<AllocateReply, CallError>) -> Verdict {
        let leased = self.leased();
        for (place, family) in [Family::Ipv4, Family::Ipv6].into_iter().enumerate() {
            let requested = call.requested.iter().copied().find(|ip| family_of(*ip) == family);
            let allowed = match requested {
                Some(ip) if leased.contains(&ip) => {
                    let CallError::AddressInUse { attachment, .. } = refused(answer)? else {
                        return Err(TestCaseError::fail(format!("{ip} is in use: {answer:?}")));
                    };
                    let holds = self.leases[&attachment].addresses.contains(&IpNetwork::from(ip));
                    prop_assert!(holds, "{ip} is not {attachment}'s");
                    return Ok(());
                }
                Some(ip) => BTreeSet::from([ip]),
                None => self.candidates(pool, family),
            };
            if allowed.is_empty() {
                let error = refused(answer)?;
                let CallError::PoolExhausted { family: of, in_use, resting, .. } = error else {
                    return Err(TestCaseError::fail(format!("{pool} has no {family}: {error:?}")));
                };
                prop_assert_eq!((of, in_use, resting), self.counts(pool, family));
                return Ok(());
            }
            let Ok(reply) = answer else {
                // The other family's refusal is looked at in its turn.
                continue;
            };
            let given = reply.lease.addresses.get(place).map(IpNetwork::ip);
            prop_assert!(given.is_some_and(|ip| allowed.contains(&ip)), "{given:?}, not of {allowed:?}");
        }
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return Err(TestCaseError::fail(format!("nothing was in the way: {error:?}"))),
        };
        let lease = &reply.lease;
        prop_assert!(!reply.existing && lease.addresses.len() == 2 && lease.pool == pool, "{reply:?}");
        prop_assert_eq!(&lease.attachment, &call.attachment);
        self.released.retain(|ip, _| !lease.addresses.contains(&IpNetwork::from(*ip)));
        self.leases.insert(lease.attachment.clone(), lease.clone());
        Ok(())
    }

    /// Family, in use, resting.
    fn counts(&self, pool: &str, family: Family) -> (Family, u64, u64) {
        let (givable, leased) = (self.said.givable(pool, family), self.leased());
        let in_use = givable.iter().filter(|ip| leased.contains(ip)).count() as u64;
        let resting = givable.iter().filter(|ip| self.rests(ip)).count() as u64;
        (family, in_use, resting)
    }

    pub fn checked(&self, call: &Check, answer: &Result<(), CallError>) -> Verdict {
        match (self.leases.get(&call.attachment), answer) {
            (None, Err(CallError::LeaseNotFound { .. })) => {}
            (Some(lease), Ok(())) => prop_assert_eq!(&lease.addresses, &call.addresses),
            (Some(lease), Err(CallError::LeaseMismatch { .. })) => {
                prop_assert_ne!(&lease.addresses, &call.addresses);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    }

    /// Whether the next ADD would get an address.
    pub fn status(&self, answer: &Result<(), CallError>) -> Verdict {
        let Some(pool) = self.said.pools().first().copied() else {
            prop_assert!(matches!(answer, Err(CallError::NoPool { .. })), "{answer:?}");
            return Ok(());
        };
        let empty = |family: &Family| self.candidates(pool, *family).is_empty();
        match [Family::Ipv4, Family::Ipv6].into_iter().find(empty) {
            None => prop_assert!(answer.is_ok(), "{answer:?}"),
            Some(family) => {
                let CallError::PoolExhausted { family: of, in_use, resting, .. } = refused(answer)? else {
                    return Err(TestCaseError::fail(format!("{answer:?}")));
                };
                prop_assert_eq!((of, in_use, resting), self.counts(pool, family));
            }
        }
        Ok(())
    }

    /// Whether the counts of all pools are right, withdrawn ones among them.
    pub fn counted(&self, shown: &[PoolStatus]) -> Verdict {
        let mut expected = BTreeMap::new();
        for lease in self.leases.values() {
            for address in &lease.addresses {
                let family = Family::of(address);
                let counts = expected.entry((lease.pool.clone(), family)).or_insert((0, 0, 0));
                if !self.said.givable(&lease.pool, family).contains(&address.ip()) {
                    counts.2 += 1;
                }
            }
        }
        for pool in self.said.pools() {
            for family in [Family::Ipv4, Family::Ipv6] {
                let (_, in_use, resting) = self.counts(pool, family);
                let counts = expected.entry((pool.to_owned(), family)).or_insert((0, 0, 0));
                (counts.0, counts.1) = (in_use, resting);
            }
        }
        let of = |pool: &PoolStatus| {
            ((pool.name.clone(), pool.family), (pool.in_use, pool.resting, pool.draining))
        };
        prop_assert_eq!(shown.iter().map(of).collect::<BTreeMap<_, _>>(), expected);
        for pool in shown {
            let number = |text: &str| text.parse::<u64>().unwrap();
            let sum = pool.in_use + pool.resting + number(&pool.reserved) + number(&pool.free);
            prop_assert_eq!(number(&pool.size), sum, "{:?}", pool);
        }
        Ok(())
    }

    /// The addresses that rest and that a pool will give again, those released longest ago first.
    pub fn resting(&self) -> Vec<(Duration, IpAddr)> {
        let rests = |(ip, _): &(&IpAddr, &Duration)| self.rests(ip) && self.said.owner(**ip).is_some();
        let mut resting: Vec<_> = self.released.iter().filter(rests).map(|(ip, at)| (*at, *ip)).collect();
        resting.sort_unstable();
        resting
    }
}

/// The error that has to be there.
fn refused<T: std::fmt::Debug>(answer: &Result<T, CallError>) -> Result<CallError, TestCaseError> {
    match answer {
        Ok(reply) => Err(TestCaseError::fail(format!("given out of nothing: {reply:?}"))),
        Err(error) => Ok(error.clone()),
    }
}
