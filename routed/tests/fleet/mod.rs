//! Nodes with one pod each on one segment, and streams of echoes between the pods. The streams tell what is lost.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ferrule_config::NodeFile;
use ferrule_model::{
    Address, AddressKey, IfName, IpNetwork, LinkChange, Mac, Neighbour, NeighbourKey, Op, Route, RouteKey,
    VethSpec, Via,
};
use ferrule_netlink::netns::{self, Netns};
use ferrule_netlink::{Kernel, Netlink};

use crate::lab::{Daemon, Node, PATIENCE, within};

/// The port on which pods echo.
const PORT: u16 = 7;
/// Time between two echoes of a stream.
pub(crate) const STEP: Duration = Duration::from_millis(2);

pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    daemons: Vec<Option<Daemon>>,
    pods: Vec<Netns>,
    /// The segment: a bridge.
    segment: Netns,
    echoes: Vec<Echo>,
}

/// The underlay's families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Underlay {
    Both,
    V6,
}

/// A pod that sends back what it gets, until it is dropped.
struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A stream of numbered echoes from one pod to another.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// The result of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) lost: BTreeSet<u64>,
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn done(kernel: &mut Netlink, ops: &[Op]) {
    for (op, answer) in ops.iter().zip(kernel.apply(ops).unwrap()) {
        assert_eq!(answer, Ok(()), "{op}");
    }
}

/// Makes a veth pair between two namespaces, with both ends up. The far end has the given addresses. Returns the near
/// end's link.
fn wire(
    near: &Netns,
    far: &Netns,
    names: (&str, &str),
    number: u8,
    addresses: &[String],
) -> ferrule_model::Link {
    let spec = VethSpec {
        host_name: name(names.0),
        host_mac: Mac::local([2, 0, 0, 0, 1, number]),
        alias: None,
        pod_name: name(names.1),
        pod_mac: Mac::local([2, 0, 0, 0, 2, number]),
    };
    let mut kernel = Netlink::open_in(near).unwrap();
    let link = kernel.create_veth(&spec, far).unwrap();
    let end = link.peer.unwrap();
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let mut ops: Vec<_> = addresses
        .iter()
        .map(|text| {
            let key = AddressKey { link: end, prefix: text.parse().unwrap() };
            Op::PutAddress(key, Address { nodad: key.prefix.is_ipv6() })
        })
        .collect();
    ops.push(Op::SetLink(end, up.clone()));
    done(&mut Netlink::open_in(far).unwrap(), &ops);
    done(&mut kernel, &[Op::SetLink(link.index, up)]);
    link
}

