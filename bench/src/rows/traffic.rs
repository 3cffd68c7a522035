//! Packets between pods: throughput, latency and new connections, by a small client and server on threads in the pods.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use ferrule_tests::{
    addressing::Backend,
    cluster::Cluster,
    command::{feed, json},
    error::{Context, LabError, Result},
    space::Space,
};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::contender::{Contender, Verb};
use crate::row::{Row, Unit};
use crate::stand::{Bench, POOL_V4};
use crate::stats::Summary;

const BLOCK: usize = 128 << 10;
const MESSAGE: usize = 64;
/// What a client says first: how it wants to be served. An echo comes from a thread on any core, or on one that is told.
const SINK: u8 = b's';
const ECHO: u8 = b'e';
const ECHO_HERE: u8 = b'h';
const ECHO_THERE: u8 = b't';
/// The core of the clients that are kept on one, and of a server that is kept on another.
const HERE: usize = 0;
const THERE: usize = 1;
/// A connection or an answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two places and the second one's address.
struct Pair {
    name: &'static str,
    from: Space,
    to: Space,
    at: IpAddr,
}

/// Same node: ours, the reference bridge, two namespaces on one veth. Two nodes: ours, and the nodes themselves.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = same_node(bench, true)?;
    rows.extend(same_node(bench, false)?);
    let cluster = across(bench)?;
    let [one, other] = [cluster.pod("a")?, cluster.pod("b")?];
    let nodes = [1, 2].map(|number| cluster.node(number).machine.space.clone());
    let [from, to] = nodes;
    let pods =
        Pair { name: "ferrule", from: one.space.clone(), to: other.space.clone(), at: other.at.v4.into() };
    // The second node's own end of the tunnel: the same path without the pods.
    let tunnel = Pair { name: "nodes", from, to, at: IpAddr::from([10, 244, 2, 0]) };
    rows.extend(measure(bench, &[pods, tunnel])?.rows("across VXLAN", "", "the nodes' own ends"));
    Ok(rows)
}

/// Whether a node masquerades what its pods send to the world makes the kernel track all connections, those between pods too, with
/// a bridge as well (`bridge-nf-call-iptables`, which is on). So either both do, or neither.
fn same_node(bench: &Bench, masquerading: bool) -> Result<Vec<Row>> {
    let (stand, bridge, place) = if masquerading {
        (bench.stand("traffic")?, Contender::peer("bridge", 1)?.masquerading(), "same node")
    } else {
        let stand = bench.stand_with("plain", "masquerade = false\n")?;
        (stand, Contender::peer("bridge", 1)?, "same node, nothing masqueraded")
    };
    let ours = Contender::ferrule(&bench.install, &stand.node(1).machine.space, POOL_V4)?;
    let mut seats = Vec::new();
    let mut pairs = Vec::new();
    for contender in [&ours, &bridge] {
        let two = contender.seats(2)?;
        for seat in &two {
            contender.call(Verb::Add, seat)?;
        }
        let [from, to] = [&two[0], &two[1]].map(|seat| seat.sandbox.space.clone());
        pairs.push(Pair { name: contender.name, at: address(&to)?, from, to });
        seats.push(two);
    }
    pairs.push(bare_pair()?);
    let rows = measure(bench, &pairs)?.rows(place, "bridge", "one veth");
    for (contender, seats) in [&ours, &bridge].into_iter().zip(seats) {
        for seat in seats {
            contender.call(Verb::Del, &seat)?;
            seat.sandbox.remove(&contender.node)?;
        }
    }
    Ok(rows)
}

/// Two nodes with a router between them and a pod on each.
fn across(bench: &Bench) -> Result<Cluster> {
    let mut cluster = bench.cluster("vxlan", Backend::Vxlan, 2)?;
    cluster.start()?;
    cluster.attach(1, "a")?;
    cluster.attach(2, "b")?;
    Ok(cluster)
}

