//! `routed plan`: tells what the daemon would do now, and does nothing.
//!
//! The pass is the daemon's own. It works on a kernel that is read, and whose changes are only noted ([`Noting`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrule_config::{Config, EditedNodes, Source as SourceKind, Tunnel};
use ferrule_daemon::{CommonArgs, Notifier, block_on};
use ferrule_model::{
    Address, AddressKey, Change, FdbEntry, FdbKey, Hop, IfIndex, IfName, Link, Neighbour, NeighbourKey,
    Nexthop, NexthopId, Op, PolicyRule, Route, RouteKey, RouteKind, VethSpec, Via, WgSecret, WireguardState,
};
use ferrule_netlink::nft::NetfilterSocket;
use ferrule_netlink::{Error, Kernel, Netlink, Refusal, Routes, Tunnels};
use nix::errno::Errno;

use crate::decide::nodes::Cluster;
use crate::decide::objects::Links;
use crate::decide::objects::Objects;
use crate::decide::report;
use crate::decide::wireguard::Identity;
use crate::host::Host;
use crate::keep;
use crate::node_table::NodeTable;
use crate::pass::apply::Applier;
use crate::pass::device;
use crate::pass::uplink;
use crate::pass::worker::Message;
use crate::run::{RunError, system};
use crate::source::{AnySource, Source, origin};

/// How long the nodes may take. A file is read at once, but an API server has to answer.
const FILE_WAIT: Duration = Duration::from_secs(2);
const SERVER_WAIT: Duration = Duration::from_secs(30);

/// Devices that are not there get numbers from here downwards, because no link has such a number.
const LAST: IfIndex = IfIndex(u32::MAX);

/// Prints what the daemon would do with this configuration.
///
/// # Errors
/// The nodes or the kernel cannot be read, or a pass could not be made; see [`RunError`].
pub fn plan(args: &CommonArgs) -> Result<(), RunError> {
    let config = args.load_config()?;
    let name = CommonArgs::node_name(&config)?;
    let nodes = nodes(&config, &name, &args.runtime_dir);
    let cluster = block_on(nodes).map_err(system("start the runtime"))??;
    let (identity, is_new) = identity(&config)?;
    let mut applier = Applier::new(Noting::new(Netlink::open()?), config.routing.clone())
        .with_given(&config.cluster.pod_cidrs)
        .with_identity(identity);
    let report = applier.pass(&cluster, Instant::now())?;
    let mut lines = applier.kernel().lines()?;
    if is_new {
        lines.insert(
            0,
            format!("write a new WireGuard key into {}", config.routing.wireguard.key_file.display()),
        );
    }
    lines.extend(report.done.iter().cloned());
    let host = Host::new(config, &args.runtime_dir);
    if let Some(belief) = applier.belief() {
        lines.extend(host.plan(&Arc::new(cluster), belief, report.mtu));
    }
    lines.extend(pods(&args.runtime_dir)?);
    lines.extend(report.refused.iter().cloned());
    lines.extend(report.warnings.iter().cloned());
    lines.extend(report.skipped.iter().map(ToString::to_string));
    if lines.is_empty() {
        lines.push(format!("nothing to do: {} objects are as they should be", report.objects));
    }
    let mut out = io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}")).map_err(system("write the plan"))
}

/// What would be put back of what pods have on the host.
fn pods(runtime_dir: &Path) -> Result<Vec<String>, Error> {
    let mut kernel = Netlink::open()?;
    let links: Links = kernel.links()?.into_iter().map(|link| (link.index, link)).collect();
    let told = |change| match change {
        keep::plan::Change::Op(op, of) => line(&op, &links) + &of,
        keep::plan::Change::Words(text) => text,
    };
    Ok(match keep::plan::plan(&mut kernel, NetfilterSocket::open, runtime_dir) {
        Ok(changes) => changes.into_iter().map(told).collect(),
        Err(error) => vec![format!("what pods have on this node is left out of this plan: {error}")],
    })
}

/// This node's identity, or the one that it would have, and whether it would have to be made.
fn identity(config: &Config) -> Result<(Option<Identity>, bool), RunError> {
    let routing = &config.routing;
    if !routing.has(Tunnel::Wireguard) {
        return Ok((None, false));
    }
    let found = Identity::find(&routing.wireguard.key_file)?;
    let is_new = found.is_none();
    Ok((Some(found.unwrap_or_else(|| Identity::of(WgSecret([0x40; 32])))), is_new))
}

