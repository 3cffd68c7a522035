//! A node for the tests: a network namespace with an underlay made of a veth pair, a directory, and the daemon in it.

#![allow(dead_code, reason = "each test takes what it needs")]

#[path = "../../../tests/wait.rs"]
pub(crate) mod wait;

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use ferrule_netlink::netns::{self, Netns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) use wait::within;

/// A limit for what has no promised time: a loaded machine, or an emulated one on it, must not fail a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    netns: Netns,
    pub(crate) directory: tempfile::TempDir,
    /// The node's name is `n` and this number.
    number: u8,
    backend: &'static str,
}

/// A running daemon. It is killed when the value is dropped.
pub(crate) struct Daemon {
    child: Child,
    notify: UnixDatagram,
    log: PathBuf,
}

impl Node {
    /// A single node, with both addresses on a link that leads nowhere.
    pub(crate) fn new(backend: &'static str) -> Self {
        let node = Self::bare(1, backend);
        node.ip("link add eth0 type veth peer name wire");
        node.ip("addr add 192.0.2.1/24 dev eth0");
        node.ip("addr add 2001:db8::1/64 dev eth0 nodad");
        node.ip("link set wire up");
        node.ip("link set eth0 up");
        node
    }

    /// A node without an underlay.
    pub(crate) fn bare(number: u8, backend: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Self { netns: netns::make().unwrap(), directory, number, backend };
        node.write_config();
        node.ip("link set lo up");
        node
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    fn write_config(&self) {
        self.configure_routing("", "");
    }

    /// Adds to `[routing]` and to the rest of the configuration, for the next start.
    pub(crate) fn configure_routing(&self, routing: &str, more: &str) {
        let config = format!(
            "[node]\nname = \"n{}\"\n[routing]\nbackend = \"{}\"\n{routing}[routing.file]\npath = \"{}\"\n{more}",
            self.number,
            self.backend,
            self.path("nodes.toml").display()
        );
        fs::write(self.path("ferrule.toml"), config).unwrap();
    }

    /// Chooses the link for the next start, with the configuration as it is now.
    pub(crate) fn set_interface(&self, interface: &str) {
        let path = self.path("ferrule.toml");
        let text = fs::read_to_string(&path).unwrap();
        let node = format!("[node]\ninterface = \"{interface}\"\n");
        fs::write(path, text.replacen("[node]\n", &node, 1)).unwrap();
    }

    /// Sets the backend for the next start.
    pub(crate) fn set_backend(&mut self, backend: &'static str) {
        self.backend = backend;
        self.write_config();
    }

    /// Adds to the configuration for the next start: keys of `[routing]`, and tables.
    pub(crate) fn configure(&self, more: &str) {
        self.configure_routing("", more);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn is_tunnel(&self) -> bool {
        self.backend != "native"
    }

    /// Writes the nodes file as an editor does: a new file replaces the old one.
    pub(crate) fn write_nodes(&self, numbers: &[u8]) {
        let nodes = numbers.iter().map(|number| {
            format!(
                "[[node]]\nname = \"n{number}\"\naddress = \"192.0.2.{number}\"\naddress6 = \"2001:db8::{number}\"\n\
                 pod_cidrs = [\"10.244.{number}.0/24\", \"fd00:10:244:{number}::/64\"]\n"
            )
        });
        self.write_nodes_text(&nodes.collect::<String>());
    }

    pub(crate) fn write_nodes_text(&self, text: &str) {
        fs::write(self.path("nodes.new"), text).unwrap();
        fs::rename(self.path("nodes.new"), self.path("nodes.toml")).unwrap();
    }

    /// Runs something in the namespace, such as opening a socket.
    pub(crate) fn inside<T>(&self, act: impl FnOnce() -> T) -> T {
        self.netns.run(act).unwrap()
    }

    /// Runs a command in the namespace.
    pub(crate) fn command(&self, program: &str, arguments: &str) -> Output {
        let command =
            || Command::new(program).args(arguments.split_whitespace()).stdin(Stdio::null()).output();
        let output = self.inside(command);
        output.unwrap_or_else(|error| panic!("{program}: {error}; install iproute2 and nftables"))
    }

    /// Runs a command that must succeed. Returns its standard output.
    pub(crate) fn run(&self, program: &str, arguments: &str) -> String {
        let output = self.command(program, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    /// Everything in the kernel that is routed's, as the tools print it, sorted.
    pub(crate) fn state(&self) -> String {
        let mut lines = Vec::new();
        let mut take = |program: &str, arguments: &str| {
            let output = self.command(program, arguments);
            let text = String::from_utf8(output.stdout).unwrap();
            lines.extend(text.lines().map(str::to_owned));
        };
        take("ip", "route show table all proto 70");
        take("ip", "-6 route show table all proto 70");
        take("ip", "nexthop show proto 70");
        take("ip", "-o -d link show type vxlan");
        take("ip", "neigh show nud permanent");
        if self.is_tunnel() {
            take("bridge", "fdb show dev ferrule.1");
            take("ip", "-o addr show dev ferrule.1 scope global");
        }
        take("nft", "--stateless list ruleset");
        // Numbers of links change with the link, and a new IPv6 address is tentative for a moment.
        let plain =
            lines.iter().map(|line| line.split_once(": ferrule.1").map_or(line.as_str(), |(_, rest)| rest));
        let mut plain: Vec<_> = plain.map(|line| line.trim().to_owned()).collect();
        plain.sort();
        plain.join("\n")
    }

    /// Whether pods keep their own address on the way to this one. The masquerade table follows the nodes separately
    /// from the routes, up to a second later.
    pub(crate) fn keeps_source(&self, address: &str) -> bool {
        self.command("nft", &format!("get element inet ferrule keep_source4 {{ {address} }}"))
            .status
            .success()
    }

    pub(crate) fn start(&self) -> Daemon {
        self.start_as(self.daemon_command())
    }

    /// Starts the daemon by a command of the caller.
    pub(crate) fn start_as(&self, mut command: Command) -> Daemon {
        let socket = self.path("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).unwrap();
        // The daemon may run as another user.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = self.path("log");
        let file = fs::File::create(&log).unwrap();
        command.env("NOTIFY_SOCKET", &socket).stderr(file);
        let child = self.netns.run(|| command.spawn()).unwrap().unwrap();
        Daemon { child, notify, log }
    }

    pub(crate) fn cleanup(&self) -> Output {
        let mut command = self.daemon_command();
        self.netns.run(|| command.arg("cleanup").output()).unwrap().unwrap()
    }

    /// The arguments with which the daemon is started.
    pub(crate) fn arguments(&self) -> String {
        let (config, run) = (self.path("ferrule.toml"), self.path("run"));
        format!("--config {} --runtime-dir {}", config.display(), run.display())
    }

    /// The key that the operator is told to write into the nodes file.
    pub(crate) fn wireguard_key(&self) -> String {
        let mut command = self.daemon_command();
        let output = self.netns.run(|| command.arg("wireguard-key").output()).unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The daemon, not started yet.
    pub(crate) fn daemon_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_routed"));
        command.args(self.arguments().split(' '));
        command
    }

    /// Starts `ip monitor` and waits until it listens. [`Listener::heard`] returns what it has told until then.
    pub(crate) fn listen(&self) -> Listener {
        let mut command = Command::new("ip");
        command
            .args(["-o", "monitor", "link", "address", "route", "neigh", "nexthop"])
            .stdout(Stdio::piped());
        let child = self.netns.run(|| command.spawn()).unwrap().unwrap();
        let pid = child.id().to_string();
        // When its socket has groups, it listens.
        let hears = |line: &str| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next() == Some(&pid) && fields.next().is_some_and(|groups| groups != "00000000")
        };
        let is_listening = || {
            let sockets = self.inside(|| fs::read_to_string("/proc/thread-self/net/netlink")).unwrap();
            sockets.lines().any(hears)
        };
        assert!(within(PATIENCE, is_listening).is_some(), "ip monitor does not listen");
        Listener(child)
    }
}

pub(crate) struct Listener(Child);

impl Listener {
    pub(crate) fn heard(mut self) -> String {
        self.0.kill().unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        text
    }
}

impl Daemon {
    /// Waits until the service manager would be told `READY=1`.
    pub(crate) fn wait_until_ready(&self) {
        let mut buffer = [0; 4096];
        loop {
            let length = match self.notify.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("not ready: {error}:\n{}", self.log()),
            };
            if buffer[..length].starts_with(b"READY=1") {
                return;
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        let found = within(PATIENCE, || self.log().contains(text));
        assert!(found.is_some(), "`{text}` is not in the log:\n{}", self.log());
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub(crate) fn signal(mut self, signal: Signal) -> ExitStatus {
        self.send(signal);
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // This fails if the daemon has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
