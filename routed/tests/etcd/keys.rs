//! WireGuard keys in the leases. They are told as flannel tells them, and all other nodes read them; while a cluster
//! moves, the leases tell of both tunnels. `wireguard.rs` shows what the kernel makes of them, if it has WireGuard.

use std::collections::BTreeMap;
use std::path::Path;

use ferrule_model::WgKey;
use routed::source::Source;

use super::server::Etcd;
use super::{Subject, etcd, ports, run};
use crate::lab::{Node, PATIENCE, within};

/// The subnets below are those that the tests put there for other nodes.
const NETWORK: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.10.0","Backend":{"Type":"wireguard"}}"#;
const WIREGUARD: &str = "backend = \"wireguard\"\n";

/// The node at 192.0.2.`last`. Its key consists of this one byte.
fn subject(etcd: &Etcd, last: u8, routing: &str, key: u8) -> Subject {
    let mut node = Subject::configured(&[etcd.url()], last, (routing, ""), Path::new("/nowhere"));
    node.source.publish(WgKey([key; 32]));
    node
}

/// The keys of the other nodes, by the last byte of their addresses.
fn keys(node: &Subject) -> BTreeMap<u8, Option<u8>> {
    let others = node.known.cluster().map(|cluster| cluster.others).unwrap_or_default();
    let one = |node: &routed::decide::nodes::Node| {
        (node.v4.unwrap().octets()[3], node.wireguard_key.map(|key| key.0[0]))
    };
    others.values().map(|node| one(node)).collect()
}

fn lease(backend: &str, public: u8, data: &str) -> String {
    format!(
        "{{\"PublicIP\":\"192.0.2.{public}\",\"PublicIPv6\":\"2001:db8::{public}\",\"BackendType\":\"{backend}\",\
         \"BackendData\":{data},\"BackendV6Data\":{data}}}"
    )
}

#[test]
fn the_keys_of_three_nodes_and_of_flannels_travel_in_their_leases() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    // A lease as a flanneld with the backend wireguard leaves it. The newer one has the port.
    let theirs = format!("{{\"PublicKey\":\"{}\",\"Port\":51820}}", WgKey([9; 32]));
    etcd.ctl(&["put", "/coreos.com/network/subnets/10.5.9.0-24", &lease("wireguard", 9, &theirs)]);
    run(async {
        let mut nodes: Vec<_> = (1..=3).map(|last| subject(&etcd, last, WIREGUARD, last)).collect();
        for node in &mut nodes {
            node.until(|node| node.own().is_some()).await;
        }
        for (node, last) in nodes.iter_mut().zip(1..) {
            let all = (1..=3).chain([9]).filter(|other| *other != last);
            let all: BTreeMap<_, _> = all.map(|other| (other, Some(other))).collect();
            node.until(|node| keys(node) == all).await;
            let data = format!("{{\"PublicKey\":\"{}\"}}", WgKey([last; 32]));
            assert_eq!(etcd.subnet(&node.subnet()).unwrap().0, lease("wireguard", last, &data));
            assert_eq!(node.own().unwrap().wireguard_key, Some(WgKey([last; 32])));
        }

        // A node comes back with another key. The others learn it, and the node's subnet and lease stay the same.
        let name = nodes[1].subnet();
        let (_, before, _) = etcd.subnet(&name).unwrap();
        nodes[1] = subject(&etcd, 2, WIREGUARD, 22);
        nodes[1].until(|node| node.own().is_some()).await;
        nodes[0].until(|node| keys(node)[&2] == Some(22)).await;
        assert_eq!((nodes[1].subnet(), etcd.subnet(&name).unwrap().1), (name, before));

        // One lease has no key yet, and one has an impossible key. The first node is known without a key, the other is
        // left out.
        etcd.ctl(&["put", "/coreos.com/network/subnets/10.5.9.0-24", &lease("wireguard", 9, "{}")]);
        nodes[0].until(|node| keys(node)[&9].is_none()).await;
        let other = lease("wireguard", 9, &theirs.replace("51820", "51821"));
        etcd.ctl(&["put", "/coreos.com/network/subnets/10.5.9.0-24", &other]);
        nodes[0].until(|node| !keys(node).contains_key(&9)).await;
    });
}

#[test]
fn while_a_cluster_moves_each_lease_says_what_both_tunnels_need() {
    let directory = tempfile::tempdir().unwrap();
    // The configuration names no backend, so it is valid for all of them.
    let etcd = etcd(directory.path(), r#"{"Network":"10.5.0.0/16"}"#);
    let steps = [
        ("", "", false),
        ("", "accept = \"wireguard\"\n", true),
        (WIREGUARD, "accept = \"vxlan\"\n", true),
        (WIREGUARD, "", true),
        ("backend = \"native\"\n", "accept = \"wireguard\"\n", true),
        ("backend = \"native\"\n", "accept = \"vxlan\"\n", false),
    ];
    run(async {
        let mut first = subject(&etcd, 1, "", 1);
        let mac = {
            first.until(|node| node.own().is_some()).await;
            first.own().unwrap().vtep_mac
        };
        let mut sender = Subject::new(&[etcd.url()], 2, "");
        for (backend, accept, has_key) in steps {
            let node = subject(&etcd, 1, &format!("{backend}{accept}"), 1);
            let before = std::mem::replace(&mut first, node);
            drop(before);
            first.until(|node| node.own().is_some()).await;
            assert_eq!(
                first.own().unwrap().vtep_mac,
                mac,
                "{backend}{accept}: the device's, whatever is told"
            );
            let (told, ..) = etcd.subnet(&first.subnet()).unwrap();
            let is_vxlan = backend.is_empty() || accept.contains("vxlan");
            assert_eq!(told.contains(&format!("\"VNI\":1,\"VtepMAC\":\"{mac}\"")), is_vxlan, "{told}");
            assert_eq!(told.contains(&format!("\"PublicKey\":\"{}\"", WgKey([1; 32]))), has_key, "{told}");
            // A node that sends by VXLAN uses the lease as long as it can.
            sender.until(|node| node.own().is_some() && node.names().is_empty() != is_vxlan).await;
        }
    });
}

#[test]
fn the_daemon_publishes_the_key_that_it_prints() {
    let node = Node::new("wireguard");
    let mut etcd = Etcd::new(node.directory.path(), ports());
    let text = format!(
        "[node]\nname = \"n1\"\naddress = \"192.0.2.1\"\n[routing]\n{WIREGUARD}source = \"etcd\"\n\
         [routing.etcd]\nendpoints = [\"{}\"]\n[routing.wireguard]\nkey_file = \"{}\"\n",
        etcd.url(),
        node.path("state/wireguard.key").display()
    );
    std::fs::write(node.path("ferrule.toml"), text).unwrap();
    node.inside(|| {
        etcd.start();
        etcd.put_config(NETWORK);
    });
    let key = node.wireguard_key();
    let daemon = node.start();
    let told = || {
        let all = node.inside(|| etcd.ctl(&["get", "--prefix", "/coreos.com/network/subnets/"]));
        all.contains(&format!("\"BackendData\":{{\"PublicKey\":\"{key}\"}}"))
    };
    assert!(within(PATIENCE, told).is_some(), "{}", daemon.log());
}
