//! The wall clock set back and forth under the running daemon (Debian's `faketime`): leases and rest go by the boot
//! clock.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::common::{Daemon, Place, allocate, attachment, leases, until};
use ferrule_wire::{Client, Release, Rest, Resting};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFIG: &str = "[ipam]\ncooldown_s = 3\n[[ipam.pool]]\nname = \"own\"\nsubnets = [\"10.9.0.0/29\"]\n";

/// The wall clock of the processes that are given it.
struct WallClock {
    file: PathBuf,
    library: PathBuf,
}

impl WallClock {
    fn new(directory: &Path) -> Self {
        let libraries = fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
        let library = libraries.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let library = library.into_iter().find(|path| path.exists());
        let library = library.unwrap_or_else(|| panic!("no libfaketime: apt-get install faketime"));
        let clock = Self { file: directory.join("clock"), library };
        clock.set(0);
        clock
    }

    /// So many seconds from the machine's.
    fn set(&self, offset_s: i64) {
        let beside = self.file.with_extension("new");
        fs::write(&beside, format!("{offset_s:+}")).unwrap();
        fs::rename(beside, &self.file).unwrap();
    }

    fn is_given_to(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
    }

    /// What a process sees that has it, in seconds since 1970.
    fn now(&self) -> i64 {
        let mut date = Command::new("date");
        self.is_given_to(date.arg("+%s"));
        String::from_utf8(date.output().unwrap().stdout).unwrap().trim().parse().unwrap()
    }
}

fn start(place: &Place, clock: &WallClock) -> Daemon {
    let mut command = place.command();
    clock.is_given_to(&mut command);
    Daemon::of(command)
}

fn resting(client: &mut Client) -> Vec<Rest> {
    let mut resting = Vec::new();
    client.call_more(&Resting { pool: None }, |page| resting.extend(page.addresses)).unwrap();
    resting
}

#[test]
fn a_wall_clock_that_is_set_changes_no_lease_and_no_rest() {
    const HOUR: i64 = 3600;
    let place = Place::new(CONFIG);
    let clock = WallClock::new(place.dir.path());
    let before = clock.now();
    let daemon = start(&place, &clock);
    let mut client = place.client();
    let kept = client.call(&allocate("kept")).unwrap().lease;

    for (turn, offset) in [-HOUR, 24 * HOUR, -30 * 24 * HOUR].into_iter().enumerate() {
        let name = format!("pod{turn}");
        let given = client.call(&allocate(&name)).unwrap().lease;
        client.call(&Release { attachment: attachment(&name) }).unwrap();
        clock.set(offset);
        assert!((clock.now() - before - offset).abs() < HOUR / 2, "the clock was not turned");

        let rest = resting(&mut client);
        let address = given.addresses[0].ip().to_string();
        let rest = rest.iter().find(|rest| rest.address == address).unwrap_or_else(|| panic!("{rest:?}"));
        assert!(rest.left_ms > 0 && rest.left_ms <= 3000, "{rest:?}");
        let next = client.call(&allocate("next")).unwrap().lease;
        assert_ne!(next.addresses, given.addresses, "it rests yet");
        client.call(&Release { attachment: attachment("next") }).unwrap();
        until("all have rested", || resting(&mut client).is_empty());
        assert_eq!(leases(&mut client), std::slice::from_ref(&kept));
    }

    // Between two lives of the daemon as well.
    daemon.kill();
    clock.set(-365 * 24 * HOUR);
    let _daemon = start(&place, &clock);
    let mut client = place.client();
    assert_eq!(client.call(&allocate("kept")).unwrap().lease, kept);
}
