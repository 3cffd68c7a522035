//! A node on which a container runtime lives: one node of the lab with Ferrule running by its units, and inside it a place with its
//! own processes, `/etc` and `/var/lib`. Knows no runtime in particular.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    addressing::{self, Backend, Pair},
    cluster::Cluster,
    command::wait_for,
    error::{Context, LabError, Result},
    install::Install,
    ipam::Ipam,
    leftovers::Snapshot,
    ping,
    space::Space,
    topology::Topology,
};

/// How long one command of a runtime may take; then it is killed.
const COMMAND_WITHIN: u32 = 20;
/// How soon something that is over has to be seen to be over.
pub const SOON: Duration = Duration::from_secs(5);
/// How soon the place is there, and how soon it is gone.
const PLACE_WITHIN: Duration = Duration::from_secs(10);

/// What the keeper of the place does: `$1` is the place's control group. It is process 1 of the place: when it ends, the kernel ends
/// everything in it, and it ends when the test does, because it reads from a pipe that the test alone holds.
const KEEPER: &str = r#"
set -e
for name in group ld.so.cache ld.so.conf ld.so.conf.d nsswitch.conf passwd; do
    [ ! -e "/etc/$name" ] || cp -a "/etc/$name" /run/etc/
done
mount --bind /run/etc /etc
for directory in /dev/shm /var/lib /var/tmp; do
    mount -t tmpfs lab "$directory"
done
echo ready
read -r _ || :
set +e
kill -KILL -1
# The directories of version 1's controllers, and of version 2. A process that dies leaves its group a moment later.
for round in {1..200}; do
    find /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1" -depth -type d -exec rmdir {} + 2>/dev/null
    compgen -G "/sys/fs/cgroup/$1" >/dev/null || compgen -G "/sys/fs/cgroup/*/$1" >/dev/null || exit 0
    read -r -t 0.02 _ <><(:)
done
exit 1
"#;

/// A lease as `ipamd` lists it, with everything it says about its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The runtime's id of the container.
    pub container_id: String,
    /// Name of the interface.
    pub ifname: String,
    /// Namespace, name and uid of the pod, where the runtime told them.
    pub pod: Option<[String; 3]>,
    /// Its addresses.
    pub at: Pair,
}

/// The node.
#[derive(Debug)]
pub struct Host {
    /// The one-node cluster it is.
    pub cluster: Cluster,
    /// Its network before the first container.
    pub empty: Snapshot,
    /// The control group below which its runtime puts all containers: an absolute path as runtimes take it.
    pub cgroup: String,
    install: Install,
    keeper: Child,
    dir: PathBuf,
}

impl Host {
    /// Makes the node: `ipamd` and `routed` are ready, the shipped network and plugin are where a runtime looks for them.
    pub fn start(install: &Install, dir: &Path) -> Result<Host> {
        require_root()?;
        let topology = Topology::build(Backend::Native, 1)?;
        let mut cluster = Cluster::prepare(topology, install, dir)?;
        cluster.start()?;
        let space = cluster.nodes[0].machine.space.clone();
        let conflist = install.conf_dir.join("10-ferrule.conflist");
        space.enter(|| furnish(&conflist))??;
        let cgroup = format!("/ferrule-test-{}-{}", std::process::id(), next_number());
        let keeper = keep(&space, &cgroup)?;
        let empty = Snapshot::take(&space)?;
        Ok(Host { cluster, empty, cgroup, install: install.clone(), keeper, dir: dir.to_owned() })
    }

    /// The node's namespaces, without the place inside: where Ferrule's daemons are.
    pub fn space(&self) -> &Space {
        &self.cluster.nodes[0].machine.space
    }

