//! A node for the tests, made of namespaces: two pods on it, another node with pods, and a client outside of the cluster.
//!
//! ```text
//!   outside 192.0.2.2 ── eth0 192.0.2.1 │ node │ uplink 198.18.0.1 ── 198.18.0.2 other node: pods 10.244.2.x
//!                                       │      ├── fer1 ── pod 10.244.1.5
//!                                       │      └── fer2 ── pod 10.244.1.6
//! ```
//!
//! The other node has no way to the client but through this node, and no way to Services. What it answers to comes back
//! here only if this node is where the packet seemed to come from.

#![allow(dead_code, reason = "each test takes what it needs")]

#[path = "../../../tests/wait.rs"]
pub(crate) mod wait;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ferrule_netlink::netns::{self, Netns};

pub(crate) use wait::within;

/// A limit for what has no promised time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long a client waits for an answer that never comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);
/// How long it waits for one that comes.
const ANSWER: Duration = Duration::from_secs(10);

/// The port of every endpoint.
pub(crate) const PORT: u16 = 8080;
/// The pods of this node and of the other one, with IPv4 and IPv6.
pub(crate) const PODS: [[&str; 2]; 2] =
    [["10.244.1.5", "fd00:10:244:1::5"], ["10.244.1.6", "fd00:10:244:1::6"]];

/// A network namespace with a name for messages.
pub(crate) struct Space {
    pub(crate) name: &'static str,
    netns: Netns,
}

impl Space {
    fn new(name: &'static str) -> Self {
        let space = Self { name, netns: netns::make().unwrap() };
        // No address is tentative, so the first packet finds its neighbour at once.
        space.inside(|| ferrule_netlink::sysctl::set("net/ipv6/conf/default/accept_dad", "0")).unwrap();
        space.ip("link set lo up");
        space
    }

    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.netns.run(act).unwrap()
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_fd().as_raw_fd())
    }

    pub(crate) fn command(&self, program: &str, arguments: &str) -> Output {
        let run = || Command::new(program).args(arguments.split_whitespace()).stdin(Stdio::null()).output();
        self.inside(run)
            .unwrap_or_else(|error| panic!("{program}: {error}; install iproute2, iputils-ping and nftables"))
    }

    pub(crate) fn run(&self, program: &str, arguments: &str) -> String {
        let output = self.command(program, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {program} {arguments}: {errors}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    /// What a TCP connection to there hears: who answers, and whom it sees.
    pub(crate) fn tcp(&self, to: &str) -> Result<Heard, ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| tcp(to)).map_err(|error| error.kind())
    }

    /// The same by UDP.
    pub(crate) fn udp(&self, to: &str) -> Result<Heard, ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| ask(&socket(to)?)).map_err(|error| error.kind())
    }

    /// A UDP socket that has been connected, for a client that keeps its port.
    pub(crate) fn udp_client(&self, to: &str) -> UdpSocket {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| socket(to)).unwrap()
    }

    /// A TCP connection that stays open.
    pub(crate) fn connect(&self, to: &str) -> TcpStream {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| connected(to)).unwrap()
    }

    /// Who answers how often, in so many UDP connections.
    pub(crate) fn spread(&self, to: &str, count: usize) -> std::collections::BTreeMap<String, usize> {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| {
            let mut spread = std::collections::BTreeMap::new();
            for _ in 0..count {
                let heard = ask(&socket(to).unwrap());
                let heard = heard.unwrap_or_else(|error| panic!("{to}: {error}, after {spread:?}"));
                *spread.entry(heard.from).or_default() += 1;
            }
            spread
        })
    }

    /// Serves TCP and UDP at this address and [`PORT`] until the test ends.
    pub(crate) fn serve(&self, address: &str) {
        let at = SocketAddr::new(address.parse().unwrap(), PORT);
        let name = address.to_owned();
        let (tcp, udp) = self.inside(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        let answer = name.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming().map_while(Result::ok) {
                let answer = answer.clone();
                std::thread::spawn(move || talk(stream, &answer));
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, client)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} {}", client.ip()).as_bytes(), client);
            }
        });
    }
}

/// Answers every byte with a line.
fn talk(mut stream: TcpStream, name: &str) {
    let Ok(client) = stream.peer_addr() else { return };
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        if stream.write_all(format!("{name} {}\n", client.ip()).as_bytes()).is_err() {
            return;
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The endpoint's address.
    pub(crate) from: String,
    /// The client's address, as the endpoint sees it.
    pub(crate) client: String,
}

impl Heard {
    fn of(text: &str) -> Self {
        let (from, client) = text.trim().split_once(' ').unwrap();
        Self { from: from.to_owned(), client: client.to_owned() }
    }
}

fn connected(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, ANSWER.min(SILENCE * 4))?;
    stream.set_read_timeout(Some(ANSWER))?;
    Ok(stream)
}

