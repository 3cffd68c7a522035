//! A fake machine for the property tests: clusters, faults, and what packets can tell of the kernel's state.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ferrule_config::{Backend, Routing, Tunnel};
use ferrule_model::{
    Address, AddressKey, FdbEntry, FdbKey, IfIndex, IfName, Link, Neighbour, NeighbourKey, Nexthop,
    NexthopId, Op, PeerState, PolicyRule, Route, RouteKey, RouteKind, VethSpec, Via, WgKey, WgSecret,
    WireguardState, vtep_mac,
};
use ferrule_netlink::fake::{FakeKernel, FakeNetns, FakeWorld, State};
use ferrule_netlink::{Error, Kernel, Refusal, Routes, Tunnels};
use nix::errno::Errno;
use proptest::prelude::*;
use routed::decide::nodes::{Cluster, Node, NodeChange};
use routed::decide::wireguard::Identity;
use routed::pass::apply::Applier;

/// A kernel that is looked at after every single change.
pub(crate) struct Watched<K> {
    kernel: K,
    routes: Box<dyn FnMut() -> BTreeSet<RouteKey>>,
    /// Destinations that must have a route at every moment.
    pub(crate) always: BTreeSet<RouteKey>,
    pub(crate) lost: Vec<String>,
    /// The change that is refused, counted from now, and the error.
    refused: Option<(usize, Errno)>,
}

impl<K: Kernel> Watched<K> {
    /// `routes` tells which routes exist.
    pub(crate) fn new(kernel: K, routes: impl FnMut() -> BTreeSet<RouteKey> + 'static) -> Self {
        let (always, lost) = (BTreeSet::new(), Vec::new());
        Self { kernel, routes: Box::new(routes), always, lost, refused: None }
    }

    pub(crate) fn refuse(&mut self, refusal: Option<(usize, Errno)>) {
        self.refused = refusal;
    }

    fn is_refused(&mut self) -> Option<Errno> {
        match self.refused.take() {
            Some((0, errno)) => Some(errno),
            later => {
                self.refused = later.map(|(left, errno)| (left - 1, errno));
                None
            }
        }
    }
}

impl<K: Kernel> Kernel for Watched<K> {
    type Netns = K::Netns;

    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let mut answers = Vec::new();
        for op in ops {
            if let Some(errno) = self.is_refused() {
                answers.push(Err(errno.into()));
                continue;
            }
            answers.extend(self.kernel.apply(std::slice::from_ref(op))?);
            let routes = (self.routes)();
            self.lost.extend(self.always.difference(&routes).map(|key| format!("{} after {op}", key.dst)));
        }
        Ok(answers)
    }
    fn create_veth(&mut self, spec: &VethSpec, pod: &K::Netns) -> Result<Link, Error> {
        self.kernel.create_veth(spec, pod)
    }
    fn delete_link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        self.kernel.delete_link(name)
    }
    fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        self.kernel.link(name)
    }
    fn route_match(&mut self, dst: IpAddr) -> Result<Option<(RouteKey, Route)>, Error> {
        self.kernel.route_match(dst)
    }
    fn way_to(&mut self, dst: IpAddr) -> Result<Option<ferrule_netlink::Path>, Error> {
        self.kernel.way_to(dst)
    }
    fn neighbour(&mut self, key: NeighbourKey) -> Result<Option<Neighbour>, Error> {
        self.kernel.neighbour(key)
    }
    fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.kernel.links()
    }
    fn addresses(&mut self, link: IfIndex) -> Result<BTreeMap<AddressKey, Address>, Error> {
        self.kernel.addresses(link)
    }
    fn routes(&mut self, protocol: u8) -> Result<BTreeMap<RouteKey, Route>, Error> {
        self.kernel.routes(protocol)
    }
    fn all_routes(
        &mut self,
        protocol: u8,
        known: &BTreeMap<RouteKey, Route>,
        matters: &dyn Fn(&RouteKey) -> bool,
    ) -> Result<Routes, Error> {
        self.kernel.all_routes(protocol, known, matters)
    }
    fn rules(&mut self) -> Result<Vec<PolicyRule>, Error> {
        self.kernel.rules()
    }
    fn nexthops(&mut self) -> Result<BTreeMap<NexthopId, Option<Nexthop>>, Error> {
        self.kernel.nexthops()
    }
    fn nexthop(&mut self, id: NexthopId) -> Result<Option<Nexthop>, Error> {
        self.kernel.nexthop(id)
    }
    fn fdb_entry(&mut self, key: FdbKey) -> Result<Option<FdbEntry>, Error> {
        self.kernel.fdb_entry(key)
    }
    fn neighbours(&mut self, link: IfIndex) -> Result<BTreeMap<NeighbourKey, Neighbour>, Error> {
        self.kernel.neighbours(link)
    }
    fn fdb(&mut self, link: IfIndex) -> Result<BTreeMap<FdbKey, FdbEntry>, Error> {
        self.kernel.fdb(link)
    }
}

