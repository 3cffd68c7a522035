//! What a call does to the leases: `(request, now)` to an answer and the changes that the store must hold before the
//! answer goes out.
//!
//! Pure: `now` is handed in (`CLOCK_BOOTTIME`, so that a wall clock set back changes nothing), there is no I/O. Making
//! changes durable and undoing them when the store fails lives in `writer`.

use crate::check;
use crate::pool::{Counts, Pool, PoolSpec};
use ferrule_wire::{
    Allocate, AllocateReply, Attachment, CallError, Check, CheckReply, Collect, CollectReply, Lease,
    PoolStatus, PoolsReply, ReleaseReply, StatusReply,
};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

/// Most leases in one answer: at the longest names that [`check`] lets through, they fit in one message.
pub const PAGE: usize = 64;

/// One thing that the store has to hold. A batch of them is applied in order and as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A lease was given.
    Given(Lease),
    /// A lease ended.
    Ended(Lease),
    /// An address was released.
    Released {
        /// The address.
        address: IpAddr,
        /// When, on the boot clock.
        at: Duration,
    },
    /// The release of an address does not matter any more.
    Forgotten(IpAddr),
}

/// What the store holds: all there is to know apart from the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Leases.
    pub leases: Vec<Lease>,
    /// Released addresses and when, on the boot clock.
    pub released: Vec<(IpAddr, Duration)>,
}

/// What the configuration and `node.json` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The pools; the first is the default.
    pub pools: Vec<PoolSpec>,
    /// How long a released address rests.
    pub cooldown: Duration,
    /// MTU of the pods' interfaces.
    pub mtu: Option<u32>,
    /// Why there is no pool and what to do, for callers while there is none.
    pub why_no_pool: String,
}

/// A question or an order to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// See the interface file.
    Allocate(Allocate),
    /// See the interface file.
    Release(Attachment),
    /// See the interface file.
    Check(Check),
    /// See the interface file.
    Status,
    /// See the interface file.
    Collect(Collect),
    /// The next leases behind this attachment, at most [`PAGE`]: a part of `List`.
    Leases {
        /// The last attachment of the page before.
        after: Option<Attachment>,
    },
    /// See the interface file.
    Pools,
}

/// A success.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "the large one is the frequent one, and lives for one call")]
#[expect(missing_docs, reason = "each variant is the reply of the method it is called after")]
pub enum Answer {
    Allocate(AllocateReply),
    Release(ReleaseReply),
    Check(CheckReply),
    Status(StatusReply),
    Collect(CollectReply),
    Leases(ferrule_wire::ListReply),
    Pools(PoolsReply),
}

/// The leases and the pools they come from.
#[derive(Debug, Clone)]
pub struct Service {
    leases: BTreeMap<Attachment, Lease>,
    pools: Vec<Pool>,
    /// Released addresses that no pool gives now, for the case that their subnet comes back within their cooldown.
    homeless: BTreeMap<IpAddr, Duration>,
    settings: Settings,
}

impl Service {
    /// A service that goes on with what the store holds.
    #[must_use]
    pub fn new(settings: Settings, holdings: Holdings) -> Self {
        let leases = holdings.leases.into_iter().map(|lease| (lease.attachment.clone(), lease)).collect();
        let mut service = Self { leases, pools: Vec::new(), homeless: BTreeMap::new(), settings };
        service.place(holdings.released);
        service
    }