/// The cluster, once the source tells of this node.
async fn nodes(config: &Config, name: &str, runtime_dir: &Path) -> Result<Cluster, RunError> {
    let is_file = config.routing.source == SourceKind::File;
    let none = || RunError::NoNodes { name: name.to_owned(), origin: origin(&config.routing).0 };
    if is_file {
        // The file is there and good, or it is not: nobody writes a better one while somebody waits for a plan.
        let path = &config.routing.file.path;
        let good = EditedNodes::read(path).and_then(|text| EditedNodes::parse(text, path));
        let good = good.map_err(RunError::NodesFile)?;
        // One line says so. The table of nodes would add another one, that it waits.
        if !good.nodes().is_empty() && good.nodes().iter().all(|node| node.name != name) {
            return Err(none());
        }
    }
    let wanted = config.node.interface.as_ref();
    let chosen = wanted.map(|wanted| uplink::look(wanted, config, None)).transpose()?;
    let node = chosen.as_ref().map_or_else(|| config.node.clone(), |chosen| chosen.configured(&config.node));
    let told = Config { node, ..config.clone() };
    let mut source = AnySource::reading(&told, name, runtime_dir, device::known_macs(&config.routing.vxlan));
    let mut table = NodeTable::new(name, config.clone(), Notifier);
    chosen.into_iter().for_each(|chosen| table.has_chosen(chosen));
    let told = async {
        loop {
            if let Some(Message::Cluster(cluster)) = table.take(source.next().await) {
                return Some(*cluster);
            }
            if is_file {
                return None;
            }
        }
    };
    let wait = if is_file { FILE_WAIT } else { SERVER_WAIT };
    tokio::time::timeout(wait, told).await.ok().flatten().ok_or_else(none)
}

/// A kernel that is read, and that accepts changes without making them. What would go with a deleted link is gone, and
/// a link that would be made is there.
#[derive(Debug)]
pub struct Noting<K> {
    kernel: K,
    ops: Vec<Op>,
    made: Vec<Link>,
    gone: BTreeSet<IfIndex>,
}

impl<K: Kernel> Noting<K> {
    /// Nothing is noted yet.
    pub fn new(kernel: K) -> Self {
        Self { kernel, ops: Vec::new(), made: Vec::new(), gone: BTreeSet::new() }
    }

    /// The noted ops, in their order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The same for a person.
    fn lines(&mut self) -> Result<Vec<String>, Error> {
        let all = self.kernel.links()?.into_iter().chain(self.made.iter().cloned());
        let links: Links = all.map(|link| (link.index, link)).collect();
        Ok(self.ops.iter().map(|op| line(op, &links)).collect())
    }

    fn note(&mut self, op: &Op) -> Result<Result<(), Refusal>, Error> {
        match op {
            Op::AddVxlan(spec) => self.made.push(spec.link(self.not_yet())),
            Op::AddWireguard(spec) => self.made.push(spec.link(self.not_yet())),
            Op::DeleteLink(index) => drop(self.gone.insert(*index)),
            // The real kernel would refuse this (`fib_check_nh`, `ip6_route_check_nh`).
            Op::PutNexthop(_, hop) | Op::AddNexthop(_, hop) if !self.is_beside(hop)? => {
                return Ok(Err(Refusal { errno: Errno::ENETUNREACH, reason: None }));
            }
            Op::AddRoute(key, _) if self.has_route(key)? => {
                return Ok(Err(Refusal { errno: Errno::EEXIST, reason: None }));
            }
            _ => {}
        }
        self.ops.push(op.clone());
        Ok(Ok(()))
    }

    /// Whether a next hop is on its link, as far as the kernel would check.
    fn is_beside(&mut self, hop: &Nexthop) -> Result<bool, Error> {
        if hop.onlink || self.is_new(hop.link) {
            return Ok(true);
        }
        let found = self.kernel.route_match(hop.gateway)?;
        Ok(found.is_some_and(|(_, route)| route.kind == RouteKind::Unicast(Via::Link(hop.link))))
    }

    fn has_route(&mut self, key: &RouteKey) -> Result<bool, Error> {
        let found = self.kernel.route_match(key.dst.ip())?;
        Ok(found.is_some_and(|(found, route)| found == *key && route.protocol != ferrule_model::PROTOCOL))
    }

    /// The next number that no link has.
    fn not_yet(&self) -> IfIndex {
        IfIndex(LAST.0 - self.made.len() as u32)
    }

    fn is_new(&self, link: IfIndex) -> bool {
        self.made.iter().any(|made| made.index == link)
    }

    /// Whether a route would go with its link.
    fn is_lost(&self, route: &Route, lost: &BTreeSet<NexthopId>) -> bool {
        match route.kind {
            RouteKind::Unicast(Via::Nexthop(id)) => lost.contains(&id),
            RouteKind::Unicast(Via::Gateway { link, .. } | Via::Link(link)) => self.gone.contains(&link),
            RouteKind::Unreachable => false,
        }
    }

    fn lost_nexthops(&mut self) -> Result<BTreeSet<NexthopId>, Error> {
        let all = self.kernel.nexthops()?.into_iter();
        let lost = all.filter(|(_, hop)| hop.is_some_and(|hop| self.gone.contains(&hop.link)));
        Ok(lost.map(|(id, _)| id).collect())
    }
}

fn line(op: &Op, links: &Links) -> String {
    let verb = if op.change() == Change::Delete { "remove" } else { "set" };
    let object = report::object(op, &Objects::default(), links);
    let more = match op {
        Op::PutRoute(_, route) | Op::AddRoute(_, route) => match route.kind {
            RouteKind::Unicast(Via::Nexthop(id)) => format!(" by nexthop {}", id.0),
            RouteKind::Unreachable => " unreachable".to_owned(),
            RouteKind::Unicast(Via::Gateway { .. } | Via::Link(_)) => String::new(),
        },
        Op::PutNeighbour(_, Neighbour { mac: Some(mac), .. }) => format!(" lladdr {mac}"),
        Op::AddVxlan(spec) => format!(" vni {} port {} mtu {}", spec.vxlan.vni, spec.vxlan.port, spec.mtu),
        _ => String::new(),
    };
    format!("{verb} {object}{more}")
}

