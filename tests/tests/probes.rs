//! The lab's own instruments, on a network made by hand with static routes: they find what works, and they find what does not.
//! Needs root or user namespaces, `ip`, `nft` and `ping`; fails without.

#![allow(clippy::unwrap_used)] // a helper of a test may fail as the test may

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use ferrule_tests::{
    addressing::{self, Backend, Family, Pair},
    command::{feed, json, run},
    echo::{Ledger, Server},
    endpoint::{Endpoint, Kind},
    matrix::{self, Cell},
    ping, table,
    topology::{Machine, Topology},
};

/// Two nodes with a pod each, wired by hand as Ferrule would.
struct HandMade {
    topology: Topology,
    endpoints: Vec<Endpoint>,
    ledger: Arc<Ledger>,
    _servers: Vec<Server>,
}

fn pod_address(node: usize) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 244, node as u8, 1),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, node as u16, 0, 0, 0, 1),
    }
}

fn make_pod(machine: &Machine) -> Endpoint {
    let (node, at) = (machine.number, pod_address(machine.number));
    let space = machine.space.pin_network(&format!("p{node}"), &PathBuf::from("/run/netns/pod")).unwrap();
    let pod = format!(
        "link set lo up\naddr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 169.254.1.1 dev eth0 onlink\nroute add default via fe80::1 dev eth0\n",
        v4 = at.v4,
        v6 = at.v6
    );
    let net = space.net_path();
    run(&machine.space, &format!("ip link add pod type veth peer name eth0 netns {}", net.display()))
        .unwrap();
    feed(&machine.space, "sh", "echo 0 >/proc/sys/net/ipv6/conf/pod/accept_dad").unwrap();
    let host = format!(
        "link set pod up\naddr add 169.254.1.1/32 dev pod\naddr add fe80::1/64 dev pod nodad\nroute add {v4} dev pod\nroute add {v6} dev pod\n",
        v4 = at.v4,
        v6 = at.v6
    );
    feed(&machine.space, "ip -batch -", &host).unwrap();
    feed(&space, "sh", "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad").unwrap();
    feed(&space, "ip -batch -", &pod).unwrap();
    let kind = Kind::Pod { node, node_underlay: machine.underlay, mtu: 1500 };
    Endpoint { name: format!("{node}a"), space, at, kind }
}

fn hand_made() -> HandMade {
    let topology = Topology::build(Backend::Native, 2).unwrap();
    let ledger = Arc::new(Ledger::default());
    let mut endpoints = Vec::new();
    for machine in &topology.machines {
        let other = 3 - machine.number;
        let [other4, other6] = addressing::pod_cidrs(other);
        let via = addressing::node(0, other);
        feed(
            &machine.space,
            "sh -e",
            "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
        )
        .unwrap();
        let routes = format!("route add {other4} via {}\nroute add {other6} via {}\n", via.v4, via.v6);
        feed(&machine.space, "ip -batch -", &routes).unwrap();
        let rules = "table inet lab { chain post { type nat hook postrouting priority 100;\n\
                     ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade\n\
                     ip6 saddr fd00:10:244::/48 ip6 daddr != fd00:10:244::/48 masquerade\n}\n}";
        feed(&machine.space, "nft -f -", rules).unwrap();
        endpoints.push(make_pod(machine));
    }
    let outside = topology.outside.clone();
    endpoints.push(Endpoint {
        name: "outside".into(),
        space: outside,
        at: addressing::outside(),
        kind: Kind::Outside,
    });
    let servers = endpoints
        .iter()
        .map(|endpoint| Server::start(&endpoint.space, endpoint.at, &ledger).unwrap())
        .collect();
    HandMade { topology, endpoints, ledger, _servers: servers }
}

fn failed_checks(cell: &Cell) -> Vec<&str> {
    match cell {
        Cell::Blank => vec!["blank"],
        Cell::Checked(failures) => failures.iter().map(|failure| failure.check.as_str()).collect(),
    }
}

