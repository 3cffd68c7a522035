//! What every [`Kernel`] promises. The same tests show it on the fake kernel and on the real one.
//!
//! Each test makes namespaces of its own. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN over them, which
//! `tests/in-namespace` provides.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use ferrule_model::{
    Address, AddressKey, BridgePort, BridgeSpec, FdbEntry, FdbKey, IfIndex, IfName, IpNetwork, Link,
    LinkChange, LinkKind, Mac, Neighbour, NeighbourKey, Nexthop, NexthopId, Op, PROTOCOL, Route, RouteKey,
    VethSpec, Via, Vxlan, VxlanSpec,
};
use std::collections::BTreeMap;

use ferrule_netlink::fake::{FakeKernel, FakeNetns, FakeWorld};
use ferrule_netlink::netns::{self, Netns};
use ferrule_netlink::{Bridges, Kernel, Netlink, Routes, Tunnels};
use nix::errno::Errno;

/// A place with namespaces.
trait Machine {
    type Netns;
    type Kernel: Bridges<Netns = Self::Netns> + Tunnels;
    fn new() -> Self;
    fn netns(&self) -> Self::Netns;
    fn kernel(&self, netns: &Self::Netns) -> Self::Kernel;
}

struct Real;

impl Machine for Real {
    type Netns = Netns;
    type Kernel = Netlink;
    fn new() -> Self {
        Self
    }
    fn netns(&self) -> Netns {
        netns::make().expect("CAP_SYS_ADMIN: run through tests/in-namespace")
    }
    fn kernel(&self, netns: &Netns) -> Netlink {
        Netlink::open_in(netns).unwrap()
    }
}

impl Machine for FakeWorld {
    type Netns = FakeNetns;
    type Kernel = FakeKernel;
    fn new() -> Self {
        Self::new()
    }
    fn netns(&self) -> FakeNetns {
        self.netns()
    }
    fn kernel(&self, netns: &FakeNetns) -> FakeKernel {
        self.kernel(netns)
    }
}

