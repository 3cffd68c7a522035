//! containerd on a node of the lab, as Debian ships it: starting it, and its own command `ctr`. Its CRI side is a socket; who speaks
//! it is not here.

use std::{
    os::unix::net::UnixStream,
    process::{ExitStatus, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{
    host::{Host, SOON},
    image,
    place::Job,
};
use crate::{
    command::wait_for,
    error::{Context, LabError, Result},
};

/// Its socket, by its default.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
const PID: &str = "/run/containerd.pid";
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What is not by default: no overlays, which some sandboxes lack; no lowered OOM scores, which need CAP_SYS_RESOURCE; and an image of
/// ours for the pods' sandboxes.
const CONFIG: &str = r#"
version = 2
oom_score = 0

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "IMAGE"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#;
/// Keeps the daemon's pid, by which it is signalled.
const START: &str = "echo $$ >/run/containerd.pid\nexec containerd --log-level debug\n";
/// containerd brings a pod's loopback up by a plugin, the one other than Ferrule's.
const LOOPBACK: &str = "/usr/lib/cni/loopback";

/// The commands it takes, with Debian's packages.
pub const NEEDS: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    (LOOPBACK, "containernetworking-plugins"),
];

/// The running daemon.
#[derive(Debug)]
pub struct Containerd {
    job: Job,
}

impl Containerd {
    /// Starts it and waits until it answers.
    pub fn start(host: &Host) -> Result<Containerd> {
        host.place.write("/etc/containerd/config.toml", CONFIG.replace("IMAGE", image::NAME).as_bytes())?;
        host.place.write("/run/containerd.sh", START.as_bytes())?;
        host.place.run(&format!("cp {LOOPBACK} /opt/cni/bin/"))?;
        let mut job = host.place.spawn("sh /run/containerd.sh", &host.log("containerd"))?;
        wait_for("containerd to answer", READY_WITHIN, || {
            job.still_runs()?;
            Ok(host.place.run("ctr version").map(drop).map_err(|error| error.to_string()))
        })?;
        Ok(Containerd { job })
    }

    /// Imports the image into one of its namespaces: `default` is `ctr`'s, `k8s.io` that of CRI.
    pub fn import(&self, host: &Host, namespace: &str) -> Result<()> {
        host.place
            .run(&format!(
                "ctr --namespace {namespace} images import --snapshotter native {}",
                image::ARCHIVE
            ))
            .map(drop)
    }

    /// Ends it by a signal (`TERM`, or `KILL` for a crash); containers go on.
    pub fn end(mut self, host: &Host, signal: &str) -> Result<ExitStatus> {
        let pid = host.place.run(&format!("cat {PID}"))?;
        host.place.run(&format!("kill -{signal} {pid}"))?;
        self.job.wait(SOON)
    }
}

/// `ctr run --cni`, in the foreground as a person types it: it adds the container to the network, waits, and removes it.
#[derive(Debug)]
pub struct Container {
    /// The container's name.
    pub name: String,
    job: Job,
}

impl Container {
    /// Starts it and waits until it runs.
    pub fn run(host: &Host, name: &str) -> Result<Container> {
        let line = format!("ctr run --rm {} {} {name}", options(host, name), image::NAME);
        let mut job = host.place.spawn(&line, &host.log(name))?;
        wait_for(&format!("{name} to run"), READY_WITHIN, || {
            job.still_runs()?;
            let tasks = host.place.run("ctr task ls")?;
            let runs = |line: &str| line.starts_with(name) && line.ends_with("RUNNING");
            Ok(if tasks.lines().any(runs) { Ok(()) } else { Err(tasks) })
        })?;
        Ok(Container { name: name.to_owned(), job })
    }

    /// The container's id in CNI: `ctr` puts containerd's namespace before it.
    pub fn cni_id(&self) -> String {
        format!("default-{}", self.name)
    }

    /// Runs a command in it.
    pub fn exec(&self, host: &Host, line: &str) -> Result<Output> {
        exec(host, &self.name, line)
    }

    /// Kills it; `ctr run` ends after it has removed the container from the network.
    pub fn kill(mut self, host: &Host) -> Result<()> {
        host.place.run(&format!("ctr task kill --signal SIGKILL {}", self.name))?;
        // The status is the container's own, which was killed; what `ctr` itself failed at is in its log.
        self.job.wait(SOON)?;
        let said = self.job.said();
        if said.contains("error") || said.contains("failed") {
            return Err(LabError::promise(format!("ctr to end {} without complaint", self.name), said));
        }
        Ok(())
    }
}

/// The options of every `ctr run` here.
pub fn options(host: &Host, name: &str) -> String {
    format!("--cni --snapshotter native --cgroup {}/{name}", host.place.cgroup())
}

/// Runs a command in a running container.
pub fn exec(host: &Host, name: &str, line: &str) -> Result<Output> {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let id = format!("exec{}", LAST.fetch_add(1, Ordering::Relaxed));
    let mut words = vec!["ctr", "task", "exec", "--exec-id", &id, name];
    words.extend(line.split_whitespace());
    host.place.execute(&words)
}

/// A connection to its socket, made inside the node.
pub fn connect(host: &Host) -> Result<UnixStream> {
    host.space().enter(|| UnixStream::connect(SOCKET))?.context(|| SOCKET)
}
