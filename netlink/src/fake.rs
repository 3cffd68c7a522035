//! A stateful fake kernel: maps instead of a machine, with the refusals of the real kernel, and faults on demand.
//!
//! A [`FakeWorld`] has any number of network namespaces, and veth pairs connect them. The contract suite runs on this
//! kernel and on the real one, so what a test learns here holds there.

mod foreign;
mod traffic;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrule_model::{
    Address, AddressKey, BridgePort, BridgeSpec, Bucket, Family, FdbEntry, FdbKey, ForeignRoute, IfIndex,
    IfName, IpNetwork, Link, LinkChange, LinkKind, Neighbour, NeighbourKey, Nexthop, NexthopId, Op,
    PolicyRule, Route, RouteKey, RouteKind, VethSpec, Via, VxlanSpec, WireguardState,
};
use nix::errno::Errno;

use crate::{Error, Kernel, Refusal, Routes};

/// A machine's worth of network namespaces.
///
/// ```
/// use ferrule_model::{IfName, Op, PROTOCOL, Route, RouteKey, Via};
/// use ferrule_netlink::{Kernel, fake::FakeWorld};
/// use nix::errno::Errno;
///
/// let world = FakeWorld::new();
/// let node = world.netns();
/// let link = world.add_link(&node, IfName::new("eth0")?, 1500);
/// let mut kernel = world.kernel(&node);
/// let key = RouteKey::main("10.244.2.0/24".parse()?);
///
/// let done = kernel.apply(&[Op::PutRoute(key, Route::ours(Via::Link(link)))])?;
/// assert_eq!(done, [Ok(())]);
/// assert!(kernel.routes(PROTOCOL)?.contains_key(&key));
///
/// // The kernel refuses the next request. The route stays.
/// world.fail_at(0, Errno::EPERM);
/// let done = kernel.apply(&[Op::DeleteRoute(key)])?;
/// assert_eq!(done, [Err(Errno::EPERM.into())]);
/// assert!(world.state(&node).routes.contains_key(&key));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct FakeWorld(Arc<Mutex<World>>);

/// One namespace of a [`FakeWorld`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FakeNetns(usize);

/// [`Kernel`] on one namespace of a [`FakeWorld`].
#[derive(Debug, Clone)]
pub struct FakeKernel {
    world: FakeWorld,
    netns: FakeNetns,
}

/// Everything in one namespace. Two states are equal if no packet could tell them apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Links by name.
    pub links: BTreeMap<IfName, Link>,
    /// Addresses.
    pub addresses: BTreeMap<AddressKey, Address>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Routes of other programs that share their key with another route, or are of a kind that [`Route`] cannot express.
    pub foreign: Vec<ForeignRoute>,
    /// Policy rules beside those that every kernel has.
    pub rules: Vec<PolicyRule>,
    /// Nexthop objects.
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    /// Neighbours.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// FDB entries.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// How fast links may send.
    pub limits: BTreeMap<IfIndex, Bucket>,
    /// The link to which the packets that a link receives are redirected.
    pub redirects: BTreeMap<IfIndex, IfIndex>,
    /// Links that do not leave checksums to the hardware.
    pub plain_checksums: BTreeSet<IfIndex>,
    /// The WireGuard settings and peers of links.
    pub wireguards: BTreeMap<IfIndex, WireguardState>,
}

#[derive(Debug, Default)]
struct World {
    namespaces: Vec<State>,
    /// Places of links on bridges, by the link's number. Numbers are unique in a world.
    ports: BTreeMap<IfIndex, BridgePort>,
    next_index: u32,
    fault: Option<Fault>,
    requests: u64,
}

#[derive(Debug)]
struct Fault {
    /// So many requests still succeed before the fault.
    before: u64,
    errno: Errno,
}

/// The first number of a link. On a real machine `sit0` and its like come before; any number above the loopback's will
/// do.
const FIRST_INDEX: u32 = 2;
const LOOPBACK: IfIndex = IfIndex(1);
const LOOPBACK_MTU: u32 = 65536;
const ETHERNET_MTU: u32 = 1500;

impl FakeWorld {
    /// A world without namespaces.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a namespace with nothing but a loopback link, off.
    pub fn netns(&self) -> FakeNetns {
        let mut world = self.lock();
        world.namespaces.push(State { links: loopback().into_iter().collect(), ..State::default() });
        FakeNetns(world.namespaces.len() - 1)
    }

