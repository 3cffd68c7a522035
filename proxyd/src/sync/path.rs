//! The table in the kernel, and what is known of it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrule_model::Family;
use ferrule_netlink::Error;
use ferrule_netlink::nft::{
    Found as FoundTable, KeptError, KeptTable, Netfilter, NftError, Text, replacement,
};

use super::commit::BOUND;
use super::refusals::Refusals;
use super::unit::{Part, Unit, Wanted, joined};
use super::{clients, flows};
use crate::decide::{Key, Protocol, ServiceName};
use crate::nft::found::sets;
use crate::nft::script::{declarations, script};
use crate::nft::shared::elements;
use crate::nft::{Batch, Found, Layout, Shape, Shared, TABLE};

/// How long after a change the remembered endpoints are looked at again. A packet that had its endpoint chosen before the
/// change may have written it down after it.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a look waits that could not put everything right.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Why the table cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Its rules.
    #[error("Services: {0}")]
    Table(#[from] KeptError),
    /// Its elements.
    #[error("Services: {0}")]
    Kernel(#[from] Error),
}

/// What was done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many elements were added or deleted.
    pub elements: usize,
    /// How many transactions it took.
    pub transactions: usize,
    /// How many remembered endpoints and tracked connections were forgotten.
    pub forgotten: usize,
    /// What others had changed.
    pub repaired: Option<String>,
    /// What could not be done, and why.
    pub complaints: Vec<String>,
}

/// Keeps the table.
#[derive(Debug)]
pub struct DataPath<N> {
    pub(super) netfilter: N,
    pub(super) table: KeptTable,
    shape: Shape,
    /// What the kernel holds for each Service.
    pub(super) services: HashMap<Arc<ServiceName>, Vec<Layout>>,
    /// Whose each frontend is.
    pub(super) owners: HashMap<Key, Arc<ServiceName>>,
    pub(super) shared: Shared,
    pub(super) refusals: Refusals,
    /// The frontends whose remembered endpoints, and whose UDP connections, may be stale.
    clients: HashSet<Key>,
    flows: HashSet<Key>,
    again: Option<(Instant, HashSet<Key>)>,
    /// The generation of the rulesets in which the table was right.
    pub(super) right_in: Option<u32>,
    /// When everything is to be read and compared.
    pub(super) look_at: Option<Instant>,
}

impl<N: Netfilter> DataPath<N> {
    /// Keeps the table by way of `netfilter`. Nothing is done yet.
    pub fn new(netfilter: N, shape: Shape) -> Self {
        Self {
            netfilter,
            table: KeptTable::new(TABLE, Text::Script),
            shape,
            services: HashMap::new(),
            owners: HashMap::new(),
            shared: Shared::default(),
            refusals: Refusals::default(),
            clients: HashSet::new(),
            flows: HashSet::new(),
            again: None,
            right_in: None,
            look_at: None,
        }
    }

