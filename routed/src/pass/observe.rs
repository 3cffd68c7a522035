//! Reads the kernel: the links, the underlay, and everything that is ours.

use std::collections::{BTreeMap, BTreeSet};

use ferrule_config::Routing;
use ferrule_model::{
    Family, ForeignRoute, IfIndex, IfName, IpNetwork, Link, PROTOCOL, PeerKey, PeerState, PolicyRule, Route,
    RouteKey, is_host_veth,
};
use ferrule_netlink::{Error, FAR, Kernel, Routes, Tunnels};

use crate::decide::desired::{Underlay, Uplink, Ways};
use crate::decide::nodes::{Cluster, Node};
use crate::decide::objects::{Links, Nexthops, Objects};
use crate::decide::owner;
use crate::decide::taken::Taken;
use crate::decide::underlay::only_holds;
use crate::decide::wanted::HopKey;
use crate::pass::device;

/// The kernel is asked for the ways to at most so many other nodes, one after another through the whole list.
const ASKED: usize = 32;
/// The MTU that is assumed while it is not known which link is used.
const ETHERNET_MTU: u32 = 1500;

/// What is in the kernel now.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// All links.
    pub links: Links,
    /// All nexthop objects, except for those that are as they were known.
    pub nexthops: Nexthops,
    /// What is ours, except for peers, and for the routes and nexthop objects that are as they were known.
    pub ours: Objects,
    /// How many of the first known routes, and of the first known nexthop objects, are as they were known.
    pub as_known: (usize, usize),
    /// The routes that may be flannel's and can only be recognised by what our routes are to be, see
    /// [`owner::is_flannels_to`].
    pub plain: BTreeMap<RouteKey, Route>,
    /// Other programs' routes that matter.
    pub foreign: Vec<ForeignRoute>,
    /// The policy rules that are asked before the main table.
    pub rules: Vec<PolicyRule>,
    /// Peers of our WireGuard device.
    pub peers: BTreeMap<PeerKey, PeerState>,
}

/// All links.
///
/// # Errors
/// The kernel cannot be read.
pub fn links<K: Kernel>(kernel: &mut K) -> Result<Links, Error> {
    Ok(kernel.links()?.into_iter().map(|link| (link.index, link)).collect())
}

/// The links that hold the addresses of this node. If several links have the same address, it is one that works. If
/// several of those work, it is the one by which the other nodes are reached. Pods' links and our devices are not
/// looked at. Also returns what belongs to the machine itself, so that no pod CIDR may contain it; what our devices
/// have is not part of it.
///
/// # Errors
/// The kernel cannot be read.
pub fn underlay<K: Kernel>(
    kernel: &mut K,
    cluster: &Cluster,
    (routing, given): (&Routing, &[IpNetwork]),
    links: &Links,
) -> Result<(Underlay, Taken), Error> {
    let device = device::find(links, &routing.vxlan, cluster.own.vtep_mac).map(|link| link.index);
    let (mut found, mut addresses) = (Vec::new(), Vec::new());
    let candidates =
        links.values().filter(|link| Some(link.index) != device && !is_host_veth(link.name.as_str()));
    // An operator may have chosen the link.
    let may_be_uplink = |link: &Link| cluster.uplink.as_ref().is_none_or(|chosen| *chosen == link.name);
    for link in candidates {
        for key in kernel.addresses(link.index)?.into_keys() {
            let address = key.prefix.ip();
            if !is_ours(routing, &link.name) {
                addresses.push(address);
            }
            if cluster.own.address(Family::of(address)) != Some(address) || !may_be_uplink(link) {
                continue;
            }
            let (prefix_len, usable) = (key.prefix.prefix(), link.up && link.carrier);
            let holds = only_holds(link);
            found.push(Uplink { link: link.index, address, prefix_len, mtu: link.mtu, usable, holds });
        }
    }
    let mut underlay = Underlay::default();
    for family in Family::BOTH {
        let mut all: Vec<_> =
            found.iter().copied().filter(|uplink| Family::of(uplink.address) == family).collect();
        let is_open = all.iter().filter(|uplink| uplink.usable).count() > 1;
        let asks = is_open || all.iter().any(|uplink| uplink.holds);
        let ways = if asks { ways(kernel, cluster, family, links)? } else { Vec::new() };
        all.sort_by_key(|uplink| !ways.iter().any(|way| way.index == uplink.link));
        for uplink in all {
            let mtu = match uplink.holds {
                true => ways.iter().map(|way| way.mtu).min().unwrap_or(uplink.mtu.min(ETHERNET_MTU)),
                false => uplink.mtu,
            };
            underlay.offer(Uplink { mtu, ..uplink });
        }
    }
    let mut gateways = Vec::new();
    for far in FAR {
        gateways.extend(kernel.way_to(far)?.and_then(|path| path.gateway));
    }
    let taken = Taken::new(gateways, addresses.into_iter(), &cluster.own.pod_cidrs, &underlay);
    Ok((underlay, taken.with_given(given)))
}

