//! Who reaches Services, by which endpoints, and which address the endpoints see.

use crate::lab::{Lab, Service, other4, other6};

/// Where a client's packets seem to come from.
const KEPT: [&str; 2] = ["10.244.1.5", "fd00:10:244:1::5"];
const NODE_UP: [&str; 2] = ["198.18.0.1", "2001:db8:18::1"];

/// A Service's address and port, with IPv4 and IPv6.
fn at(number: u8) -> [String; 2] {
    [format!("10.96.0.{number}:80"), format!("[fd00:10:96::{number}]:80")]
}

#[test]
fn endpoints_see_the_client_wherever_their_answers_come_back() {
    let lab = Lab::new();
    lab.add_others([7]);
    let _daemon = lab.start(&[Service::new(1).with_pod(1), Service::new(2).with_others([7])]);
    let [pod, _] = &lab.pods;
    let (other, outside) = ([other4(7), other6(7)], ["192.0.2.2", "2001:db8::2"]);
    for family in 0..2 {
        // From a pod of this node: always its own address.
        for (number, endpoint) in [(1, crate::lab::PODS[1][family]), (2, other[family].as_str())] {
            let to = &at(number)[family];
            for heard in [pod.tcp(to), pod.udp(to)] {
                let heard = heard.unwrap_or_else(|error| panic!("pod to {to}: {error}"));
                assert_eq!((heard.from.as_str(), heard.client.as_str()), (endpoint, KEPT[family]), "{to}");
            }
        }
        // From the node itself and from outside: to an endpoint of this node with the client's address, to one of
        // another node with this node's.
        for space in [&lab.node, &lab.outside] {
            let (local, remote) = (&at(1)[family], &at(2)[family]);
            for heard in [space.tcp(local), space.udp(local)] {
                let heard = heard.unwrap_or_else(|error| panic!("{} to {local}: {error}", space.name));
                assert_eq!(heard.from, crate::lab::PODS[1][family]);
                if space.name == "outside" {
                    assert_eq!(heard.client, outside[family]);
                }
            }
            for heard in [space.tcp(remote), space.udp(remote)] {
                let heard = heard.unwrap_or_else(|error| panic!("{} to {remote}: {error}", space.name));
                assert_eq!(
                    (heard.from.as_str(), heard.client.as_str()),
                    (other[family].as_str(), NODE_UP[family])
                );
            }
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let lab = Lab::new();
    let _daemon = lab.start(&[Service::new(1).with_pod(0)]);
    for to in at(1) {
        for heard in [lab.pods[0].tcp(&to), lab.pods[0].udp(&to)] {
            let heard = heard.unwrap_or_else(|error| panic!("{to}: {error}"));
            assert!(crate::lab::PODS[0].contains(&heard.from.as_str()));
            assert_ne!(heard.client, heard.from, "the answer would not leave the pod");
        }
    }
}

/// Critical values of chi-square for a probability of one in a million.
const CRITICAL: [(usize, f64); 4] = [(2, 23.93), (3, 27.63), (5, 33.38), (17, 60.3)];

#[test]
fn connections_spread_evenly_over_any_number_of_endpoints() {
    let lab = Lab::new();
    lab.add_others(1..=17);
    let services = CRITICAL.map(|(count, _)| {
        let count = u8::try_from(count).unwrap();
        Service::new(count).with_others(1..=count)
    });
    let _daemon = lab.start(&[&services[..], &[Service::new(1).with_others([1])]].concat());
    assert_eq!(lab.pods[0].spread(&at(1)[0], 20).len(), 1);
    for (count, critical) in CRITICAL {
        let expected = 60.0;
        for to in at(u8::try_from(count).unwrap()) {
            let spread = lab.pods[0].spread(&to, count * 60);
            assert_eq!(spread.len(), count, "{spread:?}");
            let chi: f64 = spread.values().map(|seen| (*seen as f64 - expected).powi(2) / expected).sum();
            assert!(chi < critical, "{to}: chi-square is {chi}: {spread:?}");
        }
    }
}

#[test]
fn node_ports_are_open_at_the_chosen_addresses_alone() {
    let lab = Lab::new();
    lab.add_others([7]);
    lab.configure("node_port_addresses = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n");
    let service = Service::new(1).with("type = \"NodePort\"").node_port(30_080).with_others([7]);
    let _daemon = lab.start(&[service]);
    for (to, family) in [("192.0.2.1:30080", 0), ("[2001:db8::1]:30080", 1)] {
        for space in [&lab.outside, &lab.node, &lab.pods[0], &lab.other] {
            let expected = if space.name == "pod 1" { KEPT[family] } else { NODE_UP[family] };
            if space.name == "other" {
                // It would answer itself directly.
                continue;
            }
            for heard in [space.tcp(to), space.udp(to)] {
                let heard = heard.unwrap_or_else(|error| panic!("{} to {to}: {error}", space.name));
                assert_eq!(heard.client, expected, "{} to {to}", space.name);
            }
        }
    }
    for closed in ["198.18.0.1:30080", "[2001:db8:18::1]:30080"] {
        assert!(lab.other.tcp(closed).is_err(), "{closed}");
        assert!(lab.node.tcp(closed).is_err(), "{closed}");
    }
    assert!(lab.node.tcp("127.0.0.1:30080").is_err());
}

#[test]
fn external_addresses_are_served_where_they_are_allowed_and_source_ranges_hold() {
    let lab = Lab::new();
    lab.configure("external_cidrs = [\"203.0.113.0/24\"]\n");
    let external = Service::new(1).with("external_ips = [\"203.0.113.1\", \"198.51.100.1\"]").with_pod(0);
    let balanced = |number: u8, range: &str| {
        Service::new(number)
            .with("type = \"LoadBalancer\"")
            .with(&format!("load_balancer_ips = [\"203.0.113.{number}\"]"))
            .with(&format!("load_balancer_source_ranges = [{range}]"))
            .with_pod(0)
    };
    let _daemon = lab.start(&[
        external,
        balanced(2, "\"192.0.2.0/24\""),
        balanced(3, "\"198.51.100.0/24\", \"10.244.1.6/32\""),
    ]);
    assert_eq!(lab.outside.tcp("203.0.113.1:80").unwrap().client, "192.0.2.2");
    assert!(lab.pods[1].tcp("203.0.113.1:80").is_ok());
    assert!(lab.node.tcp("203.0.113.1:80").is_ok());
    assert!(lab.pods[1].tcp("198.51.100.1:80").is_err(), "no network allows this address");
    assert!(lab.outside.tcp("203.0.113.2:80").is_ok());
    assert!(lab.outside.udp("203.0.113.2:80").is_ok());
    assert!(lab.outside.tcp("203.0.113.3:80").is_err());
    assert!(lab.outside.udp("203.0.113.3:80").is_err());
    assert!(lab.pods[1].tcp("203.0.113.3:80").is_ok());
    assert!(lab.pods[0].tcp("203.0.113.3:80").is_err());
    // Its other addresses are not restricted.
    assert!(lab.pods[0].tcp("10.96.0.3:80").is_ok());
}

#[test]
fn with_the_policy_local_outside_comes_to_this_nodes_endpoints_or_to_none() {
    let lab = Lab::new();
    lab.add_others([7]);
    let local = |number: u8, port| {
        Service::new(number)
            .with("type = \"NodePort\"\nexternal_traffic_policy = \"Local\"")
            .node_port(port)
            .with_others([7])
    };
    let _daemon = lab.start(&[
        local(1, 30_001).with_pod(1),
        local(2, 30_002),
        Service::new(3).with("internal_traffic_policy = \"Local\"").with_others([7]),
    ]);
    for family in 0..2 {
        let node = ["192.0.2.1", "[2001:db8::1]"][family];
        let spread = lab.outside.spread(&format!("{node}:30001"), 30);
        assert_eq!(spread.keys().collect::<Vec<_>>(), [crate::lab::PODS[1][family]]);
        let heard = lab.outside.tcp(&format!("{node}:30001")).unwrap();
        assert_eq!(heard.client, ["192.0.2.2", "2001:db8::2"][family]);
        // The node and its pods are served by any endpoint.
        assert_eq!(lab.pods[0].spread(&format!("{node}:30001"), 60).len(), 2);
        // Without one here, the outside hears nothing at all, and the others are still served.
        let silent = format!("{node}:30002");
        assert_eq!(lab.outside.tcp(&silent).unwrap_err(), std::io::ErrorKind::TimedOut);
        assert!(lab.outside.udp(&silent).is_err());
        for inside in [&lab.pods[0], &lab.node] {
            assert!(inside.tcp(&silent).is_ok() && inside.udp(&silent).is_ok(), "{}", inside.name);
        }
        assert_eq!(lab.pods[0].tcp(&at(3)[family]).unwrap_err(), std::io::ErrorKind::TimedOut);
    }
}

#[test]
fn pods_on_one_bridge_reach_each_other_through_a_service() {
    let lab = Lab::new();
    // Both pods become ports of a bridge that is their gateway.
    lab.node.ip("link add pods type bridge");
    lab.node.ip("addr add 10.244.1.1/24 dev pods");
    lab.node.ip("-6 addr add fd00:10:244:1::1/64 dev pods nodad");
    lab.node.ip("link set pods up");
    for ([v4, v6], (pod, link)) in crate::lab::PODS.iter().zip(lab.pods.iter().zip(["fer1", "fer2"])) {
        lab.node.ip(&format!("addr flush dev {link}"));
        lab.node.ip(&format!("route flush dev {link}"));
        lab.node.ip(&format!("-6 route flush dev {link}"));
        lab.node.ip(&format!("link set {link} master pods"));
        // As the plugin sets every port.
        lab.node.run("bridge", &format!("link set dev {link} hairpin on"));
        pod.ip("addr flush dev eth0 scope global");
        pod.ip(&format!("addr add {v4}/24 dev eth0"));
        pod.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
        pod.ip("route replace default via 10.244.1.1");
        pod.ip("-6 route replace default via fd00:10:244:1::1");
    }
    let _daemon = lab.start(&[Service::new(1).with_pod(1), Service::new(2).with_pod(0)]);
    for to in at(1).into_iter().chain(at(2)) {
        for heard in [lab.pods[0].tcp(&to), lab.pods[0].udp(&to)] {
            assert!(heard.is_ok(), "{to}: {heard:?}");
        }
    }
    for to in at(1) {
        assert!(lab.outside.tcp(&to).is_ok(), "{to}");
    }
}
