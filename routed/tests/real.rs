//! From any state of the cluster to any other on the real kernel, each pair in a namespace of its own: by a pass that
//! reads and change by change, with refusals on the way. The resulting state is the same as from scratch, and a
//! destination that both states have is never without a route.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::world::{Watched, changes, clusters, essence};
use ferrule_config::{Backend, Routing};
use ferrule_model::{
    Address, AddressKey, IfIndex, IfName, LinkChange, LinkKind, Mac, Op, PROTOCOL, RouteKey, VethSpec,
};
use ferrule_netlink::fake::State;
use ferrule_netlink::netns::{self, Netns};
use ferrule_netlink::{Kernel, Netlink};
use nix::errno::Errno;
use proptest::prelude::*;
use routed::decide::nodes::{Cluster, Node};
use routed::pass::apply::Applier;

/// A node's machine: an underlay link with both addresses.
struct Machine(Netns);

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

impl Machine {
    fn new() -> Self {
        let netns = netns::make().expect("CAP_SYS_ADMIN: run through tests/in-namespace");
        let mut kernel = Netlink::open_in(&netns).unwrap();
        let spec = VethSpec {
            host_name: name("eth0"),
            host_mac: Mac::local([2, 0, 0, 0, 0, 1]),
            alias: None,
            pod_name: name("wire"),
            pod_mac: Mac::local([2, 0, 0, 0, 0, 2]),
        };
        let eth0 = kernel.create_veth(&spec, &netns).unwrap();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        let address = |text: &str| {
            let key = AddressKey { link: eth0.index, prefix: text.parse().unwrap() };
            Op::PutAddress(key, Address { nodad: key.prefix.is_ipv6() })
        };
        let ops = [
            Op::SetLink(IfIndex(1), up.clone()),
            Op::SetLink(eth0.peer.unwrap(), up.clone()),
            Op::SetLink(eth0.index, up),
            address("192.0.2.1/24"),
            address("2001:db8::1/64"),
        ];
        assert!(kernel.apply(&ops).unwrap().iter().all(Result::is_ok));
        Self(netns)
    }

    fn applier(&self, backend: Backend) -> Applier<Watched<Netlink>> {
        let mut looking = Netlink::open_in(&self.0).unwrap();
        let routes = move || looking.routes(PROTOCOL).unwrap().into_keys().collect();
        let kernel = Netlink::open_in(&self.0).unwrap();
        Applier::new(Watched::new(kernel, routes), Routing { backend, ..Routing::default() })
    }

    fn state(&self) -> State {
        let mut kernel = Netlink::open_in(&self.0).unwrap();
        let mut state = State { routes: kernel.routes(PROTOCOL).unwrap(), ..State::default() };
        let nexthops = kernel.nexthops().unwrap();
        state.nexthops = nexthops.into_iter().map(|(id, nexthop)| (id, nexthop.unwrap())).collect();
        for link in kernel.links().unwrap() {
            let index = link.index;
            if matches!(link.kind, LinkKind::Vxlan(_)) {
                let ours = |key: &AddressKey| routed::decide::owner::is_our_address(key);
                state
                    .addresses
                    .extend(kernel.addresses(index).unwrap().into_iter().filter(|(key, _)| ours(key)));
                state.neighbours.extend(kernel.neighbours(index).unwrap());
                state.fdb.extend(kernel.fdb(index).unwrap());
            }
            // The kernel knows further kinds, which differ from machine to machine.
            if matches!(link.kind, LinkKind::Vxlan(_) | LinkKind::Veth) {
                state.links.insert(link.name.clone(), link);
            }
        }
        state
    }

    fn routes(&self) -> BTreeSet<RouteKey> {
        Netlink::open_in(&self.0).unwrap().routes(PROTOCOL).unwrap().into_keys().collect()
    }
}

/// Puts all nodes on this node's segment, because the kernel refuses a plain route to any other.
fn near(mut cluster: Cluster) -> Cluster {
    for node in cluster.others.values_mut() {
        if let Some([198, 51, 100, host]) = node.v4.map(|v4| v4.octets()) {
            *node = Node { v4: Some([192, 0, 2, host].into()), ..(**node).clone() }.into();
        }
    }
    cluster
}

/// Goes from `before` to `after` with a refusal at that op, and on until nothing is pending.
fn walk(
    applier: &mut Applier<Watched<Netlink>>,
    (before, after): (Option<&Cluster>, &Cluster),
    refusal: Option<(usize, Errno)>,
) {
    let changes = before.map_or_else(Vec::new, |before| changes(before, after));
    applier.kernel().refuse(refusal);
    let mut now = Instant::now();
    let mut pending = applier.update(after, &changes, now).map_or(1, |report| report.pending);
    applier.kernel().refuse(None);
    for _ in 0..8 {
        if pending == 0 {
            return;
        }
        now += Duration::from_secs(60);
        pending = applier.update(after, &[], now).unwrap().pending;
    }
    panic!("it does not settle: {:?}", applier.update(after, &[], now + Duration::from_secs(60)));
}