/// Whether the name is that of one of our devices.
pub(crate) fn is_ours(routing: &Routing, name: &IfName) -> bool {
    let (vxlan, wireguard) = (&routing.vxlan, &routing.wireguard);
    *name == vxlan.device || Some(name) == vxlan.device6.as_ref() || *name == wireguard.device
}

/// The links by which packets to the other nodes leave. If there are no other nodes, the link of the default route.
fn ways<'a, K: Kernel>(
    kernel: &mut K,
    cluster: &Cluster,
    family: Family,
    links: &'a Links,
) -> Result<Vec<&'a Link>, Error> {
    let step = cluster.others.len().div_ceil(ASKED).max(1);
    let nodes = cluster.others.values().step_by(step).filter_map(|node| node.address(family));
    let far = FAR.into_iter().filter(|far| Family::of(*far) == family);
    let mut ways = BTreeSet::new();
    for dst in nodes {
        ways.extend(kernel.way_to(dst)?.map(|path| path.link));
    }
    if ways.is_empty() {
        for dst in far {
            ways.extend(kernel.way_to(dst)?.map(|path| path.link));
        }
    }
    Ok(ways.iter().filter_map(|way| links.get(way)).filter(|link| !only_holds(link)).collect())
}

/// The next hops by which packets to these nodes leave, in these families. A node to which there is none is left out.
///
/// # Errors
/// The kernel cannot be read.
pub fn next_hops<'a, K: Kernel>(
    kernel: &mut K,
    families: impl Iterator<Item = Family>,
    nodes: &(impl Iterator<Item = &'a Node> + Clone),
    links: &Links,
) -> Result<Ways, Error> {
    let mut ways = Ways::new();
    for family in families {
        for address in nodes.clone().filter_map(|node| node.address(family)) {
            let Some(path) = kernel.way_to(address)? else { continue };
            // This machine has the address itself.
            if links.get(&path.link).is_none_or(only_holds) {
                continue;
            }
            ways.insert(address, HopKey { link: path.link, gateway: path.gateway.unwrap_or(address) });
        }
    }
    Ok(ways)
}

/// Everything that is ours. `devices` are our VXLAN devices, and `wireguard` is the other one. If they were flannel's,
/// flannel's routes through them are ours, too. Routes and nexthop objects that are as `known` are only counted. Of
/// other programs' routes those are kept whose key `matters`.
///
/// # Errors
/// The kernel cannot be read.
pub fn ours<K: Tunnels>(
    kernel: &mut K,
    devices: &[IfIndex],
    wireguard: Option<IfIndex>,
    were_flannels: bool,
    (known, matters): (&Objects, &dyn Fn(&RouteKey) -> bool),
) -> Result<Seen, Error> {
    let Routes { met: known_routes, beyond: routes, foreign } =
        kernel.all_routes(PROTOCOL, &known.routes, matters)?;
    let theirs = if were_flannels { kernel.routes(owner::FLANNELS_PROTOCOL)? } else { BTreeMap::new() };
    // The links are read after the routes, see `owner::routes`.
    let links = links(kernel)?;
    let (known_nexthops, nexthops) = kernel.nexthops_beyond(&known.nexthops)?;
    let mut ours = Objects {
        routes: owner::routes(routes, &links),
        nexthops: owner::nexthops(&nexthops),
        ..Objects::default()
    };
    let (mut theirs, plain) = theirs
        .into_iter()
        .partition::<BTreeMap<_, _>, _>(|(key, route)| owner::is_flannels(key, route, devices));
    // Appending a map to an empty one costs nothing. Extending it would look up each of the thousands of entries.
    ours.routes.append(&mut theirs);
    for device in devices {
        ours.addresses.append(&mut kernel.addresses(*device)?);
        ours.neighbours.append(&mut kernel.neighbours(*device)?);
        ours.fdb.append(&mut kernel.fdb(*device)?);
    }
    let mut peers = BTreeMap::new();
    if let Some(device) = wireguard {
        ours.addresses.extend(kernel.addresses(device)?);
        peers = kernel.wireguard(device)?.unwrap_or_default().peers;
    }
    ours.addresses.retain(|key, _| owner::is_our_address(key));
    ours.neighbours.retain(|_, neighbour| neighbour.permanent);
    let as_known = (known_routes, known_nexthops);
    Ok(Seen { links, nexthops, ours, as_known, plain, foreign, rules: Vec::new(), peers })
}

impl Seen {
    /// Whether what is ours is the same as what was known.
    pub fn is(&self, known: &Objects) -> bool {
        let Objects { addresses, fdb, neighbours, peers, nexthops, routes } = &self.ours;
        let (known_routes, known_nexthops) = self.as_known;
        known.routes.iter().skip(known_routes).eq(routes)
            && known.nexthops.iter().skip(known_nexthops).eq(nexthops)
            && (addresses, fdb) == (&known.addresses, &known.fdb)
            && (neighbours, peers) == (&known.neighbours, &known.peers)
    }
}