impl<K: Tunnels> Tunnels for Watched<K> {
    fn tx_checksum(&mut self, link: &IfName) -> Result<bool, Error> {
        self.kernel.tx_checksum(link)
    }
    fn set_tx_checksum(&mut self, link: &IfName, on: bool) -> Result<(), Error> {
        self.kernel.set_tx_checksum(link, on)
    }
    fn wireguard(&mut self, link: IfIndex) -> Result<Option<WireguardState>, Error> {
        self.kernel.wireguard(link)
    }
}

/// A node's machine: an underlay link with both addresses, a pod with its route, and things of other programs.
pub(crate) fn machine() -> (FakeWorld, FakeNetns) {
    let world = FakeWorld::new();
    let netns = world.netns();
    let eth0 = world.add_link(&netns, IfName::new("eth0").unwrap(), 1500);
    let pod = world.add_link(&netns, IfName::new("fer0123456789ab").unwrap(), 1450);
    let mut kernel = world.kernel(&netns);
    let address = |text: &str| {
        Op::PutAddress(AddressKey { link: eth0, prefix: text.parse().unwrap() }, Address::default())
    };
    let route = |text: &str| RouteKey::main(text.parse().unwrap());
    let foreign = Nexthop { gateway: [192, 0, 2, 77].into(), link: eth0, onlink: false, protocol: 4 };
    let ops = [
        address("192.0.2.1/24"),
        address("2001:db8::1/64"),
        Op::PutRoute(route("10.244.1.9/32"), Route::ours(Via::Link(pod))),
        Op::PutNexthop(NexthopId(70_000_001), foreign),
    ];
    assert!(kernel.apply(&ops).unwrap().iter().all(Result::is_ok));
    let theirs = Route { protocol: 4, ..Route::ours(Via::Nexthop(NexthopId(70_000_001))) };
    world.put_route(&netns, "172.16.0.0/12".parse().unwrap(), theirs);
    (world, netns)
}

/// How packets travel, and a further tunnel by which they may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way(pub(crate) Backend, pub(crate) Option<Tunnel>);

impl From<Backend> for Way {
    fn from(backend: Backend) -> Self {
        Self(backend, None)
    }
}

impl Way {
    pub(crate) fn routing(self) -> Routing {
        Routing { backend: self.0, accept: self.1, ..Routing::default() }
    }
}

/// The identity of the node.
pub(crate) fn identity() -> Identity {
    // This takes a while without optimization.
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::of(WgSecret([8; 32])));
    IDENTITY.clone()
}

pub(crate) fn applier(
    world: &FakeWorld,
    netns: FakeNetns,
    way: impl Into<Way>,
) -> Applier<Watched<FakeKernel>> {
    let looking = world.clone();
    let watched =
        Watched::new(world.kernel(&netns), move || looking.state(&netns).routes.into_keys().collect());
    Applier::new(watched, way.into().routing()).with_identity(Some(identity()))
}

/// The routes by which a packet really leaves. A route into a WireGuard device needs a peer there.
pub(crate) fn working(state: &State) -> BTreeSet<RouteKey> {
    let works = |(key, route): (&RouteKey, &Route)| {
        let device = route.link().and_then(|link| state.wireguards.get(&link));
        let has = |peer: &PeerState| peer.peer.allowed.contains(&key.dst);
        device.is_none_or(|device| device.peers.values().any(has)).then_some(*key)
    };
    state.routes.iter().filter_map(works).collect()
}

