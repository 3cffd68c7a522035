//! Addresses that the node itself has: no pod may be given one, because packets to it never reach the pod.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::common::{Place, allocate, attachment, until};
use ferrule_wire::{Client, PoolStatus, Pools, Release};
use std::net::IpAddr;
use std::process::Command;

const CONFIG: &str = "[ipam]\ncooldown_s = 0\n\
    [[ipam.pool]]\nname = \"p\"\nsubnets = [\"10.7.0.0/29\", \"fd07::/125\"]\n";

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.is_ok_and(|status| status.success()), "ip {arguments}; `tests/setup` installs ip");
}

/// A network namespace for this test alone, with what another network has left behind.
fn with_left_overs() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    ip("link add cni0 type bridge");
    ip("address add 10.7.0.1/24 dev cni0");
    ip("address add 10.7.0.3/32 dev lo");
    ip("address add fd07::2/64 dev cni0 nodad");
    ip("address add 192.0.2.1/24 dev lo");
}

fn give(client: &mut Client, id: &str) -> Vec<String> {
    let lease = client.call(&allocate(id)).unwrap().lease;
    lease.addresses.iter().map(|address| address.ip().to_string()).collect()
}

fn ipv4(client: &mut Client) -> PoolStatus {
    client.call(&Pools {}).unwrap().pools.remove(0)
}

#[test]
fn an_address_that_the_node_has_is_skipped_named_and_given_again_once_it_is_gone() {
    with_left_overs();
    let place = Place::new(CONFIG);
    let _daemon = place.start();
    let mut client = place.client();
    let lines: Vec<String> =
        place.log().lines().filter(|line| line.contains("the node itself has")).map(str::to_owned).collect();
    for (address, link) in [("10.7.0.1", "cni0"), ("10.7.0.3", "lo"), ("fd07::2", "cni0")] {
        let named = |line: &&String| line.contains(&format!("address={address} ")) && line.contains(link);
        assert!(lines.iter().any(|line| named(&line)), "{address} in {lines:?}");
    }
    assert_eq!(lines.len(), 3, "nothing else is of the pool: {lines:?}");

    assert_eq!(give(&mut client, "a"), ["10.7.0.2", "fd07::1"]);
    assert_eq!(give(&mut client, "b"), ["10.7.0.4", "fd07::3"]);
    let counts = ipv4(&mut client);
    let told = (counts.in_use, counts.resting, counts.reserved.as_str(), counts.free.as_str());
    assert_eq!(told, (2, 0, "4", "2"));
    let mut call = allocate("c");
    call.requested = vec!["10.7.0.1".parse::<IpAddr>().unwrap()];
    let error = client.call(&call).unwrap_err().to_string();
    assert!(error.contains("the node itself has 10.7.0.1, on cni0"), "{error}");
    for id in ["c", "d"] {
        give(&mut client, id);
    }
    let error = client.call(&allocate("e")).unwrap_err().to_string();
    assert!(error.contains("4 in use, 0 resting, 4 reserved"), "{error}");

    // It is seen when one goes and when one comes, be it one that rests.
    ip("address del 10.7.0.1/24 dev cni0");
    until("it is given", || {
        client
            .call(&allocate("e"))
            .is_ok_and(|given| given.lease.addresses[0].ip() == "10.7.0.1".parse::<IpAddr>().unwrap())
    });
    client.call(&Release { attachment: attachment("a") }).unwrap();
    ip("address add 10.7.0.2/32 dev lo");
    until("the daemon has seen it", || ipv4(&mut client).free == "0");
    let error = client.call(&allocate("f")).unwrap_err().to_string();
    assert!(error.contains("no IPv4 address is left"), "{error}");
}

#[test]
fn an_address_of_a_pod_that_the_node_gets_is_named_with_the_pod_and_stays_the_pod_s() {
    with_left_overs();
    let place = Place::new(CONFIG);
    let _daemon = place.start();
    let mut client = place.client();
    let addresses = give(&mut client, "doubled");
    ip(&format!("address add {}/32 dev lo", addresses[0]));
    until("it is named", || {
        place.log().lines().any(|line| line.contains("the address of a pod") && line.contains("doubled"))
    });
    assert_eq!(give(&mut client, "doubled"), addresses);
    assert_eq!((ipv4(&mut client).in_use, ipv4(&mut client).draining), (1, 0));
}