/// The backends that every kernel has.
fn backend() -> impl Strategy<Value = Backend> {
    prop_oneof![Just(Backend::Vxlan), Just(Backend::Native), Just(Backend::Auto)]
}

fn refusal() -> impl Strategy<Value = Option<(usize, Errno)>> {
    let errno = prop_oneof![Just(Errno::ENOBUFS), Just(Errno::EINVAL), Just(Errno::ENETDOWN)];
    prop::option::of((0usize..30, errno))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_to_any_state_on_the_real_kernel(
        states in clusters(2..4),
        (from, to) in (backend(), backend()),
        refusals in prop::collection::vec(refusal(), 4),
    ) {
        let is_native = from == Backend::Native || to == Backend::Native;
        let states: Vec<_> = states.into_iter().map(|c| if is_native { near(c) } else { c }).collect();
        let last = states.last().unwrap();
        let scratch = Machine::new();
        walk(&mut scratch.applier(to), (None, last), None);
        let expected = scratch.state();

        let machine = Machine::new();
        walk(&mut machine.applier(from), (None, &states[0]), None);
        // A daemon with another configuration starts on what the old one left. Then come one change after another.
        let mut applier = machine.applier(to);
        let mut before = None;
        for (state, refusal) in states.iter().zip(refusals) {
            let there = machine.routes();
            let wanted = crate::world::scratch(state, to).routes;
            applier.kernel().always = there.into_iter().filter(|key| wanted.contains_key(key)).collect();
            walk(&mut applier, (before, state), refusal);
            before = Some(state);
        }
        prop_assert_eq!(essence(&machine.state()), essence(&expected));
        prop_assert_eq!(&applier.kernel().lost, &Vec::<String>::new());
        let report = applier.pass(last, Instant::now()).unwrap();
        prop_assert_eq!(report.tally.total(), 0, "what it believes is true");
    }
}

/// Two nodes have swapped one of their networks of pods.
#[test]
fn a_node_that_takes_our_old_network_is_reached_at_once() {
    let before = crate::world::two_nodes();
    let mut after = before.clone();
    let other = (*before.others["n2"]).clone();
    after.own.pod_cidrs = other.pod_cidrs.clone();
    after.others.insert("n2".into(), Node { pod_cidrs: before.own.pod_cidrs.clone(), ..other }.into());
    for backend in [Backend::Vxlan, Backend::Auto] {
        let (scratch, machine) = (Machine::new(), Machine::new());
        walk(&mut scratch.applier(backend), (None, &after), None);
        let mut applier = machine.applier(backend);
        walk(&mut applier, (None, &before), None);
        applier.start_over();
        let report = applier.pass(&after, Instant::now()).unwrap();
        assert_eq!((report.refused, report.pending), (BTreeSet::new(), 0));
        assert_eq!(essence(&machine.state()), essence(&scratch.state()));
    }
}

/// Another program holds the port of the tunnel while the backend changes.
#[test]
fn a_refused_device_takes_no_way_that_there_is() {
    let before = near(crate::world::two_nodes());
    let machine = Machine::new();
    walk(&mut machine.applier(Backend::Native), (None, &before), None);
    let routes = machine.routes();
    let taken = machine.0.run(|| std::net::UdpSocket::bind("0.0.0.0:8472").unwrap()).unwrap();
    let mut applier = machine.applier(Backend::Vxlan);
    let report = applier.pass(&before, Instant::now()).unwrap();
    assert!(report.hindered.unwrap().contains("EADDRINUSE"));
    assert_eq!(machine.routes(), routes);
    // A node that is gone stays gone.
    let mut after = before.clone();
    after.others.clear();
    applier.update(&after, &changes(&before, &after), Instant::now()).unwrap();
    assert_eq!(machine.routes().len(), 2, "{:?}", machine.routes());
    drop(taken);
    let mut now = Instant::now();
    for state in [&after, &before] {
        now += Duration::from_secs(60);
        let report = applier.pass(state, now).unwrap();
        assert_eq!((report.pending, report.hindered), (0, None));
    }
    let scratch = Machine::new();
    walk(&mut scratch.applier(Backend::Vxlan), (None, &before), None);
    assert_eq!(essence(&machine.state()), essence(&scratch.state()));
}
