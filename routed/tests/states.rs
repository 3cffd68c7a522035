//! Any state of the cluster to any other, on the fake kernel, with faults on the way: the same kernel state results as
//! from scratch, and no destination that both states have is ever without a route.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ferrule_config::{Backend, Routing};
use ferrule_model::{
    Address, AddressKey, FdbEntry, FdbKey, IfIndex, IfName, Link, Neighbour, NeighbourKey, Nexthop,
    NexthopId, Op, PROTOCOL, Route, RouteKey, RouteKind, VethSpec, Via, vtep_mac,
};
use ferrule_netlink::fake::{FakeKernel, FakeNetns, FakeWorld, State};
use ferrule_netlink::{Error, Kernel, Refusal};
use nix::errno::Errno;
use proptest::prelude::*;
use routed::apply::Applier;
use routed::nodes::{Cluster, Node};

/// The fake kernel, looked at after every single change.
struct Watched {
    kernel: FakeKernel,
    world: FakeWorld,
    netns: FakeNetns,
    /// Destinations that must have a route at every moment.
    always: BTreeSet<RouteKey>,
    lost: Vec<String>,
}

impl Kernel for Watched {
    type Netns = FakeNetns;

    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let mut answers = Vec::new();
        for op in ops {
            answers.extend(self.kernel.apply(std::slice::from_ref(op))?);
            let routes = self.world.state(&self.netns).routes;
            let gone = self.always.iter().filter(|key| !routes.contains_key(key));
            self.lost.extend(gone.map(|key| format!("{} after {op}", key.dst)));
        }
        Ok(answers)
    }
    fn create_veth(&mut self, spec: &VethSpec, pod: &FakeNetns) -> Result<Link, Error> {
        self.kernel.create_veth(spec, pod)
    }
    fn delete_link(&mut self, name: &IfName) -> Result<bool, Error> {
        self.kernel.delete_link(name)
    }
    fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        self.kernel.link(name)
    }
    fn route_match(&mut self, dst: IpAddr) -> Result<Option<(RouteKey, Route)>, Error> {
        self.kernel.route_match(dst)
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
    fn nexthops(&mut self) -> Result<BTreeMap<NexthopId, Nexthop>, Error> {
        self.kernel.nexthops()
    }
    fn neighbours(&mut self, link: IfIndex) -> Result<BTreeMap<NeighbourKey, Neighbour>, Error> {
        self.kernel.neighbours(link)
    }
    fn fdb(&mut self, link: IfIndex) -> Result<BTreeMap<FdbKey, FdbEntry>, Error> {
        self.kernel.fdb(link)
    }
}

