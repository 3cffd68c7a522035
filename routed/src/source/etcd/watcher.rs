//! The task that takes this node's subnet, keeps it, and watches the subnets of the others. It never ends, tells what
//! changed, and says in the log what it cannot do.
//!
//! A round talks to one member: it reads the network, makes sure which subnet is this node's, lists all subnets, and
//! watches from there. Any fault ends the round. Nothing is told then, so what is in the kernel stays. The next round
//! lists everything again, so nothing that happened meanwhile is missed, even if the server has forgotten changes
//! (compaction).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use ferrule_config::{Config, Routing};
use ferrule_model::{WgKey, vtep_mac};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::address::public;
use super::api::{Api, Unless};
use super::choose::{Choice, Taken, choose};
use super::fault::Fault;
use super::identity::{Me, Whose, lease_of};
use super::message::{Event, KeyValue};
use super::network::Network;
use crate::decide::nodes::{Node, vtep_mac6};
use crate::decide::roll::{Rank, Roll};
use crate::source::NodeEvent;
use crate::source::lease::{KnownMacs, Public, Value};
use crate::source::subnets::Subnets;
use ferrule_daemon::Pause;

/// A round that lasted this long was a good one. The next pause is short again.
const GOOD: Duration = Duration::from_secs(30);
/// A lease is renewed so many times while it lasts. So five tries may fail.
const RENEWALS: u32 = 6;
/// How often the node tries for a subnet that others take at the same time, before it looks at everything afresh.
const TRIES: usize = 200;
/// The longest wait between two such tries, in milliseconds.
const SCATTER_MS: u64 = 40;

/// The task's state.
#[derive(Debug)]
pub(super) struct Watcher {
    config: Config,
    own_name: String,
    events: mpsc::Sender<NodeEvent>,
    /// Whether nothing may be written.
    reads_only: bool,
    /// The subnets that this node had before.
    previous: Option<Subnets>,
    /// The MACs of this node's VXLAN devices, once they are known.
    macs: KnownMacs,
    /// Its WireGuard key, if it has one.
    key: Option<WgKey>,
    /// The member that is asked next.
    at: usize,
    /// Rounds that have failed in a row.
    failures: usize,
    pause: Pause,
    /// The faults that the log has named, and that still hold.
    said: BTreeSet<String>,
    /// The leases that cannot be used, and why, as the log has named them.
    left_out: BTreeMap<String, String>,
    /// Which nodes count.
    roll: Roll,
    /// Whether the subnet was this node's under another address, as far as name and MAC tell. A living node may prove
    /// otherwise.
    inherited: bool,
    /// Whether another living node has this one's name.
    has_twin: bool,
    /// The subnets of others with this node's address, as the log has named them.
    at_my_address: Vec<String>,
}

/// This node's own lease.
struct Mine {
    subnets: Subnets,
    value: Vec<u8>,
    /// The number of the lease. 0 means that it never ends, because somebody reserved the subnet.
    lease: i64,
    /// When it is to be renewed.
    renewal: Option<Instant>,
}

/// Nobody listens any more.
struct Deaf;