    /// The kernel seen from `netns`.
    pub fn kernel(&self, netns: &FakeNetns) -> FakeKernel {
        FakeKernel { world: self.clone(), netns: *netns }
    }

    /// Makes an Ethernet link that is up and has a carrier: an underlay.
    pub fn add_link(&self, netns: &FakeNetns, name: IfName, mtu: u32) -> IfIndex {
        let mut world = self.lock();
        let index = world.index();
        let kind = LinkKind::Other(String::new());
        let link = Link {
            index,
            name: name.clone(),
            mac: Some(ferrule_model::vtep_mac(name.as_str())),
            mtu,
            up: true,
            carrier: true,
            alias: None,
            peer: None,
            kind,
        };
        world.namespaces[netns.0].links.insert(name, link);
        index
    }

    /// Puts a route in without any check, as another program's route.
    pub fn put_route(&self, netns: &FakeNetns, dst: IpNetwork, route: Route) {
        self.lock().namespaces[netns.0].routes.insert(RouteKey::main(dst), route);
    }

    /// Everything in `netns` now.
    pub fn state(&self, netns: &FakeNetns) -> State {
        self.lock().namespaces[netns.0].clone()
    }

    /// Refuses the `n`-th request from now (0 is the next one) with `errno`, in whichever namespace. Later requests
    /// succeed again. A lookup that finds nothing counts as a request too.
    pub fn fail_at(&self, n: u64, errno: Errno) {
        self.lock().fault = Some(Fault { before: n, errno });
    }

    /// Whether the fault of [`FakeWorld::fail_at`] is still to come. The fault is then cancelled.
    pub fn take_fault(&self) -> bool {
        self.lock().fault.take().is_some()
    }

    /// The number of requests so far. A batch of five ops counts as five.
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn loopback() -> Option<(IfName, Link)> {
    let name = IfName::new("lo").ok()?;
    let link = Link {
        index: LOOPBACK,
        name: name.clone(),
        mac: Some(ferrule_model::Mac::new([0; 6])),
        mtu: LOOPBACK_MTU,
        up: false,
        carrier: false,
        alias: None,
        peer: None,
        kind: LinkKind::Loopback,
    };
    Some((name, link))
}

impl World {
    fn index(&mut self) -> IfIndex {
        self.next_index = self.next_index.max(FIRST_INDEX - 1) + 1;
        IfIndex(self.next_index)
    }