/// A node's machine: an underlay link with both addresses, a pod with its route, and things of other programs.
fn machine() -> (FakeWorld, FakeNetns) {
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

fn applier(world: &FakeWorld, netns: FakeNetns, backend: Backend) -> Applier<Watched> {
    let watched = Watched {
        kernel: world.kernel(&netns),
        world: world.clone(),
        netns,
        always: BTreeSet::new(),
        lost: Vec::new(),
    };
    Applier::new(watched, Routing { backend, ..Routing::default() })
}

/// Passes until nothing is pending, with one fault in each of the first ones; how many passes it took.
fn settle(
    applier: &mut Applier<Watched>,
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

/// What packets can tell of a state: numbers of links and of nexthop objects stand for what they name.
fn essence(state: &State) -> BTreeSet<String> {
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

fn node(number: u8) -> impl Strategy<Value = Node> {
    let flag = any::<bool>;
    (flag(), flag(), flag(), flag(), 0u8..2, 0u8..2).prop_map(move |(v4, v6, pods4, pods6, moved, mac)| {
        let name = format!("n{number}");
        let host = number + 100 * moved;
        let mut pod_cidrs = Vec::new();
        if pods4 {
            pod_cidrs.push(format!("10.244.{number}.0/24").parse().unwrap());
        }
        if pods6 {
            pod_cidrs.push(format!("fd00:{number}::/64").parse().unwrap());
        }
        Node {
            v4: (v4 || !v6).then(|| [192, 0, 2, host].into()),
            v6: v6.then(|| format!("2001:db8::{host}").parse().unwrap()),
            pod_cidrs,
            vtep_mac: if mac == 0 { vtep_mac(&name) } else { vtep_mac(&format!("{name}'")) },
            name,
        }
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let own = node(1).prop_map(|own| {
        let (v4, v6) = (Some([192, 0, 2, 1].into()), Some("2001:db8::1".parse().unwrap()));
        Node { v4, v6, ..own }
    });
    let others = prop::collection::btree_set(2u8..8, 0..6)
        .prop_flat_map(|numbers| numbers.into_iter().map(node).collect::<Vec<_>>());
    (own, others).prop_map(|(own, others)| Cluster {
        own,
        others: others.into_iter().map(|node| (node.name.clone(), node)).collect(),
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    prop_oneof![Just(Backend::Vxlan), Just(Backend::Native)]
}

fn faults() -> impl Strategy<Value = Vec<(u64, Errno)>> {
    let errno =
        prop_oneof![Just(Errno::ENOBUFS), Just(Errno::EINVAL), Just(Errno::ENETDOWN), Just(Errno::ESRCH)];
    prop::collection::vec((0u64..40, errno), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_state_to_any_state(
        (before, after) in (cluster(), cluster()),
        (from, to) in (backend(), backend()),
        faults in faults(),
    ) {
        let (scratch, scratch_netns) = machine();
        settle(&mut applier(&scratch, scratch_netns, to), &scratch, &after, &[]);
        let expected = scratch.state(&scratch_netns);

        let (world, netns) = machine();
        settle(&mut applier(&world, netns, from), &world, &before, &[]);
        // Another backend means another configuration: a new daemon on what the old one left.
        let mut applier = applier(&world, netns, to);
        let there: BTreeSet<_> = world.state(&netns).routes.into_keys().collect();
        applier.kernel().always = expected.routes.keys().filter(|key| there.contains(key)).copied().collect();
        settle(&mut applier, &world, &after, &faults);

        prop_assert_eq!(essence(&world.state(&netns)), essence(&expected));
        prop_assert_eq!(&applier.kernel().lost, &Vec::<String>::new());
    }

    #[test]
    fn a_state_that_is_right_is_not_touched(cluster in cluster(), backend in backend()) {
        let (world, netns) = machine();
        settle(&mut applier(&world, netns, backend), &world, &cluster, &[]);
        let mut restarted = applier(&world, netns, backend);
        let before = world.state(&netns);
        let report = restarted.pass(&cluster, Instant::now()).unwrap();
        prop_assert_eq!(report.tally.total(), 0);
        prop_assert_eq!(world.state(&netns), before);
    }

    #[test]
    fn cleaning_leaves_what_was_there_before(cluster in cluster(), backend in backend()) {
        let (world, netns) = machine();
        let before = world.state(&netns);
        let mut applier = applier(&world, netns, backend);
        settle(&mut applier, &world, &cluster, &[]);
        let report = applier.clean(cluster.own.vtep_mac, Instant::now()).unwrap();
        prop_assert_eq!(report.pending, 0);
        prop_assert_eq!(world.state(&netns), before);
    }
}

#[test]
fn a_foreign_route_in_the_place_of_ours_is_left_alone_and_named() {
    let (world, netns) = machine();
    let theirs = Route { protocol: 4, ..Route::unreachable() };
    world.put_route(&netns, "10.244.2.0/24".parse().unwrap(), theirs);
    let key = RouteKey::main("10.244.2.0/24".parse().unwrap());
    let mut applier = applier(&world, netns, Backend::Vxlan);
    let report = applier.pass(&two_nodes(), Instant::now()).unwrap();
    assert_eq!(world.state(&netns).routes[&key], theirs);
    assert_eq!(report.pending, 1);
    let told = report.refused.into_iter().collect::<String>();
    assert!(told.contains("route 10.244.2.0/24") && told.contains("protocol 4"), "{told}");
}

#[test]
fn one_refused_object_does_not_hold_up_the_others() {
    let (world, netns) = machine();
    let mut applier = applier(&world, netns, Backend::Native);
    let now = Instant::now();
    // 1 links, 3 of addresses, 4 dumps, 1 lookup for each new route come later: the first nexthop is the ninth.
    let first_nexthop = (0..40).find(|at| {
        let (world, netns) = machine();
        world.fail_at(*at, Errno::EINVAL);
        let report = self::applier(&world, netns, Backend::Native).pass(&two_nodes(), now);
        report.is_ok_and(|report| report.refused.iter().any(|text| text.contains("nexthop")))
    });
    world.fail_at(first_nexthop.expect("some request is the nexthop's"), Errno::EINVAL);
    let report = applier.pass(&two_nodes(), now).unwrap();
    assert_eq!(report.refused.len(), 1, "{:?}", report.refused);
    assert_eq!(report.pending, 2, "the nexthop, and the route that needs it");
    let routes = |world: &FakeWorld| {
        world.state(&netns).routes.values().filter(|route| route.protocol == PROTOCOL).count()
    };
    assert_eq!(routes(&world), 3 + 1, "the rest, and the pod's");
    assert_eq!(applier.pass(&two_nodes(), now).unwrap().pending, 2, "not tried again at once");
    let due = applier.next_due().unwrap();
    assert_eq!(applier.pass(&two_nodes(), due).unwrap().pending, 0);
    assert_eq!(routes(&world), 4 + 1);
}

#[test]
fn without_an_address_on_any_link_nothing_is_changed() {
    let (world, netns) = machine();
    let mut applier = applier(&world, netns, Backend::Vxlan);
    settle(&mut applier, &world, &two_nodes(), &[]);
    let before = world.state(&netns);
    let mut moved = two_nodes();
    moved.own.v4 = Some([192, 0, 2, 200].into());
    let error = applier.pass(&moved, Instant::now()).unwrap_err().to_string();
    assert!(error.starts_with("no link has this node's address 192.0.2.200"), "{error}");
    assert_eq!(world.state(&netns), before);
}

fn two_nodes() -> Cluster {
    let node = |number: u8| Node {
        name: format!("n{number}"),
        v4: Some([192, 0, 2, number].into()),
        v6: Some(format!("2001:db8::{number}").parse().unwrap()),
        pod_cidrs: [format!("10.244.{number}.0/24"), format!("fd00:{number}::/64")]
            .map(|cidr| cidr.parse().unwrap())
            .into(),
        vtep_mac: vtep_mac(&format!("n{number}")),
    };
    Cluster { own: node(1), others: BTreeMap::from([("n2".into(), node(2))]) }
}