/// Why a round ended.
enum End {
    /// This node's own lease was lost or changed.
    Lost(&'static str),
    Fault(Fault),
    Deaf,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Deaf> for End {
    fn from(_: Deaf) -> Self {
        Self::Deaf
    }
}

impl Watcher {
    /// A watcher that has not begun. `previous` are the subnets that this node had in an earlier run. `macs` are those
    /// of its VXLAN devices, if there are any.
    pub(super) fn new(
        config: Config,
        own_name: String,
        events: mpsc::Sender<NodeEvent>,
        (previous, macs): (Option<Subnets>, KnownMacs),
        reads_only: bool,
    ) -> Self {
        Self {
            roll: Roll::new(&own_name, &config),
            config,
            own_name,
            events,
            reads_only,
            previous,
            macs,
            key: None,
            at: 0,
            failures: 0,
            pause: Pause::new(),
            said: BTreeSet::new(),
            left_out: BTreeMap::new(),
            inherited: false,
            has_twin: false,
            at_my_address: Vec::new(),
        }
    }

    /// Notes what the others have to know of this node's WireGuard device.
    pub(super) fn has_key(&mut self, key: WgKey) {
        self.key = Some(key);
    }

    /// Works until nobody takes the events any more.
    pub(super) async fn run(mut self) {
        let events = self.events.clone();
        tokio::select! {
            () = events.closed() => {}
            () = self.rounds() => {}
        }
    }

    async fn rounds(&mut self) {
        loop {
            let begin = Instant::now();
            let Err(end) = self.round().await;
            if begin.elapsed() >= GOOD {
                self.pause.reset();
            }
            let rest = match end {
                End::Deaf => return,
                End::Lost(how) => {
                    let name = self.previous.map_or_else(String::new, |subnets| subnets.name());
                    tracing::error!("this node's subnet {name} {how}; one is taken again");
                    begin.elapsed() < GOOD
                }
                End::Fault(fault) => self.fail(&fault),
            };
            if rest {
                tokio::time::sleep(self.pause.next_wait()).await;
            }
        }
    }

    async fn round(&mut self) -> Result<std::convert::Infallible, End> {
        let settings = &self.config.routing.etcd;
        let endpoints = &settings.endpoints;
        let Some(endpoint) = endpoints.get(self.at % endpoints.len().max(1)) else {
            return Err(Fault::Network("[routing.etcd] endpoints is empty".into()).into());
        };
        let mut api = Api::open(settings, endpoint).await?;
        let network = self.network(&mut api).await?;
        let local = public(&self.config.node, &network)?;
        // The address that the others are told may be that of a NAT.
        let own = Public::configured(&self.config.node).or(local);
        let (mut mine, all, revision) = self.settle(&mut api, &network, own).await?;
        self.answered();
        let nodes = self.nodes(&mine, &all, local);
        self.tell(NodeEvent::Snapshot(nodes)).await?;
        let mut watch = api.watch(revision + 1).await?;
        let mut config = api.watch_config(revision + 1).await?;
        loop {
            let events = tokio::select! {
                events = api.changes(&mut watch) => events?,
                events = api.changes(&mut config) => {
                    events?.iter().for_each(|event| self.tell_config(event, &network, &mine));
                    continue;
                }
                () = until(mine.renewal) => {
                    renew(&mut api, &mut mine).await?;
                    continue;
                }
            };
            self.take(&mut mine, events).await?;
        }
    }

    async fn network(&self, api: &mut Api) -> Result<Network, Fault> {
        let key = api.config_key();
        let Some(text) = api.config().await? else {
            return Err(Fault::Network(format!(
                "etcd has no {key}, which says what the cluster's network is; write it, as with `etcdctl put {key} \
                 '{{\"Network\": \"10.5.0.0/16\"}}'`, and see that [routing.etcd] prefix is right"
            )));
        };
        let network = Network::parse(&text, &self.config.routing);
        network.map_err(|why| Fault::Network(format!("{key} in etcd cannot be used: {why}")))
    }

    /// Tells that the network's configuration was written to. The new one counts from the next round on, and for
    /// flannel from its next start. An operator should know that beforehand.
    fn tell_config(&self, event: &Event, network: &Network, mine: &Mine) {
        let key = format!("{}/config", self.config.routing.etcd.prefix);
        let value = event.kv.as_ref().filter(|_| event.kind == 0).map(|kv| kv.value.as_slice());
        let stays = "this node keeps its subnet until routed starts or connects anew";
        let name = mine.subnets.name();
        match value.map(|text| Network::parse(text, &self.config.routing)) {
            None => tracing::error!("{key} is gone from etcd; {stays}, and needs it then: write it again"),
            Some(Err(why)) => {
                tracing::error!(
                    "{key} in etcd was changed and cannot be used: {why}; {stays}, and needs it then"
                );
            }
            Some(Ok(new)) if new == *network => {}
            Some(Ok(new)) if new.has(&mine.subnets) => tracing::info!(
                "{key} in etcd was changed: the network is {} now; this node's subnet {name} is one of it",
                new.words()
            ),
            Some(Ok(new)) => tracing::warn!(
                "{key} in etcd was changed: the network is {} now, and this node's subnet {name} is none of it; {stays}, and \
                 takes another then: its pods have to be made anew",
                new.words()
            ),
        }
    }

    /// Makes sure that one subnet is this node's. Returns that lease, all leases, and their revision.
    async fn settle(
        &mut self,
        api: &mut Api,
        network: &Network,
        own: Public,
    ) -> Result<(Mine, Vec<KeyValue>, i64), Fault> {
        let prefix = api.subnets_key();
        for _ in 0..TRIES {
            let (all, revision) = api.subnets().await?;
            let (places, taken) = taken(&prefix, &all, &self.me(own));
            self.say_at_my_address(&taken, own);
            let at = |place: usize| places.get(place).and_then(|at| all.get(*at));
            match choose(network, &taken, self.previous.as_ref(), chance()) {
                Choice::Mine(place) => {
                    let (Some(kv), Some(one)) = (at(place), taken.get(place)) else { continue };
                    if let Some(mine) = self.keep(api, kv, *one, own).await? {
                        self.previous = Some(mine.subnets);
                        return Ok((mine, all, revision));
                    }
                }
                Choice::Take(_) | Choice::GiveBack(_) if self.reads_only => {
                    return Err(Fault::Network(
                        "this node has no subnet in etcd yet; routed takes one when it runs".into(),
                    ));
                }
                Choice::GiveBack(place) => {
                    let Some(kv) = at(place) else { continue };
                    let name = name_of(&prefix, kv);
                    tracing::warn!(
                        "the subnet {name} of this node is not one of {}, or another node had it first; it is given back",
                        network.words()
                    );
                    api.delete(name, kv.mod_revision).await?;
                }
                Choice::Take(subnets) => self.create(api, subnets, own).await?,
                Choice::Full => return Err(Fault::Full(network.words(), api.config_key())),
            }
        }
        Err(Fault::Refused { code: 10, message: "other nodes took every subnet that was tried for".into() })
    }

    /// Renews the lease of a subnet that is this node's, and corrects its value. `None` if the lease was lost
    /// meanwhile.
    async fn keep(
        &mut self,
        api: &mut Api,
        kv: &KeyValue,
        Taken { subnets, whose, .. }: Taken,
        own: Public,
    ) -> Result<Option<Mine>, Fault> {
        let told = Value::parse(&kv.value).map(|value| value.macs()).unwrap_or_default();
        let macs = self.macs.settle(told, &self.own_name);
        let value = Value::of(own, &self.config.routing, macs, self.key).to_json();
        if self.reads_only {
            return Ok(Some(Mine { subnets, value, lease: kv.lease, renewal: None }));
        }
        // The number of the lease has to tell whose it is. So a lease that another program or an earlier version made
        // is replaced.
        let (lease, ttl) = match kv.lease {
            0 => (0, None),
            lease if self.has_twin || lease == self.lease() => (lease, api.renew(lease).await?),
            _ => {
                let (lease, ttl) = api.grant(self.lease(), self.config.routing.etcd.lease.as_secs()).await?;
                (lease, Some(ttl))
            }
        };
        if lease != 0 && ttl.is_none() {
            return Ok(None);
        }
        if kv.value != value || kv.lease != lease {
            let unless = Unless::ChangedSince(kv.mod_revision);
            let names = (subnets.name(), subnets.first());
            if api.put((&names.0, &names.1), value.clone(), lease, unless).await?.is_none() {
                return Ok(None);
            }
        }
        if whose == Whose::MineElsewhere {
            self.inherited = true;
            tracing::info!(
                "this node had the subnet {} under another address, and keeps it under {own}",
                subnets.name()
            );
        }
        Ok(Some(Mine { subnets, value, lease, renewal: ttl.map(next) }))
    }

    /// The number of this node's lease.
    fn lease(&self) -> i64 {
        lease_of(&self.config.routing.etcd.prefix, &self.own_name)
    }

    /// What identifies this node.
    fn me(&self, public: Public) -> Me {
        let derived = [vtep_mac(&self.own_name), vtep_mac6(&self.own_name)];
        let macs = self.macs.all().chain(derived).collect();
        let (lease, previous) = (self.lease(), self.previous);
        Me { lease, macs, key: self.key, public, previous, has_twin: self.has_twin }
    }

    /// Logs once which subnets have this node's address and are not its own.
    fn say_at_my_address(&mut self, taken: &[Taken], own: Public) {
        let others = taken.iter().filter(|one| one.whose == Whose::AtMyAddress);
        let names: Vec<_> = others.map(|one| one.subnets.name()).collect();
        if names != self.at_my_address && !names.is_empty() {
            let prefix = &self.config.routing.etcd.prefix;
            tracing::warn!(
                "etcd has the subnet {} with this node's address {own}, and neither this node's name nor its MAC: it is                  left to whoever has it. Nodes behind one address cannot reach each other's pods: give each its own ([node]                  address). If this node had it before, `etcdctl del {prefix}/subnets/NAME` frees it",
                names.join(", ")
            );
        }
        self.at_my_address = names;
    }

    /// Takes free subnets, unless another node is faster. The next look tells which of the two happened.
    async fn create(&mut self, api: &mut Api, subnets: Subnets, own: Public) -> Result<(), Fault> {
        let macs = self.macs.settle(KnownMacs::default(), &self.own_name);
        let value = Value::of(own, &self.config.routing, macs, self.key).to_json();
        let number = if self.has_twin { 0 } else { self.lease() };
        let (lease, _) = api.grant(number, self.config.routing.etcd.lease.as_secs()).await?;
        let name = subnets.name();
        if api.put((&name, &subnets.first()), value, lease, Unless::Taken).await?.is_some() {
            tracing::info!("this node has taken the subnet {name}");
        } else {
            // A lease with this node's own number is kept for the next try.
            if number == 0 {
                api.revoke(lease).await?;
            }
            tokio::time::sleep(Duration::from_millis(chance() % SCATTER_MS)).await;
        }
        Ok(())
    }

    /// All nodes: this one first, with its `local` addresses, then the others.
    fn nodes(&mut self, mine: &Mine, all: &[KeyValue], local: Public) -> Vec<Node> {
        let prefix = format!("{}/subnets/", self.config.routing.etcd.prefix);
        let own = Value::parse(&mine.value).and_then(|value| value.node(&mine.subnets, &self.config.routing));
        let name = self.own_name.clone();
        let macs = self.macs.settle(KnownMacs::default(), &name);
        // The value was made here, so it can be read. This adds what is known here and not written in it.
        let (v4, v6) = (local.v4, local.v6);
        let own = own.map(|node| Node { name, v4, v6, vtep_mac: macs.v4, vtep_mac6: macs.v6, ..node });
        let mut nodes: Vec<_> = own.into_iter().map(|own| (own, Rank::default())).collect();
        let own_name = mine.subnets.name();
        let others: BTreeMap<_, _> = all.iter().map(|kv| (name_of(&prefix, kv), kv)).collect();
        self.left_out.retain(|name, _| others.contains_key(name.as_str()));
        let others = others.into_iter().filter(|(name, _)| *name != own_name);
        nodes.extend(others.filter_map(|(name, kv)| self.node(name, kv)));
        let nodes = self.roll.replace(nodes);
        self.say();
        nodes
    }

    fn say(&mut self) {
        self.roll.lines().iter().for_each(|line| tracing::warn!("{line}"));
    }

    /// The node that has a lease. `None` if the lease cannot be used, which is logged once.
    fn node(&mut self, name: &str, kv: &KeyValue) -> Option<(Node, Rank)> {
        match node(name, &kv.value, &self.config.routing) {
            Ok(node) => {
                if self.left_out.remove(name).is_some() {
                    tracing::info!("the subnet {name} can be used now");
                }
                // If two leases have one address or MAC, the older one is what a node left behind.
                Some((node, Rank { ready: true, born: kv.create_revision }))
            }
            Err(why) => {
                if self.left_out.get(name) != Some(&why) {
                    tracing::warn!("the subnet {name} is left out: {why}");
                    self.left_out.insert(name.to_owned(), why);
                }
                None
            }
        }
    }

    /// Takes in what the watch tells.
    async fn take(&mut self, mine: &mut Mine, events: Vec<Event>) -> Result<(), End> {
        let prefix = format!("{}/subnets/", self.config.routing.etcd.prefix);
        let own_name = mine.subnets.name();
        let mut updates = Vec::new();
        let mut lost = None;
        for event in events {
            let Some(kv) = event.kv else { continue };
            let name = name_of(&prefix, &kv);
            match (name == own_name, event.kind) {
                (true, 0) if kv.value == mine.value => mine.lease = kv.lease,
                (true, 0) => {
                    lost = Some("was written to by someone else");
                    self.suspect_twin(mine, &kv);
                }
                (true, _) => lost = Some("is gone from etcd, its lease ended or it was deleted"),
                (false, 0) => updates.extend(match self.node(name, &kv) {
                    Some((node, rank)) => self.roll.put(node, rank),
                    None => self.roll.remove(name),
                }),
                (false, _) => {
                    self.left_out.remove(name);
                    updates.extend(self.roll.remove(name));
                }
            }
        }
        self.say();
        if !updates.is_empty() {
            self.tell(NodeEvent::Changes(updates)).await?;
        }
        lost.map_or(Ok(()), |how| Err(End::Lost(how)))
    }

    /// Notices a twin: a living node of the same name takes back at once what this node believed to be its own.
    fn suspect_twin(&mut self, mine: &Mine, kv: &KeyValue) {
        let public =
            |value: &[u8]| Value::parse(value).map_or_else(|_| Public::default(), |value| value.public());
        let (own, other) = (public(&mine.value), public(&kv.value));
        if self.inherited && !other.is_same_node(&own) {
            self.has_twin = true;
            tracing::error!(
                "another node, at {other}, is called {} too, or has the same MAC; another subnet is taken; give each node a                  name of its own ([node] name)",
                self.own_name
            );
        }
    }

    async fn tell(&self, event: NodeEvent) -> Result<(), Deaf> {
        self.events.send(event).await.map_err(|_| Deaf)
    }

    /// Notes that this node has a subnet and knows all others.
    fn answered(&mut self) {
        self.failures = 0;
        if !std::mem::take(&mut self.said).is_empty() {
            tracing::info!("etcd answers again");
        }
    }

    /// Draws the consequences of a fault. Returns whether to wait before the next round.
    fn fail(&mut self, fault: &Fault) -> bool {
        let members = self.config.routing.etcd.endpoints.len();
        if matches!(fault, Fault::Compacted | Fault::Token(_)) {
            tracing::info!("{fault}: all subnets are listed again");
            return true;
        }
        if fault.is_the_members() {
            self.at = (self.at + 1) % members.max(1);
            self.failures += 1;
            if !self.failures.is_multiple_of(members.max(1)) {
                tracing::warn!("{fault}; the next member is asked");
                return false;
            }
        }
        if self.said.insert(fault.class()) {
            // This fault differs from the one before. So an operator who mends things step by step does not wait long
            // for the next step.
            self.pause.reset();
            tracing::error!("{fault}; it is tried again, everything stays as it is until then");
        }
        true
    }
}

/// Renews this node's own lease.
async fn renew(api: &mut Api, mine: &mut Mine) -> Result<(), End> {
    match api.renew(mine.lease).await? {
        Some(ttl) => {
            mine.renewal = Some(next(ttl));
            Ok(())
        }
        None => Err(End::Lost("has lost its lease")),
    }
}

/// When a lease of so many seconds is to be renewed.
fn next(ttl_s: u64) -> Instant {
    Instant::now() + Duration::from_secs(ttl_s) / RENEWALS
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The last part of a subnet's key.
fn name_of<'a>(prefix: &str, kv: &'a KeyValue) -> &'a str {
    std::str::from_utf8(&kv.key).ok().and_then(|key| key.strip_prefix(prefix)).unwrap_or_default()
}

fn node(name: &str, value: &[u8], routing: &Routing) -> Result<Node, String> {
    let subnets = Subnets::parse(name).ok_or("its key is no subnet's")?;
    Value::parse(value)?.node(&subnets, routing)
}

/// What matters of all leases for the choice, and their places in the list. A lease whose value cannot be read belongs
/// to nobody, but its subnet is taken all the same.
fn taken(prefix: &str, all: &[KeyValue], me: &Me) -> (Vec<usize>, Vec<Taken>) {
    let one = |(at, kv): (usize, &KeyValue)| {
        let subnets = Subnets::parse(name_of(prefix, kv))?;
        let whose = me.whose(kv.lease, &subnets, Value::parse(&kv.value).ok().as_ref());
        Some((at, Taken { subnets, whose, created: kv.create_revision }))
    };
    all.iter().enumerate().filter_map(one).unzip()
}

/// A random number. Every `RandomState` gets a new key, which is random enough to keep nodes apart.
fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}