/// Two namespaces joined by a veth pair: `fer0` in the host's, `eth0` in the pod's.
struct Pair<M: Machine> {
    host: M::Kernel,
    pod: M::Kernel,
    pod_netns: M::Netns,
    link: Link,
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn prefix(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn spec() -> VethSpec {
    VethSpec {
        host_name: name("fer0"),
        host_mac: Mac::local([2, 0, 0, 0, 0, 1]),
        alias: Some("default/web".into()),
        pod_name: name("eth0"),
        pod_mac: Mac::local([2, 0, 0, 0, 0, 2]),
    }
}

impl<M: Machine> Pair<M> {
    /// Makes the pair with both ends up, and switches the host's loopback on.
    fn new() -> Self {
        let machine = M::new();
        let (host_netns, pod_netns) = (machine.netns(), machine.netns());
        let (mut host, mut pod) = (machine.kernel(&host_netns), machine.kernel(&pod_netns));
        // A namespace that never had an address has no `local` table, and the kernel needs that table to judge next
        // hops.
        ok(&mut host, &[up(IfIndex(1))]);
        let link = host.create_veth(&spec(), &pod_netns).unwrap();
        ok(&mut pod, &[up(link.peer.unwrap())]);
        ok(&mut host, &[up(link.index)]);
        Self { host, pod, pod_netns, link }
    }
}

fn up(link: IfIndex) -> Op {
    Op::SetLink(link, LinkChange { up: Some(true), ..LinkChange::default() })
}

fn down(link: IfIndex) -> Op {
    Op::SetLink(link, LinkChange { up: Some(false), ..LinkChange::default() })
}

fn ok(kernel: &mut impl Kernel, ops: &[Op]) {
    for (op, result) in ops.iter().zip(kernel.apply(ops).unwrap()) {
        assert_eq!(result, Ok(()), "{op}");
    }
}

fn errno(kernel: &mut impl Kernel, op: Op) -> Errno {
    kernel.apply(&[op]).unwrap().remove(0).unwrap_err().errno
}

fn vxlan_spec(underlay: IfIndex) -> VxlanSpec {
    VxlanSpec {
        name: name("ferrule.1"),
        mac: Mac::local([2, 0, 0, 0, 1, 1]),
        mtu: 1450,
        vxlan: Vxlan {
            vni: 1,
            port: 8472,
            local: Some("192.0.2.1".parse().unwrap()),
            underlay: Some(underlay),
            learning: false,
            gbp: false,
        },
    }
}

fn nexthop(gateway: &str, link: IfIndex) -> Nexthop {
    Nexthop { gateway: gateway.parse().unwrap(), link, onlink: true, protocol: PROTOCOL }
}

/// The host's end tells everything about the other end, so the maker of a pair need not look into the pod.
fn a_veth_pair_is_born_in_two_namespaces<M: Machine>() {
    let machine = M::new();
    let (host_netns, pod_netns) = (machine.netns(), machine.netns());
    let (mut host, mut pod) = (machine.kernel(&host_netns), machine.kernel(&pod_netns));
    let made = host.create_veth(&spec(), &pod_netns).unwrap();
    let Link { name: host_name, mac, up, alias, kind, .. } = made.clone();
    assert_eq!((host_name, mac, up, kind), (name("fer0"), Some(spec().host_mac), false, LinkKind::Veth));
    assert_eq!(alias.as_deref(), Some("default/web"));
    let other = Link {
        index: made.peer.unwrap(),
        name: name("eth0"),
        mac: Some(spec().pod_mac),
        up: false,
        alias: None,
        peer: Some(made.index),
        ..made
    };
    assert_eq!(pod.link(&name("eth0")).unwrap(), Some(other));
    assert_eq!(host.link(&name("eth0")).unwrap(), None);
}

fn a_long_alias_is_cut<M: Machine>() {
    let machine = M::new();
    let (host_netns, pod_netns) = (machine.netns(), machine.netns());
    let long = VethSpec { alias: Some("ä".repeat(200)), ..spec() };
    let link = machine.kernel(&host_netns).create_veth(&long, &pod_netns).unwrap();
    assert!(long.alias.unwrap().starts_with(&link.alias.unwrap()));
}

fn a_taken_name_at_either_end_is_refused_and_nothing_made<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let before = pair.host.link(&name("fer0")).unwrap();
    let renamed = VethSpec { alias: Some("another".into()), ..spec() };
    let error = pair.host.create_veth(&renamed, &pair.pod_netns).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EEXIST), "{error}");
    // A kernel carries out the rest of the requests after a refusal.
    let renamed = before.map(|link| Link { alias: renamed.alias, ..link });
    assert_eq!(pair.host.link(&name("fer0")).unwrap(), renamed);
    let other = VethSpec { host_name: name("fer1"), ..spec() };
    let error = pair.host.create_veth(&other, &pair.pod_netns).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EEXIST), "{error}");
    assert_eq!(pair.host.link(&name("fer1")).unwrap(), None);
}

fn a_deleted_link_is_gone_at_both_ends_with_all_that_is_on_it<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let dst = prefix("10.0.0.5/32");
    ok(&mut pair.host, &[Op::PutRoute(RouteKey::main(dst), Route::ours(Via::Link(pair.link.index)))]);
    assert!(pair.host.delete_link(&name("fer0")).unwrap().is_some());
    assert_eq!(pair.host.link(&name("fer0")).unwrap(), None);
    assert_eq!(pair.pod.link(&name("eth0")).unwrap(), None);
    assert_eq!(pair.host.routes(PROTOCOL).unwrap().len(), 0);
    assert_eq!(pair.host.delete_link(&name("fer0")).unwrap(), None, "twice is no error");
}

fn the_name_of_a_deleted_link_is_free_at_once<M: Machine>() {
    let mut pair = Pair::<M>::new();
    for _ in 0..5 {
        assert!(pair.host.delete_link(&name("fer0")).unwrap().is_some());
        pair.host.create_veth(&spec(), &pair.pod_netns).unwrap();
    }
}

fn a_link_is_changed<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let mac = Mac::local([2, 0, 0, 0, 0, 9]);
    let alias = Some("another".to_owned());
    let change = LinkChange { up: None, mtu: Some(1400), mac: Some(mac), alias };
    ok(&mut pair.host, &[Op::SetLink(pair.link.index, change)]);
    let link = pair.host.link(&name("fer0")).unwrap().unwrap();
    assert_eq!((link.mtu, link.mac, link.up), (1400, Some(mac), true));
    assert_eq!(errno(&mut pair.host, up(IfIndex(4_000))), Errno::ENODEV);
}

