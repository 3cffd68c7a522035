//! Debian's etcd for the tests: members on the loopback device of a namespace, and `etcdctl` to look and to meddle.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::within;

const INSTALL: &str = "install etcd-server and etcd-client";
/// A loaded machine takes some seconds to start a member.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a command in the namespace that the test chose.
pub(crate) type Inside<'a> = &'a dyn Fn(&mut Command) -> std::io::Result<Child>;

/// One member. It is killed when the value is dropped.
pub(crate) struct Etcd {
    pub(crate) port: u16,
    /// Where it listens.
    host: &'static str,
    directory: PathBuf,
    options: Vec<String>,
    scheme: &'static str,
    child: Option<Child>,
    /// What `etcdctl` needs beside the endpoint.
    pub(crate) ctl: Vec<String>,
}

impl Etcd {
    /// A single member that is not started yet. Its client and peer ports are `port` and the next one.
    pub(crate) fn new(directory: &Path, port: u16) -> Self {
        let directory = directory.join(format!("etcd-{port}"));
        let host = "127.0.0.1";
        Self { port, host, directory, options: Vec::new(), scheme: "http", child: None, ctl: Vec::new() }
    }

    /// Listens at another address than the loopback device's.
    #[allow(dead_code, reason = "where other nodes ask it")]
    pub(crate) fn at(mut self, host: &'static str) -> Self {
        self.host = host;
        self
    }

    pub(crate) fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    /// Uses TLS. The arguments are for the server and for `etcdctl`.
    pub(crate) fn with_tls(mut self, options: &[&str], ctl: &[&str]) -> Self {
        self.scheme = "https";
        self.ctl = ctl.iter().map(ToString::to_string).collect();
        self.with(options)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    pub(crate) fn peer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port + 1)
    }

    /// Starts the member, in a namespace that `spawn` enters.
    pub(crate) fn launch(&mut self, spawn: Inside<'_>) {
        fs::create_dir_all(&self.directory).unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("log")).unwrap();
        let mut command = Command::new("etcd");
        let (url, peer) = (self.url(), self.peer());
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        if !self.options.iter().any(|option| option == "--initial-cluster") {
            command.arg("--initial-cluster").arg(format!("default={peer}"));
        }
        command.arg("--data-dir").arg(self.directory.join("data")).args(&self.options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(spawn(&mut command).unwrap_or_else(|error| panic!("etcd: {error}; {INSTALL}")));
    }

    pub(crate) fn start(&mut self) {
        self.launch(&Command::spawn);
        self.wait();
    }

    /// Waits until the member answers, in the namespace that it is in.
    pub(crate) fn wait(&self) {
        let answers = || {
            TcpStream::connect((self.host, self.port)).is_ok()
                && self.try_ctl(&["get", "anything"]).status.success()
        };
        assert!(within(LIMIT, answers).is_some(), "{}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]).args(&self.ctl).args(arguments);
        command.output().unwrap_or_else(|error| panic!("etcdctl: {error}; {INSTALL}"))
    }

    /// Runs `etcdctl`, and returns what it prints.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.try_ctl(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of all subnets.
    pub(crate) fn subnets(&self) -> Vec<String> {
        let prefix = "/coreos.com/network/subnets/";
        let keys = self.ctl(&["get", "--prefix", "--keys-only", prefix]);
        keys.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    /// Value, number of the lease and revision of a subnet.
    pub(crate) fn subnet(&self, name: &str) -> Option<(String, i64, i64)> {
        let key = format!("/coreos.com/network/subnets/{name}");
        let fields = self.ctl(&["get", &key, "-w", "fields"]);
        let field = |name: &str| {
            let line = fields.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")));
            line.map(|value| serde_json::from_str::<serde_json::Value>(value).unwrap())
        };
        let number = |name: &str| field(name).unwrap().as_i64().unwrap();
        let value = field("Value")?;
        Some((value.as_str().unwrap().to_owned(), number("Lease"), number("ModRevision")))
    }

    pub(crate) fn put_config(&self, text: &str) {
        self.ctl(&["put", "/coreos.com/network/config", text]);
    }

    /// Writes what a flanneld with this subnet writes.
    pub(crate) fn put(&self, name: &str, last: u8) {
        self.ctl(&["put", &format!("/coreos.com/network/subnets/{name}"), &flannels(last)]);
    }

    pub(crate) fn delete(&self, name: &str) {
        assert_eq!(self.ctl(&["del", &format!("/coreos.com/network/subnets/{name}")]).trim(), "1", "{name}");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The value of the lease of the node at 192.0.2.`last`, as flannel's `LeaseAttrs` becomes JSON.
pub(crate) fn flannels(last: u8) -> String {
    format!(
        "{{\"PublicIP\":\"192.0.2.{last}\",\"PublicIPv6\":null,\"BackendType\":\"vxlan\",\
         \"BackendData\":{{\"VNI\":1,\"VtepMAC\":\"82:4b:b6:00:00:{last:02x}\"}}}}"
    )
}