fn bare_pair() -> Result<Pair> {
    let [from, to] = [Space::network("left")?, Space::network("right")?];
    let batch = format!(
        "link set lo up\nlink add eth0 type veth peer name eth0 netns {}\naddr add 10.249.0.1/24 dev eth0\nlink set eth0 up\n",
        to.net_path().display()
    );
    feed(&from, "ip -batch -", &batch)?;
    feed(&to, "ip -batch -", "link set lo up\naddr add 10.249.0.2/24 dev eth0\nlink set eth0 up\n")?;
    Ok(Pair { name: "veth", from, to, at: IpAddr::from([10, 249, 0, 2]) })
}

fn address(pod: &Space) -> Result<IpAddr> {
    let shown = json(pod, "ip -j -4 addr show dev eth0")?;
    let text = shown[0]["addr_info"][0]["local"].as_str().unwrap_or_default();
    text.parse().map_err(|error| LabError::parse("a pod's address", &error))
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Bits a second of one TCP stream.
    Stream,
    /// Seconds until an echo is back, with both threads on one core.
    OneCore,
    /// The same with each thread on a core of its own.
    TwoCores,
    /// TCP connections a second.
    Connections,
}

impl Kind {
    /// One turn's samples.
    fn take(self, at: SocketAddr) -> io::Result<Vec<f64>> {
        match self {
            Kind::Stream => throughput(at, 100).map(|sample| vec![sample]),
            Kind::OneCore => latencies(at, ECHO_HERE, 250),
            Kind::TwoCores => latencies(at, ECHO_THERE, 250),
            Kind::Connections => connections(at, 125).map(|sample| vec![sample]),
        }
    }

    fn name(self) -> (&'static str, Unit) {
        match self {
            Kind::Stream => ("TCP, one stream", Unit::BitsPerSecond),
            Kind::OneCore => ("64 bytes and their echo, on one core", Unit::Time),
            Kind::TwoCores => ("64 bytes and their echo, on two cores", Unit::Time),
            Kind::Connections => ("TCP connections", Unit::PerSecond),
        }
    }
}

/// The samples of each turn.
type Samples = BTreeMap<Kind, Vec<Vec<f64>>>;

/// The samples of each pair, ours first.
struct Traffic(Vec<Samples>);

fn measure(bench: &Bench, pairs: &[Pair]) -> Result<Traffic> {
    let mut samples: Vec<Samples> = pairs.iter().map(|_| Samples::default()).collect();
    let servers = pairs.iter().map(Server::start).collect::<Result<Vec<_>>>()?;
    for pair in pairs {
        // Connections that have ended keep their port for a minute.
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        pair.from.enter(|| fs::write(ports, "1024 65000"))?.context(|| ports)?;
    }
    // Short turns: the machine's own pace changes within seconds, and everybody is to have a part of each.
    for round in 0..bench.times(100, 4) {
        for (kind, turns) in
            [(Kind::Stream, 1), (Kind::OneCore, 4), (Kind::TwoCores, 8), (Kind::Connections, 2)]
        {
            let measured = bench.calm(|| {
                let mut measured = Vec::new();
                for place in (0..turns).flat_map(|turn| (0..pairs.len()).map(move |place| place + turn)) {
                    let which = (place + round) % pairs.len();
                    let (pair, at) = (&pairs[which], servers[which].at);
                    let taken = pair.from.enter(|| kind.take(at))?;
                    let taken = taken.context(|| format!("traffic of {} to {at}", pair.name))?;
                    measured.push((which, taken));
                }
                Ok(measured)
            })?;
            for (which, taken) in measured {
                samples[which].entry(kind).or_default().push(taken);
            }
        }
    }
    Ok(Traffic(samples))
}