fn addresses_come_and_go<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let link = pair.link.peer.unwrap();
    let v4 = AddressKey { link, prefix: prefix("10.0.0.5/32") };
    let v6 = AddressKey { link, prefix: prefix("fd00::5/128") };
    let nodad = Address { nodad: true };
    ok(&mut pair.pod, &[Op::PutAddress(v4, Address::default()), Op::PutAddress(v6, nodad)]);
    let listed = pair.pod.addresses(link).unwrap();
    assert_eq!(listed.get(&v4), Some(&Address::default()));
    assert_eq!(listed.get(&v6), Some(&nodad));
    ok(&mut pair.pod, &[Op::PutAddress(v4, Address::default()), Op::DeleteAddress(v4)]);
    assert_eq!(pair.pod.addresses(link).unwrap().get(&v4), None);
    assert_eq!(errno(&mut pair.pod, Op::DeleteAddress(v4)), Errno::EADDRNOTAVAIL);
    assert_eq!(pair.pod.addresses(IfIndex(4_000)).unwrap().len(), 0);
}

fn a_route_of_every_kind_is_read_back_as_it_was_put<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let link = pair.link.index;
    let gateway = |text: &str| Via::Gateway { address: text.parse().unwrap(), link, onlink: true };
    ok(
        &mut pair.host,
        &[
            Op::PutNexthop(NexthopId(7), nexthop("192.0.2.9", link)),
            Op::PutNexthop(NexthopId(8), nexthop("fd00::9", link)),
        ],
    );
    for (dst, route) in [
        ("10.1.0.0/24", Route::ours(Via::Nexthop(NexthopId(7)))),
        ("10.2.0.0/24", Route::ours(gateway("192.0.2.9"))),
        ("10.3.0.1/32", Route::ours(Via::Link(link))),
        ("10.4.0.0/24", Route::unreachable()),
        ("0.0.0.0/0", Route::ours(gateway("192.0.2.9"))),
        ("fd00:1::/64", Route::ours(Via::Nexthop(NexthopId(8)))),
        ("fd00:3::1/128", Route::ours(Via::Link(link))),
        ("fd00:4::/64", Route::unreachable()),
        ("::/0", Route::ours(gateway("fe80::1"))),
    ] {
        let key = RouteKey::main(prefix(dst));
        ok(&mut pair.host, &[Op::PutRoute(key, route), Op::PutRoute(key, route)]);
        let seen = pair.host.routes(PROTOCOL).unwrap().get(&key).copied();
        let expected = match (route.kind, dst.contains(':')) {
            // IPv6 does not tell whether a next hop was set as `onlink`.
            (ferrule_model::RouteKind::Unicast(Via::Gateway { address, link, .. }), true) => {
                let onlink = seen.is_some_and(|seen| {
                    matches!(seen.kind, ferrule_model::RouteKind::Unicast(Via::Gateway { onlink: true, .. }))
                });
                Route::ours(Via::Gateway { address, link, onlink })
            }
            _ => route,
        };
        assert_eq!(seen, Some(expected), "{dst}");
        ok(&mut pair.host, &[Op::DeleteRoute(key)]);
        assert_eq!(pair.host.routes(PROTOCOL).unwrap().get(&key), None, "{dst}");
        assert_eq!(errno(&mut pair.host, Op::DeleteRoute(key)), Errno::ESRCH, "{dst}");
    }
}

fn a_route_is_replaced_in_place<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let key = RouteKey::main(prefix("10.1.0.0/24"));
    let link = pair.link.index;
    for id in [7, 8] {
        let gateway = format!("192.0.2.{id}");
        ok(
            &mut pair.host,
            &[
                Op::PutNexthop(NexthopId(id), nexthop(&gateway, link)),
                Op::PutRoute(key, Route::ours(Via::Nexthop(NexthopId(id)))),
            ],
        );
    }
    let routes = pair.host.routes(PROTOCOL).unwrap();
    assert_eq!(routes.into_iter().collect::<Vec<_>>(), [(key, Route::ours(Via::Nexthop(NexthopId(8))))]);
}

