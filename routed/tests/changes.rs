//! Change by change on the fake kernel: from state to state without reading anything. There are faults on the way, and
//! other programs at work whose events arrive or are lost. The resulting kernel state is the same as from scratch, and
//! a destination that both states have is never without a route.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::world::{
    Watched, Way, applier, backend, changes, cluster, clusters, essence, machine, scratch, settle,
};
use ferrule_model::{
    Change, Family, IfName, LinkChange, LinkKind, NexthopId, Op, PROTOCOL, Route, RouteKey, family,
};
use ferrule_netlink::Kernel;
use ferrule_netlink::fake::{FakeKernel, FakeNetns, FakeWorld, State};
use ferrule_netlink::monitor::Event;
use ferrule_netlink::wake::NexthopEvent;
use nix::errno::Errno;
use proptest::prelude::*;
use proptest::sample::Index;
use routed::decide::nodes::Cluster;
use routed::pass::apply::Applier;

/// What another program does on the node.
#[derive(Debug, Clone)]
enum Act {
    DeleteRoute(Index),
    DeleteNexthop(Index),
    DeleteNeighbour(Index),
    DeleteFdb(Index),
    DeleteAddress(Index),
    TakeRoute(Index),
    Orphans,
    DeviceOff,
    DeviceMtu,
    DeleteDevice,
}

/// One step of a story.
#[derive(Debug, Clone)]
enum Step {
    /// The cluster becomes this one, with a fault at that request of the pass.
    Cluster(Box<Cluster>, Option<(u64, Errno)>),
    /// Another program acts. Of the events about it, those at these places are lost.
    Act(Act, Vec<bool>),
}

fn fault() -> impl Strategy<Value = Option<(u64, Errno)>> {
    // ESRCH is not among them: a kernel that says that an object is gone is believed.
    let errno = prop_oneof![Just(Errno::ENOBUFS), Just(Errno::EINVAL), Just(Errno::ENETDOWN)];
    prop::option::of((0u64..30, errno))
}

fn act() -> impl Strategy<Value = Act> {
    let any = any::<Index>;
    prop_oneof![
        any().prop_map(Act::DeleteRoute),
        any().prop_map(Act::DeleteNexthop),
        any().prop_map(Act::DeleteNeighbour),
        any().prop_map(Act::DeleteFdb),
        any().prop_map(Act::DeleteAddress),
        any().prop_map(Act::TakeRoute),
        Just(Act::Orphans),
        Just(Act::DeviceOff),
        Just(Act::DeviceMtu),
        Just(Act::DeleteDevice),
    ]
}

fn story() -> impl Strategy<Value = Vec<Step>> {
    let act = (act(), prop::collection::vec(prop::bool::weighted(0.3), 64));
    let steps = prop::collection::vec((fault(), prop::option::of(act)), 1..7);
    (clusters(6..7), steps).prop_map(|(clusters, steps)| {
        let step = |(cluster, (fault, act)): (Cluster, (_, Option<_>))| {
            let act = act.map(|(act, lost)| Step::Act(act, lost));
            std::iter::once(Step::Cluster(Box::new(cluster), fault)).chain(act)
        };
        clusters.into_iter().zip(steps).flat_map(step).collect()
    })
}

/// Carries out an act, if there is an object for it.
fn carry_out(act: &Act, world: &FakeWorld, netns: &FakeNetns) {
    fn pick<K: Copy, V>(map: &BTreeMap<K, V>, index: Index, is: impl Fn(&V) -> bool) -> Option<K> {
        let keys: Vec<_> = map.iter().filter(|(_, value)| is(value)).map(|(key, _)| *key).collect();
        (!keys.is_empty()).then(|| *index.get(&keys))
    }
    let state = world.state(netns);
    let device = state.links.values().find(|link| matches!(link.kind, LinkKind::Vxlan(_)));
    let device = device.map(|link| link.index);
    let ours = |route: &Route| route.protocol == PROTOCOL && route.link().is_none();
    let op = match act {
        Act::DeleteRoute(at) => pick(&state.routes, *at, ours).map(Op::DeleteRoute),
        Act::DeleteNexthop(at) => {
            pick(&state.nexthops, *at, |nh| nh.protocol == PROTOCOL).map(Op::DeleteNexthop)
        }
        Act::DeleteNeighbour(at) => pick(&state.neighbours, *at, |_| true).map(Op::DeleteNeighbour),
        Act::DeleteFdb(at) => pick(&state.fdb, *at, |_| true).map(|key| Op::DeleteFdb(key, state.fdb[&key])),
        Act::DeleteAddress(at) => {
            let on_device: BTreeMap<_, _> =
                state.addresses.iter().filter(|(key, _)| Some(key.link) == device).collect();
            pick(&on_device, *at, |_| true).map(|key| Op::DeleteAddress(*key))
        }
        Act::TakeRoute(at) => {
            let theirs = Route { protocol: 4, ..Route::unreachable() };
            pick(&state.routes, *at, ours).map(|key| Op::PutRoute(key, theirs))
        }
        Act::Orphans => {
            let dst = "10.99.0.0/24".parse().unwrap();
            Some(Op::PutRoute(RouteKey::main(dst), Route::unreachable()))
        }
        Act::DeviceOff => {
            device.map(|link| Op::SetLink(link, LinkChange { up: Some(false), ..LinkChange::default() }))
        }
        Act::DeviceMtu => {
            device.map(|link| Op::SetLink(link, LinkChange { mtu: Some(1300), ..LinkChange::default() }))
        }
        Act::DeleteDevice => device.map(Op::DeleteLink),
    };
    if let Some(op) = op {
        world.kernel(netns).apply(&[op]).unwrap();
    }
}

