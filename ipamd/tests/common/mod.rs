//! The real daemon as a child process, in a directory of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail the test and say how"
)]
#![allow(unreachable_pub, reason = "a module of tests has no outside")]
#![allow(dead_code, reason = "each test file uses its part")]

#[path = "../../../tests/wait.rs"]
pub mod wait;

use ferrule_wire::{Allocate, Attachment, Client, Lease, List};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Far above any wait that the tests expect to end, for a busy machine.
pub const LONG: Duration = Duration::from_secs(20);

pub fn soon() -> Instant {
    Instant::now() + LONG
}

pub fn attachment(container_id: &str) -> Attachment {
    Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() }
}

pub fn allocate(container_id: &str) -> Allocate {
    Allocate::new(attachment(container_id))
}

/// Waits for something to become true.
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    wait::until(LONG, condition, || what);
}

/// A small generator of moments and choices (xorshift): a failure names its seed.
pub struct Dice(pub u64);

impl Dice {
    /// Another one for each process, or that of `FERRULE_SEED`; the test's output has it.
    pub fn new() -> Self {
        let given = std::env::var("FERRULE_SEED").map(|text| text.parse().unwrap());
        let seed = given.unwrap_or_else(|_| u64::from(std::process::id()) | 1 << 40);
        println!("seed {seed} (FERRULE_SEED)");
        Self(seed)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A runtime directory with a configuration beside it.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new(config: &str) -> Self {
        Self::within(&std::env::temp_dir(), config)
    }

    pub fn within(directory: &Path, config: &str) -> Self {
        let dir = tempfile::tempdir_in(directory).unwrap();
        fs::write(dir.path().join("ferrule.toml"), config).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        Self { dir }
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The last lines of the log, for messages of failed tests.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub fn command(&self) -> Command {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipamd"));
        command.arg("--config").arg(self.dir.path().join("ferrule.toml"));
        command.arg("--runtime-dir").arg(self.runtime_dir());
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").stdin(Stdio::null()).stderr(log);
        command
    }

    pub fn start(&self) -> Daemon {
        Daemon::of(self.command())
    }

    pub fn client(&self) -> Client {
        Client::connect_wait(&self.runtime_dir().join("ipamd.sock"), soon())
            .unwrap_or_else(|error| panic!("{error:?}\n{}", self.log_end()))
    }

    /// As routed does it.
    pub fn write_node(&self, text: &str) {
        let path = self.runtime_dir().join("node.json");
        let beside = path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }
}

pub fn leases(client: &mut Client) -> Vec<Lease> {
    let mut leases = Vec::new();
    client.call_more(&List {}, |page| leases.extend(page.leases)).unwrap();
    leases
}

/// What a daemon with `[metrics] ipamd = "ADDRESS"` counts under this name, labels included. `ADDRESS` is on a loopback
/// interface that is up.
pub fn figure(address: &str, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// A daemon; killed when dropped.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// The daemon that this command starts.
    pub fn of(mut command: Command) -> Self {
        Self { child: command.spawn().unwrap() }
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> ExitStatus {
        nix::sys::signal::kill(self.pid(), nix::sys::signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail for one that was stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service manager's end of the notification socket.
pub struct Manager {
    socket: UnixDatagram,
    pub path: PathBuf,
}

impl Manager {
    pub fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self { socket, path }
    }

    pub fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    }
}