    /// Makes the table hold what these Services need, and nothing else. What is there already stays untouched.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn start(&mut self, all: Vec<Wanted>, now: Instant) -> Result<Report, SyncError> {
        let mut report = Report::default();
        self.forget_all();
        self.shape_for(all.iter().flat_map(|(_, frontends)| frontends).map(|frontend| {
            let is_v4 = frontend.key.place.family() == Family::V4;
            (frontend.affinity.filter(|_| is_v4), frontend.affinity.is_some() && !is_v4)
        }));
        self.keep()?;
        let mut found = self.read()?;
        let mut units = Vec::new();
        for (name, wanted) in all {
            let after: Vec<_> =
                wanted.iter().map(|frontend| Layout::of(frontend, &found.slots(&frontend.key))).collect();
            let batch = found.claim(&after);
            self.shared.need(&after);
            let part = Part { name, before: Vec::new(), after, wanted: Some(wanted) };
            if batch.is_empty() {
                self.settle(part);
            } else {
                units.push(Unit { parts: vec![part], batch });
            }
        }
        self.put_right(units, found, now, &mut report)?;
        Ok(report)
    }

    /// Carries out changes of Services.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn change(&mut self, changes: Vec<Wanted>, now: Instant) -> Result<Report, SyncError> {
        let mut report = Report::default();
        let mut units = Vec::new();
        for wanted in changes {
            self.refusals.remove(&wanted.0);
            let before = self.services.get(&wanted.0).cloned().unwrap_or_default();
            units.push(Unit::new(wanted, before));
        }
        let layouts = units.iter().flat_map(|unit| &unit.parts).flat_map(|part| &part.after);
        let needs: Vec<_> = layouts.map(|layout| (layout.time(), layout.has_hash())).collect();
        if self.shape_for(needs.into_iter()) {
            self.keep()?;
        }
        let units = joined(units);
        for part in units.iter().flat_map(|unit| &unit.parts) {
            self.shared.release(&part.before);
            self.shared.need(&part.after);
        }
        self.commit(units, now, &mut report)?;
        self.forget(now, &mut report);
        Ok(report)
    }

    /// Sets the node's networks, for the start.
    pub fn set_networks(&mut self, networks: Shape) {
        let Shape { times, has_hash, .. } = std::mem::take(&mut self.shape);
        self.shape = Shape { times, has_hash, ..networks };
    }

    /// Sets the node's networks, and makes the rules right.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn reshape(&mut self, networks: Shape) -> Result<(), SyncError> {
        self.set_networks(networks);
        self.keep().map(drop)
    }

    /// Goes on by way of another socket. The kernel has to be read again.
    pub fn reopen(&mut self, netfilter: N) {
        self.netfilter = netfilter;
        self.right_in = None;
    }

    /// Nothing is known of the kernel.
    fn forget_all(&mut self) {
        self.services.clear();
        self.owners.clear();
        self.shared = Shared::default();
        self.refusals = Refusals::default();
        self.clients.clear();
        self.flows.clear();
        self.right_in = None;
        self.look_at = None;
    }

    /// Reads the table, and puts right what differs. `by` names who may have changed it.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn look(&mut self, by: Option<&str>, now: Instant) -> Result<Report, SyncError> {
        let mut report = Report::default();
        if self.right_in.is_some() && self.right_in == Some(self.netfilter.generation()?) {
            return Ok(report);
        }
        self.look_at = None;
        let table = self.keep()?;
        let mut found = self.read()?;
        let mut units = Vec::new();
        for (name, layouts) in &self.services {
            let batch = found.claim(layouts);
            if !batch.is_empty() {
                let (before, after) = (layouts.clone(), layouts.clone());
                let part = Part { name: Arc::clone(name), before, after, wanted: None };
                units.push(Unit { parts: vec![part], batch });
            }
        }
        let names: Vec<_> =
            units.iter().flat_map(|unit| &unit.parts).map(|part| Arc::clone(&part.name)).collect();
        self.put_right(units, found, now, &mut report)?;
        report.repaired = repaired(table, report.elements, &names, by);
        Ok(report)
    }

    /// What is to be done by itself: refused Services whose time has come, and further looks.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn turn(&mut self, now: Instant) -> Result<Report, SyncError> {
        if self.look_at.is_some_and(|at| at <= now) {
            self.right_in = None;
            return self.look(None, now);
        }
        let due = self.refusals.due(now);
        if !due.is_empty() {
            return self.retry(due, now);
        }
        let mut report = Report::default();
        if let Some((_, keys)) = self.again.take_if(|(at, _)| *at <= now) {
            self.forget_clients(&keys, &mut report);
        }
        Ok(report)
    }

    /// When [`DataPath::turn`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        let again = self.again.as_ref().map(|(at, _)| *at);
        [self.refusals.next(), again, self.look_at].into_iter().flatten().min()
    }

    /// Why Services are not served as they should be.
    pub fn refused(&self) -> Vec<String> {
        self.refusals.sentences()
    }

    /// How many Services the kernel serves, and how many frontends.
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.owners.len())
    }

    fn retry(&mut self, due: Vec<Wanted>, now: Instant) -> Result<Report, SyncError> {
        let mut report = Report::default();
        let mut units = Vec::new();
        for wanted in due {
            let before = self.services.get(&wanted.0).cloned().unwrap_or_default();
            units.push(Unit::new(wanted, before));
        }
        for part in units.iter().flat_map(|unit| &unit.parts) {
            self.shared.release(&part.before);
            self.shared.need(&part.after);
        }
        self.commit(units, now, &mut report)?;
        self.forget(now, &mut report);
        Ok(report)
    }

    /// Takes what frontends need of the rules into the shape. Returns whether that is new.
    fn shape_for(&mut self, needs: impl Iterator<Item = (Option<NonZeroU32>, bool)>) -> bool {
        let (times, had_hash) = (self.shape.times.len(), self.shape.has_hash);
        for (time, has_hash) in needs {
            self.shape.times.extend(time);
            self.shape.has_hash |= has_hash;
        }
        (times, had_hash) != (self.shape.times.len(), self.shape.has_hash)
    }

    /// Makes the rules right. A table that cannot be made right is replaced.
    fn keep(&mut self) -> Result<FoundTable, SyncError> {
        let before = self.netfilter.generation()?;
        let was_right = self.right_in == Some(before);
        self.right_in = None;
        let is_there = self.netfilter.has_table(TABLE)?;
        if !is_there {
            self.netfilter.load(&declarations(&self.shape)).map_err(KeptError::from)?;
        }
        let script = script(&self.shape);
        let found = match self.table.keep(&mut self.netfilter, &script) {
            Err(KeptError::Nft(NftError::Refused(reason))) => {
                tracing::warn!("the nftables table inet {TABLE} is another one, and is replaced: {reason}");
                let anew = replacement(TABLE, &declarations(&self.shape));
                self.netfilter.load(&anew).map_err(KeptError::from)?;
                self.table.keep(&mut self.netfilter, &script)?;
                FoundTable::Missing
            }
            found => found?,
        };
        // The script changes no element. So if nobody else changed anything, the elements are as they were.
        let is_ours = |after: &u32| was_right && after.wrapping_sub(before) <= 1;
        self.right_in = self.table.right_in().filter(is_ours);
        Ok(if is_there { found } else { FoundTable::Missing })
    }

    fn read(&mut self) -> Result<Found, SyncError> {
        let generation = self.netfilter.generation()?;
        let mut found = Found::default();
        for (pair, family) in sets() {
            found.extend((pair, family), self.netfilter.elements(TABLE, pair.of(family))?);
        }
        self.right_in = (self.netfilter.generation()? == generation).then_some(generation);
        Ok(found)
    }

    /// Makes everything of the table that was read as it has to be.
    fn put_right(
        &mut self,
        units: Vec<Unit>,
        mut found: Found,
        now: Instant,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        let missing = found.claim_shared(elements(&self.shared.take_all()));
        self.carry_out_all(&missing, true, report)?;
        self.commit(units, now, report)?;
        for batch in bounded(found.rest()) {
            self.carry_out(&batch, report)?;
        }
        self.forget(now, report);
        Ok(())
    }

    /// Notes that the kernel holds what this part wanted.
    pub(super) fn settle(&mut self, part: Part) {
        let Part { name, before, after, .. } = part;
        for layout in &before {
            if self.owners.get(&layout.key) == Some(&name) {
                self.owners.remove(&layout.key);
            }
            let now = after.iter().find(|now| now.key == layout.key);
            let stays = |backend| now.is_some_and(|now| now.backends().any(|there| there == backend));
            let is_short = !layout.backends().all(stays);
            if layout.time().is_some() && (is_short || now.is_none_or(|now| now.time().is_none())) {
                self.clients.insert(layout.key);
            }
            if layout.key.protocol == Protocol::Udp && is_short {
                self.flows.insert(layout.key);
            }
        }
        for layout in &after {
            self.owners.insert(layout.key, Arc::clone(&name));
            let had_some = before.iter().any(|was| was.key == layout.key && was.backends().next().is_some());
            if layout.key.protocol == Protocol::Udp && !had_some {
                self.flows.insert(layout.key);
            }
        }
        self.refusals.remove(&name);
        if after.is_empty() {
            self.services.remove(&name);
        } else {
            self.services.insert(name, after);
        }
    }

    /// Forgets the endpoints and connections that the last changes have made stale.
    fn forget(&mut self, now: Instant, report: &mut Report) {
        let flows = std::mem::take(&mut self.flows);
        if !flows.is_empty() {
            let stays = |key: &Key, address, port: u16| {
                backends(&self.services, &self.owners, key).any(|backend| backend == (address, port))
            };
            let done = flows::forget(&mut self.netfilter, (&flows, &self.shape.node_ports), stays);
            note(report, "UDP connections to endpoints that are gone", done);
        }
        let clients = std::mem::take(&mut self.clients);
        if !clients.is_empty() {
            self.forget_clients(&clients, report);
            let (_, keys) = self.again.get_or_insert((now + AGAIN, HashSet::new()));
            keys.extend(clients);
        }
    }

    fn forget_clients(&mut self, keys: &HashSet<Key>, report: &mut Report) {
        let stays = |key: &Key, address, port: u16| {
            let layouts = self.owners.get(key).and_then(|owner| self.services.get(owner));
            let layout = layouts.into_iter().flatten().find(|layout| layout.key == *key);
            layout.is_some_and(|layout| {
                let there =
                    layout.backends().any(|there| (there.address, there.port.get()) == (address, port));
                layout.time().is_some() && there
            })
        };
        let done = clients::forget(&mut self.netfilter, (keys, &self.shape.node_ports), stays);
        note(report, "remembered endpoints that are gone", done);
    }
}