/// As [`applier`], but a route that leads nowhere counts as none.
pub(crate) fn strict_applier(
    world: &FakeWorld,
    netns: FakeNetns,
    way: impl Into<Way>,
) -> Applier<Watched<FakeKernel>> {
    let looking = world.clone();
    let watched = Watched::new(world.kernel(&netns), move || working(&looking.state(&netns)));
    Applier::new(watched, way.into().routing()).with_identity(Some(identity()))
}

/// Makes passes until nothing is pending, with one fault in each of the first ones. Returns how many passes it took.
pub(crate) fn settle(
    applier: &mut Applier<Watched<FakeKernel>>,
    world: &FakeWorld,
    cluster: &Cluster,
    faults: &[(u64, Errno)],
) -> usize {
    let mut now = Instant::now();
    for pass in 0..faults.len() + 8 {
        if let Some((at, errno)) = faults.get(pass) {
            world.fail_at(*at, *errno);
        }
        let report = applier.pass(cluster, now);
        let faulty = world.take_fault() || pass < faults.len();
        now += Duration::from_secs(60);
        match report {
            Ok(report) if report.pending == 0 && !faulty => return pass + 1,
            _ => {}
        }
    }
    panic!("it does not settle");
}

/// What packets can tell of a state. The numbers of links and nexthop objects are replaced by what they name.
pub(crate) fn essence(state: &State) -> BTreeSet<String> {
    let name = |index: IfIndex| {
        state
            .links
            .values()
            .find(|link| link.index == index)
            .map_or("?".to_owned(), |link| link.name.to_string())
    };
    let mut lines = BTreeSet::new();
    for link in state.links.values() {
        let underlay = link.peer.map(name);
        lines.insert(format!("link {} {:?} {} {} {underlay:?}", link.name, link.mac, link.mtu, link.up));
    }
    lines.extend(state.addresses.keys().map(|key| format!("address {} {}", key.prefix, name(key.link))));
    lines.extend(state.neighbours.iter().map(|(k, v)| format!("neigh {} {} {v:?}", k.address, name(k.link))));
    lines.extend(state.fdb.iter().map(|(k, v)| format!("fdb {} {} {v:?}", k.mac, name(k.link))));
    for (index, device) in &state.wireguards {
        let settings = WireguardState { peers: BTreeMap::new(), ..device.clone() };
        lines.insert(format!("wireguard {} {:?} {}", name(*index), settings.secret, settings.port));
        lines.extend(device.peers.iter().map(|(key, peer)| format!("peer {} {:?}", key.key, peer.peer)));
    }
    let hop = |nh: &Nexthop| format!("{} {} {} {}", nh.gateway, name(nh.link), nh.onlink, nh.protocol);
    lines.extend(state.nexthops.values().map(|nh| format!("nexthop {}", hop(nh))));
    for (key, route) in &state.routes {
        let to = match route.kind {
            RouteKind::Unicast(Via::Nexthop(id)) => state.nexthops.get(&id).map_or("lost".into(), hop),
            RouteKind::Unicast(Via::Link(link) | Via::Gateway { link, .. }) => name(link),
            RouteKind::Unreachable => "unreachable".into(),
        };
        lines.insert(format!("route {} {} {} {to}", key.dst, key.metric, route.protocol));
    }
    lines
}