    /// Takes other settings: added subnets are used from now on; withdrawn ones give nothing more, their leases stay.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
        let mut released: Vec<_> = self.pools.iter().flat_map(Pool::released).collect();
        released.extend(std::mem::take(&mut self.homeless));
        self.place(released);
    }

    /// Drops released addresses that have rested and that no pool gives any more; the store may forget them too.
    pub fn forget_rested(&mut self, now: Duration) -> Vec<Change> {
        let rested = |at: Duration| at + self.settings.cooldown <= now;
        let (gone, kept) = std::mem::take(&mut self.homeless).into_iter().partition(|&(_, at)| rested(at));
        self.homeless = kept;
        BTreeMap::into_keys(gone).map(Change::Forgotten).collect()
    }

    /// The settings in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Number of leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is no lease.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Performs a request. Its changes are added to `changes`; an error adds none.
    ///
    /// # Errors
    /// As the interface file says.
    pub fn handle(
        &mut self,
        request: Request,
        now: Duration,
        changes: &mut Vec<Change>,
    ) -> Result<Answer, CallError> {
        match request {
            Request::Allocate(call) => self.allocate(call, now, changes).map(Answer::Allocate),
            Request::Release(attachment) => {
                let released = self.release(&attachment, now, changes);
                let released = released.map(|lease| lease.addresses).unwrap_or_default();
                Ok(Answer::Release(ReleaseReply { released }))
            }
            Request::Check(call) => self.check(call).map(Answer::Check),
            Request::Status => self.status(now).map(Answer::Status),
            Request::Collect(call) => Ok(Answer::Collect(self.collect(&call, now, changes))),
            Request::Leases { after } => {
                Ok(Answer::Leases(ferrule_wire::ListReply { leases: self.leases_after(after) }))
            }
            Request::Pools => Ok(Answer::Pools(self.pools(now))),
        }
    }

    fn allocate(
        &mut self,
        call: Allocate,
        now: Duration,
        changes: &mut Vec<Change>,
    ) -> Result<AllocateReply, CallError> {
        check::allocate(&call)?;
        let mtu = self.settings.mtu;
        if let Some(lease) = self.leases.get(&call.attachment) {
            return Ok(AllocateReply { lease: lease.clone(), existing: true, mtu });
        }
        let pool = self.pool(call.pool)?;
        let taken = pool.allocate(now).map_err(|counts| exhausted(pool.name(), &counts))?;
        let lease = Lease {
            attachment: call.attachment,
            addresses: taken.iter().map(|taken| IpNetwork::from(taken.address)).collect(),
            pool: pool.name().to_owned(),
            pod: call.pod,
            netns: call.netns,
            given_at_boottime_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        };
        let had = taken.iter().filter(|taken| taken.was_released);
        changes.extend(had.map(|taken| Change::Forgotten(taken.address)));
        changes.push(Change::Given(lease.clone()));
        self.leases.insert(lease.attachment.clone(), lease.clone());
        Ok(AllocateReply { lease, existing: false, mtu })
    }

    fn release(
        &mut self,
        attachment: &Attachment,
        now: Duration,
        changes: &mut Vec<Change>,
    ) -> Option<Lease> {
        let lease = self.leases.remove(attachment)?;
        changes.push(Change::Ended(lease.clone()));
        for address in lease.addresses.iter().map(IpNetwork::ip) {
            if !self.pools.iter_mut().any(|pool| pool.release(address, now)) {
                self.homeless.insert(address, now);
            }
            changes.push(Change::Released { address, at: now });
        }
        Some(lease)
    }

    fn check(&self, call: Check) -> Result<CheckReply, CallError> {
        let Check { attachment, addresses: mut claimed } = call;
        let Some(lease) = self.leases.get(&attachment) else {
            return Err(CallError::LeaseNotFound { attachment });
        };
        let mut leased = lease.addresses.clone();
        leased.sort_unstable();
        claimed.sort_unstable();
        if leased == claimed {
            return Ok(CheckReply {});
        }
        Err(CallError::LeaseMismatch { attachment, leased, claimed })
    }

    fn status(&mut self, now: Duration) -> Result<StatusReply, CallError> {
        let pool = self.pool(None)?;
        pool.probe(now).map_err(|counts| exhausted(pool.name(), &counts))?;
        Ok(StatusReply {})
    }

    fn collect(&mut self, call: &Collect, now: Duration, changes: &mut Vec<Change>) -> CollectReply {
        let valid: HashSet<&Attachment> = call.valid.iter().collect();
        let gone: Vec<Attachment> = self
            .leases
            .keys()
            .filter(|attachment| attachment.network == call.network && !valid.contains(attachment))
            .take(PAGE)
            .cloned()
            .collect();
        CollectReply { released: gone.iter().filter_map(|a| self.release(a, now, changes)).collect() }
    }

    fn leases_after(&self, after: Option<Attachment>) -> Vec<Lease> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.leases.range((from, Bound::Unbounded)).take(PAGE).map(|(_, lease)| lease.clone()).collect()
    }

    fn pools(&self, now: Duration) -> PoolsReply {
        let status = |pool: &Pool, counts: Counts| PoolStatus {
            draining: self.draining(pool, &counts),
            name: pool.name().to_owned(),
            family: counts.family,
            subnets: counts.subnets,
            in_use: counts.in_use,
            resting: counts.resting,
            reserved: counts.reserved.to_string(),
            size: counts.size.to_string(),
            free: counts.free.to_string(),
        };
        let pools = self.pools.iter();
        PoolsReply { pools: pools.flat_map(|pool| pool.counts(now).map(|c| status(pool, c))).collect() }
    }

    /// Addresses of one family that leases of this pool hold and the pool may not give any more.
    fn draining(&self, pool: &Pool, counts: &Counts) -> u64 {
        let leases = self.leases.values().filter(|lease| lease.pool == pool.name());
        let addresses = leases.flat_map(|lease| &lease.addresses);
        let ours = addresses.filter(|address| ferrule_wire::Family::of(address) == counts.family);
        ours.filter(|address| !pool.has_given(address.ip())).count() as u64
    }

    fn pool(&mut self, name: Option<String>) -> Result<&mut Pool, CallError> {
        let names = self.pools.iter().map(Pool::name).collect::<Vec<_>>().join(", ");
        let found = match &name {
            None => self.pools.first_mut(),
            Some(name) => self.pools.iter_mut().find(|pool| pool.name() == name),
        };
        let reason = if names.is_empty() {
            self.settings.why_no_pool.clone()
        } else {
            format!("the pools are: {names}; correct the plugin's configuration or add [[ipam.pool]]")
        };
        found.ok_or(CallError::NoPool { pool: name, reason })
    }

    /// Builds the pools anew and puts every known address where it belongs.
    fn place(&mut self, released: Vec<(IpAddr, Duration)>) {
        let Settings { pools, cooldown, .. } = &self.settings;
        self.pools = pools.iter().map(|spec| Pool::new(spec, *cooldown)).collect();
        for address in self.leases.values().flat_map(|lease| &lease.addresses) {
            // No pool has it: its subnet was withdrawn, and it goes with its lease.
            let _ = self.pools.iter_mut().any(|pool| pool.restore_given(address.ip()));
        }
        for (address, at) in released {
            if !self.pools.iter_mut().any(|pool| pool.restore_released(address, at)) {
                self.homeless.insert(address, at);
            }
        }
    }
}

fn exhausted(pool: &str, counts: &Counts) -> CallError {
    CallError::PoolExhausted {
        pool: pool.to_owned(),
        family: counts.family,
        in_use: counts.in_use,
        resting: counts.resting,
        reserved: counts.reserved.to_string(),
    }
}

#[cfg(test)]
mod tests;
