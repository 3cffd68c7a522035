//! Nodes of Ferrule and of flannel on one network, by annotations and by leases. A node also moves from the one to the
//! other and back while its pods talk. There is no flanneld here: its side of the kernel is set up as its documentation
//! and its backend `vxlan` do it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod host_gw;
mod wire;
mod world;

use std::fs;

use crate::etcd::server::Etcd;
use crate::lab::{Daemon, PATIENCE, within};
use ferrule_fake_api::{ApiServer, node};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use world::{Flanneld, Pings, World, mac, mac6};

const DEVICES: &str = "[routing.vxlan]\ndevice = \"flannel.1\"\ndevice6 = \"flannel-v6.1\"\n";

/// An API server in the namespace of node `number`, with both nodes.
fn api(world: &World, number: usize, nodes: [Value; 2]) -> ApiServer {
    let at = &world.nodes[number - 1];
    let listener = at.inside(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let server = ApiServer::new(listener, &at.path("api"));
    nodes.into_iter().for_each(|node| server.put(node));
    let text = format!(
        "[node]\nname = \"n{number}\"\n[cluster]\npod_cidrs = [\"10.244.0.0/16\", \"fd00:10:244::/48\"]\n\
         [routing]\nsource = \"kubernetes\"\n[routing.kubernetes]\nkubeconfig = \"{}\"\n\
         [routing.flannel]\nannotations = true\nsubnet_env = \"{}\"\n{DEVICES}",
        server.kubeconfig().display(),
        at.path("flannel/subnet.env").display()
    );
    fs::write(at.path("ferrule.toml"), text).unwrap();
    server
}

/// A node object as flanneld's kube subnet manager leaves it.
fn flannels(number: u8) -> Value {
    let mut node = node(number);
    node["metadata"]["annotations"] = json!({
        "flannel.alpha.coreos.com/backend-data": format!("{{\"VNI\":1,\"VtepMAC\":\"{}\"}}", mac(number)),
        "flannel.alpha.coreos.com/backend-v6-data": format!("{{\"VNI\":1,\"VtepMAC\":\"{}\"}}", mac6(number)),
        "flannel.alpha.coreos.com/backend-type": "vxlan",
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/public-ip": format!("192.0.2.{number}"),
        "flannel.alpha.coreos.com/public-ipv6": format!("2001:db8::{number}"),
    });
    node
}

fn annotations_written(server: &ApiServer) -> usize {
    let text = |body: &[u8]| String::from_utf8_lossy(body).contains("flannel.alpha");
    server.requests().iter().filter(|one| one.method == "PATCH" && text(&one.body)).count()
}

fn devices(node: &crate::lab::Node) -> String {
    let links = node.ip("-o -d link show type vxlan");
    let mut lines: Vec<_> = links.lines().map(str::trim).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// What flannel has put into the tables for the other nodes.
fn left_of_flannel(node: &crate::lab::Node) -> String {
    let plain = |text: String| {
        let theirs = text.lines().filter(|line| line.contains("flannel") && !line.contains("nhid"));
        theirs.map(|line| format!("{line}\n")).collect::<String>()
    };
    plain(node.ip("route show")) + &plain(node.ip("-6 route show proto boot"))
}

fn ready(node: &crate::lab::Node) -> Daemon {
    let daemon = node.start();
    daemon.wait_until_ready();
    daemon
}

#[test]
fn a_live_node_moves_from_flannel_and_back_without_losing_a_packet_and_the_others_see_nothing() {
    let world = World::new();
    let [first, second] = &world.nodes;
    // A node that flannel forgot to remove, as in its issue.
    Flanneld::of(1).set_up(first, &[2, 3]);
    Flanneld::of(2).set_up(second, &[1]);
    let before = (devices(first), world.dump(second));
    let pings = Pings::start(&world);
    let server = api(&world, 1, [flannels(1), flannels(2)]);
    let daemon = ready(first);

    assert_eq!(devices(first), before.0, "the devices stay, with their MACs");
    assert_eq!(left_of_flannel(first), "", "every route is ours now, stale ones are gone\n{}", daemon.log());
    let state = first.ip("neigh show nud permanent") + &first.run("bridge", "fdb show");
    assert!(!state.contains("10.244.3.") && !state.contains(&mac(3)) && !state.contains(&mac6(3)), "{state}");
    assert!(first.ip("route show 10.244.2.0/24").contains("nhid"), "{}", daemon.log());
    assert_eq!(annotations_written(&server), 0, "they say it already");
    let env = fs::read_to_string(first.path("flannel/subnet.env")).unwrap();
    assert_eq!(
        env,
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:10:244::/48\n\
         FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
    );
    let now = world.dump(second);
    let differing: Vec<_> = now.lines().filter(|line| !before.1.contains(line)).collect();
    assert_eq!((differing, now.len()), (Vec::new(), before.1.len()), "nothing changes on the other node");
    pings.lost_none(&world, "while the first node moves");

    // The other node moves, too. Then there is no flannel left.
    let pings = Pings::start(&world);
    let _other = api(&world, 2, [flannels(1), flannels(2)]);
    let other = ready(second);
    assert_eq!(left_of_flannel(second), "");
    pings.lost_none(&world, "while the second node moves");

    // Both move back, as flanneld does it when it starts. Then what is left of ours goes.
    let pings = Pings::start(&world);
    assert!(other.signal(Signal::SIGTERM).success() && daemon.signal(Signal::SIGTERM).success());
    Flanneld::of(1).set_up(first, &[2]);
    Flanneld::of(2).set_up(second, &[1]);
    for node in &world.nodes {
        let unreachable = "route flush type unreachable proto 70";
        for what in ["nexthop flush proto 70", unreachable, &format!("-6 {unreachable}")] {
            node.ip(what);
        }
    }
    assert_eq!(devices(first), before.0);
    assert!(first.ip("route show 10.244.2.0/24").contains("via 10.244.2.0 dev flannel.1"));
    pings.lost_none(&world, "on the way back");
}

#[test]
fn a_new_node_joins_flannels_by_annotations_and_they_reach_each_other_in_both_families() {
    let world = World::new();
    let [first, second] = &world.nodes;
    let server = api(&world, 1, [node(1), node(2)]);
    let told = first.run(env!("CARGO_BIN_EXE_routed"), &format!("{} --log warn plan", first.arguments()));
    assert!(
        told.contains("set link flannel.1 vni 1") && told.contains("set link flannel-v6.1 vni 1"),
        "{told}"
    );
    assert!(server.requests().iter().all(|one| one.method != "PATCH"), "a plan writes nothing");
    server.faults(|faults| faults.forbidden.extend(["patch nodes/status".to_owned()]));
    let daemon = ready(first);
    daemon.wait_for_log(
        "node n2 is left out: its annotation flannel.alpha.coreos.com/kube-subnet-manager is not",
    );
    daemon.wait_for_log("cannot write flannel's annotations of node n1");
    server.faults(|faults| faults.forbidden.clear());
    let told = || {
        let told = server.node("n1")["metadata"]["annotations"]["flannel.alpha.coreos.com/kube-subnet-manager"]
            == "true";
        told && annotations_written(&server) >= 2
    };
    assert!(within(PATIENCE, told).is_some(), "{}", daemon.log());

    // This is what a flanneld reads from it.
    let all = &server.node("n1")["metadata"]["annotations"];
    let text = |key: &str| all[format!("flannel.alpha.coreos.com/{key}")].as_str().unwrap().to_owned();
    assert_eq!(text("backend-type"), "vxlan");
    let peer = |key: &str, address: &str| {
        let data: Value = serde_json::from_str(&text(key)).unwrap();
        assert_eq!(data["VNI"], 1);
        (data["VtepMAC"].as_str().unwrap().to_owned(), text(address))
    };
    let (v4, v6) = (peer("backend-data", "public-ip"), peer("backend-v6-data", "public-ipv6"));
    let flanneld = Flanneld::of(2);
    flanneld.set_up(second, &[]);
    flanneld.add_v4(second, "10.244.1.0", &v4);
    flanneld.add_v6(second, "fd00:10:244:1::", &v6);
    server.put(flannels(2));
    assert!(
        within(PATIENCE, || world.all_reach_each_other()).is_some(),
        "{}\n{}",
        daemon.log(),
        world.dump(first)
    );

    // The node comes back from flannel with another MAC, and the others follow.
    let mut anew = flannels(2);
    let key = "flannel.alpha.coreos.com/backend-data";
    anew["metadata"]["annotations"][key] = json!("{\"VNI\":1,\"VtepMAC\":\"82:4b:b6:00:00:99\"}");
    second.ip("link set flannel.1 address 82:4b:b6:00:00:99");
    flanneld.add_v4(second, "10.244.1.0", &v4);
    server.put(anew);
    assert!(
        within(PATIENCE, || world.all_reach_each_other()).is_some(),
        "{}\n{}",
        daemon.log(),
        world.dump(first)
    );
}

#[test]
fn a_node_joins_flannels_by_leases_in_etcd() {
    let world = World::new();
    let [first, second] = &world.nodes;
    let config = json!({"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48",
                        "SubnetMax": "10.244.1.0", "IPv6SubnetMax": "fd00:10:244:1::", "Backend": {"Type": "vxlan"}});
    let mut etcd = Etcd::new(first.directory.path(), 23_000);
    let lease = format!(
        "{{\"PublicIP\":\"192.0.2.2\",\"PublicIPv6\":\"2001:db8::2\",\"BackendType\":\"vxlan\",\"BackendData\":\
         {{\"VNI\":1,\"VtepMAC\":\"{}\"}},\"BackendV6Data\":{{\"VNI\":1,\"VtepMAC\":\"{}\"}}}}",
        mac(2),
        mac6(2)
    );
    first.inside(|| {
        etcd.start();
        etcd.put_config(&config.to_string());
        etcd.ctl(&["put", "/coreos.com/network/subnets/10.244.2.0-24&fd00:10:244:2::-64", &lease]);
    });
    let text = format!(
        "[node]\nname = \"n1\"\naddress = \"192.0.2.1\"\naddress6 = \"2001:db8::1\"\n[routing]\nsource = \"etcd\"\n\
         [routing.etcd]\nendpoints = [\"{}\"]\n{DEVICES}",
        etcd.url()
    );
    fs::write(first.path("ferrule.toml"), text).unwrap();
    let daemon = ready(first);
    let (value, ..) =
        first.inside(|| etcd.subnet("10.244.1.0-24&fd00:10:244:1::-64").expect("a lease of both families"));
    let value: Value = serde_json::from_str(&value).unwrap();
    let peer = |data: &str, address: &str| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&value[data]["VtepMAC"]), text(&value[address]))
    };
    let flanneld = Flanneld::of(2);
    flanneld.set_up(second, &[]);
    flanneld.add_v4(second, "10.244.1.0", &peer("BackendData", "PublicIP"));
    flanneld.add_v6(second, "fd00:10:244:1::", &peer("BackendV6Data", "PublicIPv6"));
    assert!(
        within(PATIENCE, || world.all_reach_each_other()).is_some(),
        "{}\n{}",
        daemon.log(),
        world.dump(first)
    );
}