/// What the kernel would tell of the difference. It does not tell of IPv4 routes that go with another object.
#[derive(Debug)]
enum Told {
    Event(Event),
    Nexthop(NexthopEvent),
}

fn told(before: &State, after: &State, act: Option<&Act>) -> Vec<Told> {
    fn each<K: Ord + Copy, V: Copy + PartialEq>(
        before: &BTreeMap<K, V>,
        after: &BTreeMap<K, V>,
        mut tell: impl FnMut(Change, K, V),
    ) {
        before.iter().filter(|(k, _)| !after.contains_key(k)).for_each(|(k, v)| tell(Change::Delete, *k, *v));
        after.iter().filter(|(k, v)| before.get(k) != Some(v)).for_each(|(k, v)| tell(Change::Put, *k, *v));
    }
    let mut all = Vec::new();
    let name = |state: &State, name: &IfName| state.links.get(name).cloned();
    for link in before.links.keys().filter_map(|key| name(before, key)) {
        if !after.links.contains_key(&link.name) {
            all.push(Told::Event(Event::Link(Change::Delete, link)));
        }
    }
    for link in after.links.values().filter(|link| before.links.get(&link.name) != Some(link)) {
        all.push(Told::Event(Event::Link(Change::Put, link.clone())));
    }
    each(&before.addresses, &after.addresses, |c, k, v| all.push(Told::Event(Event::Address(c, k, v))));
    each(&before.neighbours, &after.neighbours, |c, k, v| all.push(Told::Event(Event::Neighbour(c, k, v))));
    each(&before.fdb, &after.fdb, |c, k, v| all.push(Told::Event(Event::Fdb(c, k, v))));
    each(&before.nexthops, &after.nexthops, |change, id: NexthopId, nexthop| {
        all.push(Told::Nexthop(NexthopEvent { change, id, nexthop: Some(nexthop) }));
    });
    let silent = !matches!(act, None | Some(Act::DeleteRoute(_)));
    each(&before.routes, &after.routes, |c, k, v| {
        if !(silent && c == Change::Delete && family(&k.dst) == Family::V4) {
            all.push(Told::Event(Event::Route(c, k, v)));
        }
    });
    all
}

fn hears(applier: &mut Applier<Watched<FakeKernel>>, told: &[Told]) -> bool {
    let mut differs = false;
    for told in told {
        differs |= match told {
            Told::Event(event) => applier.hears(event),
            Told::Nexthop(event) => applier.hears_nexthop(event),
        };
    }
    differs
}

