//! The kernel's events for pods that come, go and are disturbed.

use super::*;
use ferrule_model::{Address, AddressKey, Via};

const VETH: IfIndex = IfIndex(7);

fn link(up: bool) -> Link {
    Link {
        index: VETH,
        name: IfName::new("fer0123456789ab").unwrap(),
        mac: Some(Mac::local([1; 6])),
        mtu: 1450,
        up,
        carrier: up,
        alias: None,
        peer: None,
        kind: LinkKind::Veth,
    }
}

fn way() -> WayTo {
    WayTo::new(VETH, "10.244.1.5".parse().unwrap(), Mac::local([2; 6]))
}

/// The kernel's events for an ADD.
fn added() -> Vec<Event> {
    let ((neighbour, value), (dst, route)) = (way().neighbour, way().route);
    vec![
        Event::Link(Change::Put, Link { mtu: 1500, ..link(false) }),
        Event::Link(Change::Put, link(false)),
        Event::Link(Change::Put, link(true)),
        Event::Neighbour(Change::Put, neighbour, value),
        Event::Route(Change::Put, dst, route),
        Event::Link(Change::Put, link(true)),
    ]
}

/// The kernel's events for a link that goes, which is switched off at first.
fn off() -> Vec<Event> {
    let ((neighbour, value), (dst, route)) = (way().neighbour, way().route);
    vec![
        Event::Link(Change::Put, link(false)),
        Event::Neighbour(Change::Delete, neighbour, value),
        Event::Route(Change::Delete, dst, route),
    ]
}

fn told(watch: &mut Watch, events: &[Event]) {
    events.iter().for_each(|event| watch.hears(event, 0, Instant::now()));
}

fn watch() -> Watch {
    let mut watch = Watch::new(|_| None);
    watch.settled(Vec::new(), true);
    watch
}

#[test]
fn what_comes_and_goes_makes_nobody_doubtful() {
    let mut watch = watch();
    told(&mut watch, &added());
    assert_eq!(watch.due(), None, "ADD");
    told(&mut watch, &off());
    let due = watch.due().expect("it may be somebody's doing");
    assert!(due > Instant::now(), "not before it can be gone");
    told(&mut watch, &[Event::Link(Change::Delete, link(false))]);
    assert_eq!((watch.due(), watch.take().0), (None, Suspects::default()), "DEL");
    assert!(watch.links.is_empty() && watch.routes.is_empty() && watch.neighbours.is_empty());
}

#[test]
fn what_others_do_to_what_was_made_is_doubtful() {
    let ((neighbour, value), (dst, route)) = (way().neighbour, way().route);
    let other = Neighbour { mac: Some(Mac::local([9; 6])), permanent: true };
    let events = [
        Event::Link(Change::Put, link(false)),
        Event::Link(Change::Put, Link { mtu: 1400, ..link(true) }),
        Event::Link(Change::Put, Link { mac: None, ..link(true) }),
        Event::Neighbour(Change::Delete, neighbour, value),
        Event::Neighbour(Change::Put, neighbour, Neighbour { permanent: false, ..value }),
        Event::Neighbour(Change::Put, neighbour, other),
        Event::Route(Change::Delete, dst, route),
        Event::Route(Change::Put, dst, Route::ours(Via::Link(IfIndex(2)))),
        Event::Route(Change::Put, dst, Route { protocol: 3, ..route }),
    ];
    for event in events {
        let mut watch = watch();
        told(&mut watch, &added());
        told(&mut watch, std::slice::from_ref(&event));
        let suspects = Suspects { links: BTreeSet::from([link(true).name]), ..Suspects::default() };
        assert_eq!(watch.take().0, suspects, "{event:?}");
    }
    // The same holds for a pod that was there before.
    let mut watch = watch();
    watch.settled(
        vec![Settled { link: link(true), ways: vec![way()], bridge: None, ifb: None, is_limited: false }],
        false,
    );
    told(&mut watch, &[Event::Route(Change::Delete, dst, route)]);
    assert!(watch.due().is_some());
}

#[test]
fn what_concerns_no_pod_is_not_doubtful() {
    let mut watch = watch();
    told(&mut watch, &added());
    let foreign = Link { index: IfIndex(2), name: IfName::new("eth0").unwrap(), ..link(false) };
    let key = |dst: &str| RouteKey::main(dst.parse().unwrap());
    let (elsewhere, nobody) =
        (Route::ours(Via::Link(IfIndex(2))), NeighbourKey { link: IfIndex(2), ..way().neighbour.0 });
    let learned = NeighbourKey { link: VETH, address: "169.254.9.9".parse().unwrap() };
    let events = [
        Event::Link(Change::Put, foreign.clone()),
        Event::Link(Change::Delete, foreign),
        Event::Link(Change::Put, Link { carrier: false, ..link(true) }),
        Event::Route(Change::Delete, key("10.9.9.9/32"), elsewhere),
        Event::Route(Change::Put, key("10.244.1.0/24"), elsewhere),
        Event::Route(Change::Delete, key("10.244.2.0/24"), elsewhere),
        Event::Neighbour(Change::Delete, nobody, way().neighbour.1),
        Event::Neighbour(Change::Put, learned, Neighbour { mac: None, permanent: false }),
    ];
    for event in events {
        told(&mut watch, std::slice::from_ref(&event));
        assert_eq!(watch.due(), None, "{event:?}");
    }
}

