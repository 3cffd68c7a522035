//! What a call does to the leases. It turns `(request, now)` into an answer and the changes that the store must hold
//! before the answer goes out.
//!
//! Pure: the time `now` is handed in, and there is no I/O. The time is `CLOCK_BOOTTIME`, so that a wall clock that is
//! set back changes nothing. Making changes durable, and undoing them when the store fails, is done in `writer`.

use crate::decide::check;
use crate::decide::compact::Packed;
use crate::decide::holdings::{Change, Holdings, Released};
use crate::decide::pool::{Counts, Pool, PoolSpec, Refusal, Wish};
use crate::decide::resting::Formers;
use crate::decide::table::Table;
use ferrule_model::Attachment;
use ferrule_wire::messages::{
    Allocate, AllocateReply, CallError, Check, CheckReply, Collect, CollectReply, Family, Lease, PoolStatus,
    PoolsReply, ReleaseReply, Rest, RestingReply, Status, StatusReply,
};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

/// Most leases in one answer. Even with the longest names that [`check`] accepts, they fit into one message.
pub const PAGE: usize = 64;

/// What the configuration and `node.json` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The pools; the first is the default.
    pub pools: Vec<PoolSpec>,
    /// How long a released address rests.
    pub cooldown: Duration,
    /// MTU of the pods' interfaces.
    pub mtu: Option<u32>,
    /// Why there is no pool and what to do about it. Callers are told this while there is none.
    pub why_no_pool: String,
    /// Addresses that the node itself has, each with its link.
    pub held: BTreeMap<IpAddr, String>,
}

/// A question or an order to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceRequest {
    /// See the interface file.
    Allocate(Allocate),
    /// See the interface file.
    Release(Attachment),
    /// See the interface file.
    Check(Check),
    /// See the interface file.
    Status(Status),
    /// See the interface file.
    Collect(Collect),
    /// The next leases after this attachment, at most [`PAGE`]: one page of `List`.
    Leases {
        /// The last attachment of the page before.
        after: Option<Attachment>,
    },
    /// See the interface file.
    Pools,
    /// The next resting addresses after this one and the time of its release, at most [`PAGE`]: one page of `Resting`.
    Resting {
        /// Name of the pool; `None` means all pools.
        pool: Option<String>,
        /// The last address of the page before.
        after: Option<(Duration, IpAddr)>,
    },
}

/// A success.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each variant is the reply of the method it is called after")]
pub enum Answer {
    Allocate(AllocateReply),
    Release(ReleaseReply),
    Check(CheckReply),
    Status(StatusReply),
    Collect(CollectReply),
    Leases(ferrule_wire::messages::ListReply),
    Pools(PoolsReply),
    Resting(RestingPage),
}

/// One page of the answer to `Resting`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RestingPage {
    /// The page.
    #[serde(flatten)]
    pub reply: RestingReply,
    /// The last address of this page, after which the next page begins.
    #[serde(skip)]
    pub last: Option<(Duration, IpAddr)>,
}

/// The leases and the pools they come from.
#[derive(Debug, Clone)]
pub struct Service {
    leases: Table,
    pools: Vec<Pool>,
    /// Released addresses that no pool gives now. Their subnet may come back within their cooldown.
    homeless: BTreeMap<IpAddr, Duration>,
    /// Who had the addresses that rest.
    formers: Formers,
    /// For each pool, by name: how many addresses in its leases the pool does not give. They are counted when the pools
    /// change, so that a question about the pools does not walk all leases.
    draining: BTreeMap<(String, Family), u64>,
    /// For each pool: how many leases belong to pods that are gone, as the last look saw it.
    missing: HashMap<String, u64>,
    settings: Settings,
}

impl Service {
    /// A service that goes on with what the store holds.
    #[must_use]
    pub fn new(settings: Settings, holdings: Holdings) -> Self {
        let leases = holdings.leases.into_iter().collect();
        let formers = Formers::new(&holdings.released);
        let (homeless, draining) = (BTreeMap::new(), BTreeMap::new());
        let (pools, missing) = (Vec::new(), HashMap::new());
        let mut service = Self { leases, pools, homeless, formers, draining, missing, settings };
        service
            .place(holdings.released.into_iter().map(|released| (released.address, released.at)).collect());
        service
    }