/// Goes to the clusters in turn, each with a fault. Then tries again until nothing is pending.
fn walk(
    world: &FakeWorld,
    netns: FakeNetns,
    backend: Way,
    steps: &[(Cluster, Option<(u64, Errno)>)],
) -> Applier<Watched<FakeKernel>> {
    let mut applier = applier(world, netns, backend);
    let mut now = Instant::now();
    let mut before: Option<&Cluster> = None;
    for (cluster, fault) in steps {
        let expected = scratch(cluster, backend).routes;
        let there: BTreeSet<_> = world.state(&netns).routes.into_keys().collect();
        applier.kernel().always = there.into_iter().filter(|key| expected.contains_key(key)).collect();
        let changes = before.map_or_else(Vec::new, |before| changes(before, cluster));
        if let Some((at, errno)) = fault {
            world.fail_at(*at, *errno);
        }
        let _ = applier.update(cluster, &changes, now);
        world.take_fault();
        now += Duration::from_secs(1);
        before = Some(cluster);
    }
    let (last, _) = steps.last().unwrap();
    for _ in 0..8 {
        now += Duration::from_secs(60);
        if applier.update(last, &[], now).unwrap().pending == 0 {
            return applier;
        }
    }
    panic!("it does not settle");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn change_by_change_it_comes_to_the_same_as_from_scratch(
        clusters in clusters(2..7),
        faults in prop::collection::vec(fault(), 7),
        backend in backend(),
    ) {
        let (world, netns) = machine();
        let last = clusters.last().unwrap().clone();
        let steps: Vec<_> = clusters.into_iter().zip(faults).collect();
        let mut applier = walk(&world, netns, backend, &steps);
        prop_assert_eq!(essence(&world.state(&netns)), essence(&scratch(&last, backend)));
        prop_assert_eq!(&applier.kernel().lost, &Vec::<String>::new());
        // What the applier believes is also true: the comparison by the clock finds nothing.
        let state = world.state(&netns);
        let report = applier.pass(&last, Instant::now()).unwrap();
        prop_assert_eq!(report.tally.total(), 0);
        prop_assert_eq!(world.state(&netns), state);
    }

    #[test]
    fn whatever_others_do_is_put_right_by_events_or_at_last_by_the_clock(
        story in story(),
        backend in backend(),
    ) {
        let (world, netns) = machine();
        let mut applier = applier(&world, netns, backend);
        let mut now = Instant::now();
        let mut before: Option<Cluster> = None;
        for step in story {
            let state = world.state(&netns);
            match step {
                Step::Cluster(cluster, fault) => {
                    let changes = before.map_or_else(Vec::new, |before| changes(&before, &cluster));
                    if let Some((at, errno)) = fault {
                        world.fail_at(at, errno);
                    }
                    let _ = applier.update(&cluster, &changes, now);
                    world.take_fault();
                    before = Some(*cluster);
                    // The kernel tells of our own changes, too.
                    hears(&mut applier, &told(&state, &world.state(&netns), None));
                }
                Step::Act(act, lost) => {
                    carry_out(&act, &world, &netns);
                    let mut events = told(&state, &world.state(&netns), Some(&act));
                    let mut lost = lost.into_iter();
                    events.retain(|_| !lost.next().unwrap_or(false));
                    if hears(&mut applier, &events) {
                        let _ = applier.pass(before.as_ref().unwrap(), now);
                    }
                }
            }
            now += Duration::from_secs(1);
        }
        let last = before.unwrap();
        for _ in 0..3 {
            now += Duration::from_secs(60);
            applier.pass(&last, now).unwrap();
        }
        let mut expected = essence(&scratch(&last, backend));
        let found = essence(&world.state(&netns));
        // If somebody put a route in the place of ours while we did not want ours, that route is left alone.
        let theirs: Vec<_> = found.iter().filter(|line| line.ends_with(" 4 unreachable")).cloned().collect();
        for line in theirs {
            let place = line.rsplit_once(" 4 ").unwrap().0.to_owned() + " 70 ";
            expected.retain(|line| !line.starts_with(&place));
            expected.insert(line);
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_another_program_does_is_heard_and_is_right_after_one_pass(
        cluster in cluster(),
        act in act(),
        backend in backend(),
    ) {
        let (world, netns) = machine();
        let mut applier = applier(&world, netns, backend);
        settle(&mut applier, &world, &cluster, &[]);
        let before = world.state(&netns);
        carry_out(&act, &world, &netns);
        let events = told(&before, &world.state(&netns), Some(&act));
        if hears(&mut applier, &events) {
            applier.pass(&cluster, Instant::now()).unwrap();
        }
        prop_assert_eq!(essence(&world.state(&netns)), essence(&before));
    }

    #[test]
    fn old_news_of_our_own_changes_starts_nothing(
        clusters in clusters(3..4),
        backend in backend(),
    ) {
        let (world, netns) = machine();
        let mut applier = applier(&world, netns, backend);
        let mut before = &clusters[0];
        applier.pass(before, Instant::now()).unwrap();
        let mut news = Vec::new();
        for cluster in &clusters[1..] {
            let state = world.state(&netns);
            applier.update(cluster, &changes(before, cluster), Instant::now()).unwrap();
            news.extend(told(&state, &world.state(&netns), None));
            before = cluster;
        }
        let heard = hears(&mut applier, &news);
        prop_assert!(!heard, "{:?}", news);
    }
}