fn what_is_added_must_not_be_there<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let link = pair.link.index;
    for (id, gateway, dst) in [(7, "192.0.2.9", "10.1.0.0/24"), (8, "fd00::9", "fd00:1::/64")] {
        let (id, key) = (NexthopId(id), RouteKey::main(prefix(dst)));
        let (hop, route) = (nexthop(gateway, link), Route::ours(Via::Nexthop(id)));
        ok(&mut pair.host, &[Op::AddNexthop(id, hop), Op::AddRoute(key, route)]);
        assert_eq!(errno(&mut pair.host, Op::AddNexthop(id, hop)), Errno::EEXIST);
        assert_eq!(errno(&mut pair.host, Op::AddRoute(key, Route::unreachable())), Errno::EEXIST);
        let foreign = Route { protocol: 4, ..Route::unreachable() };
        ok(&mut pair.host, &[Op::PutRoute(key, foreign)]);
        assert_eq!(errno(&mut pair.host, Op::AddRoute(key, route)), Errno::EEXIST, "whosever it is");
        assert_eq!(pair.host.routes(4).unwrap().get(&key), Some(&foreign));
    }
}

/// Two nexthop objects and routes of both families.
fn some_routes<M: Machine>(pair: &mut Pair<M>) {
    let link = pair.link.index;
    let hops = [(7, "192.0.2.9"), (8, "fd00::9")];
    let hops = hops.map(|(id, gateway)| Op::PutNexthop(NexthopId(id), nexthop(gateway, link)));
    ok(&mut pair.host, &hops);
    for number in [3, 1, 200, 2] {
        for (id, dst) in [(7, format!("10.{number}.0.0/24")), (8, format!("fd00:{number}::/64"))] {
            let route = Route::ours(Via::Nexthop(NexthopId(id)));
            ok(&mut pair.host, &[Op::PutRoute(RouteKey::main(prefix(&dst)), route)]);
        }
    }
}

/// The counted objects and the returned ones together are all objects.
fn what_is_known_may_be_counted_only<M: Machine>() {
    let mut pair = Pair::<M>::new();
    some_routes(&mut pair);
    let (routes, hops) = (pair.host.routes(PROTOCOL).unwrap(), pair.host.nexthops().unwrap());
    let ours: BTreeMap<_, _> = hops.iter().map(|(id, hop)| (*id, hop.unwrap())).collect();
    let (first, last) = (*routes.keys().next().unwrap(), *routes.keys().next_back().unwrap());
    let but = |keys: &[RouteKey]| {
        let mut routes = routes.clone();
        routes.retain(|key, _| !keys.contains(key));
        routes
    };
    let other =
        |key| routes.iter().map(|(k, v)| (*k, if *k == key { Route::unreachable() } else { *v })).collect();
    let more = RouteKey::main(prefix("10.2.7.0/24"));
    let one_more = routes.clone().into_iter().chain([(more, Route::unreachable())]).collect();
    for known in [
        BTreeMap::new(),
        routes.clone(),
        but(&[first]),
        but(&[last]),
        but(&[first, last]),
        other(first),
        other(last),
        one_more,
    ] {
        let Routes { met, beyond, foreign } = pair.host.all_routes(PROTOCOL, &known, &|_| true).unwrap();
        assert!(foreign.iter().all(|route| route.protocol != PROTOCOL), "{foreign:?}");
        let counted = known.iter().take(met).map(|(key, route)| (*key, *route));
        assert!(counted.clone().all(|(key, _)| !beyond.contains_key(&key)), "{known:?}");
        assert_eq!(counted.chain(beyond.clone()).collect::<BTreeMap<_, _>>(), routes, "{known:?}");
    }
    for known in [BTreeMap::new(), ours.clone(), ours.into_iter().skip(1).collect()] {
        let (met, beyond) = pair.host.nexthops_beyond(&known).unwrap();
        let counted = known.iter().take(met).map(|(id, hop)| (*id, Some(*hop)));
        assert_eq!(counted.chain(beyond).collect::<BTreeMap<_, _>>(), hops, "{known:?}");
    }
}

