//! Clients that stay with their endpoint, and clients whose endpoint goes.

use std::time::Duration;

use crate::lab::{Lab, PATIENCE, SILENCE, Service, ask, other4, within};

#[test]
fn a_client_stays_with_its_endpoint_until_that_goes() {
    let lab = Lab::new();
    lab.add_others(1..=5);
    let sticky = |numbers: Vec<u8>| {
        Service::new(1)
            .with("type = \"NodePort\"\nsession_affinity_s = 100")
            .node_port(30_080)
            .with_others(numbers)
    };
    let _daemon = lab.start(&[sticky((1..=5).collect())]);
    let places = ["10.96.0.1:80", "[fd00:10:96::1]:80", "192.0.2.1:30080"];
    for space in [&lab.pods[0], &lab.outside, &lab.node] {
        for to in places {
            let mut spread = space.spread(to, 15);
            assert_eq!(spread.len(), 1, "{} to {to}: {spread:?}", space.name);
            let (udp, _) = spread.pop_first().unwrap();
            let tcp: Vec<_> = (0..10).map(|_| space.tcp(to).unwrap().from).collect();
            assert!(tcp.windows(2).all(|pair| pair[0] == pair[1]), "{to}: {tcp:?}");
            // Each protocol is for itself.
            assert!(!udp.is_empty());
        }
    }
    // Not all clients come to the same one.
    let place = |space: &crate::lab::Space| space.tcp(places[0]).unwrap().from;
    let chosen = place(&lab.pods[0]);
    let gone: u8 = chosen.rsplit('.').next().unwrap().parse().unwrap();
    let rest: Vec<_> = (1..=5).filter(|number| *number != gone).collect();
    lab.write(&[sticky(rest)]);
    let moved = within(PATIENCE, || place(&lab.pods[0]) != other4(gone));
    assert!(moved.is_some());
    let now = place(&lab.pods[0]);
    for _ in 0..10 {
        assert_eq!(place(&lab.pods[0]), now);
    }
}

#[test]
fn a_client_is_let_go_after_the_time() {
    let lab = Lab::new();
    lab.add_others(1..=5);
    let _daemon = lab.start(&[Service::new(1).with("session_affinity_s = 1").with_others(1..=5)]);
    let place = || lab.pods[0].tcp("10.96.0.1:80").unwrap().from;
    assert_eq!(place(), place());
    let moved = within(PATIENCE, || {
        let before = place();
        std::thread::sleep(Duration::from_millis(1300));
        place() != before
    });
    assert!(moved.is_some(), "the client would never be let go");
}

#[test]
fn a_udp_client_goes_to_another_endpoint_as_its_own_goes() {
    let lab = Lab::new();
    lab.add_others([1, 2]);
    let daemon = lab.start(&[Service::new(1).with("type = \"NodePort\"").node_port(30_080).with_others([1])]);
    for to in ["10.96.0.1:80", "[fd00:10:96::1]:80", "192.0.2.1:30080"] {
        lab.write(&[Service::new(1).with("type = \"NodePort\"").node_port(30_080).with_others([1])]);
        let client = lab.pods[0].udp_client(to);
        let served = within(PATIENCE, || ask(&client).is_ok_and(|heard| heard.from.ends_with('1')));
        assert!(served.is_some(), "{to}: {}", daemon.log());
        lab.write(&[Service::new(1).with("type = \"NodePort\"").node_port(30_080).with_others([2])]);
        let moved = within(PATIENCE, || ask(&client).is_ok_and(|heard| heard.from.ends_with('2')));
        assert!(moved.is_some(), "{to}: {}", daemon.log());
    }
}

#[test]
fn a_udp_client_that_came_before_the_endpoints_is_served_once_there_are_some() {
    let lab = Lab::new();
    lab.add_others([1]);
    // Without a policy that drops, the client would be told; this one's packets vanish.
    let late = Service::new(1).with("internal_traffic_policy = \"Local\"");
    let _daemon = lab.start(&[late.clone().with_others([1])]);
    let client = lab.pods[0].udp_client("10.96.0.1:80");
    client.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(ask(&client).is_err());
    lab.write(&[late.with_others([1]).with_pod(1)]);
    assert!(within(PATIENCE, || ask(&client).is_ok()).is_some());
}
