//! `routed plan` tells what the daemon would do, and does none of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::lab::Node;
use nix::sys::signal::Signal;

fn plan(node: &Node) -> String {
    node.run(env!("CARGO_BIN_EXE_routed"), &format!("{} --log warn plan", node.arguments()))
}

fn forwarding(node: &Node) -> String {
    node.run("sysctl", "-n net.ipv4.ip_forward net.ipv6.conf.all.forwarding")
}

#[test]
fn it_tells_everything_changes_nothing_and_after_the_daemon_there_is_nothing_left_to_do() {
    for backend in ["vxlan", "native"] {
        let node = Node::new(backend);
        node.configure_routing("accept_forward = true\n", "");
        node.run("iptables-nft", "-P FORWARD DROP");
        node.write_nodes(&[1, 2, 3]);
        let before = (node.state(), forwarding(&node));
        let told = plan(&node);
        assert_eq!((node.state(), forwarding(&node)), before, "{told}");
        assert!(!node.path("run").exists(), "nor a directory");
        let through = if backend == "vxlan" {
            [
                "set link ferrule.1 vni 1 port 8472 mtu 1450\n",
                "set nexthop 70000000 via 10.244.2.0 on ferrule.1\n",
            ]
        } else {
            ["set nexthop 70000000 via 192.0.2.2 on eth0\n", "set nexthop 70000002 via 2001:db8::2 on eth0\n"]
        };
        let rest = [
            "set route 10.244.2.0/24 by nexthop 70000000\n",
            "set route fd00:10:244:3::/64 by nexthop 7000000",
            "set route 10.244.1.0/24 unreachable\n",
            "set sysctl net.ipv4.ip_forward=1 (it is 0)\n",
            "set nftables table inet ferrule\n",
            "set chain FERRULE-FORWARD of iptables-nft\n",
            "run/node.json\n",
        ];
        for line in through.iter().chain(&rest) {
            assert!(told.contains(line), "{line} is not in\n{told}");
        }

        let daemon = node.start();
        daemon.wait_until_ready();
        assert_eq!(told.lines().filter(|line| line.starts_with("set route ")).count(), 6);
        assert!(plan(&node).starts_with("nothing to do: "), "beside the daemon:\n{}", plan(&node));
        assert!(daemon.signal(Signal::SIGTERM).success());
    }
}

#[test]
fn it_tells_what_another_configuration_and_other_nodes_would_take_and_leave() {
    let mut node = Node::new("vxlan");
    node.write_nodes(&[1, 2, 3]);
    let daemon = node.start();
    daemon.wait_until_ready();
    assert!(daemon.signal(Signal::SIGTERM).success());
    node.ip("route add 10.244.4.0/24 via 192.0.2.50 proto static");
    node.set_backend("native");
    node.write_nodes(&[1, 2, 4]);
    let told = plan(&node);
    for line in [
        "remove link ferrule.1\n",
        "remove route 10.244.3.0/24\n",
        "set route 10.244.2.0/24 by nexthop ",
        "cannot set route 10.244.4.0/24: a route of protocol 4 has the same destination",
    ] {
        assert!(told.contains(line), "{line} is not in\n{told}");
    }

    node.write_nodes(&[2, 3]);
    let output = node.command(env!("CARGO_BIN_EXE_routed"), &format!("{} plan", node.arguments()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("does not tell of a node called n1"), "{said}");
}

#[test]
fn without_nodes_to_plan_by_it_says_so_at_once_and_fails() {
    let node = Node::new("vxlan");
    let refused = |said_too: &str| {
        let output = node.command(env!("CARGO_BIN_EXE_routed"), &format!("{} plan", node.arguments()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{said}");
        assert!(said.contains("nodes.toml") && said.contains(said_too), "{said}");
        assert_eq!(said.lines().filter(|line| line.contains(" ERROR ")).count(), 1, "{said}");
        assert!(!said.contains("waiting for"), "nobody waits: {said}");
    };
    refused("No such file");
    node.write_nodes_text("[[node]]\nname = \"n1\"\naddress = nonsense\n");
    refused(":3:");
    node.write_nodes_text("");
    refused("the file lists no node");
    node.write_nodes(&[2, 3]);
    refused("does not tell of a node called n1");
}

#[test]
fn it_foresees_a_node_that_native_cannot_reach() {
    let node = Node::new("native");
    node.ip("route add default via 192.0.2.254");
    let entry = |name: &str, address: &str, third: u8| {
        format!(
            "[[node]]\nname = \"{name}\"\naddress = \"{address}\"\npod_cidrs = [\"10.244.{third}.0/24\"]\n"
        )
    };
    let nodes = [("n1", "192.0.2.1"), ("beside", "192.0.2.2"), ("beyond", "198.51.100.3")];
    let text: String =
        nodes.iter().zip(1..).map(|((name, address), third)| entry(name, address, third)).collect();
    node.write_nodes_text(&text);
    let told = plan(&node);
    assert!(told.contains("set route 10.244.2.0/24 by nexthop "), "{told}");
    assert!(!told.contains("set route 10.244.3.0/24"), "{told}");
    let line = told.lines().find(|line| line.starts_with("cannot set nexthop ")).unwrap_or_default();
    assert!(line.contains("198.51.100.3") && line.contains("has to be on this node's segment"), "{told}");
    // The daemon then does what the plan told.
    let daemon = node.start();
    daemon.wait_for_log("has to be on this node's segment");
    assert!(!node.state().contains("10.244.3.0/24"), "{}", node.state());
}

#[test]
fn it_needs_no_capability_for_all_but_the_firewall() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let program = env!("CARGO_BIN_EXE_routed");
    let told = node.run("setpriv", &format!("--bounding-set=-all {program} {} plan", node.arguments()));
    assert!(told.contains("set route 10.244.2.0/24 by nexthop 70000000\n"), "{told}");
    assert!(told.contains("masquerading is left out of this plan: "), "{told}");
}