impl Traffic {
    /// The pairs in their order: ours, the peer's if there is one, the floor.
    fn rows(&self, place: &str, peer: &str, floor: &str) -> Vec<Row> {
        let row = |kind: Kind| {
            let (what, unit) = kind.name();
            let turns = |which: usize| self.0[which].get(&kind).map_or(&[][..], Vec::as_slice);
            let summary =
                |which: usize| Summary::of(&turns(which).concat()).unwrap_or(Summary::single(f64::NAN));
            let mut row = Row::new(format!("pod to pod, {place}: {what}"), unit, summary(0));
            if unit == Unit::Time {
                row = row.with_tail();
            }
            if peer.is_empty() {
                return row.floor(floor, summary(1));
            }
            row = row.peer(peer, summary(1)).floor(floor, summary(2)).by_turns(turns(0), turns(1));
            match kind {
                // On two cores the slowest answers tell of how a core is woken.
                Kind::OneCore => row.at_most_peer(1.0).p99_at_most_peer(1.0),
                Kind::TwoCores => row.at_most_peer(1.0),
                Kind::Stream | Kind::Connections => row.at_least_peer(1.0),
            }
        };
        [Kind::Stream, Kind::OneCore, Kind::TwoCores, Kind::Connections].map(row).into()
    }
}

/// A server that lives until the last use of it; its threads stay in the pod.
struct Server {
    at: SocketAddr,
}

impl Server {
    fn start(pair: &Pair) -> Result<Server> {
        let at = SocketAddr::new(pair.at, 7777);
        let listener = pair.to.enter(|| TcpListener::bind(at))?.context(|| format!("listening on {at}"))?;
        // One connection after the other, as they are measured. It ends with the program.
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that went away is judged at the client.
                let _ = stream.and_then(serve);
            }
        });
        Ok(Server { at })
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    match kind[0] {
        ECHO_HERE => on_core(HERE, || transfer(stream, true)),
        ECHO_THERE => on_core(THERE, || transfer(stream, true)),
        kind => transfer(stream, kind == ECHO),
    }
}

/// Takes all that comes, and gives it back if that is wanted.
fn transfer(mut stream: TcpStream, echo: bool) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        if echo {
            stream.write_all(&buffer[..length])?;
        }
    }
}

fn connect(at: SocketAddr, kind: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

/// Bits a second of one stream, until the other side has taken all of it.
fn throughput(at: SocketAddr, millis: usize) -> io::Result<f64> {
    let mut stream = connect(at, SINK)?;
    let (block, start) = (vec![0x5a; BLOCK], Instant::now());
    let mut sent = 0;
    while start.elapsed() < Duration::from_millis(millis as u64) {
        stream.write_all(&block)?;
        sent += block.len();
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(sent as f64 * 8.0 / start.elapsed().as_secs_f64())
}

/// Seconds from request to answer, one after the other on one connection from a core of the client's own.
fn latencies(at: SocketAddr, kind: u8, count: usize) -> io::Result<Vec<f64>> {
    on_core(HERE, || {
        let mut stream = connect(at, kind)?;
        let (request, mut answer) = ([0x5a; MESSAGE], [0; MESSAGE]);
        let mut exchange = || {
            let start = Instant::now();
            stream.write_all(&request)?;
            stream.read_exact(&mut answer)?;
            Ok(start.elapsed().as_secs_f64())
        };
        (0..count).map(|_| exchange()).collect()
    })
}

/// Does something with this thread on one of the cores that it may use, counted from 0.
fn on_core<T>(which: usize, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(cores.nth(which).ok_or_else(|| io::Error::other("there are not as many cores"))?)?;
    sched_setaffinity(this, &one)?;
    let done = act();
    sched_setaffinity(this, &allowed)?;
    done
}

/// Connections a second: each is made, asked one thing, and closed, before the next.
fn connections(at: SocketAddr, count: usize) -> io::Result<f64> {
    let start = Instant::now();
    for _ in 0..count {
        let mut stream = connect(at, ECHO)?;
        stream.write_all(&[0x5a; MESSAGE])?;
        stream.read_exact(&mut [0; MESSAGE])?;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