#[test]
fn a_sound_network_passes_and_each_fault_shows_in_its_own_check() {
    let lab = hand_made();
    let names: Vec<&str> = lab.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    let cells = matrix::run(&lab.endpoints[..2], &lab.endpoints, &lab.ledger).unwrap();
    assert_eq!(
        table::failures(&names[..2], &names, &cells),
        [],
        "{}",
        table::render(&names[..2], &names, &cells)
    );
    assert_eq!(table::checked(&cells), 4);

    let node1 = &lab.topology.machines[0];
    // NAT inside the cluster shows in the source address.
    feed(&node1.space, "nft -f -", "insert rule inet lab post ip saddr 10.244.1.1 masquerade").unwrap();
    let cells = matrix::run(&lab.endpoints[..1], &lab.endpoints[1..2], &lab.ledger).unwrap();
    assert_eq!(failed_checks(&cells[0][0]), ["source4"]);
    run(&node1.space, "nft flush ruleset").unwrap();

    // A family without its route fails in all its checks; without masquerade nothing comes back from outside.
    run(&node1.space, &format!("ip route del {}", addressing::pod_cidrs(2)[1])).unwrap();
    let cells = matrix::run(&lab.endpoints[..1], &lab.endpoints, &lab.ledger).unwrap();
    assert_eq!(failed_checks(&cells[0][1]), ["tcp6", "udp6", "source6", "ping6", "full6"]);
    assert_eq!(failed_checks(&cells[0][2]).len(), matrix::CHECKS);
}

#[test]
fn a_smaller_mtu_on_the_way_fails_the_full_packet_and_only_that() {
    let lab = hand_made();
    run(&lab.topology.machines[0].space, "ip link set eth0 mtu 1400").unwrap();
    let cells = matrix::run(&lab.endpoints[..1], &lab.endpoints[1..2], &lab.ledger).unwrap();
    assert_eq!(failed_checks(&cells[0][0]), ["full4", "full6"]);
}

#[test]
fn a_running_ping_counts_every_echo_and_names_the_lost_ones() {
    let lab = hand_made();
    let from = &lab.endpoints[0].space;
    for family in Family::BOTH {
        let replies = ping::Run::start(from, lab.endpoints[1].at.of(family)).unwrap().stop().unwrap();
        assert!(replies >= 30, "{replies}");
    }
    let run_ = ping::Run::start(from, lab.endpoints[1].at.v4.into()).unwrap();
    let node1 = &lab.topology.machines[0];
    run(&node1.space, "ip link set eth0 down").unwrap();
    run(&node1.space, "ip link set eth0 up").unwrap();
    let via = addressing::node(0, 2).v4;
    run(&node1.space, &format!("ip route replace {} via {via}", addressing::pod_cidrs(2)[0])).unwrap();
    let error = run_.stop().unwrap_err().to_string();
    assert!(error.contains("lost"), "{error}");
}

#[test]
fn a_node_has_a_run_of_its_own_and_a_pod_ends_when_it_is_unpinned() {
    let topology = Topology::build(Backend::Vxlan, 3).unwrap();
    let [one, two, three] = &topology.machines[..] else { panic!("three nodes") };
    run(&one.space, "touch /run/mine").unwrap();
    assert!(run(&two.space, "ls /run/mine").is_err());
    assert_eq!(run(&one.space, "ls /run").unwrap(), "mine\nnetns\n");
    let path = PathBuf::from("/run/netns/pod");
    drop(one.space.pin_network("pod", &path).unwrap());
    run(&one.space, "nsenter --net=/run/netns/pod ip link set lo up").unwrap();
    one.space.unpin(&path).unwrap();
    assert_eq!(run(&one.space, "ls /run/netns").unwrap(), "");
    // One and three share a segment, two is behind the router, and everyone reaches outside.
    for (to, ttl) in [(three.underlay, "ttl=64"), (two.underlay, "ttl=63"), (addressing::outside(), "ttl=63")]
    {
        for family in Family::BOTH {
            let out = run(&one.space, &format!("ping -n -c 1 -W 2 {}", to.of(family))).unwrap();
            assert!(out.contains(ttl), "{out}");
        }
    }
    let routes = json(&topology.fabric, "ip -j route show").unwrap();
    assert!(!routes.to_string().contains("10.244"), "{routes}");
}