impl<K: Kernel> Kernel for Noting<K> {
    type Netns = K::Netns;

    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        ops.iter().map(|op| self.note(op)).collect()
    }

    fn create_veth(&mut self, _: &VethSpec, _: &Self::Netns) -> Result<Link, Error> {
        Err(not_noted("make a pod's link"))
    }

    fn delete_link(&mut self, _: &IfName) -> Result<Option<Link>, Error> {
        Err(not_noted("delete a pod's link"))
    }

    fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        Ok(self.links()?.into_iter().find(|link| link.name == *name))
    }

    fn route_match(&mut self, dst: IpAddr) -> Result<Option<(RouteKey, Route)>, Error> {
        self.kernel.route_match(dst)
    }

    fn way_to(&mut self, dst: IpAddr) -> Result<Option<ferrule_netlink::Path>, Error> {
        self.kernel.way_to(dst)
    }

    fn neighbour(&mut self, key: NeighbourKey) -> Result<Option<Neighbour>, Error> {
        if self.is_new(key.link) { Ok(None) } else { self.kernel.neighbour(key) }
    }

    fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = self.kernel.links()?;
        links.retain(|link| !self.gone.contains(&link.index));
        links.extend(self.made.iter().cloned());
        Ok(links)
    }

    fn addresses(&mut self, link: IfIndex) -> Result<BTreeMap<AddressKey, Address>, Error> {
        if self.is_new(link) { Ok(BTreeMap::new()) } else { self.kernel.addresses(link) }
    }

    fn routes(&mut self, protocol: u8) -> Result<BTreeMap<RouteKey, Route>, Error> {
        let lost = self.lost_nexthops()?;
        let mut routes = self.kernel.routes(protocol)?;
        routes.retain(|_, route| !self.is_lost(route, &lost));
        Ok(routes)
    }

    fn all_routes(
        &mut self,
        protocol: u8,
        known: &BTreeMap<RouteKey, Route>,
        matters: &dyn Fn(&RouteKey) -> bool,
    ) -> Result<Routes, Error> {
        let lost = self.lost_nexthops()?;
        let mut routes = self.kernel.all_routes(protocol, known, matters)?;
        routes.beyond.retain(|_, route| !self.is_lost(route, &lost));
        let gone = &self.gone;
        routes.foreign.retain(|route| {
            let leads = |hop: &Hop| hop.link.is_none_or(|link| !gone.contains(&link));
            route.hops.is_empty() || route.hops.iter().any(leads)
        });
        Ok(routes)
    }

    fn rules(&mut self) -> Result<Vec<PolicyRule>, Error> {
        self.kernel.rules()
    }

    fn nexthops(&mut self) -> Result<BTreeMap<NexthopId, Option<Nexthop>>, Error> {
        let lost = self.lost_nexthops()?;
        let mut nexthops = self.kernel.nexthops()?;
        nexthops.retain(|id, _| !lost.contains(id));
        Ok(nexthops)
    }

    fn nexthop(&mut self, id: NexthopId) -> Result<Option<Nexthop>, Error> {
        self.kernel.nexthop(id)
    }

    fn neighbours(&mut self, link: IfIndex) -> Result<BTreeMap<NeighbourKey, Neighbour>, Error> {
        if self.is_new(link) { Ok(BTreeMap::new()) } else { self.kernel.neighbours(link) }
    }

    fn fdb_entry(&mut self, key: FdbKey) -> Result<Option<FdbEntry>, Error> {
        if self.is_new(key.link) { Ok(None) } else { self.kernel.fdb_entry(key) }
    }

    fn fdb(&mut self, link: IfIndex) -> Result<BTreeMap<FdbKey, FdbEntry>, Error> {
        if self.is_new(link) { Ok(BTreeMap::new()) } else { self.kernel.fdb(link) }
    }
}

impl<K: Tunnels> Tunnels for Noting<K> {
    fn tx_checksum(&mut self, link: &IfName) -> Result<bool, Error> {
        let is_new = self.made.iter().any(|made| made.name == *link);
        if is_new { Ok(true) } else { self.kernel.tx_checksum(link) }
    }

    fn set_tx_checksum(&mut self, _: &IfName, _: bool) -> Result<(), Error> {
        Ok(())
    }

    fn wireguard(&mut self, link: IfIndex) -> Result<Option<WireguardState>, Error> {
        if self.is_new(link) { Ok(Some(WireguardState::default())) } else { self.kernel.wireguard(link) }
    }
}

/// The error for a request that no pass makes.
fn not_noted(request: &str) -> Error {
    Error::Refused { request: request.to_owned(), refusal: Refusal { errno: Errno::ENOTSUP, reason: None } }
}
