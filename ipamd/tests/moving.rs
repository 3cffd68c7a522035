//! Moving in from host-local and back out again: Debian's own bridge and host-local before and after, pods that are
//! network namespaces, and the real daemon in between.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test: what fails is to be seen"
)]

use crate::common::{Place, allocate, attachment, leases};
use ferrule_wire::{Attachment, Lease, Release};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

const PLUGINS: &str = "/usr/lib/cni";
const POOL: &str = "[[ipam.pool]]\nname = \"node\"\nsubnets = [\"10.244.1.0/24\", \"fd00:1::/64\"]\n";
const RESERVED: &str = "reserved = [\"10.244.1.1\", \"fd00:1::1\"]\n";

/// Runs the rest of the test as on a node of its own: process, network and mount namespaces in which nothing else
/// lives. `true` inside.
fn on_a_node(test: &str) -> bool {
    const INSIDE: &str = "FERRULE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        sh("mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up");
        return true;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--"]);
    command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("moving::{test}"), "--nocapture"])
        .env(INSIDE, "1");
    let status = command.status().unwrap_or_else(|error| panic!("unshare: {error}; type tests/setup"));
    assert!(status.success(), "{test}: {status}");
    false
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", text(&output));
    text(&output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// A node whose pods are on bridge and host-local.
struct Old {
    place: Place,
    networks: PathBuf,
}

impl Old {
    fn new(config: &str) -> Self {
        assert!(
            Path::new(PLUGINS).join("host-local").exists(),
            "{PLUGINS}/host-local is missing: type tests/setup"
        );
        let place = Place::new(config);
        let networks = place.dir.path().join("cni/networks");
        Self { place, networks }
    }

    fn plugin(&self, verb: &str, container_id: &str, netns: &str) -> Value {
        let ranges = json!([[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:1::/64" }]]);
        let ipam = json!({ "type": "host-local", "dataDir": self.networks, "ranges": ranges });
        let config = json!({
            "cniVersion": "0.4.0", "name": "cbr0", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam,
        });
        let mut command = Command::new(Path::new(PLUGINS).join("bridge"));
        command.env_clear().envs([
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container_id),
            ("CNI_NETNS", netns),
        ]);
        command.envs([
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", PLUGINS),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{verb} {container_id}: {}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The addresses of a new pod.
    fn add(&self, container_id: &str, netns: &str) -> [String; 2] {
        let result = self.plugin("ADD", container_id, netns);
        let address = |at: usize| {
            let with_length = result["ips"][at]["address"].as_str().unwrap();
            with_length.split('/').next().unwrap().to_owned()
        };
        [address(0), address(1)]
    }

    /// What host-local counts as taken.
    fn taken(&self) -> BTreeSet<String> {
        let files = fs::read_dir(self.networks.join("cbr0")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "lock" && !name.starts_with("last_reserved_ip")).collect()
    }

    fn command(&self, verb: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipamd"));
        command.arg("--config").arg(self.place.dir.path().join("ferrule.toml"));
        command.arg("--runtime-dir").arg(self.place.runtime_dir());
        command.args([verb, "--as", "pods", "--host-local"]).arg(&self.networks).args(more).output().unwrap()
    }

    /// The last line of what a command that works says.
    fn moves(&self, verb: &str, more: &[&str]) -> String {
        let output = self.command(verb, more);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8_lossy(&output.stdout).lines().last().unwrap().to_owned()
    }

    fn configure(&self, config: &str) {
        fs::write(self.place.dir.path().join("ferrule.toml"), config).unwrap();
    }
}

/// A pod that only a process keeps: a network namespace without a file.
struct Unnamed(Child);

impl Unnamed {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "--", "sleep", "infinity"]).spawn().unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", child.id());
        crate::common::until("it has a namespace of its own", || {
            fs::read_link(&theirs).is_ok_and(|link| link != own)
        });
        Self(child)
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As libcni keeps it beside host-local's directory.
fn cache(old: &Old, container_id: &str) {
    let results = old.networks.parent().unwrap().join("results");
    fs::create_dir_all(&results).unwrap();
    let arguments = json!([["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"], ["IgnoreUnknown", "1"]]);
    let cached = json!({
        "kind": "cniCacheV1", "containerId": container_id, "ifName": "eth0", "networkName": "cbr0", "cniArgs": arguments,
    });
    fs::write(results.join(format!("cbr0-{container_id}-eth0")), cached.to_string()).unwrap();
}

/// The pods of the story: those with a name have a namespace's file, the one without has only a process.
struct Pods {
    a: [String; 2],
    c: [String; 2],
    unnamed: [String; 2],
    keeper: Unnamed,
}

impl Pods {
    /// Started on bridge and host-local. One more, b, ends without a DEL.
    fn start(old: &Old) -> Self {
        sh("for pod in a b c d; do ip netns add $pod; done");
        let a = old.add("a", "/run/netns/a");
        old.add("b", "/run/netns/b");
        let c = old.add("c", "/run/netns/c");
        let keeper = Unnamed::new();
        let unnamed = old.add("u", &keeper.netns());
        cache(old, "a");
        sh("ip netns del b");
        Self { a, c, unnamed, keeper }
    }

    fn are_reached(&self) {
        assert!(Path::new(&self.keeper.netns()).exists());
        for address in [&self.a[0], &self.unnamed[0]] {
            sh(&format!("ping -c 1 -W 5 {address}"));
        }
    }
}

fn moves_in(old: &Old, pods: &Pods) {
    let before = old.taken();
    assert_eq!(before.len(), 8);
    // The bridge has an address that the pool would give to a pod.
    let refused = old.command("import", &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused);
    assert!(said.contains("10.244.1.1 is an address of this node") && said.contains("`reserved`"), "{said}");
    old.configure(&format!("{POOL}{RESERVED}"));

    assert_eq!(
        old.moves("import", &["--dry-run"]),
        "3 moved, 0 there already, 1 left out, 0 left as they are (nothing was changed: --dry-run)"
    );
    let begun = Instant::now();
    assert_eq!(old.moves("import", &[]), "3 moved, 0 there already, 1 left out, 0 left as they are");
    println!("an import took {:?}", begun.elapsed());
    let again = old.moves("import", &["--network", "cbr0"]);
    assert_eq!(again, "0 moved, 3 there already, 1 left out, 0 left as they are");
    assert_eq!(old.taken(), before, "host-local's files are left as they are");
    pods.are_reached();
}

/// The addresses of a pod that came under the daemon; c went.
fn lives(old: &Old, pods: &Pods) -> [String; 2] {
    let daemon = old.place.start();
    let mut client = old.place.client();
    let running = old.command("import", &[]);
    assert!(
        !running.status.success() && text(&running).contains("another ipamd serves"),
        "{}",
        text(&running)
    );
    let found = leases(&mut client);
    let of = |id: &str| found.iter().find(|lease| lease.attachment == attachment(id)).unwrap();
    assert_eq!(addresses(of("a")), pods.a);
    assert_eq!(of("a").pod.as_ref().unwrap().to_string(), "shop/web-0");
    assert_eq!((of("a").netns.as_deref(), of("u").netns.as_deref()), (Some("/run/netns/a"), None));
    assert_eq!((of("a").pool.as_str(), found.len()), ("node", 3));

    let new = addresses(&client.call(&allocate("new")).unwrap().lease);
    let taken = [&pods.a, &pods.c, &pods.unnamed];
    assert!(taken.into_iter().flatten().all(|address| !new.contains(address)), "{new:?}");
    sh("ip netns del c");
    assert_eq!(client.call(&Release { attachment: attachment("c") }).unwrap().released.len(), 2);
    assert!(daemon.stop().success());
    new
}

fn addresses(lease: &Lease) -> [String; 2] {
    let addresses: Vec<_> = lease.addresses.iter().map(|address| address.ip().to_string()).collect();
    addresses.try_into().unwrap()
}

fn moves_out(old: &Old, pods: &Pods, new: &[String; 2]) {
    let before = old.taken();
    assert!(old.moves("export", &["--dry-run"]).contains("--dry-run"));
    assert_eq!(old.taken(), before);
    let summary = old.moves("export", &[]);
    assert!(summary.starts_with("1 moved, 2 there already, "), "{summary}");
    let held: BTreeSet<String> = [&pods.a, &pods.unnamed, new].into_iter().flatten().cloned().collect();
    assert_eq!(old.taken(), held);
    assert_eq!(fs::read_to_string(old.networks.join("cbr0").join(&new[0])).unwrap(), "new\r\neth0");

    // host-local goes on: no address twice, and the DEL of a pod that lived through all this frees its own.
    let given = old.add("d", "/run/netns/d");
    assert!(given.iter().all(|address| !held.contains(address)), "{given:?}");
    println!("host-local gave {given:?} after the way back; {:?} were free again", pods.c);
    pods.are_reached();
    old.plugin("DEL", "a", "/run/netns/a");
    assert!(pods.a.iter().all(|address| !old.taken().contains(address)));
}

#[test]
fn a_node_moves_in_from_host_local_and_back_out_without_a_pod_noticing() {
    if on_a_node("a_node_moves_in_from_host_local_and_back_out_without_a_pod_noticing") {
        let old = Old::new(POOL);
        let pods = Pods::start(&old);
        moves_in(&old, &pods);
        let new = lives(&old, &pods);
        moves_out(&old, &pods, &new);
    }
}

/// The user that a unit would run as; an ordinary user's namespace has but one.
fn a_user() -> u32 {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    if map.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap() > 64_123 { 64_123 } else { 0 }
}

#[test]
fn what_root_moves_in_the_daemon_s_user_can_use() {
    if !on_a_node("what_root_moves_in_the_daemon_s_user_can_use") {
        return;
    }
    let old = Old::new(&format!("{POOL}{RESERVED}"));
    let runtime_dir = old.place.runtime_dir();
    sh(&format!("chmod 755 {}", old.place.dir.path().display()));
    chown(&runtime_dir, Some(a_user()), Some(a_user())).unwrap();
    sh("ip netns add a");
    let [a, _] = old.add("a", "/run/netns/a");
    assert_eq!(old.moves("import", &[]), "1 moved, 0 there already, 0 left out, 0 left as they are");
    for file in sh(&format!("find {}", runtime_dir.display())).lines() {
        assert_eq!(fs::metadata(file).unwrap().uid(), a_user(), "{file}");
    }
    let mut command = old.place.command();
    let mut daemon = command.uid(a_user()).gid(a_user()).spawn().unwrap();
    let found = leases(&mut old.place.client());
    let key = Attachment { network: "pods".into(), container_id: "a".into(), ifname: "eth0".into() };
    assert_eq!((found[0].attachment.clone(), found[0].addresses[0].ip().to_string()), (key, a));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