fn tcp(to: SocketAddr) -> std::io::Result<Heard> {
    let mut stream = connected(to)?;
    say(&mut stream)
}

/// Asks over an open connection.
pub(crate) fn say(stream: &mut TcpStream) -> std::io::Result<Heard> {
    stream.write_all(b"?")?;
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with('\n') {
        stream.read_exact(&mut byte)?;
        text.push(char::from(byte[0]));
    }
    Ok(Heard::of(&text))
}

fn socket(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

/// Asks by a UDP socket.
pub(crate) fn ask(socket: &UdpSocket) -> std::io::Result<Heard> {
    socket.send(b"?")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    Ok(Heard::of(&String::from_utf8_lossy(&buffer[..length])))
}

/// All namespaces, and a directory.
pub(crate) struct Lab {
    pub(crate) node: Space,
    pub(crate) pods: [Space; 2],
    pub(crate) other: Space,
    pub(crate) outside: Space,
    directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let node = Space::new("node");
        let lab = Self {
            pods: [Space::new("pod 1"), Space::new("pod 2")],
            other: Space::new("other"),
            outside: Space::new("outside"),
            directory: tempfile::tempdir().unwrap(),
            node,
        };
        lab.wire();
        lab.configure("");
        fs::create_dir(lab.path("run")).unwrap();
        lab.tell_own_pods(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        for ([v4, v6], pod) in PODS.iter().zip(&lab.pods) {
            pod.serve(v4);
            pod.serve(v6);
        }
        lab
    }

    fn wire(&self) {
        let Self { node, pods, other, outside, .. } = self;
        // Every refusal is told, not only one a second.
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ] {
            node.inside(|| ferrule_netlink::sysctl::set(name, value)).unwrap();
        }
        for (link, space, v4, v6) in [
            ("eth0", outside, ["192.0.2.1/24", "192.0.2.2/24"], ["2001:db8::1/64", "2001:db8::2/64"]),
            ("uplink", other, ["198.18.0.1/24", "198.18.0.2/24"], ["2001:db8:18::1/64", "2001:db8:18::2/64"]),
        ] {
            node.ip(&format!("link add {link} type veth peer name eth0 netns {}", space.path()));
            node.ip(&format!("addr add {} dev {link}", v4[0]));
            node.ip(&format!("addr add {} dev {link} nodad", v6[0]));
            node.ip(&format!("link set {link} up"));
            space.ip(&format!("addr add {} dev eth0", v4[1]));
            space.ip(&format!("addr add {} dev eth0 nodad", v6[1]));
            space.ip("link set eth0 up");
        }
        outside.ip("route add default via 192.0.2.1");
        outside.ip("-6 route add default via 2001:db8::1");
        // The way out of the cluster; without one the node itself could not send to a cluster IP.
        node.ip("route add default via 192.0.2.2");
        node.ip("-6 route add default via 2001:db8::2");
        other.ip("route add 10.244.1.0/24 via 198.18.0.1");
        other.ip("-6 route add fd00:10:244:1::/64 via 2001:db8:18::1");
        node.ip("route add 10.244.2.0/24 via 198.18.0.2");
        node.ip("-6 route add fd00:10:244:2::/64 via 2001:db8:18::2");
        for (number, ([v4, v6], pod)) in (1..).zip(PODS.iter().zip(pods)) {
            let link = format!("fer{number}");
            node.ip(&format!("link add {link} type veth peer name eth0 netns {}", pod.path()));
            node.ip(&format!("addr add 169.254.1.1/32 dev {link}"));
            node.ip(&format!("addr add fe80::1/64 dev {link} nodad"));
            node.ip(&format!("link set {link} up"));
            pod.ip(&format!("addr add {v4}/32 dev eth0"));
            pod.ip(&format!("addr add {v6}/128 dev eth0 nodad"));
            pod.ip("link set eth0 up");
            pod.ip("route add 169.254.1.1 dev eth0");
            pod.ip(&format!("route add default via 169.254.1.1 src {v4}"));
            pod.ip(&format!("-6 route add default via fe80::1 dev eth0 src {v6}"));
            node.ip(&format!("route add {v4} dev {link}"));
            node.ip(&format!("-6 route add {v6} dev {link}"));
        }
    }

    /// Makes pods of the other node with these last numbers; they serve.
    pub(crate) fn add_others(&self, numbers: impl IntoIterator<Item = u8>) {
        for number in numbers {
            let (v4, v6) = (other4(number), other6(number));
            self.other.ip(&format!("addr add {v4}/32 dev lo"));
            self.other.ip(&format!("addr add {v6}/128 dev lo nodad"));
            self.other.serve(&v4);
            self.other.serve(&v6);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds to the configuration.
    pub(crate) fn configure(&self, more: &str) {
        let path = self.path("services.toml");
        let text = format!(
            "[node]\nname = \"n1\"\n[cluster]\npod_cidrs = [\"10.244.0.0/16\", \"fd00:10:244::/48\"]\n\
             service_cidrs = [\"10.96.0.0/16\", \"fd00:10:96::/112\"]\n[services]\npath = \"{}\"\n{more}",
            path.display()
        );
        fs::write(self.path("ferrule.toml"), text).unwrap();
    }

    /// Writes `node.json`, as `routed` does.
    pub(crate) fn tell_own_pods(&self, networks: &[&str]) {
        let networks: Vec<_> = networks.iter().map(|network| format!("\"{network}\"")).collect();
        let text = format!(
            "{{\"node\":\"n1\",\"pod_cidrs\":[{}],\"cluster_cidrs\":[],\"mtu\":1450}}",
            networks.join(",")
        );
        fs::write(self.path("node.new"), text).unwrap();
        fs::rename(self.path("node.new"), self.path("run/node.json")).unwrap();
    }

    /// Writes the services file.
    pub(crate) fn write(&self, services: &[Service]) {
        let text: String = services.iter().map(Service::text).collect();
        fs::write(self.path("services.new"), text).unwrap();
        fs::rename(self.path("services.new"), self.path("services.toml")).unwrap();
    }

    pub(crate) fn daemon_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxyd"));
        command.args([
            "--config".into(),
            self.path("ferrule.toml"),
            "--runtime-dir".into(),
            self.path("run"),
        ]);
        command
    }

    /// Starts the daemon with these Services, and waits until the kernel has them.
    pub(crate) fn start(&self, services: &[Service]) -> Daemon {
        self.write(services);
        self.start_again()
    }

    /// Starts the daemon with the Services as they are.
    pub(crate) fn start_again(&self) -> Daemon {
        let socket = self.path("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = self.path("log");
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.daemon_command();
        command.env("NOTIFY_SOCKET", &socket).stderr(file);
        let child = self.node.inside(|| command.spawn()).unwrap();
        let daemon = Daemon { child, log };
        let mut buffer = [0; 4096];
        loop {
            match notify.recv(&mut buffer) {
                Ok(length) if buffer[..length].starts_with(b"READY=1") => return daemon,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("not ready: {error}:\n{}", daemon.log()),
            }
        }
    }
}

pub(crate) fn other4(number: u8) -> String {
    format!("10.244.2.{number}")
}

pub(crate) fn other6(number: u8) -> String {
    format!("fd00:10:244:2::{number}")
}

/// A running daemon. It is killed when the value is dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Service, as the file has it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    name: String,
    keys: String,
    endpoints: Vec<String>,
    node_port: Option<u16>,
}

impl Service {
    /// A Service at 10.96.0.N and `fd00:10:96::N`, port 80, TCP and UDP.
    pub(crate) fn new(number: u8) -> Self {
        let keys = format!("cluster_ips = [\"10.96.0.{number}\", \"fd00:10:96::{number}\"]\n");
        Self { name: format!("default/s{number}"), keys, endpoints: Vec::new(), node_port: None }
    }

    /// Adds keys.
    pub(crate) fn with(mut self, keys: &str) -> Self {
        self.keys.push_str(keys);
        self.keys.push('\n');
        self
    }

    pub(crate) fn node_port(mut self, port: u16) -> Self {
        self.node_port = Some(port);
        self
    }

    /// Adds endpoints.
    pub(crate) fn to<S: AsRef<str>>(mut self, endpoints: impl IntoIterator<Item = S>) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(|endpoint| endpoint.as_ref().to_owned()));
        self
    }

    /// Adds a pod of this node.
    pub(crate) fn with_pod(self, number: usize) -> Self {
        self.to(PODS[number])
    }

    /// Adds pods of the other node.
    pub(crate) fn with_others(self, numbers: impl IntoIterator<Item = u8>) -> Self {
        let both = numbers.into_iter().flat_map(|number| [other4(number), other6(number)]);
        self.to(both)
    }

    fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("[[service]]\nname = \"{}\"\n{}", self.name, self.keys);
        for protocol in ["TCP", "UDP"] {
            let _ = writeln!(
                text,
                "[[service.port]]\nname = \"{}\"\nprotocol = \"{protocol}\"\nport = 80\ntarget_port = {PORT}",
                protocol.to_lowercase()
            );
            if let Some(port) = self.node_port {
                let _ = writeln!(text, "node_port = {port}");
            }
        }
        for endpoint in &self.endpoints {
            let node = if PODS.as_flattened().contains(&endpoint.as_str()) { "n1" } else { "n2" };
            let _ = writeln!(text, "[[service.endpoint]]\naddress = \"{endpoint}\"\nnode = \"{node}\"");
        }
        text
    }
}