impl Fleet {
    /// Nodes 1 to `count`, with a nodes file and no daemon yet.
    pub(crate) fn new(count: u8, backend: &'static str, underlay: Underlay) -> Self {
        let segment = netns::make().unwrap();
        let bridge = |arguments: &str| {
            let output = segment.run(|| {
                std::process::Command::new("ip").args(arguments.split_whitespace()).output().unwrap()
            });
            let output = output.unwrap();
            assert!(output.status.success(), "ip {arguments}: {output:?}");
        };
        bridge("link add br0 type bridge mcast_snooping 0");
        bridge("link set br0 up");
        let (mut nodes, mut pods, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=count {
            let node = Node::bare(number, backend);
            let mut addresses = vec![format!("2001:db8::{number}/64")];
            if underlay == Underlay::Both {
                addresses.push(format!("192.0.2.{number}/24"));
            }
            let port = format!("port{number}");
            wire(&segment, node.netns(), (&port, "eth0"), number, &addresses);
            bridge(&format!("link set {port} master br0"));
            let pod = pod(&node, number);
            echoes.push(Echo::start(&pod, number));
            pods.push(pod);
            nodes.push(node);
        }
        let daemons = nodes.iter().map(|_| None).collect();
        let fleet = Self { nodes, daemons, pods, segment, echoes };
        fleet.write_nodes(underlay, |_| String::new());
        fleet
    }

    /// Runs something in the namespace of the segments.
    pub(crate) fn on_segment<T>(&self, act: impl FnOnce() -> T) -> T {
        self.segment.run(act).unwrap()
    }

    /// Adds a segment, on which each node has the link `eth1` with these addresses.
    pub(crate) fn second_segment(&self, addresses: impl Fn(u8) -> Vec<String>) {
        let bridge = |arguments: &str| {
            let ip = || std::process::Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
            let output = self.on_segment(ip);
            assert!(output.status.success(), "ip {arguments}: {output:?}");
        };
        bridge("link add br1 type bridge mcast_snooping 0");
        bridge("link set br1 up");
        for (node, number) in self.nodes.iter().zip(1..) {
            let port = format!("second{number}");
            wire(&self.segment, node.netns(), (&port, "eth1"), 50 + number, &addresses(number));
            bridge(&format!("link set {port} master br1"));
        }
    }

    /// Makes the subnets of the pods their nodes' own, as after an earlier run.
    pub(crate) fn had_subnets(&self) {
        for (node, number) in self.nodes.iter().zip(1..) {
            let cidrs = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
            let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
            let file = NodeFile {
                node: format!("n{number}"),
                pod_cidrs,
                cluster_cidrs: Vec::new(),
                mtu: 1450,
                reserved_host_ports: Vec::new(),
            };
            std::fs::create_dir_all(node.path("run")).unwrap();
            std::fs::write(node.path("run/node.json"), file.to_json()).unwrap();
        }
    }

    /// Writes the same nodes file on every node. `more` is added to a node's table.
    pub(crate) fn write_nodes(&self, underlay: Underlay, more: impl Fn(u8) -> String) {
        let mut text = String::new();
        for number in 1..=u8::try_from(self.nodes.len()).unwrap() {
            text += &format!("[[node]]\nname = \"n{number}\"\naddress6 = \"2001:db8::{number}\"\n");
            if underlay == Underlay::Both {
                text += &format!("address = \"192.0.2.{number}\"\n");
            }
            text += &format!("pod_cidrs = [\"10.244.{number}.0/24\", \"fd00:10:244:{number}::/64\"]\n");
            text += &more(number);
        }
        self.nodes.iter().for_each(|node| node.write_nodes_text(&text));
    }

    /// Starts every daemon, and waits until each is ready.
    pub(crate) fn start(&mut self) {
        self.daemons = self.nodes.iter().map(|node| Some(node.start())).collect();
        self.daemons.iter().flatten().for_each(Daemon::wait_until_ready);
    }

    /// Ends the daemon of node `number`, as an upgrade does, and starts it with another configuration.
    pub(crate) fn restart(&mut self, number: usize, backend: &'static str, routing: &str) {
        self.restart_with(number, backend, routing, "");
    }

    /// The same with further tables.
    pub(crate) fn restart_with(&mut self, number: usize, backend: &'static str, routing: &str, more: &str) {
        if let Some(daemon) = self.daemons[number - 1].take() {
            assert!(daemon.signal(nix::sys::signal::Signal::SIGTERM).success());
        }
        let node = &mut self.nodes[number - 1];
        node.set_backend(backend);
        node.configure_routing(routing, more);
        let daemon = node.start();
        daemon.wait_until_ready();
        self.daemons[number - 1] = Some(daemon);
    }

    pub(crate) fn log(&self, number: usize) -> String {
        self.daemons[number - 1].as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Waits until every pod reaches every other in both families.
    pub(crate) fn wait_until_joined(&self) {
        let pairs = self.pairs();
        let joined =
            within(PATIENCE, || pairs.iter().all(|(from, to)| once(&self.pods[*from], *to).is_some()));
        let logs =
            || (1..=self.nodes.len()).map(|number| self.log(number)).collect::<Vec<_>>().join("\n--\n");
        assert!(joined.is_some(), "{}\n{}", self.nodes[0].state(), logs());
    }

    /// Whether the pod of node `from` reaches that of `to` in both families.
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        addresses(to).iter().all(|address| once(&self.pods[from - 1], *address).is_some())
    }

    /// All pairs of a pod and an address of another pod.
    fn pairs(&self) -> Vec<(usize, IpAddr)> {
        let all = 0..self.nodes.len();
        let others = |from: usize| all.clone().filter(move |to| *to != from);
        let mut pairs = Vec::new();
        for from in all.clone() {
            for to in others(from) {
                pairs.extend(addresses(to + 1).map(|address| (from, address)));
            }
        }
        pairs
    }

    /// Streams of echoes from each pod to each address of every other pod.
    pub(crate) fn streams(&self) -> Vec<Stream> {
        self.streams_every(STEP)
    }

    /// The same at another pace, because an emulated processor is slow.
    pub(crate) fn streams_every(&self, step: Duration) -> Vec<Stream> {
        self.pairs().into_iter().map(|(from, to)| Stream::start(&self.pods[from], to, step)).collect()
    }
}

/// How many echoes of these streams were sent, and how many are lost.
pub(crate) fn finish(streams: Vec<Stream>) -> (u64, usize) {
    streams.iter().for_each(|stream| stream.stop.store(true, Ordering::Relaxed));
    let tallies: Vec<_> = streams.into_iter().map(Stream::finish).collect();
    assert!(tallies.iter().all(|tally| tally.sent > 0), "{tallies:?}");
    let lost = tallies.iter().map(|tally| tally.lost.len()).sum();
    (tallies.iter().map(|tally| tally.sent).sum(), lost)
}

/// The addresses of a node's pod.
fn addresses(number: usize) -> [IpAddr; 2] {
    [format!("10.244.{number}.9"), format!("fd00:10:244:{number}::9")].map(|text| text.parse().unwrap())
}

/// A pod as the plugin makes it: host routes, permanent neighbours, a gateway that does not exist.
fn pod(node: &Node, number: u8) -> Netns {
    let pod = netns::make().unwrap();
    let prefixes: Vec<_> =
        addresses(number.into()).map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })).into();
    let link = wire(node.netns(), &pod, ("fer0123456789ab", "eth0"), 100 + number, &prefixes);
    let end = link.peer.unwrap();
    let gateways: [IpAddr; 2] = ["169.254.1.1", "fe80::1"].map(|text| text.parse().unwrap());
    let mut inside = Vec::new();
    for (gateway, all) in gateways.into_iter().zip(["0.0.0.0/0", "::/0"]) {
        let neighbour = Neighbour { mac: link.mac, permanent: true };
        inside.push(Op::PutNeighbour(NeighbourKey { link: end, address: gateway }, neighbour));
        let via = Via::Gateway { address: gateway, link: end, onlink: true };
        inside.push(Op::PutRoute(RouteKey::main(all.parse().unwrap()), Route::ours(via)));
    }
    let mut kernel = Netlink::open_in(&pod).unwrap();
    done(&mut kernel, &inside);
    let eth0 = kernel.link(&name("eth0")).unwrap().unwrap();
    let host = prefixes.iter().flat_map(|prefix| {
        let dst: IpNetwork = prefix.parse().unwrap();
        let neighbour = Neighbour { mac: eth0.mac, permanent: true };
        [
            Op::PutNeighbour(NeighbourKey { link: link.index, address: dst.ip() }, neighbour),
            Op::PutRoute(RouteKey::main(dst), Route::ours(Via::Link(link.index))),
        ]
    });
    done(&mut Netlink::open_in(node.netns()).unwrap(), &host.collect::<Vec<_>>());
    pod
}