/// A comparison of unchanged objects builds nothing, because it goes by the kernel's order.
#[test]
fn the_kernel_lists_routes_and_nexthops_in_their_order() {
    let mut pair = Pair::<Real>::new();
    some_routes(&mut pair);
    let (routes, hops) = (pair.host.routes(PROTOCOL).unwrap(), pair.host.nexthops().unwrap());
    let hops = hops.into_iter().map(|(id, hop)| (id, hop.unwrap())).collect();
    let all = Routes { met: 8, ..Routes::default() };
    assert_eq!(pair.host.all_routes(PROTOCOL, &routes, &|_| false).unwrap(), all);
    assert_eq!(pair.host.nexthops_beyond(&hops).unwrap(), (2, BTreeMap::new()));
}

fn the_longest_prefix_matches<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let link = pair.link.index;
    let (wide, narrow) = (RouteKey::main(prefix("10.0.0.0/8")), RouteKey::main(prefix("10.0.0.5/32")));
    ok(
        &mut pair.host,
        &[
            Op::PutRoute(wide, Route::ours(Via::Link(link))),
            Op::PutRoute(narrow, Route::ours(Via::Link(link))),
        ],
    );
    let matched = |pair: &mut Pair<M>, dst: &str| pair.host.route_match(dst.parse().unwrap()).unwrap();
    assert_eq!(matched(&mut pair, "10.0.0.5"), Some((narrow, Route::ours(Via::Link(link)))));
    assert_eq!(matched(&mut pair, "10.0.0.6"), Some((wide, Route::ours(Via::Link(link)))));
    assert_eq!(matched(&mut pair, "192.0.2.1"), None);
    assert_eq!(matched(&mut pair, "fd00::1"), None);
}

fn a_nexthop_object_takes_its_routes_with_it<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let id = NexthopId(7);
    let key = RouteKey::main(prefix("10.1.0.0/24"));
    let first = nexthop("192.0.2.9", pair.link.index);
    ok(&mut pair.host, &[Op::PutNexthop(id, first), Op::PutRoute(key, Route::ours(Via::Nexthop(id)))]);
    assert_eq!(pair.host.nexthops().unwrap().get(&id), Some(&Some(first)));
    assert_eq!(pair.host.nexthop(id).unwrap(), Some(first));
    let second = nexthop("192.0.2.10", pair.link.index);
    ok(&mut pair.host, &[Op::PutNexthop(id, second)]);
    assert_eq!(pair.host.nexthops().unwrap().get(&id), Some(&Some(second)));
    assert_eq!(pair.host.nexthop(id).unwrap(), Some(second));
    assert_eq!(pair.host.routes(PROTOCOL).unwrap().len(), 1, "replacing keeps the routes");
    ok(&mut pair.host, &[Op::DeleteNexthop(id)]);
    assert_eq!(pair.host.routes(PROTOCOL).unwrap().len(), 0);
    assert_eq!(pair.host.nexthop(id).unwrap(), None);
    assert_eq!(errno(&mut pair.host, Op::DeleteNexthop(id)), Errno::ENOENT);
    assert_eq!(errno(&mut pair.host, Op::PutRoute(key, Route::ours(Via::Nexthop(id)))), Errno::EINVAL);
}

fn a_link_that_goes_down_loses_routes_and_nexthops<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let link = pair.link.index;
    let id = NexthopId(7);
    ok(
        &mut pair.host,
        &[
            Op::PutNexthop(id, nexthop("192.0.2.9", link)),
            Op::PutRoute(RouteKey::main(prefix("10.1.0.0/24")), Route::ours(Via::Nexthop(id))),
            Op::PutRoute(RouteKey::main(prefix("10.2.0.0/24")), Route::ours(Via::Link(link))),
            down(link),
        ],
    );
    assert_eq!(pair.host.routes(PROTOCOL).unwrap().len(), 0);
    assert_eq!(pair.host.nexthops().unwrap().len(), 0);
    assert_eq!(errno(&mut pair.host, Op::PutNexthop(id, nexthop("192.0.2.9", link))), Errno::ENETDOWN);
}