    /// Takes new settings. Added subnets are used from now on. Withdrawn subnets give nothing more, and their leases
    /// stay.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
        let mut released: Vec<_> = self.pools.iter().flat_map(Pool::released).collect();
        released.extend(std::mem::take(&mut self.homeless));
        self.place(released);
    }

    /// Forgets released addresses that have rested and that no pool gives any more. The store may forget them too.
    pub fn forget_rested(&mut self, now: Duration) -> Vec<Change> {
        let rested = |at: Duration| at + self.settings.cooldown <= now;
        let (gone, kept) = std::mem::take(&mut self.homeless).into_iter().partition(|&(_, at)| rested(at));
        self.homeless = kept;
        BTreeMap::into_keys(gone).map(Change::Forgotten).collect()
    }

    /// Sets how many leases of each pool belong to pods that are gone.
    pub fn miss(&mut self, missing: HashMap<String, u64>) {
        self.missing = missing;
    }

    /// The addresses that the node itself has and a pool gives, each with the lease that has it.
    pub fn held(&self) -> impl Iterator<Item = (IpAddr, &str, Option<Attachment>)> {
        let ours = self.settings.held.iter().filter(|(address, _)| self.pool_of(**address).is_some());
        ours.map(|(address, link)| (*address, link.as_str(), self.holder(*address)))
    }

    /// The settings in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All leases, by attachment.
    pub fn all(&self) -> impl Iterator<Item = &Packed<Lease>> + Clone {
        self.leases.iter()
    }

    /// Name of the pool that has the address.
    #[must_use]
    pub fn pool_of(&self, address: IpAddr) -> Option<String> {
        self.pools.iter().find(|pool| pool.may_give(address)).map(|pool| pool.name().to_owned())
    }

    /// The lease of an attachment.
    #[must_use]
    pub fn lease(&self, attachment: &Attachment) -> Option<Lease> {
        self.leases.get(attachment)
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
        request: ServiceRequest,
        now: Duration,
        changes: &mut Vec<Change>,
    ) -> Result<Answer, CallError> {
        match request {
            ServiceRequest::Allocate(call) => self.allocate(call, now, changes).map(Answer::Allocate),
            ServiceRequest::Release(attachment) => {
                let released = self.release(&attachment, now, changes);
                let released = released.map(|lease| lease.addresses().collect()).unwrap_or_default();
                Ok(Answer::Release(ReleaseReply { released }))
            }
            ServiceRequest::Check(call) => self.check(call).map(Answer::Check),
            ServiceRequest::Status(call) => self.status(call.pool, now).map(Answer::Status),
            ServiceRequest::Collect(call) => Ok(Answer::Collect(self.collect(&call, now, changes))),
            ServiceRequest::Leases { after } => Ok(Answer::Leases(ferrule_wire::messages::ListReply {
                leases: self.leases_after(after.as_ref()),
            })),
            ServiceRequest::Pools => Ok(Answer::Pools(self.pools(now))),
            ServiceRequest::Resting { pool, after } => {
                self.resting(pool.as_deref(), after, now).map(Answer::Resting)
            }
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
            return match call.requested.iter().all(|&ip| lease.addresses.contains(&IpNetwork::from(ip))) {
                true => Ok(AllocateReply { lease, existing: true, mtu }),
                false => Err(CallError::LeaseMismatch {
                    attachment: call.attachment,
                    leased: lease.addresses,
                    claimed: call.requested.into_iter().map(IpNetwork::from).collect(),
                }),
            };
        }
        let pool = self.pool_for(call.pool, &call.requested)?;
        let wish = Wish { requested: &call.requested, ranges: &call.ranges };
        let taken = match pool.allocate(wish, now) {
            Ok(taken) => taken,
            Err(refusal) => {
                let name = pool.name().to_owned();
                return Err(self.refused(&name, refusal));
            }
        };
        let lease = Lease {
            attachment: call.attachment,
            addresses: taken.iter().map(|taken| IpNetwork::from(taken.address)).collect(),
            pool: pool.name().to_owned(),
            pod: call.pod,
            netns: call.netns,
            given_at_boottime_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        };
        for taken in taken.iter().filter(|taken| taken.was_released) {
            self.formers.forget(taken.address);
            changes.push(Change::Forgotten(taken.address));
        }
        let packed = Packed::new(&lease);
        changes.push(Change::Given(packed.clone()));
        self.leases.insert(packed);
        Ok(AllocateReply { lease, existing: false, mtu })
    }

    fn release(
        &mut self,
        attachment: &Attachment,
        now: Duration,
        changes: &mut Vec<Change>,
    ) -> Option<Packed<Lease>> {
        let lease = self.leases.remove(attachment)?;
        changes.push(Change::Ended(lease.clone()));
        let of = lease.former();
        for address in lease.addresses().map(|address| address.ip()) {
            self.drained(&lease, address);
            if !self.pools.iter_mut().any(|pool| pool.release(address, now)) {
                self.homeless.insert(address, now);
            }
            self.formers.keep(address, now, of.clone(), self.settings.cooldown);
            changes.push(Change::Released(Released { address, at: now, of: Some(of.clone()) }));
        }
        Some(lease)
    }

    fn check(&self, call: Check) -> Result<CheckReply, CallError> {
        let Check { attachment, addresses: mut claimed } = call;
        let Some(lease) = self.leases.get(&attachment) else {
            return Err(CallError::LeaseNotFound { attachment });
        };
        let mut leased = lease.addresses;
        leased.sort_unstable();
        claimed.sort_unstable();
        if leased == claimed {
            return Ok(CheckReply {});
        }
        Err(CallError::LeaseMismatch { attachment, leased, claimed })
    }

    fn status(&mut self, pool: Option<String>, now: Duration) -> Result<StatusReply, CallError> {
        let pool = self.pool(pool)?;
        let probed = pool.probe(now).map_err(|counts| (pool.name().to_owned(), counts));
        probed.map_err(|(name, counts)| self.exhausted(&name, &counts))?;
        Ok(StatusReply {})
    }

    fn collect(&mut self, call: &Collect, now: Duration, changes: &mut Vec<Change>) -> CollectReply {
        let valid: HashSet<&Attachment> = call.valid.iter().collect();
        let gone: Vec<Attachment> = self
            .leases
            .iter()
            .filter(|lease| lease.is_of_network(&call.network))
            .map(Packed::attachment)
            .filter(|attachment| !valid.contains(attachment))
            .take(PAGE)
            .collect();
        CollectReply {
            released: gone
                .iter()
                .filter_map(|a| self.release(a, now, changes))
                .map(|lease| lease.open())
                .collect(),
        }
    }

    fn leases_after(&self, after: Option<&Attachment>) -> Vec<Lease> {
        self.leases.after(after).take(PAGE).map(Packed::open).collect()
    }

    fn pools(&self, now: Duration) -> PoolsReply {
        let status = |pool: &Pool, counts: Counts| PoolStatus {
            draining: self.draining.get(&(pool.name().to_owned(), counts.family)).copied().unwrap_or(0),
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
        let mut pools: Vec<_> = pools.flat_map(|pool| pool.counts(now).map(|c| status(pool, c))).collect();
        pools.extend(self.withdrawn());
        PoolsReply { pools }
    }

    /// Pools, or families of a pool, that no longer exist but still have leases.
    fn withdrawn(&self) -> impl Iterator<Item = PoolStatus> {
        let is_there =
            |name: &str, family| self.pools.iter().any(|pool| pool.name() == name && pool.has_family(family));
        let withdrawn = self.draining.iter().filter(move |((name, family), _)| !is_there(name, *family));
        withdrawn.map(|(&(ref name, family), &draining)| PoolStatus {
            name: name.clone(),
            family,
            subnets: Vec::new(),
            in_use: 0,
            resting: 0,
            reserved: "0".to_owned(),
            size: "0".to_owned(),
            free: "0".to_owned(),
            draining,
        })
    }

    /// Whether the pool of that name holds the address as given.
    fn is_held(pools: &[Pool], name: &str, address: IpAddr) -> bool {
        pools.iter().any(|pool| pool.name() == name && pool.has_given(address))
    }

    /// Called before an address of this lease is released.
    fn drained(&mut self, lease: &Packed<Lease>, address: IpAddr) {
        if self.draining.is_empty() {
            return;
        }
        let pool = lease.open().pool;
        if Self::is_held(&self.pools, &pool, address) {
            return;
        }
        let key = (pool, Family::of(&IpNetwork::from(address)));
        match self.draining.get_mut(&key) {
            Some(1) => drop(self.draining.remove(&key)),
            Some(count) => *count -= 1,
            None => {}
        }
    }

    fn resting(
        &mut self,
        pool: Option<&str>,
        after: Option<(Duration, IpAddr)>,
        now: Duration,
    ) -> Result<RestingPage, CallError> {
        if pool.is_some() {
            self.pool(pool.map(str::to_owned))?;
        }
        let asked = |name: &str| pool.is_none_or(|asked| asked == name);
        let pools = self.pools.iter().filter(|pool| asked(pool.name()));
        let mut found: Vec<_> = pools
            .flat_map(|pool| {
                let resting = pool.resting(after, now, PAGE).into_iter();
                resting.map(|(at, address)| (at, address, pool.name().to_owned()))
            })
            .collect();
        found.sort_unstable();
        found.truncate(PAGE);
        let last = found.last().map(|&(at, address, _)| (at, address));
        let addresses = found.into_iter().map(|found| self.rest(found, now)).collect();
        Ok(RestingPage { reply: RestingReply { addresses }, last })
    }

    fn rest(&self, (at, address, pool): (Duration, IpAddr, String), now: Duration) -> Rest {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let former = self.formers.of(address);
        Rest {
            address: address.to_string(),
            pool,
            released_at_boottime_ms: millis(at),
            left_ms: millis((at + self.settings.cooldown).saturating_sub(now)),
            pod: former.as_ref().and_then(|former| former.pod.clone()),
            attachment: former.map(|former| former.attachment),
        }
    }

    /// The pool of this name. Without a name it is the pool that has the first of the requested addresses, else the
    /// node's first pool.
    fn pool_for(&mut self, name: Option<String>, requested: &[IpAddr]) -> Result<&mut Pool, CallError> {
        let owner = requested.first().and_then(|&ip| self.pools.iter().find(|pool| pool.may_give(ip)));
        let name = name.or_else(|| owner.map(|pool| pool.name().to_owned()));
        self.pool(name)
    }

    /// A pool's refusal, as the caller is told of it.
    fn refused(&self, pool: &str, refusal: Refusal) -> CallError {
        let argument = |field: &str, reason| CallError::InvalidArgument { field: field.to_owned(), reason };
        match refusal {
            Refusal::Exhausted(counts) => self.exhausted(pool, &counts),
            Refusal::InUse(address) => match self.holder(address) {
                Some(attachment) => CallError::AddressInUse { address, attachment },
                None => argument("requested", format!("{address} is in use")),
            },
            Refusal::Held(address) => argument(
                "requested",
                format!(
                    "the node itself has {address}, on {}: request another, or take it from the node",
                    self.settings.held.get(&address).map_or("one of its links", String::as_str)
                ),
            ),
            Refusal::NotOurs(address) => argument(
                "requested",
                format!(
                    "{address} is not an address that pool {pool:?} gives: see its subnets, ranges, reserved"
                ),
            ),
            Refusal::Outside(range) => argument(
                "ranges",
                format!("{range} has no address that pool {pool:?} gives: see its subnets"),
            ),
        }
    }

    fn exhausted(&self, pool: &str, counts: &Counts) -> CallError {
        CallError::PoolExhausted {
            pool: pool.to_owned(),
            family: counts.family,
            in_use: counts.in_use,
            resting: counts.resting,
            reserved: counts.reserved.to_string(),
            gone: self.missing.get(pool).copied().unwrap_or(0).min(counts.in_use),
        }
    }

    /// The lease that holds the address. This looks through all leases, so it is used only for errors.
    fn holder(&self, address: IpAddr) -> Option<Attachment> {
        let holds = |lease: &&Packed<Lease>| lease.addresses().any(|held| held.ip() == address);
        self.leases.iter().find(holds).map(Packed::attachment)
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

    /// Builds the pools anew, and puts every known address into the pool where it belongs.
    fn place(&mut self, released: Vec<(IpAddr, Duration)>) {
        let Settings { pools, cooldown, held, .. } = &self.settings;
        self.pools = pools.iter().map(|spec| Pool::new(spec, *cooldown)).collect();
        let held: Vec<IpAddr> = held.keys().copied().collect();
        self.pools.iter_mut().for_each(|pool| pool.hold(&held));
        self.draining.clear();
        for lease in self.leases.iter() {
            for address in lease.addresses() {
                let holder =
                    self.pools.iter_mut().find_map(|pool| pool.restore_given(address.ip()).then_some(&*pool));
                // The address's subnet was withdrawn, or belongs to another pool now. The address goes when its lease
                // ends.
                if !holder.is_some_and(|pool| lease.is_of_pool(pool.name())) {
                    *self.draining.entry((lease.open().pool, Family::of(&address))).or_default() += 1;
                }
            }
        }
        for (address, at) in released {
            if !self.pools.iter_mut().any(|pool| pool.restore_released(address, at)) {
                self.homeless.insert(address, at);
            }
        }
    }
}

#[cfg(test)]
mod tests;