impl Echo {
    fn start(pod: &Netns, number: u8) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = addresses(number.into()).map(|address| {
            let socket = pod.run(|| UdpSocket::bind((address, PORT)).unwrap()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut buffer = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        // An answer that cannot be sent is lost.
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
            })
        });
        Self { stop, threads: threads.into() }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has failed has already said so.
            let _ = thread.join();
        }
    }
}

fn socket(pod: &Netns, to: IpAddr) -> UdpSocket {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    pod.run(|| UdpSocket::bind(any).unwrap()).unwrap()
}

/// Sends one echo, and waits a short time for it.
fn once(pod: &Netns, to: IpAddr) -> Option<()> {
    let socket = socket(pod, to);
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send_to(&[1], (to, PORT)).ok()?;
    socket.recv_from(&mut [0; 16]).ok().map(drop)
}

impl Stream {
    fn start(pod: &Netns, to: IpAddr, step: Duration) -> Self {
        let socket = socket(pod, to);
        socket.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut sent, mut lost) = (0_u64, BTreeSet::new());
            while !stopped.load(Ordering::Relaxed) {
                // An echo that cannot be sent is lost.
                let _ = socket.send_to(&sent.to_be_bytes(), (to, PORT));
                lost.insert(sent);
                sent += 1;
                thread::sleep(step);
                take(&socket, &mut lost);
            }
            let end = Instant::now() + Duration::from_secs(2);
            while !lost.is_empty() && Instant::now() < end {
                thread::sleep(STEP);
                take(&socket, &mut lost);
            }
            Tally { sent, lost }
        });
        Self { stop, thread }
    }

    fn finish(self) -> Tally {
        self.thread.join().unwrap()
    }
}

/// Takes in all answers that have arrived.
fn take(socket: &UdpSocket, lost: &mut BTreeSet<u64>) {
    let mut buffer = [0; 8];
    loop {
        match socket.recv(&mut buffer) {
            Ok(8) => drop(lost.remove(&u64::from_be_bytes(buffer))),
            // This is an ICMP error about an echo that is lost.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