fn backends<'a>(
    services: &'a HashMap<Arc<ServiceName>, Vec<Layout>>,
    owners: &HashMap<Key, Arc<ServiceName>>,
    key: &Key,
) -> impl Iterator<Item = (IpAddr, u16)> + use<'a> {
    let key = *key;
    let layouts = owners.get(&key).and_then(|owner| services.get(owner));
    let layouts = layouts.into_iter().flatten().filter(move |layout| layout.key == key);
    layouts.flat_map(Layout::backends).map(|backend| (backend.address, backend.port.get()))
}

fn note(report: &mut Report, what: &str, done: Result<usize, Error>) {
    match done {
        Ok(count) => report.forgotten += count,
        Err(error) => report.complaints.push(format!("{what} cannot be forgotten: {error}")),
    }
}

/// What others had changed, as one sentence.
fn repaired(
    table: FoundTable,
    elements: usize,
    names: &[Arc<ServiceName>],
    by: Option<&str>,
) -> Option<String> {
    let by = by.map(|by| format!(" ({by})")).unwrap_or_default();
    let table_was = match table {
        FoundTable::Missing => Some("deleted"),
        FoundTable::Different => Some("changed"),
        FoundTable::Right => None,
    };
    if table_was.is_none() && elements == 0 {
        return None;
    }
    let verb = table_was.unwrap_or("changed");
    let of = match names {
        [] => String::new(),
        [one] => format!(" of {one}"),
        [one, rest @ ..] => format!(" of {one} and {} more Services", rest.len()),
    };
    Some(format!(
        "the nftables table inet {TABLE} was {verb} by someone else{by}; put back, with {elements} elements{of}"
    ))
}

/// Batches of bounded size that together do what these do.
fn bounded(batches: Vec<Batch>) -> Vec<Batch> {
    let mut bounded: Vec<Batch> = Vec::new();
    for batch in batches {
        match bounded.last_mut() {
            Some(last) if last.len() + batch.len() <= BOUND => last.append(batch),
            _ => bounded.push(batch),
        }
    }
    bounded
}

impl<N> DataPath<N> {
    /// Everything is to be read and compared after a while.
    pub(super) fn look_later(&mut self, now: Instant) {
        let at = now + LOOK_AGAIN;
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }
}
