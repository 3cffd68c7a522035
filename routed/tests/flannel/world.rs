//! Two nodes on one wire, each with a pod behind a bridge as flannel's plugin makes it, and flanneld's side of the
//! kernel.

use std::io::Read;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};

use ferrule_netlink::netns::{self, Netns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Node, PATIENCE, within};

/// Two nodes, n1 and n2.
pub(crate) struct World {
    pub(crate) nodes: [Node; 2],
    pods: [Netns; 2],
}

/// Each way: the node whose pod sends, and the address to which it sends.
const WAYS: [(usize, &str); 4] =
    [(0, "10.244.2.10"), (1, "10.244.1.10"), (0, "fd00:10:244:2::10"), (1, "fd00:10:244:1::10")];

/// The MAC of flannel.1 on a node of flannel's.
pub(crate) fn mac(number: u8) -> String {
    format!("82:4b:b6:00:00:{number:02x}")
}

/// The MAC of flannel-v6.1.
pub(crate) fn mac6(number: u8) -> String {
    format!("82:4b:b6:00:06:{number:02x}")
}

/// Keeps a namespace reachable by the number of a process.
struct Holder(Child);

impl Holder {
    fn of(spawn: impl FnOnce(&mut Command) -> std::io::Result<Child>) -> Self {
        let mut command = Command::new("sleep");
        Self(spawn(command.arg("1000")).unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(pod: &Netns, arguments: &str) {
    let run = || Command::new("ip").args(arguments.split_whitespace()).output();
    let output = pod.run(run).unwrap().expect("install iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl World {
    pub(crate) fn new() -> Self {
        let nodes = [Node::new("vxlan"), Node::new("vxlan")];
        let [first, second] = &nodes;
        // The second node's own wire goes. The node gets the other end of the first node's wire.
        second.ip("link del eth0");
        let holder = Holder::of(|command| second.inside(|| command.spawn()));
        first.ip(&format!("link set wire netns {}", holder.0.id()));
        second.ip("link set wire name eth0");
        second.ip("addr add 192.0.2.2/24 dev eth0");
        second.ip("addr add 2001:db8::2/64 dev eth0 nodad");
        second.ip("link set eth0 up");
        let pods = [pod(first, 1), pod(second, 2)];
        Self { nodes, pods }
    }

    /// Everything in a node's kernel that flannel deals with, without link-local addresses, which come and settle by
    /// themselves.
    pub(crate) fn dump(&self, node: &Node) -> String {
        let mut text = String::new();
        for (program, arguments) in [
            ("ip", "-d -o link show type vxlan"),
            ("ip", "-o addr show"),
            ("ip", "route show table all"),
            ("ip", "-6 route show table main"),
            ("ip", "neigh show nud permanent"),
            ("bridge", "fdb show dev flannel.1"),
            ("bridge", "fdb show dev flannel-v6.1"),
        ] {
            text += &String::from_utf8_lossy(&node.command(program, arguments).stdout);
        }
        let lines = text.lines().filter(|line| !line.contains("fe80:") && !line.contains("ff00::/8"));
        let mut lines: Vec<_> = lines.map(str::trim).collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// Sends a datagram each way in each family, to which nobody listens.
    pub(crate) fn all_send_each_other(&self, text: &[u8]) {
        for (from, to) in WAYS {
            let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let send = || UdpSocket::bind(any).and_then(|socket| socket.send_to(text, (to, 9)));
            assert_eq!(self.pods[from].run(send).unwrap().unwrap(), text.len());
        }
    }

    /// Sends one packet each way in each family. Returns whether all arrived.
    pub(crate) fn all_reach_each_other(&self) -> bool {
        WAYS.iter().all(|(from, to)| {
            let ping = || Command::new("ping").args(["-c", "1", "-W", "1", to]).output();
            self.pods[*from].run(ping).unwrap().expect("install iputils-ping").status.success()
        })
    }
}

/// A pod with the addresses .10 and ::10 of the node's networks, behind cni0.
fn pod(node: &Node, number: u8) -> Netns {
    let pod = netns::make().unwrap();
    let holder = Holder::of(|command| pod.run(|| command.spawn()).unwrap());
    node.ip("link add cni0 type bridge");
    node.ip(&format!("addr add 10.244.{number}.1/24 dev cni0"));
    node.ip(&format!("addr add fd00:10:244:{number}::1/64 dev cni0 nodad"));
    node.ip("link set cni0 up");
    node.ip(&format!("link add veth0 type veth peer name eth0 netns {}", holder.0.id()));
    node.ip("link set veth0 master cni0 up");
    // The settings that flanneld and the runtime leave on a node.
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        node.inside(|| std::fs::write(format!("/proc/sys/{key}"), "1")).unwrap();
    }
    for arguments in [
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("addr add 10.244.{number}.10/24 dev eth0"),
        format!("addr add fd00:10:244:{number}::10/64 dev eth0 nodad"),
        format!("route add default via 10.244.{number}.1"),
        format!("-6 route add default via fd00:10:244:{number}::1"),
    ] {
        ip(&pod, &arguments);
    }
    pod
}

/// flanneld with the backend vxlan and both families.
pub(crate) struct Flanneld {
    number: u8,
}

impl Flanneld {
    pub(crate) fn of(number: u8) -> Self {
        Self { number }
    }

    /// Does what flanneld does when it starts, with these other nodes of flannel's. A device that is there and fits is
    /// kept.
    pub(crate) fn set_up(&self, node: &Node, others: &[u8]) {
        let number = self.number;
        let parts = [
            ("flannel.1", mac(number), format!("192.0.2.{number}"), 1450, format!("10.244.{number}.0/32")),
            (
                "flannel-v6.1",
                mac6(number),
                format!("2001:db8::{number}"),
                1430,
                format!("fd00:10:244:{number}::/128"),
            ),
        ];
        for (device, mac, local, mtu, address) in parts {
            if !node.command("ip", &format!("link show {device}")).status.success() {
                node.ip(&format!(
                    "link add {device} address {mac} mtu {mtu} type vxlan id 1 local {local} dev eth0 dstport 8472 nolearning"
                ));
            }
            node.ip(&format!("addr replace {address} dev {device}"));
            node.ip(&format!("link set {device} up"));
        }
        let is_settled = || !node.ip("-6 addr show tentative").contains("inet6 fd00");
        assert!(within(PATIENCE, is_settled).is_some());
        for other in others {
            let v4 = (mac(*other), format!("192.0.2.{other}"));
            let v6 = (mac6(*other), format!("2001:db8::{other}"));
            self.add_v4(node, &format!("10.244.{other}.0"), &v4);
            self.add_v6(node, &format!("fd00:10:244:{other}::"), &v6);
        }
    }

    /// Does what flanneld does for a lease: ARP, FDB, then the route.
    pub(crate) fn add_v4(&self, node: &Node, subnet: &str, peer: &(String, String)) {
        add(node, "flannel.1", (subnet, 24), peer);
    }

    /// The same in IPv6.
    pub(crate) fn add_v6(&self, node: &Node, subnet: &str, peer: &(String, String)) {
        add(node, "flannel-v6.1", (subnet, 64), peer);
    }
}

fn add(node: &Node, device: &str, (subnet, length): (&str, u8), (mac, address): &(String, String)) {
    node.ip(&format!("neigh replace {subnet} lladdr {mac} dev {device} nud permanent"));
    node.run("bridge", &format!("fdb replace {mac} dev {device} dst {address} self permanent"));
    node.ip(&format!("route replace {subnet}/{length} via {subnet} dev {device} onlink"));
}

/// Pings from pod to pod, both ways and in both families, with a packet every 10 ms.
pub(crate) struct Pings(Vec<Child>);

impl Pings {
    pub(crate) fn start(world: &World) -> Self {
        assert!(
            within(PATIENCE, || world.all_reach_each_other()).is_some(),
            "{}",
            world.dump(&world.nodes[0])
        );
        let ping = |(from, to): (usize, &str)| {
            let mut command = Command::new("ping");
            command.args(["-q", "-i", "0.01", to]).stdout(Stdio::piped());
            world.pods[from].run(|| command.spawn()).unwrap().unwrap()
        };
        Self(WAYS.map(ping).into())
    }

    pub(crate) fn lost_none(mut self, world: &World, when: &str) {
        // Sends some more packets after the last change.
        assert!((0..3).all(|_| world.all_reach_each_other()), "{when}");
        for mut child in std::mem::take(&mut self.0) {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
            let mut text = String::new();
            child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
            child.wait().unwrap();
            let summary = text.lines().find(|line| line.contains("transmitted")).unwrap_or(&text).to_owned();
            let number = |word: &str| {
                let before = summary.split(word).next().unwrap_or_default();
                before.trim().rsplit(' ').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0)
            };
            let (sent, received) = (number("packets transmitted"), number("received"));
            // The last packet may be on its way.
            assert!(sent > 2 && received + 1 >= sent, "{when}: {summary}");
        }
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
