//! ADD while `ipamd` is killed, stopped and started again: none fails, with the socket held by the service manager and
//! without. The real plugin and the real daemon as processes on the real kernel; `systemd-socket-activate` in the
//! service manager's place.
//!
//! The daemon is the one built beside the plugin.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use ferrule_model::{Attachment, host_veth_name};
use ferrule_netlink::netns::{self, Netns};
use ferrule_netlink::{Kernel, Netlink};
use ferrule_wire::{Client, List, SOCKET_NAME};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// Far above any wait that ends, for a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// Runtimes that attach and detach pods all the time.
const RUNTIMES: usize = 4;
/// How often the daemon goes in a run.
const ENDS: usize = 12;

/// The daemon again and again, as `Restart=always` and `RestartSec=200ms` would have it, with the socket that came with
/// this shell if one did.
const SUPERVISOR: &str = r#"
cd "$1"
shift
while [ -e go ]; do
    sh -c 'echo $$ >pid.new; mv pid.new pid; LISTEN_PID=$$ exec "$@"' sh "$@" 2>>log || true
    sleep 0.2
done
"#;

/// A node with a daemon under a supervisor.
struct Node {
    dir: tempfile::TempDir,
    supervisor: Child,
}

impl Node {
    fn start(activated: bool) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_ferrule")).with_file_name("ipamd");
        assert!(program.exists(), "{} is missing: cargo build --package ipamd", program.display());
        let dir = tempfile::tempdir().unwrap();
        let (config, run) = (dir.path().join("ferrule.toml"), dir.path().join("run"));
        fs::write(&config, "[[ipam.pool]]\nname = \"pods\"\nsubnets = [\"10.244.0.0/20\", \"fd00::/64\"]\n")
            .unwrap();
        fs::create_dir(&run).unwrap();
        fs::write(dir.path().join("go"), "").unwrap();
        let mut words: Vec<PathBuf> = Vec::new();
        if activated {
            let listen = format!("--listen={}", run.join(SOCKET_NAME).display());
            words.extend(["systemd-socket-activate".into(), listen.into()]);
        }
        words.extend(["sh", "-euc", SUPERVISOR, "supervisor"].map(PathBuf::from));
        words.extend([
            dir.path().to_owned(),
            program,
            "--config".into(),
            config,
            "--runtime-dir".into(),
            run,
        ]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_remove("NOTIFY_SOCKET").stderr(Stdio::null());
        let supervisor = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} (tests/setup installs it): {error}", words[0].display()));
        let node = Self { dir, supervisor };
        let serves = || node.run_dir().join(SOCKET_NAME).exists();
        crate::wait::until(LONG, serves, || format!("{}\na socket", node.log()));
        node
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// How often the daemon has served.
    fn lives(&self) -> usize {
        self.log().matches("serving leases").count()
    }

    fn signal(&self, signal: Signal) {
        let pid =
            fs::read_to_string(self.dir.path().join("pid")).ok().and_then(|text| text.trim().parse().ok());
        // Between two lives there is none.
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn leases(&self) -> usize {
        let mut leases = 0;
        let mut client =
            Client::connect_wait(&self.run_dir().join(SOCKET_NAME), Instant::now() + LONG).unwrap();
        client.call_more(&List {}, |reply| leases += reply.leases.len()).unwrap();
        leases
    }

    /// The plugin as a runtime executes it.
    fn plugin(&self, verb: &str, id: &str, netns: &str) -> Output {
        let config =
            json!({ "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeDir": self.run_dir() });
        let mut child = Command::new(env!("CARGO_BIN_EXE_ferrule"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Attaches and detaches pods until it is told to end; how many, and the longest ADD.
    fn churn(&self, runtime: usize, done: &AtomicBool, pods: &AtomicUsize) -> Duration {
        let netns = netns::make().unwrap();
        let path = path(&netns);
        let mut longest = Duration::ZERO;
        while !done.load(Ordering::SeqCst) {
            let id = format!("{runtime}-{}", pods.fetch_add(1, Ordering::SeqCst));
            for verb in ["ADD", "DEL"] {
                let begun = Instant::now();
                let output = self.plugin(verb, &id, &path);
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "{verb} of {id} after {:?}: {said}", begun.elapsed());
                longest = longest.max(if verb == "ADD" { begun.elapsed() } else { Duration::ZERO });
            }
        }
        longest
    }
}

fn path(netns: &Netns) -> String {
    use std::os::fd::{AsFd, AsRawFd};
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd())
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.dir.path().join("go"));
        self.signal(Signal::SIGKILL);
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

/// Pods come and go while the daemon ends, by turns killed and told to stop, each time once it has served for a moment.
fn no_add_fails(activated: bool) {
    let host = netns::make().expect("CAP_SYS_ADMIN is needed: run through tests/in-namespace");
    host.run(|| {
        let node = Node::start(activated);
        // As the unit orders it: before the first pod.
        assert_eq!(node.leases(), 0);
        let (done, pods) = (AtomicBool::new(false), AtomicUsize::new(0));
        let longest = scope(|threads| {
            let churn = |runtime: usize| {
                let (node, host, done, pods) = (&node, &host, &done, &pods);
                threads.spawn(move || host.run(|| node.churn(runtime, done, pods)).unwrap())
            };
            let runtimes: Vec<_> = (0..RUNTIMES).map(churn).collect();
            for end in 0..ENDS {
                let has_lived = || node.lives() > end || runtimes.iter().any(|runtime| runtime.is_finished());
                crate::wait::until(LONG, has_lived, || format!("{}\nmore than {end} lives", node.log()));
                sleep(Duration::from_millis(40 * (end as u64 % 5)));
                node.signal(if end % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM });
            }
            done.store(true, Ordering::SeqCst);
            runtimes.into_iter().map(|runtime| runtime.join().unwrap()).max().unwrap()
        });
        let pods = pods.load(Ordering::SeqCst);
        println!(
            "activated: {activated}; {ENDS} ends, {pods} pods, none refused; the longest ADD took {longest:?}"
        );
        assert!(pods > 2 * ENDS, "{pods} pods: too few to prove anything");
        // A release that was cut off waits in the queue, which is empty once the last daemon serves.
        let is_empty = || node.leases() == 0 && ferrule_wire::queued(&node.run_dir()).unwrap().is_empty();
        crate::wait::until(LONG, is_empty, || {
            format!("{}\nno leases, but {} are left", node.log(), node.leases())
        });
        let of = |number: usize| Attachment {
            network: "pods".into(),
            container_id: format!("0-{number}"),
            ifname: "eth0".into(),
        };
        let mut kernel = Netlink::open().unwrap();
        assert!((0..pods).all(|number| kernel.link(&host_veth_name(&of(number))).unwrap().is_none()));
    })
    .unwrap();
}

#[test]
fn no_add_fails_while_the_daemon_restarts_behind_its_socket() {
    no_add_fails(true);
}

#[test]
fn no_add_fails_while_the_daemon_restarts_with_a_socket_of_its_own() {
    no_add_fails(false);
}