#[test]
fn before_everybody_was_looked_at_and_after_lost_events_everybody_is_doubtful() {
    let mut before = Watch::new(|_| None);
    told(&mut before, &off());
    assert!(before.take().0.all);
    let mut watch = watch();
    told(&mut watch, &added());
    told(&mut watch, &[Event::Overrun, Event::Link(Change::Put, link(false))]);
    assert!(watch.take().0.all);
}

#[test]
fn of_host_ports_only_those_of_living_pods_are_doubtful() {
    let mut watch = watch();
    let now = Instant::now();
    let owner = |digits: &str| Wake::Element(format!("{digits}ffffffffffffffffffff pods"));
    told(&mut watch, &added());
    watch.wakes(&owner("ba9876543210"), 1, now);
    assert_eq!(watch.due(), None, "its link is gone");
    watch.wakes(&owner("0123456789ab"), 1, now);
    let suspects = watch.take().0;
    assert!(suspects.ports && suspects.guard, "an element does not tell its table");
    watch.wakes(&Wake::Element(OWN_COMMENT.to_owned()), 1, now);
    assert!(watch.take().0.ports, "the node's own addresses");
    watch.wakes(&Wake::Table("ferrule-hostports"), 1, now);
    assert!(watch.take().0.ports);
    watch.wakes(&Wake::Table("ferrule-guard"), 1, now);
    assert_eq!(watch.take().0, Suspects { guard: true, ..Suspects::default() });
}

#[test]
fn a_bridge_and_the_place_on_it_are_doubtful_once_the_pod_is_on() {
    let index = IfIndex(3);
    let bridge = |up| Link {
        index,
        name: IfName::new("fbr0").unwrap(),
        kind: LinkKind::Other("bridge".into()),
        ..link(up)
    };
    let port = |isolated| Event::Port(VETH, Some(BridgePort { bridge: index, hairpin: true, isolated }));
    let address = AddressKey { link: index, prefix: "10.244.1.1/24".parse().unwrap() };
    let add = [
        Event::Link(Change::Put, bridge(true)),
        Event::Link(Change::Put, link(false)),
        port(false),
        port(true),
        Event::Link(Change::Put, link(true)),
        port(true),
        Event::Address(Change::Put, address, Address::default()),
    ];
    let disturbances = [
        Event::Port(VETH, None),
        port(false),
        Event::Link(Change::Put, bridge(false)),
        Event::Link(Change::Put, Link { mac: None, ..bridge(true) }),
        Event::Address(Change::Delete, address, Address::default()),
    ];
    for event in disturbances {
        let mut watch = watch();
        told(&mut watch, &add);
        assert_eq!(watch.due(), None, "ADD");
        told(&mut watch, std::slice::from_ref(&event));
        assert!(watch.take().0.links.contains(&link(true).name), "{event:?}");
        told(&mut watch, &[Event::Link(Change::Delete, link(false)), event]);
        let gone = Suspects { gone: BTreeSet::from([link(true).name]), ..Suspects::default() };
        assert_eq!(watch.take().0, gone, "nobody is on it any more");
    }
}

#[test]
fn limits_are_doubtful_when_they_go_or_come_a_second_time() {
    let mut watch = watch();
    let now = Instant::now();
    let ifb = |up| Link { index: IfIndex(9), name: IfName::new("fei0123456789ab").unwrap(), ..link(up) };
    let wake = |link, parent, gone| Wake::Traffic { link, parent, gone };
    told(&mut watch, &added());
    told(&mut watch, &[Event::Link(Change::Put, ifb(true))]);
    for (link, parent) in
        [(VETH, PARENTS[0]), (IfIndex(9), PARENTS[0]), (VETH, PARENTS[1]), (VETH, PARENTS[2])]
    {
        watch.wakes(&wake(link, parent, false), 1, now);
    }
    watch.wakes(&wake(IfIndex(2), PARENTS[0], true), 1, now);
    assert_eq!(watch.due(), None, "ADD, and another's");
    for doubt in
        [wake(VETH, PARENTS[0], true), wake(VETH, PARENTS[0], false), wake(IfIndex(9), PARENTS[0], true)]
    {
        watch.wakes(&doubt, 1, now);
        assert!(watch.take().0.links.contains(&link(true).name), "{doubt:?}");
    }
    for event in [Event::Link(Change::Put, ifb(false)), Event::Link(Change::Delete, ifb(true))] {
        told(&mut watch, &[Event::Link(Change::Put, ifb(true)), event]);
        assert!(watch.take().0.links.contains(&link(true).name));
    }
    told(&mut watch, &[Event::Link(Change::Put, ifb(true)), Event::Link(Change::Delete, link(false))]);
    told(&mut watch, &[Event::Link(Change::Delete, ifb(true))]);
    assert_eq!(watch.due(), None, "DEL");
}