pub(crate) fn node(number: u8) -> impl Strategy<Value = Node> {
    let flag = any::<bool>;
    let twin = prop::bool::weighted(0.05);
    // Most nodes have a key. Sometimes two have the same key, and one has this node's.
    let key = prop_oneof![
        6 => Just(Some(WgKey([number; 32]))),
        2 => Just(Some(WgKey([100 + number; 32]))),
        1 => Just(Some(WgKey([number ^ 1; 32]))),
        1 => Just(Some(identity().key)),
        2 => Just(None),
    ];
    (flag(), flag(), flag(), flag(), 0u8..2, 0u8..2, twin, key).prop_map(
        move |(v4, v6, pods4, pods6, moved, mac, twin, wireguard_key)| {
            let name = format!("n{number}");
            let host = number + 100 * moved;
            // Sometimes two nodes claim the same.
            let pods = if twin { number ^ 1 } else { number };
            let mut pod_cidrs = Vec::new();
            if pods4 {
                pod_cidrs.push(format!("10.244.{pods}.0/24").parse().unwrap());
            }
            if pods6 {
                pod_cidrs.push(format!("fd00:{pods}::/64").parse().unwrap());
            }
            Node {
                // Every second time that it moves, the node is behind a router.
                v4: (v4 || !v6).then(|| {
                    if mac == 1 && moved == 1 { [198, 51, 100, host] } else { [192, 0, 2, host] }.into()
                }),
                v6: v6.then(|| format!("2001:db8::{host}").parse().unwrap()),
                pod_cidrs,
                vtep_mac6: vtep_mac(&format!("{name}/6")),
                further: Vec::new(),
                vtep_mac: if mac == 0 { vtep_mac(&name) } else { vtep_mac(&format!("{name}'")) },
                wireguard_key,
                name,
            }
        },
    )
}

pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let own = node(1).prop_map(|own| {
        let (v4, v6) = (Some([192, 0, 2, 1].into()), Some("2001:db8::1".parse().unwrap()));
        Node { v4, v6, ..own }
    });
    let others = prop::collection::btree_set(2u8..8, 0..6)
        .prop_flat_map(|numbers| numbers.into_iter().map(node).collect::<Vec<_>>());
    (own, others).prop_map(|(own, others)| Cluster {
        own,
        others: others.into_iter().map(|node| (node.name.clone(), Arc::new(node))).collect(),
        uplink: None,
    })
}

pub(crate) fn backend() -> impl Strategy<Value = Way> {
    const BACKENDS: [Backend; 4] = [Backend::Vxlan, Backend::Native, Backend::Auto, Backend::Wireguard];
    const TUNNELS: [Option<Tunnel>; 4] = [None, None, Some(Tunnel::Vxlan), Some(Tunnel::Wireguard)];
    (prop::sample::select(&BACKENDS[..]), prop::sample::select(&TUNNELS[..]))
        .prop_map(|(backend, accept)| Way(backend, accept))
}

pub(crate) fn faults() -> impl Strategy<Value = Vec<(u64, Errno)>> {
    let errno =
        prop_oneof![Just(Errno::ENOBUFS), Just(Errno::EINVAL), Just(Errno::ENETDOWN), Just(Errno::ESRCH)];
    prop::collection::vec((0u64..40, errno), 0..4)
}

pub(crate) fn two_nodes() -> Cluster {
    let node = |number: u8| Node {
        name: format!("n{number}"),
        v4: Some([192, 0, 2, number].into()),
        v6: Some(format!("2001:db8::{number}").parse().unwrap()),
        pod_cidrs: [format!("10.244.{number}.0/24"), format!("fd00:{number}::/64")]
            .map(|cidr| cidr.parse().unwrap())
            .into(),
        vtep_mac: vtep_mac(&format!("n{number}")),
        wireguard_key: Some(WgKey([number; 32])),
        vtep_mac6: vtep_mac(&format!("n{number}/6")),
        further: Vec::new(),
    };
    Cluster { own: node(1), others: BTreeMap::from([("n2".into(), node(2).into())]), uplink: None }
}

/// What is new in `after`.
pub(crate) fn changes(before: &Cluster, after: &Cluster) -> Vec<NodeChange> {
    let names: BTreeSet<_> = before.others.keys().chain(after.others.keys()).collect();
    let change = |name: &String| NodeChange {
        name: name.clone(),
        before: before.others.get(name).cloned(),
        after: after.others.get(name).cloned(),
    };
    names.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

/// Clusters that all contain the same own node.
pub(crate) fn clusters(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Cluster>> {
    prop::collection::vec(cluster(), count).prop_map(|mut clusters| {
        let own = clusters[0].own.clone();
        clusters.iter_mut().for_each(|cluster| cluster.own.clone_from(&own));
        clusters
    })
}

/// The state that a daemon makes of a bare machine.
pub(crate) fn scratch(cluster: &Cluster, way: impl Into<Way>) -> State {
    let (world, netns) = machine();
    settle(&mut applier(&world, netns, way), &world, cluster, &[]);
    world.state(&netns)
}
