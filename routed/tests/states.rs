//! From any state of the cluster to any other on the fake kernel, with faults on the way. The resulting kernel state is
//! the same as from scratch, and a destination that both states have is never without a route.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::time::Instant;

use crate::world::{
    Way, applier, backend, changes, cluster, essence, faults, machine, scratch, settle, strict_applier,
    two_nodes, working,
};
use ferrule_config::{Backend, Tunnel};
use ferrule_model::{Op, PROTOCOL, Peer, PeerKey, Route, RouteKey, WgKey, WgSecret, WireguardSettings};
use ferrule_netlink::Kernel;
use ferrule_netlink::fake::FakeWorld;
use nix::errno::Errno;
use proptest::prelude::*;
use routed::decide::nodes::{Cluster, Node};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

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
        // Another backend means another configuration, so a new daemon starts on what the old one left.
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

/// Goes from one way and cluster to another. At no moment does a packet to the other node's pods go nowhere.
fn moves_without_a_gap((from, before): (Way, &Cluster), (to, after): (Way, &Cluster)) {
    let (world, netns) = machine();
    settle(&mut strict_applier(&world, netns, from), &world, before, &[]);
    let always = working(&world.state(&netns));
    let mut applier = strict_applier(&world, netns, to);
    applier.kernel().always = always.clone();
    settle(&mut applier, &world, after, &[]);
    assert_eq!(applier.kernel().lost, Vec::<String>::new(), "{from:?} to {to:?}");
    assert_eq!(working(&world.state(&netns)), always);
    assert_eq!(essence(&world.state(&netns)), essence(&scratch(after, to)), "{from:?} to {to:?}");
}

#[test]
fn from_any_backend_to_any_other_every_packet_has_a_way_at_every_moment() {
    let ways = [Backend::Native, Backend::Vxlan, Backend::Auto, Backend::Wireguard].map(Way::from);
    let accepting = [
        Way(Backend::Native, Some(Tunnel::Wireguard)),
        Way(Backend::Vxlan, Some(Tunnel::Wireguard)),
        Way(Backend::Wireguard, Some(Tunnel::Vxlan)),
    ];
    let all: Vec<_> = ways.into_iter().chain(accepting).collect();
    for from in &all {
        for to in &all {
            moves_without_a_gap((*from, &two_nodes()), (*to, &two_nodes()));
        }
    }
}

#[test]
fn a_node_whose_key_changes_is_reached_at_every_moment() {
    let mut changed = two_nodes();
    let node = Node { wireguard_key: Some(WgKey([77; 32])), ..(*changed.others["n2"]).clone() };
    changed.others.insert("n2".into(), node.into());
    let way = Way::from(Backend::Wireguard);
    moves_without_a_gap((way, &two_nodes()), (way, &changed));
    // The same, told as a change to a daemon that keeps running.
    let (world, netns) = machine();
    let mut applier = strict_applier(&world, netns, way);
    settle(&mut applier, &world, &two_nodes(), &[]);
    applier.kernel().always = working(&world.state(&netns));
    let report = applier.update(&changed, &changes(&two_nodes(), &changed), Instant::now()).unwrap();
    assert_eq!((report.tally.to_string().as_str(), report.pending), ("peers +1 -1", 0));
    assert_eq!(applier.kernel().lost, Vec::<String>::new());
    assert_eq!(essence(&world.state(&netns)), essence(&scratch(&changed, way)));
}

#[test]
fn a_peer_that_someone_removes_or_changes_is_put_back_when_everything_is_compared() {
    let (world, netns) = machine();
    let mut applier = applier(&world, netns, Backend::Wireguard);
    settle(&mut applier, &world, &two_nodes(), &[]);
    let right = essence(&world.state(&netns));
    let device = *world.state(&netns).wireguards.keys().next().unwrap();
    let key = PeerKey { link: device, key: WgKey([2; 32]) };
    let nothing = Peer { endpoint: None, allowed: BTreeSet::new(), keepalive_s: 0, preshared: true };
    let stranger = PeerKey { key: WgKey([66; 32]), ..key };
    let other = WireguardSettings { secret: WgSecret([64; 32]), port: 1 };
    for op in [
        Op::DeletePeer(key),
        Op::PutPeer(key, nothing.clone()),
        Op::PutPeer(stranger, nothing),
        Op::SetWireguard(device, other),
    ] {
        world.kernel(&netns).apply(std::slice::from_ref(&op)).unwrap().remove(0).unwrap();
        assert_ne!(essence(&world.state(&netns)), right, "{op}");
        let report = applier.pass(&two_nodes(), Instant::now()).unwrap();
        assert_eq!(essence(&world.state(&netns)), right, "{op}");
        assert_eq!(report.tally.total(), 1, "{op}");
    }
}

#[test]
fn a_node_without_a_key_is_named_and_the_others_go_on() {
    let (world, netns) = machine();
    let mut cluster = two_nodes();
    let keyless = Node { name: "n3".into(), wireguard_key: None, ..(*cluster.others["n2"]).clone() };
    let keyless = Node { pod_cidrs: vec!["10.244.3.0/24".parse().unwrap()], ..keyless };
    cluster.others.insert("n3".into(), keyless.into());
    let report = applier(&world, netns, Backend::Wireguard).pass(&cluster, Instant::now()).unwrap();
    let told: Vec<_> = report.skipped.iter().map(ToString::to_string).collect();
    assert!(
        told[0].starts_with("no route to 10.244.3.0/24 of node n3: its WireGuard key is not known"),
        "{told:?}"
    );
    assert_eq!((told.len(), report.pending), (1, 0));
    assert_eq!(working(&world.state(&netns)).len(), world.state(&netns).routes.len());
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
    // 1 dump of links, 3 of addresses, 4 further dumps; 1 lookup for each new route comes later. So the first nexthop
    // is the ninth.
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