fn neighbours_come_and_go<M: Machine>() {
    let mut pair = Pair::<M>::new();
    for address in ["10.0.0.5", "fd00::5"] {
        let key = NeighbourKey { link: pair.link.index, address: address.parse().unwrap() };
        let neighbour = |last| Neighbour { mac: Some(Mac::local([2, 0, 0, 0, 0, last])), permanent: true };
        for last in [7, 8] {
            ok(&mut pair.host, &[Op::PutNeighbour(key, neighbour(last))]);
            assert_eq!(pair.host.neighbour(key).unwrap(), Some(neighbour(last)));
            assert_eq!(pair.host.neighbours(key.link).unwrap().get(&key), Some(&neighbour(last)));
        }
        ok(&mut pair.host, &[Op::DeleteNeighbour(key)]);
        assert_eq!(pair.host.neighbour(key).unwrap(), None);
        assert_eq!(errno(&mut pair.host, Op::DeleteNeighbour(key)), Errno::ENOENT);
    }
}

fn a_vxlan_device_has_what_was_asked_for_and_an_fdb<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let spec = vxlan_spec(pair.link.index);
    ok(&mut pair.host, &[Op::AddVxlan(spec.clone())]);
    let device = pair.host.link(&spec.name).unwrap().unwrap();
    assert_eq!((device.mac, device.mtu, device.up), (Some(spec.mac), spec.mtu, true));
    assert_eq!(device.kind, LinkKind::Vxlan(spec.vxlan.clone()));
    assert_eq!(errno(&mut pair.host, Op::AddVxlan(spec)), Errno::EEXIST);

    let key = FdbKey { link: device.index, mac: Mac::local([2, 0, 0, 0, 1, 2]) };
    let entry = |dst: &str| FdbEntry { dst: dst.parse().unwrap(), permanent: true };
    for dst in ["192.0.2.2", "192.0.2.3"] {
        ok(&mut pair.host, &[Op::PutFdb(key, entry(dst))]);
        assert_eq!(pair.host.fdb(device.index).unwrap().into_iter().collect::<Vec<_>>(), [(key, entry(dst))]);
        assert_eq!(pair.host.fdb_entry(key).unwrap(), Some(entry(dst)));
    }
    ok(&mut pair.host, &[Op::DeleteFdb(key, entry("192.0.2.3"))]);
    assert_eq!(pair.host.fdb(device.index).unwrap().len(), 0);
    assert_eq!(pair.host.fdb_entry(key).unwrap(), None);
    assert_eq!(pair.host.fdb_entry(FdbKey { link: IfIndex(4_000), ..key }).unwrap(), None);
    assert_eq!(errno(&mut pair.host, Op::DeleteFdb(key, entry("192.0.2.3"))), Errno::ENOENT);
    ok(&mut pair.host, &[Op::DeleteLink(device.index)]);
    assert!(pair.host.links().unwrap().iter().all(|link| link.index != device.index));
}

fn a_vxlan_device_carries_group_policy_marks_if_asked_to<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let plain = vxlan_spec(pair.link.index);
    let spec = VxlanSpec { vxlan: Vxlan { gbp: true, ..plain.vxlan.clone() }, ..plain };
    ok(&mut pair.host, &[Op::AddVxlan(spec.clone())]);
    assert_eq!(pair.host.link(&spec.name).unwrap().unwrap().kind, LinkKind::Vxlan(spec.vxlan));
}

fn a_device_leaves_checksums_to_the_hardware_until_it_is_told_otherwise<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let spec = vxlan_spec(pair.link.index);
    ok(&mut pair.host, &[Op::AddVxlan(spec.clone())]);
    for on in [true, false, true] {
        if !on || !pair.host.tx_checksum(&spec.name).unwrap() {
            pair.host.set_tx_checksum(&spec.name, on).unwrap();
        }
        assert_eq!(pair.host.tx_checksum(&spec.name).unwrap(), on);
    }
    assert_eq!(pair.host.tx_checksum(&name("none")).unwrap_err().errno(), Some(Errno::ENODEV));
    assert_eq!(pair.host.set_tx_checksum(&name("none"), true).unwrap_err().errno(), Some(Errno::ENODEV));
}

fn a_refused_op_does_not_stop_the_others<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let route = |n: u8, link| {
        let dst = IpNetwork::new([10, 0, n, 0].into(), 24).unwrap();
        Op::PutRoute(RouteKey::main(dst), Route::ours(Via::Link(link)))
    };
    // This takes more than one send, with a refusal at the ends of both.
    let bad = [0, 17, 199, 200, 249];
    let ops: Vec<_> =
        (0..250).map(|n| route(n, if bad.contains(&n) { IfIndex(4_000) } else { pair.link.index })).collect();
    let results = pair.host.apply(&ops).unwrap();
    let refused: Vec<_> = (0..250).filter(|n| results[usize::from(*n)].is_err()).collect();
    assert_eq!(refused, bad);
    assert_eq!(pair.host.routes(PROTOCOL).unwrap().len(), ops.len() - bad.len());
    assert_eq!(pair.host.apply(&[]).unwrap(), []);
}