    /// Runs a command line (words apart by blanks) in the place and gives its standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        self.run_words(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The same for words that may have blanks.
    pub fn run_words(&self, words: &[&str]) -> Result<String> {
        let output = self.execute(words)?;
        let written = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(written(&output.stdout));
        }
        Err(LabError::Command {
            command: words.join(" "),
            status: output.status.to_string(),
            output: format!("{} {}", written(&output.stderr), written(&output.stdout)),
        })
    }

    fn execute(&self, words: &[&str]) -> Result<std::process::Output> {
        let mut command = self.command();
        command.args(["timeout", "--kill-after=1", &COMMAND_WITHIN.to_string()]).args(words);
        command.stdin(Stdio::null());
        self.space().enter(|| command.output())?.context(|| format!("running `{}`", words.join(" ")))
    }

    /// Starts a command line in the place; what it writes goes to a file of the node.
    pub fn spawn(&self, line: &str, log: &str) -> Result<Job> {
        let mut command = self.command();
        command.args(line.split_whitespace()).stdin(Stdio::null());
        let log = PathBuf::from(log);
        let child = self.space().enter(|| {
            let out = File::create(&log).context(|| log.display().to_string())?;
            let err = out.try_clone().context(|| "a second descriptor of a log")?;
            command.stdout(out).stderr(err).spawn().context(|| format!("running `{line}`"))
        })??;
        Ok(Job { child, line: line.to_owned(), log })
    }

    /// `nsenter` into the place, with an environment that is the same on every machine.
    fn command(&self) -> Command {
        let of = format!("/proc/{}/ns", self.keeper.id());
        let mut command = Command::new("nsenter");
        // The keeper's parent is asked: it made the namespaces, and lives as long as they do.
        command.args([&format!("--mount={of}/mnt"), &format!("--pid={of}/pid_for_children"), "--"]);
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/run/home"),
            ("TMPDIR", "/run/tmp"),
            ("LC_ALL", "C"),
        ]);
        command
    }

    /// Writes a file of the place, below `/etc` or `/run`.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        // The place's /etc is this directory.
        let path = PathBuf::from(path.strip_prefix("/etc/").map_or(path.to_owned(), |rest| format!("/run/etc/{rest}")));
        self.space().enter(|| {
            fs::create_dir_all(path.parent().unwrap_or(&path))
                .and_then(|()| fs::write(&path, text))
                .context(|| path.display().to_string())
        })?
    }

    /// The end of a file of the node, for a message.
    pub fn tail(&self, path: &Path) -> String {
        self.space().enter(|| crate::service::tail(path)).unwrap_or_default()
    }

    /// All leases, by the addresses' order.
    pub fn leases(&self) -> Result<Vec<Held>> {
        let answers = Ipam::connect(self.space())?.call("List", &json!({}), true)?;
        let all = answers.iter().flat_map(|answer| answer["leases"].as_array().into_iter().flatten());
        let mut all = all.map(held).collect::<Result<Vec<_>>>()?;
        all.sort_by_key(|lease| lease.at.v4);
        Ok(all)
    }

    /// The lease of a container, which there must be exactly one of, out of the node's pod CIDRs.
    pub fn lease_of(&self, container_id: &str) -> Result<Held> {
        let all = self.leases()?;
        let mut own: Vec<&Held> = all.iter().filter(|lease| lease.container_id == container_id).collect();
        let cidrs = addressing::pod_cidrs(1).map(|cidr| cidr.parse::<ipnetwork::IpNetwork>());
        match (own.pop(), own.is_empty()) {
            (Some(lease), true)
                if [lease.at.v4.into(), lease.at.v6.into()]
                    .into_iter()
                    .all(|at: IpAddr| cidrs.iter().flatten().any(|cidr| cidr.contains(at))) =>
            {
                Ok(lease.clone())
            }
            _ => Err(LabError::promise(
                format!("one lease of {container_id} out of {:?}", addressing::pod_cidrs(1)),
                format!("{all:?}"),
            )),
        }
    }

    /// The node reaches a pod by both families.
    pub fn ping(&self, at: Pair) -> Result<()> {
        for at in [at.v4.into(), at.v6.into()] {
            let outcome =
                self.space().enter(|| ping::start(at, None, ping::PATIENCE).and_then(ping::finish))??;
            outcome.map_err(|said| LabError::promise(format!("a reply from {at} to the node"), said))?;
        }
        Ok(())
    }

    /// The node's own addresses, as its pods reach it.
    pub fn address(&self) -> Pair {
        self.cluster.nodes[0].machine.underlay
    }

    /// No lease, and the network is as it was before the first container: links, routes, neighbours, rules.
    pub fn is_empty(&self) -> Result<String> {
        let leases = self.leases()?;
        if !leases.is_empty() {
            return Err(LabError::promise("no lease", format!("{leases:?}")));
        }
        let took = self.empty.wait_same(self.space(), "the network without containers", SOON)?;
        let counts = Ipam::connect(self.space())?.counts4()?;
        Ok(format!("no lease ({} resting), no link, no route; seen after {} ms", counts.resting, took.as_millis()))
    }

    /// Stops `ipamd` as `systemctl stop` does.
    pub fn stop_ipamd(&mut self) -> Result<()> {
        match self.cluster.nodes[0].ipamd.take() {
            Some(service) => service.stop().map(drop),
            None => Err(LabError::promise("ipamd to run", "it does not")),
        }
    }

    /// Starts it again and waits until it is ready.
    pub fn start_ipamd(&mut self) -> Result<()> {
        let service = self.cluster.nodes[0].service(&self.install, "ipamd")?;
        self.cluster.nodes[0].ipamd = Some(service);
        self.cluster.wait_ready(1)
    }

    /// Ends the place and everything in it, removes Ferrule, and sees the bare node again.
    pub fn finish(mut self) -> Result<String> {
        let ended = self.end_place()?;
        if !ended.success() {
            return Err(LabError::promise("an end of the place and its control groups", ended.to_string()));
        }
        let install = self.install.clone();
        let node = &mut self.cluster.nodes[0];
        node.uninstall(&install)?;
        node.bare.wait_same(&node.machine.space, "the bare node", SOON)?;
        Ok("no process, no control group, the bare node".to_owned())
    }

    fn end_place(&mut self) -> Result<ExitStatus> {
        drop(self.keeper.stdin.take());
        wait_child(&mut self.keeper, "the place to end", PLACE_WITHIN)
    }

    /// Where configuration and logs of Ferrule's daemons are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.end_place().is_err() {
            // The kernel kills the keeper with its parent, and everything in the place with the keeper.
            let _ = self.keeper.kill();
            let _ = self.keeper.wait();
        }
    }
}