    /// Counts a request, and refuses it if the fault is due.
    fn request(&mut self) -> Result<(), Errno> {
        self.requests += 1;
        match &mut self.fault {
            Some(Fault { before: 0, errno }) => {
                let errno = *errno;
                self.fault = None;
                Err(errno)
            }
            Some(fault) => {
                fault.before -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn apply(&mut self, netns: FakeNetns, op: &Op) -> Result<(), Errno> {
        self.request()?;
        match op {
            Op::AddVxlan(spec) => self.add_vxlan(netns, spec),
            Op::AddWireguard(spec) => self.add_wireguard(netns, spec),
            Op::DeleteLink(index) => self.delete_link(netns, *index),
            _ => self.namespaces[netns.0].apply(op),
        }
    }

    fn add_vxlan(&mut self, netns: FakeNetns, spec: &VxlanSpec) -> Result<(), Errno> {
        let state = &self.namespaces[netns.0];
        if state.links.contains_key(&spec.name) {
            return Err(Errno::EEXIST);
        }
        if spec.vxlan.underlay.is_some_and(|link| state.link(link).is_none()) {
            return Err(Errno::ENODEV);
        }
        let index = self.index();
        let link = spec.link(index);
        self.namespaces[netns.0].links.insert(spec.name.clone(), link);
        Ok(())
    }

    fn add_veth(&mut self, host: FakeNetns, spec: &VethSpec, pod: FakeNetns) -> Result<Link, Errno> {
        self.request()?;
        if let Some(link) = self.namespaces[host.0].links.get_mut(&spec.host_name) {
            link.alias = spec.alias.clone().or(link.alias.take());
            return Err(Errno::EEXIST);
        }
        if self.namespaces[pod.0].links.contains_key(&spec.pod_name) {
            return Err(Errno::EEXIST);
        }
        let (host_index, pod_index) = (self.index(), self.index());
        let end = |name: &IfName, mac, index, peer| Link {
            index,
            name: name.clone(),
            mac: Some(mac),
            mtu: ETHERNET_MTU,
            up: false,
            carrier: false,
            alias: None,
            peer: Some(peer),
            kind: LinkKind::Veth,
        };
        let pod_end = end(&spec.pod_name, spec.pod_mac, pod_index, host_index);
        let host_end =
            Link { alias: spec.alias.clone(), ..end(&spec.host_name, spec.host_mac, host_index, pod_index) };
        self.namespaces[pod.0].links.insert(spec.pod_name.clone(), pod_end);
        self.namespaces[host.0].links.insert(spec.host_name.clone(), host_end.clone());
        Ok(host_end)
    }

    fn delete_link(&mut self, netns: FakeNetns, index: IfIndex) -> Result<(), Errno> {
        let link = self.namespaces[netns.0].remove_link(index).ok_or(Errno::ENODEV)?;
        self.ports.retain(|port, on| *port != index && on.bridge != index);
        // Indexes are unique in the world, so the peer is found in whatever namespace it is.
        if let (LinkKind::Veth, Some(peer)) = (link.kind, link.peer) {
            for state in &mut self.namespaces {
                state.remove_link(peer);
            }
        }
        Ok(())
    }
}

impl State {
    fn link(&self, index: IfIndex) -> Option<&Link> {
        self.links.values().find(|link| link.index == index)
    }

    fn up(&self, index: IfIndex) -> Result<&Link, Errno> {
        let link = self.link(index).ok_or(Errno::ENODEV)?;
        if link.up { Ok(link) } else { Err(Errno::ENETDOWN) }
    }

    /// Removes a link, with everything that `dev_close` and `unregister_netdevice` would remove.
    fn remove_link(&mut self, index: IfIndex) -> Option<Link> {
        let name = self.link(index)?.name.clone();
        self.flush(index);
        self.addresses.retain(|key, _| key.link != index);
        self.neighbours.retain(|key, _| key.link != index);
        self.fdb.retain(|key, _| key.link != index);
        self.limits.remove(&index);
        self.plain_checksums.remove(&index);
        self.wireguards.remove(&index);
        self.redirects.retain(|from, to| *from != index && *to != index);
        self.links.remove(&name)
    }

    /// Removes the routes and nexthop objects of a link that goes down.
    fn flush(&mut self, index: IfIndex) {
        self.routes.retain(|_, route| route.link() != Some(index));
        let gone: Vec<_> =
            self.nexthops.iter().filter(|(_, nh)| nh.link == index).map(|(id, _)| *id).collect();
        for id in gone {
            self.remove_nexthop(id);
        }
    }

    fn remove_nexthop(&mut self, id: NexthopId) -> Option<Nexthop> {
        self.routes.retain(|_, route| route.kind != RouteKind::Unicast(Via::Nexthop(id)));
        self.nexthops.remove(&id)
    }

    fn apply(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::SetLink(index, change) => self.set_link(*index, change),
            Op::PutAddress(key, value) => {
                self.link(key.link).ok_or(Errno::ENODEV)?;
                self.addresses.insert(*key, *value);
                Ok(())
            }
            Op::DeleteAddress(key) => {
                self.link(key.link).ok_or(Errno::ENODEV)?;
                self.addresses.remove(key).map(drop).ok_or(Errno::EADDRNOTAVAIL)
            }
            Op::AddNexthop(id, _) if self.nexthops.contains_key(id) => Err(Errno::EEXIST),
            Op::AddRoute(key, _) if self.routes.contains_key(key) => Err(Errno::EEXIST),
            Op::PutNexthop(id, value) | Op::AddNexthop(id, value) => {
                self.up(value.link)?;
                self.nexthops.insert(*id, *value);
                Ok(())
            }
            Op::DeleteNexthop(id) => self.remove_nexthop(*id).map(drop).ok_or(Errno::ENOENT),
            Op::PutRoute(key, value) | Op::AddRoute(key, value) => self.put_route(*key, *value),
            Op::DeleteRoute(key) => self.delete_route(key),
            Op::PutNeighbour(key, value) => {
                self.link(key.link).ok_or(Errno::ENODEV)?;
                self.neighbours.insert(*key, *value);
                Ok(())
            }
            Op::DeleteNeighbour(key) => {
                self.link(key.link).ok_or(Errno::ENODEV)?;
                self.neighbours.remove(key).map(drop).ok_or(Errno::ENOENT)
            }
            Op::PutFdb(key, value) => {
                self.vxlan(key.link)?;
                self.fdb.insert(*key, *value);
                Ok(())
            }
            Op::DeleteFdb(key, _) => {
                self.vxlan(key.link)?;
                self.fdb.remove(key).map(drop).ok_or(Errno::ENOENT)
            }
            Op::SetWireguard(..) | Op::PutPeer(..) | Op::DeletePeer(_) => self.apply_wireguard(op),
            Op::AddVxlan(_) | Op::AddWireguard(_) | Op::DeleteLink(_) => Err(Errno::EINVAL),
        }
    }

    fn vxlan(&self, index: IfIndex) -> Result<(), Errno> {
        match self.link(index).ok_or(Errno::ENODEV)?.kind {
            LinkKind::Vxlan(_) => Ok(()),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn set_link(&mut self, index: IfIndex, change: &LinkChange) -> Result<(), Errno> {
        let link = self.links.values_mut().find(|link| link.index == index).ok_or(Errno::ENODEV)?;
        link.mtu = change.mtu.unwrap_or(link.mtu);
        link.mac = change.mac.or(link.mac);
        link.alias = change.alias.clone().or(link.alias.take());
        let was_up = link.up;
        link.up = change.up.unwrap_or(link.up);
        if was_up && !link.up {
            self.flush(index);
        }
        Ok(())
    }

    fn put_route(&mut self, key: RouteKey, value: Route) -> Result<(), Errno> {
        match value.kind {
            RouteKind::Unicast(Via::Nexthop(id)) => {
                let nexthop = self.nexthops.get(&id).ok_or(Errno::EINVAL)?;
                if Family::of(nexthop.gateway) != ferrule_model::family(&key.dst) {
                    return Err(Errno::EINVAL);
                }
            }
            RouteKind::Unicast(Via::Link(link) | Via::Gateway { link, .. }) => {
                self.up(link)?;
            }
            RouteKind::Unreachable => {}
        }
        self.routes.insert(key, value);
        Ok(())
    }

    fn delete_route(&mut self, key: &RouteKey) -> Result<(), Errno> {
        match self.routes.get(key) {
            Some(route) if route.protocol == ferrule_model::PROTOCOL => {
                self.routes.remove(key);
                Ok(())
            }
            _ => Err(Errno::ESRCH),
        }
    }
}

impl FakeKernel {
    pub(crate) fn make_bridge(&mut self, spec: &BridgeSpec) -> Result<(), Error> {
        let mut world = self.world.lock();
        let make = |world: &mut World| {
            world.request()?;
            if world.namespaces[self.netns.0].links.contains_key(&spec.name) {
                return Err(Errno::EEXIST);
            }
            let link = Link {
                index: world.index(),
                name: spec.name.clone(),
                mac: Some(spec.mac),
                mtu: ETHERNET_MTU,
                up: true,
                carrier: false,
                alias: None,
                peer: None,
                kind: LinkKind::Other("bridge".into()),
            };
            world.namespaces[self.netns.0].links.insert(spec.name.clone(), link);
            Ok(())
        };
        make(&mut world).map_err(|errno| refused(format!("link add {}", spec.name), errno))
    }

    pub(crate) fn put_port(&mut self, link: IfIndex, port: BridgePort) -> Result<(), Error> {
        let mut world = self.world.lock();
        let put = |world: &mut World| {
            world.request()?;
            let state = &world.namespaces[self.netns.0];
            state.link(link).ok_or(Errno::ENODEV)?;
            let bridge = state.link(port.bridge).ok_or(Errno::ENODEV)?;
            if bridge.kind != LinkKind::Other("bridge".into()) {
                return Err(Errno::EOPNOTSUPP);
            }
            world.ports.insert(link, port);
            Ok(())
        };
        put(&mut world).map_err(|errno| refused(format!("link set dev {link} master"), errno))
    }

    pub(crate) fn port_of(&mut self, link: &IfName) -> Result<Option<BridgePort>, Error> {
        let mut world = self.world.lock();
        world.request().map_err(|errno| refused("link show", errno))?;
        let found = world.namespaces[self.netns.0].links.get(link);
        Ok(found.and_then(|link| world.ports.get(&link.index).copied()))
    }

    /// Makes one counted request that reads.
    fn read<T>(&mut self, request: &str, read: impl FnOnce(&State) -> T) -> Result<T, Error> {
        let mut world = self.world.lock();
        world.request().map_err(|errno| refused(request, errno))?;
        Ok(read(&world.namespaces[self.netns.0]))
    }
}

fn refused(request: impl Into<String>, errno: Errno) -> Error {
    Error::Refused { request: request.into(), refusal: errno.into() }
}

impl Kernel for FakeKernel {
    type Netns = FakeNetns;

    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let mut world = self.world.lock();
        Ok(ops.iter().map(|op| world.apply(self.netns, op).map_err(Refusal::from)).collect())
    }

    fn create_veth(&mut self, spec: &VethSpec, pod: &FakeNetns) -> Result<Link, Error> {
        let made = self.world.lock().add_veth(self.netns, spec, *pod);
        made.map_err(|errno| refused(format!("link add {}", spec.host_name), errno))
    }

    fn delete_link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        let mut world = self.world.lock();
        world.request().map_err(|errno| refused(format!("link del {name}"), errno))?;
        let Some(link) = world.namespaces[self.netns.0].links.get(name).cloned() else { return Ok(None) };
        match world.delete_link(self.netns, link.index) {
            Ok(()) => Ok(Some(link)),
            Err(errno) => Err(refused(format!("link del {name}"), errno)),
        }
    }

    fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        self.read("link show", |state| state.links.get(name).cloned())
    }

    fn route_match(&mut self, dst: IpAddr) -> Result<Option<(RouteKey, Route)>, Error> {
        self.read("route get", |state| state.route_match(dst))
    }

    fn neighbour(&mut self, key: NeighbourKey) -> Result<Option<Neighbour>, Error> {
        self.read("neigh get", |state| state.neighbours.get(&key).copied())
    }

    fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.read("link list", |state| state.links.values().cloned().collect())
    }

