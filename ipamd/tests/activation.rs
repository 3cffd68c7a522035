//! A socket that somebody else listens on, passed as systemd does it, with systemd's own program for that: callers wait
//! in it while no daemon runs. That no ADD fails meanwhile is shown with the plugin, in `cni/tests/restarts.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::common::{Place, allocate, soon, until};
use ferrule_wire::{Client, Pools, Status};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const POOL: &str = "[[ipam.pool]]\nname = \"own\"\nsubnets = [\"10.9.0.0/24\"]\n";

/// Runs the daemon for as long as there is a file called `go`, each time with the socket that this shell was started
/// with.
const SUPERVISOR: &str = r#"
cd "$1"
shift
while [ -e go ]; do
    sh -c 'echo $$ >pid.new; mv pid.new pid; LISTEN_PID=$$ exec "$@"' sh "$@" 2>>log || sleep 0.1
done
"#;

/// `systemd-socket-activate`, which listens and at the first connection becomes the supervisor. Ended when dropped.
struct Activator {
    child: Child,
    place: Place,
}

impl Activator {
    /// Listens on sockets of these names in the runtime directory.
    fn start(names: &[&str]) -> Self {
        let place = Place::new(POOL);
        fs::write(place.dir.path().join("go"), "").unwrap();
        let daemon = place.command();
        let mut command = Command::new("systemd-socket-activate");
        let sockets: Vec<PathBuf> = names.iter().map(|name| place.runtime_dir().join(name)).collect();
        command.args(sockets.iter().map(|socket| format!("--listen={}", socket.display())));
        command.args(["sh", "-euc", SUPERVISOR, "supervisor"]).arg(place.dir.path());
        command.arg(daemon.get_program()).args(daemon.get_args());
        let child = command.env_remove("NOTIFY_SOCKET").stderr(std::process::Stdio::null()).spawn();
        let child = child.expect("`systemd-socket-activate` is missing: install systemd");
        until("it listens", || sockets.iter().all(|socket| is_listening(socket)));
        Self { child, place }
    }

    fn socket(&self) -> PathBuf {
        self.place.runtime_dir().join("ipamd.sock")
    }

    /// Connects once: a socket that nobody listens on would refuse.
    fn client(&self) -> Client {
        Client::connect(&self.socket(), soon()).unwrap()
    }

    /// The daemon that runs, if one does.
    fn daemon(&self) -> Option<nix::unistd::Pid> {
        let text = fs::read_to_string(self.place.dir.path().join("pid")).ok()?;
        let pid = nix::unistd::Pid::from_raw(text.trim().parse().ok()?);
        nix::sys::signal::kill(pid, None).is_ok().then_some(pid)
    }
}

impl Drop for Activator {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.place.dir.path().join("go"));
        if let Some(pid) = self.daemon() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As `/proc/net/unix` has it (`unix_seq_show` in the kernel): a file that is there may not be listened on yet.
fn is_listening(socket: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(3) == Some(&ACCEPTS) && fields.get(7).is_some_and(|path| Path::new(path) == socket)
    })
}

#[test]
fn the_passed_socket_is_served_and_outlives_the_daemon() {
    let activator = Activator::start(&["ipamd.sock"]);
    let inode = fs::metadata(activator.socket()).unwrap().ino();
    let lease = activator.client().call(&allocate("a")).unwrap().lease;
    assert_eq!(lease.addresses[0].to_string(), "10.9.0.1/32");
    let old = activator.daemon().unwrap();
    for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGKILL] {
        let before = activator.daemon().unwrap();
        nix::sys::signal::kill(before, signal).unwrap();
        until("the daemon ends", || nix::sys::signal::kill(before, None).is_err());
        assert_eq!(
            fs::metadata(activator.socket()).unwrap().ino(),
            inode,
            "{signal}: it is not the daemon's"
        );
        // Nobody waits for the next one to be up: the call does.
        assert!(activator.client().call(&allocate("a")).unwrap().existing, "{signal}");
    }
    assert_ne!(activator.daemon().unwrap(), old);
    assert_eq!(activator.client().call(&Pools {}).unwrap().pools[0].in_use, 1);
    let log = activator.place.log();
    assert_eq!(log.matches("serving leases").count(), 3, "{log}");
}

#[test]
fn who_hung_up_before_a_daemon_was_there_gets_nothing() {
    let activator = Activator::start(&["ipamd.sock"]);
    let mut gone = activator.client();
    gone.send(&allocate("gone")).unwrap();
    drop(gone);
    assert_eq!(activator.client().call(&Pools {}).unwrap().pools[0].in_use, 0);
}

#[test]
fn a_socket_that_callers_would_not_find_or_others_would_is_refused_with_the_remedy() {
    let remedy = "ipamd.socket needs the one line ListenStream=";
    for (names, told) in [
        (&["ipamd.sock"][..], "ipamd.sock with mode 0666; "),
        (&["other.sock"], "other.sock; "),
        (&["ipamd.sock", "other.sock"], "passed 2 sockets; "),
    ] {
        let activator = Activator::start(names);
        let socket = activator.place.runtime_dir().join(names[0]);
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
        // The first connection starts it.
        drop(UnixStream::connect(&socket).unwrap());
        until("it is refused", || activator.place.log().contains(&format!("{told}{remedy}")));
    }
}

#[test]
fn a_socket_that_is_meant_for_another_process_is_not_taken() {
    let place = Place::new(POOL);
    let mut command = place.command();
    let mut daemon = command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").spawn().unwrap();
    place.client().call(&Status::default()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon.id().try_into().unwrap()),
        nix::sys::signal::SIGTERM,
    )
    .unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(!place.runtime_dir().join("ipamd.sock").exists(), "its own goes with it");
}