/// A command that goes on in the place.
#[derive(Debug)]
pub struct Job {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Job {
    /// What it was started as.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The file it writes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context(|| format!("waiting for `{}`", self.line))
    }

    /// Waits until it ends.
    pub fn wait(mut self, within: Duration) -> Result<ExitStatus> {
        wait_child(&mut self.child, &format!("`{}` to end", self.line), within)
    }
}

fn wait_child(child: &mut Child, expected: &str, within: Duration) -> Result<ExitStatus> {
    let check = || {
        let status = child.try_wait().context(|| "waiting for a process")?;
        Ok(status.ok_or_else(|| "it still runs".to_owned()))
    };
    wait_for(expected, within, check).map(|(status, _)| status)
}

/// A number that no other node of this process has.
fn next_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// A runtime that is not told otherwise makes containers of several users.
fn require_root() -> Result<()> {
    let map = fs::read_to_string("/proc/self/uid_map").context(|| "/proc/self/uid_map")?;
    let count = map.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
    if count > 65_536 {
        return Ok(());
    }
    Err(LabError::promise(
        "root's rights for a container runtime (type `sudo make test`)",
        format!("a user namespace of {count} users"),
    ))
}

/// On a thread in the node: the directories of the place, the network, and the one other plugin that a runtime needs.
fn furnish(conflist: &Path) -> Result<()> {
    for directory in ["/run/etc/cni/net.d", "/run/etc/containers", "/run/home", "/run/tmp"] {
        fs::create_dir_all(directory).context(|| directory)?;
    }
    let copies = [
        (conflist, Path::new("/run/etc/cni/net.d/10-ferrule.conflist")),
        // containerd brings the loopback up by a plugin.
        (Path::new("/usr/lib/cni/loopback"), Path::new("/opt/cni/bin/loopback")),
    ];
    for (from, to) in copies {
        fs::copy(from, to).context(|| format!("copying {} to {} (type `make setup`)", from.display(), to.display()))?;
    }
    Ok(())
}

/// Starts the keeper and waits until the place is furnished.
fn keep(space: &Space, cgroup: &str) -> Result<Child> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "private"]);
    command.args(["bash", "-c", KEEPER, "keeper", cgroup.trim_start_matches('/')]);
    // A process group of its own: a person's Ctrl-C is for the test, whose end ends the place.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = space.enter(|| command.spawn())?.context(|| "starting unshare")?;
    let mut line = String::new();
    let mut out = child.stdout.take().map(BufReader::new);
    let read = out.as_mut().map(|out| out.read_line(&mut line)).transpose().context(|| "hearing of the place")?;
    if read.is_some() && line == "ready\n" {
        return Ok(child);
    }
    let mut said = String::new();
    if let Some(mut err) = child.stderr.take() {
        let _ = err.read_to_string(&mut said);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(LabError::promise("a place for the runtime", said))
}

fn held(value: &Value) -> Result<Held> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let owner = &value["attachment"];
    let pod = &value["pod"];
    let address = |at: usize| value["addresses"][at].as_str()?.split('/').next();
    let at = address(0).and_then(|v4| v4.parse().ok()).zip(address(1).and_then(|v6| v6.parse().ok()));
    match (text(&owner["container_id"]), text(&owner["ifname"]), at) {
        (Some(container_id), Some(ifname), Some((v4, v6))) => Ok(Held {
            container_id,
            ifname,
            pod: pod.is_object().then(|| {
                ["namespace", "name", "uid"].map(|key| text(&pod[key]).unwrap_or_default())
            }),
            at: Pair { v4, v6 },
        }),
        _ => Err(LabError::parse("a lease of one IPv4 and one IPv6 address", &value)),
    }
}