    fn addresses(&mut self, link: IfIndex) -> Result<BTreeMap<AddressKey, Address>, Error> {
        self.read("addr list", |state| of(&state.addresses, |key| key.link == link))
    }

    fn routes(&mut self, protocol: u8) -> Result<BTreeMap<RouteKey, Route>, Error> {
        self.read("route list", |state| {
            let ours = state.routes.iter().filter(|(_, route)| route.protocol == protocol);
            ours.map(|(key, route)| (*key, *route)).collect()
        })
    }

    fn all_routes(
        &mut self,
        protocol: u8,
        _: &BTreeMap<RouteKey, Route>,
        matters: &dyn Fn(&RouteKey) -> bool,
    ) -> Result<Routes, Error> {
        self.read("route list", |state| state.all_routes(protocol, matters))
    }

    fn rules(&mut self) -> Result<Vec<PolicyRule>, Error> {
        self.read("rule list", |state| foreign::rules(&state.rules))
    }

    fn nexthops(&mut self) -> Result<BTreeMap<NexthopId, Option<Nexthop>>, Error> {
        self.read("nexthop list", |state| {
            state.nexthops.iter().map(|(id, nexthop)| (*id, Some(*nexthop))).collect()
        })
    }

    fn nexthop(&mut self, id: NexthopId) -> Result<Option<Nexthop>, Error> {
        self.read("nexthop get", |state| state.nexthops.get(&id).copied())
    }

    fn fdb_entry(&mut self, key: FdbKey) -> Result<Option<FdbEntry>, Error> {
        self.read("fdb get", |state| state.fdb.get(&key).copied())
    }

    fn neighbours(&mut self, link: IfIndex) -> Result<BTreeMap<NeighbourKey, Neighbour>, Error> {
        self.read("neigh list", |state| of(&state.neighbours, |key| key.link == link))
    }

    fn fdb(&mut self, link: IfIndex) -> Result<BTreeMap<FdbKey, FdbEntry>, Error> {
        self.read("fdb list", |state| of(&state.fdb, |key| key.link == link))
    }
}

fn of<K: Ord + Copy, V: Copy>(map: &BTreeMap<K, V>, wanted: impl Fn(&K) -> bool) -> BTreeMap<K, V> {
    map.iter().filter(|(key, _)| wanted(key)).map(|(key, value)| (*key, *value)).collect()
}