fn routes_of_other_protocols_are_not_listed_and_not_deleted<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let key = RouteKey::main(prefix("10.9.0.0/24"));
    let foreign = Route { protocol: 4, ..Route::ours(Via::Link(pair.link.index)) };
    ok(&mut pair.host, &[Op::PutRoute(key, foreign)]);
    assert_eq!(pair.host.routes(PROTOCOL).unwrap().len(), 0);
    assert_eq!(pair.host.routes(4).unwrap().get(&key), Some(&foreign));
    assert_eq!(errno(&mut pair.host, Op::DeleteRoute(key)), Errno::ESRCH);
    assert_eq!(pair.host.routes(4).unwrap().len(), 1);
}

/// Each promise, once on the fake kernel and once on the real one.
fn a_bridge_keeps_its_mac_and_has_ports<M: Machine>() {
    let mut pair = Pair::<M>::new();
    let spec = BridgeSpec { name: name("br7"), mac: Mac::local([2, 0, 0, 0, 7, 1]) };
    pair.host.create_bridge(&spec).unwrap();
    assert_eq!(pair.host.create_bridge(&spec).unwrap_err().errno(), Some(Errno::EEXIST));
    let bridge = pair.host.link(&spec.name).unwrap().unwrap();
    assert_eq!(
        (bridge.mac, bridge.up, bridge.kind),
        (Some(spec.mac), true, LinkKind::Other("bridge".into()))
    );
    assert_eq!(pair.host.port(&name("fer0")).unwrap(), None);
    for (hairpin, isolated) in [(true, false), (false, true)] {
        let port = BridgePort { bridge: bridge.index, hairpin, isolated };
        pair.host.set_port(pair.link.index, port).unwrap();
        assert_eq!(pair.host.port(&name("fer0")).unwrap(), Some(port));
    }
    assert_eq!(pair.host.link(&spec.name).unwrap().unwrap().mac, Some(spec.mac), "it follows no port");
    let nowhere = BridgePort { bridge: IfIndex(4_000), hairpin: true, isolated: false };
    assert!(pair.host.set_port(pair.link.index, nowhere).is_err());
    let no_bridge = BridgePort { bridge: IfIndex(1), ..nowhere };
    assert!(pair.host.set_port(pair.link.index, no_bridge).is_err());
    assert!(pair.host.delete_link(&spec.name).unwrap().is_some());
    assert_eq!(pair.host.port(&name("fer0")).unwrap(), None);
    assert_eq!(pair.host.port(&name("none")).unwrap(), None);
}

macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod fake { $(#[test] fn $promise() { super::$promise::<super::FakeWorld>(); })* }
        mod real { $(#[test] fn $promise() { super::$promise::<super::Real>(); })* }
    };
}

contract!(
    a_veth_pair_is_born_in_two_namespaces,
    a_long_alias_is_cut,
    a_taken_name_at_either_end_is_refused_and_nothing_made,
    a_deleted_link_is_gone_at_both_ends_with_all_that_is_on_it,
    the_name_of_a_deleted_link_is_free_at_once,
    a_link_is_changed,
    a_bridge_keeps_its_mac_and_has_ports,
    addresses_come_and_go,
    a_route_of_every_kind_is_read_back_as_it_was_put,
    a_route_is_replaced_in_place,
    what_is_added_must_not_be_there,
    what_is_known_may_be_counted_only,
    the_longest_prefix_matches,
    a_nexthop_object_takes_its_routes_with_it,
    a_link_that_goes_down_loses_routes_and_nexthops,
    neighbours_come_and_go,
    a_vxlan_device_has_what_was_asked_for_and_an_fdb,
    a_vxlan_device_carries_group_policy_marks_if_asked_to,
    a_device_leaves_checksums_to_the_hardware_until_it_is_told_otherwise,
    a_refused_op_does_not_stop_the_others,
    routes_of_other_protocols_are_not_listed_and_not_deleted,
);
