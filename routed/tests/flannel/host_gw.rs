//! A node moves from flannel's backend host-gw and back while its pods talk. Anybody could have typed its routes. So
//! only those are taken over that lead where ours will lead.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::ready;
use super::world::{Pings, World};
use ferrule_fake_api::{ApiServer, node};

/// What the operator types on the way back.
const BACK: &str = r#"for family in -4 -6; do
    ip $family route show proto 70 | sed -n 's/ nhid [0-9]*//p' | while read -r route; do
        ip $family route replace $route proto boot
    done
    ip $family route flush type unreachable proto 70
done
ip nexthop flush proto 70
"#;

/// A node object as flanneld leaves it with this backend.
fn flannels(number: u8) -> Value {
    let mut node = node(number);
    node["metadata"]["annotations"] = json!({
        "flannel.alpha.coreos.com/backend-data": "null",
        "flannel.alpha.coreos.com/backend-v6-data": "null",
        "flannel.alpha.coreos.com/backend-type": "host-gw",
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/public-ip": format!("192.0.2.{number}"),
        "flannel.alpha.coreos.com/public-ipv6": format!("2001:db8::{number}"),
    });
    node
}

/// An API server in the namespace of node `number`, with four nodes.
fn api(world: &World, number: usize) -> ApiServer {
    let at = &world.nodes[number - 1];
    let listener = at.inside(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let server = ApiServer::new(listener, &at.path("api"));
    (1..=4).for_each(|number| server.put(flannels(number)));
    configure(world, number, &server, "[routing.vxlan]\ndevice = \"flannel.1\"\n");
    server
}

fn configure(world: &World, number: usize, server: &ApiServer, more: &str) {
    let text = format!(
        "[node]\nname = \"n{number}\"\n[cluster]\npod_cidrs = [\"10.244.0.0/16\", \"fd00:10:244::/48\"]\n\
         [routing]\nsource = \"kubernetes\"\nbackend = \"native\"\n[routing.kubernetes]\nkubeconfig = \"{}\"\n\
         [routing.flannel]\nannotations = true\n{more}",
        server.kubeconfig().display(),
    );
    fs::write(world.nodes[number - 1].path("ferrule.toml"), text).unwrap();
}

/// Does what flanneld does for a lease, as its `RouteNetwork`, with the protocol that its library uses by default.
fn add(node: &crate::lab::Node, other: u8) {
    node.ip(&format!("route replace 10.244.{other}.0/24 via 192.0.2.{other} dev eth0 proto boot"));
    node.ip(&format!("-6 route replace fd00:10:244:{other}::/64 via 2001:db8::{other} dev eth0 proto boot"));
}

/// The routes to node 2's pods, and how many there are.
fn to_second(node: &crate::lab::Node) -> (String, usize) {
    let both = node.ip("route show exact 10.244.2.0/24") + &node.ip("-6 route show exact fd00:10:244:2::/64");
    let lines = both.lines().count();
    (both, lines)
}

#[test]
fn a_live_node_moves_from_host_gw_and_back_and_all_other_routes_stay_as_they_are() {
    let world = World::new();
    let [first, second] = &world.nodes;
    add(first, 2);
    add(second, 1);
    // These are not flannel's, or not right: by way of another node, to no node, or typed with a protocol or a metric.
    let others = [
        "10.244.3.0/24 via 192.0.2.2 dev eth0 proto boot",
        "10.244.4.0/24 via 192.0.2.4 dev eth0 proto static",
        "10.244.77.0/24 via 192.0.2.2 dev eth0 proto boot",
        "10.244.2.0/24 via 192.0.2.2 dev eth0 proto boot metric 50",
        "198.51.100.0/24 via 192.0.2.2 dev eth0 proto boot",
    ];
    others.iter().for_each(|route| drop(first.ip(&format!("route add {route}"))));
    // The plugin's route to a pod of this node.
    first.ip("link add fer0123456789ab type veth peer name pod");
    first.ip("link set fer0123456789ab up");
    first.ip("link set pod up");
    first.ip("route add 10.244.1.77 dev fer0123456789ab proto 70");
    let foreign = || first.ip("route show proto boot") + &first.ip("route show proto static");
    let all = foreign();

    // If nobody asks for a takeover, nothing of flannel's is touched, and each route that is in the way is named.
    let server = api(&world, 1);
    configure(&world, 1, &server, "");
    let pings = Pings::start(&world);
    let daemon = ready(first);
    for number in [2, 3, 4] {
        daemon.wait_for_log(&format!("10.244.{number}.0/24"));
    }
    assert_eq!(foreign(), all, "{}", daemon.log());
    assert!(daemon.log().contains("a route of protocol 3 has the same destination"), "{}", daemon.log());
    assert!(daemon.signal(Signal::SIGTERM).success());

    configure(&world, 1, &server, "[routing.vxlan]\ndevice = \"flannel.1\"\n");
    let heard = first.listen();
    let daemon = ready(first);
    let (routes, lines) = to_second(first);
    assert_eq!((routes.matches("nhid").count(), lines), (2, 3), "{routes}\n{}", daemon.log());
    let ours = all.lines().filter(|line| *line != "10.244.2.0/24 via 192.0.2.2 dev eth0 ");
    assert_eq!(foreign().lines().collect::<Vec<_>>(), ours.collect::<Vec<_>>(), "{}", daemon.log());
    let log = daemon.log();
    let named = |number: u8, protocol: u8| {
        let line = log
            .lines()
            .find(|line| line.contains(&format!("10.244.{number}.0/24")) && line.contains("protocol"));
        assert!(line.is_some_and(|line| line.contains(&format!("a route of protocol {protocol}"))), "{log}");
    };
    named(3, 3);
    named(4, 4);
    let heard = heard.heard();
    assert!(heard.contains("10.244.2.0/24 nhid") && heard.contains("fd00:10:244:2::/64 nhid"), "{heard}");
    let gone = |line: &&str| line.contains("Deleted") && line.contains("244:2:") | line.contains("244.2.");
    assert_eq!(heard.lines().find(gone), None, "replaced in place");
    pings.lost_none(&world, "while the first node moves");

    // The other node moves, too.
    let pings = Pings::start(&world);
    let _server = api(&world, 2);
    let other = ready(second);
    assert!(second.ip("route show 10.244.1.0/24").contains("nhid"), "{}", other.log());
    pings.lost_none(&world, "while the second node moves");

    assert!(include_str!("../../../docs/operations.md").contains(BACK), "the page says what is done here");
    // Both move back. Each route becomes a plain one in its place, then the rest of ours goes.
    let pings = Pings::start(&world);
    assert!(other.signal(Signal::SIGTERM).success() && daemon.signal(Signal::SIGTERM).success());
    for node in &world.nodes {
        fs::write(node.path("back"), BACK).unwrap();
        node.run("sh", &format!("-e {}", node.path("back").display()));
    }
    let (routes, _) = to_second(first);
    assert!(!routes.contains("nhid") && foreign() == all, "{routes}");
    assert_eq!(first.ip("route show proto 70").trim(), "10.244.1.77 dev fer0123456789ab scope link");
    pings.lost_none(&world, "on the way back");
}
