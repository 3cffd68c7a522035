//! Five thousand nodes: the work depends on what changes and not on the cluster. The fake kernel counts the requests,
//! and the real one shows that the result is right.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Arc;
use std::time::Instant;

use crate::world::machine;
use ferrule_config::Routing;
use ferrule_model::{Address, AddressKey, IfIndex, IfName, LinkChange, Mac, Op, VethSpec, vtep_mac};
use ferrule_netlink::fake::{FakeKernel, FakeWorld};
use ferrule_netlink::{Kernel, Netlink, Tunnels, netns};
use routed::decide::nodes::{Cluster, Node, NodeChange};
use routed::pass::apply::Applier;

const NODES: u16 = 5_000;
/// The objects of one node with two families: FDB entry, neighbours, nexthops, routes.
const OBJECTS: usize = 1 + 3 * 2;

fn node(number: u16, generation: u16) -> Node {
    let (name, [a, b]) = (format!("n{number}"), number.to_be_bytes());
    Node {
        v4: Some(if number == 0 { [192, 0, 2, 1] } else { [198, 18, a, b] }.into()),
        v6: Some(format!("2001:db8::{}", number + 1).parse().unwrap()),
        pod_cidrs: [
            format!("10.{}.{b}.0/24", 64 + 32 * generation + u16::from(a)),
            format!("fd00:{generation}:{number:x}::/64"),
        ]
        .map(|cidr| cidr.parse().unwrap())
        .into(),
        vtep_mac: vtep_mac(&name),
        wireguard_key: None,
        vtep_mac6: vtep_mac(&name),
        further: Vec::new(),
        name,
    }
}

fn cluster(count: u16) -> Cluster {
    let others = (1..count).map(|number| (format!("n{number}"), Arc::new(node(number, 0))));
    Cluster { own: node(0, 0), others: others.collect(), uplink: None }
}

/// A fake machine in a cluster of so many nodes. Nothing looks at it after every single change.
fn fake(count: u16) -> (FakeWorld, Applier<FakeKernel>, Cluster) {
    let (world, netns) = machine();
    let applier = Applier::new(world.kernel(&netns), Routing::default());
    (world, applier, cluster(count))
}

/// Replaces nodes, one after another. Returns how many objects were changed.
fn roll<K: Tunnels>(
    applier: &mut Applier<K>,
    cluster: &mut Cluster,
    numbers: impl Iterator<Item = u16>,
) -> usize {
    numbers.map(|number| replace(applier, cluster, number)).sum()
}

/// Replaces a node: it goes, and comes back with other networks. Both are separate changes.
fn replace<K: Tunnels>(applier: &mut Applier<K>, cluster: &mut Cluster, number: u16) -> usize {
    let name = format!("n{number}");
    let before = cluster.others[&name].clone();
    let steps = [(Some(before), None), (None, Some(Arc::new(node(number, 1))))];
    let mut changed = 0;
    for (before, after) in steps {
        let change = [NodeChange { name: name.clone(), before, after }];
        cluster.change(&change);
        let report = applier.update(cluster, &change, Instant::now()).unwrap();
        assert_eq!(report.pending, 0, "{:?}", report.refused);
        changed += report.tally.total();
    }
    changed
}

#[test]
fn a_change_costs_the_same_in_a_small_cluster_and_in_a_large_one() {
    let cost = |count| {
        let (world, mut applier, mut cluster) = fake(count);
        applier.pass(&cluster, Instant::now()).unwrap();
        let before = world.requests();
        assert_eq!(replace(&mut applier, &mut cluster, 5), 2 * OBJECTS);
        world.requests() - before
    };
    assert_eq!(cost(10), 2 * OBJECTS as u64, "one request for each object, and none that reads");
    assert_eq!(cost(NODES), cost(10));
}

#[test]
fn a_rolling_replacement_costs_a_request_for_each_change_and_no_other() {
    let (world, mut applier, mut cluster) = fake(NODES);
    applier.pass(&cluster, Instant::now()).unwrap();
    let before = world.requests();
    // The fake kernel looks through all routes whenever a nexthop goes. So only some of the nodes are replaced, from
    // all over the cluster.
    let numbers = (1..NODES).step_by(10);
    let expected = 2 * numbers.len() * OBJECTS;
    assert_eq!(roll(&mut applier, &mut cluster, numbers), expected);
    assert_eq!(world.requests() - before, expected as u64, "one for each object, and none that reads");
}

#[test]
fn a_rolling_replacement_of_all_nodes_leaves_what_it_should_in_the_real_kernel() {
    let netns = netns::make().expect("CAP_SYS_ADMIN: run through tests/in-namespace");
    let mut kernel = Netlink::open_in(&netns).unwrap();
    let spec = VethSpec {
        host_name: IfName::new("eth0").unwrap(),
        host_mac: Mac::local([2, 0, 0, 0, 0, 1]),
        alias: None,
        pod_name: IfName::new("wire").unwrap(),
        pod_mac: Mac::local([2, 0, 0, 0, 0, 2]),
    };
    let eth0 = kernel.create_veth(&spec, &netns).unwrap();
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let address = AddressKey { link: eth0.index, prefix: "192.0.2.1/24".parse().unwrap() };
    let ops = [
        Op::SetLink(IfIndex(1), up.clone()),
        Op::SetLink(eth0.peer.unwrap(), up.clone()),
        Op::SetLink(eth0.index, up),
        Op::PutAddress(address, Address::default()),
    ];
    assert!(kernel.apply(&ops).unwrap().iter().all(Result::is_ok));

    let mut applier = Applier::new(kernel, Routing::default());
    let mut cluster = cluster(NODES);
    let report = applier.pass(&cluster, Instant::now()).unwrap();
    let others = usize::from(NODES) - 1;
    assert_eq!((report.pending, report.objects), (0, others * OBJECTS + 4), "{:?}", report.refused);
    assert_eq!(roll(&mut applier, &mut cluster, 1..NODES), 2 * others * OBJECTS);
    let report = applier.pass(&cluster, Instant::now()).unwrap();
    assert_eq!((report.tally.total(), report.objects), (0, others * OBJECTS + 4), "what it believes is true");
}
