//! A daemon as its service manager sees it: ready, alive, stopping, gone with exit code 0.
//!
//! The test program starts itself again as the daemon, because only the environment at the start counts.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test: what fails is to be seen"
)]

#[path = "../../tests/wait.rs"]
mod wait;

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use ferrule_daemon::{Heard, Notifier, Signals, block_on};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than a loaded machine needs, shorter than patience.
const DEADLINE: Duration = Duration::from_secs(20);

const ROLE: &str = "SERVICE_MANAGER_TEST_ROLE";

fn main() -> ExitCode {
    if std::env::var_os(ROLE).is_some() {
        return daemon();
    }
    // A runner that runs tests side by side first asks for the names, and then for one test at a time.
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let asked = |argument: &str| arguments.iter().any(|given| given == argument);
    let ignored_alone = asked("--ignored");
    if asked("--list") {
        CHECKS.iter().filter(|_| !ignored_alone).for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let chosen = |name: &str| !asked("--exact") || asked(name);
    let chosen: Vec<_> = CHECKS.iter().filter(|(name, _)| chosen(name)).collect();
    chosen.iter().for_each(|(_, check)| check());
    println!("test result: ok. {} passed; 0 failed", chosen.len());
    ExitCode::SUCCESS
}

const CHECKS: [(&str, fn()); 3] = [
    ("sigterm_ends_it", || told_of_start_life_and_end(Signal::SIGTERM, "SIGTERM")),
    ("sigint_ends_it", || told_of_start_life_and_end(Signal::SIGINT, "SIGINT")),
    ("it_runs_without_a_service_manager", runs_without_a_service_manager),
];

/// The smallest daemon.
fn daemon() -> ExitCode {
    let life = async {
        let mut signals = Signals::catch().unwrap();
        let mut watchdog = Notifier.watchdog();
        Notifier.ready("serving\nMAINPID=1");
        loop {
            tokio::select! {
                heard = signals.next() => match heard {
                    Heard::Reload => Notifier.status("reads its files again"),
                    Heard::Stop(signal) => {
                        Notifier.status(signal);
                        Notifier.stopping();
                        return ExitCode::SUCCESS;
                    }
                },
                () = watchdog.beat() => {}
            }
        }
    };
    block_on(life).unwrap()
}

fn told_of_start_life_and_end(signal: Signal, name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut child = start(Command::new(itself()).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000"));

    assert_eq!(
        message(&socket),
        "READY=1\nSTATUS=serving MAINPID=1\n",
        "a newline must not become an assignment"
    );
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(message(&socket), "WATCHDOG=1\n");
    }
    // The first beat is sent at once, the others every 50 ms.
    assert!(begun.elapsed() >= Duration::from_millis(140), "beats come too fast: {:?}", begun.elapsed());

    // The daemon hears a hangup, and the beats go on.
    send(&child, Signal::SIGHUP);
    let is_heard = (0..100).any(|_| message(&socket) == "STATUS=reads its files again\n");
    assert!(is_heard, "SIGHUP");
    assert_eq!(message(&socket), "WATCHDOG=1\n");

    send(&child, signal);
    let mut rest = Vec::new();
    while rest.last().is_none_or(|last| last != "STOPPING=1\n") {
        rest.push(message(&socket));
    }
    assert!(rest.contains(&format!("STATUS={name}\n")), "{rest:?}");
    assert!(child.wait().unwrap().success());
}

fn runs_without_a_service_manager() {
    let mut child = start(Command::new(itself()).env_remove("NOTIFY_SOCKET"));
    // Nothing tells when the daemon is ready. So the test waits until it catches the signal.
    let caught = |child: &Child| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (Signal::SIGTERM as u64 - 1)) != 0
    };
    wait::until(DEADLINE, || caught(&child), || "SIGTERM caught");
    send(&child, Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
}

fn itself() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

fn start(command: &mut Command) -> Child {
    command.env(ROLE, "daemon").spawn().unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

fn message(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("a message before the deadline");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}
