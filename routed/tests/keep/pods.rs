//! Pods on the lab's node. The plugin itself makes them, with `ipamd` beside it.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ferrule_model::{Attachment, Bucket, IfName, host_veth_name};
use ferrule_netlink::netns::{self, Netns};
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Kernel, Netlink};
use serde_json::{Value, json};

use crate::lab::Node;

/// `ipamd`. It is killed when the value is dropped.
pub(crate) struct Ipamd(Child);

impl Drop for Ipamd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that is built beside `routed`.
fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_routed")).with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace", path.display());
    path
}

impl Ipamd {
    pub(crate) fn start(node: &Node) -> Self {
        let config = node.path("ipamd.toml");
        let pool = "[[ipam.pool]]\nname = \"pods\"\nsubnets = [\"10.244.1.0/24\", \"fd00:10:244:1::/64\"]\n\
                    [ipam]\ncooldown_s = 0\n";
        fs::write(&config, pool).unwrap();
        let mut command = Command::new(program("ipamd"));
        command.arg("--config").arg(config).arg("--runtime-dir").arg(node.path("run"));
        let log = fs::File::create(node.path("ipamd.log")).unwrap();
        Self(node.inside(|| command.env_remove("NOTIFY_SOCKET").stderr(log).spawn()).unwrap())
    }
}

/// A container's namespace on a node.
pub(crate) struct Pod<'a> {
    node: &'a Node,
    pub(crate) id: &'static str,
    pub(crate) netns: Netns,
    /// What the runtime asks for beyond the usual.
    fields: Value,
    pub(crate) addresses: Vec<String>,
}

impl<'a> Pod<'a> {
    /// Adds a pod to the node's network, with these fields of the configuration in addition to the usual ones.
    pub(crate) fn add(node: &'a Node, id: &'static str, fields: Value) -> Self {
        let mut pod = Self { node, id, netns: netns::make().unwrap(), fields, addresses: Vec::new() };
        let added = pod.call("ADD");
        let ips = added["ips"].as_array().unwrap().iter();
        let address = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        pod.addresses = ips.map(address).collect();
        pod
    }

    /// The host's end of its veth pair.
    pub(crate) fn veth(&self) -> String {
        let attachment =
            Attachment { network: "pods".into(), container_id: self.id.into(), ifname: "eth0".into() };
        host_veth_name(&attachment).to_string()
    }

    /// The device that limits what the pod sends.
    pub(crate) fn ifb(&self) -> String {
        self.veth().replace("fer", "fei")
    }

    /// The pod's limits in the kernel: of what it receives, and of what it sends. `None` unless what it sends goes by
    /// its device.
    pub(crate) fn limits(&self) -> Option<(Bucket, Bucket)> {
        let name = |text: String| IfName::new(text).unwrap();
        let look = || {
            let mut kernel = Netlink::open().unwrap();
            let veth = kernel.link(&name(self.veth())).unwrap()?.index;
            let ifb = kernel.link(&name(self.ifb())).unwrap().filter(|ifb| ifb.up)?.index;
            let redirected = kernel.redirect_of(veth).unwrap() == Some(ifb);
            let limits = kernel.limit_of(veth).unwrap().zip(kernel.limit_of(ifb).unwrap());
            limits.filter(|_| redirected)
        };
        self.node.inside(look)
    }

    /// Whether the node has a record of the pod.
    pub(crate) fn is_recorded(&self) -> bool {
        self.node.path("run/attachments").join(self.veth()).exists()
    }

    pub(crate) fn del(&self) {
        self.call("DEL");
    }

    fn call(&self, verb: &str) -> Value {
        let output = self.verb(verb);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{verb}: {text} {}", String::from_utf8_lossy(&output.stderr));
        if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    pub(crate) fn verb(&self, verb: &str) -> Output {
        let run = self.node.path("run");
        let mut config =
            json!({ "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeDir": run });
        config.as_object_mut().unwrap().extend(self.fields.as_object().unwrap().clone());
        let mut command = Command::new(program("ferrule"));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.id)
            .env("CNI_NETNS", format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_fd().as_raw_fd()))
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.node.inside(|| command.spawn()).unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs a command inside the pod.
    pub(crate) fn run(&self, program: &str, arguments: &str) -> Output {
        let run = || Command::new(program).args(arguments.split_whitespace()).output();
        self.netns.run(run).unwrap().unwrap_or_else(|error| panic!("{program}: {error}; see tests/setup"))
    }

    /// Whether the pod gets an answer from the address at once.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        self.run("ping", &format!("-n -c 1 -W 0.1 {address}")).status.success()
    }

    /// Whether it reaches the node by both families.
    pub(crate) fn is_connected(&self) -> bool {
        ["192.0.2.1", "2001:db8::1"].into_iter().all(|address| self.reaches(address))
    }

    /// Accepts TCP connections to this port, in both families.
    pub(crate) fn serve(&self, port: u16) {
        let listener = self.netns.run(|| TcpListener::bind(("::", port))).unwrap().unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
}

/// Whether the node can connect to this port of this address.
pub(crate) fn connects(node: &Node, address: &str, port: u16) -> bool {
    let to = SocketAddr::new(address.parse().unwrap(), port);
    node.inside(|| TcpStream::connect_timeout(&to, Duration::from_millis(100))).is_ok()
}
