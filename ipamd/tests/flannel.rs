//! A pool out of flannel's `subnet.env`: waited for, followed, and without the addresses of flannel's bridge.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::common::{Place, allocate, until};
use ferrule_wire::{CallError, Client, ClientError, Pools, Status};
use std::fs;

/// A configuration with a pool out of a file, and others behind it.
fn place(more: &str) -> Place {
    let place = Place::new("");
    let file = place.dir.path().join("flannel/subnet.env");
    let config = format!("[[ipam.pool]]\nname = \"flannel\"\nsubnet_env = \"{}\"\n{more}", file.display());
    fs::write(place.dir.path().join("ferrule.toml"), config).unwrap();
    place
}

/// As flannel does it.
fn write(place: &Place, text: &str) {
    let directory = place.dir.path().join("flannel");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("subnet.env.tmp"), text).unwrap();
    fs::rename(directory.join("subnet.env.tmp"), directory.join("subnet.env")).unwrap();
}

fn next(client: &mut Client, container_id: &str) -> (Vec<String>, Option<u32>) {
    let reply = client.call(&allocate(container_id)).unwrap();
    (reply.lease.addresses.iter().map(ToString::to_string).collect(), reply.mtu)
}

#[test]
fn the_pool_is_waited_for_and_follows_the_file() {
    let place = place("");
    let _daemon = place.start();
    let mut client = place.client();
    let Err(ClientError::Call(CallError::NoPool { reason, .. })) = client.call(&Status::default()) else {
        panic!("a pool out of nothing")
    };
    assert!(reason.contains("flannel has not written") && reason.contains("subnet.env"), "{reason}");

    write(
        &place,
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_SUBNET=fd00:1::1/64\nFLANNEL_MTU=1450\n",
    );
    until("the file is read", || client.call(&Status::default()).is_ok());
    assert_eq!(next(&mut client, "a"), (vec!["10.244.1.2/32".into(), "fd00:1::2/128".into()], Some(1450)));

    // Broken: the last good state stays. Another subnet: the old one drains.
    write(&place, "FLANNEL_SUBNET=10.244.1.1\n");
    until("the fault is told", || {
        place.log().contains("flannel's file cannot be used, the last good state stays")
    });
    assert_eq!(next(&mut client, "b").0[0], "10.244.1.3/32");
    write(&place, "FLANNEL_SUBNET=10.244.2.1/24\nFLANNEL_MTU=8950\n");
    until("the change is taken", || {
        client.call(&Pools {}).unwrap().pools.iter().any(|pool| pool.draining == 2)
    });
    assert_eq!(next(&mut client, "c"), (vec!["10.244.2.2/32".into()], Some(8950)));
}

#[test]
fn node_json_does_not_stand_in_for_the_file() {
    let place = place("");
    place.write_node(r#"{"node":"a","pod_cidrs":["10.1.0.0/24"],"cluster_cidrs":[],"mtu":1400}"#);
    let _daemon = place.start();
    let refused = place.client().call(&allocate("a"));
    assert!(matches!(refused, Err(ClientError::Call(CallError::NoPool { .. }))), "{refused:?}");
}

#[test]
fn a_network_that_another_pool_has_is_not_given_twice() {
    let place = place("[[ipam.pool]]\nname = \"own\"\nsubnets = [\"10.244.1.128/25\"]\n");
    write(&place, "FLANNEL_SUBNET=10.244.1.1/24\n");
    let _daemon = place.start();
    let mut client = place.client();
    let pools = client.call(&Pools {}).unwrap().pools;
    assert_eq!(pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>(), ["own"]);
    assert!(place.log().contains("another pool has addresses of flannel's network"), "{}", place.log_end());
}
