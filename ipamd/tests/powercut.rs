//! Power cuts: the daemon with its store on a disk (`state_dir`) in a virtual machine that is ended at random moments,
//! and the disk's write cache with it. What callers were told before is reported to the outside as it happens, and held
//! against the store at the next boot. `make test-vm`; not in `make test`, because it emulates a machine and wants its
//! kernel.
//!
//! The disk is a file behind `nbdkit`, which keeps what was not flushed in its own memory and dies with the machine.
//! The guest is this same program, run by `tests/vm/vmrun`, which shows it the file system of this machine.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail the test and say how"
)]

mod common;

use common::{Dice, Place, allocate, attachment, leases, until, wait};
use ferrule_wire::{Client, Release};
use ipamd::decide::holdings::Contents;
use ipamd::store::{SledStore, Store};
use ipnetwork::IpNetwork;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// How often the power is cut, if `FERRULE_CUTS` does not say.
const CUTS: u32 = 5;
const CALLERS: u32 = 8;
/// Answers before a cut, at the least.
const FEW: usize = 40;
/// How long a machine may take to boot and to begin, emulated, beside a compiler.
const BOOT: Duration = Duration::from_secs(240);
/// Where the guest is told that it is one, and where it reports to.
const SHARE: &str = "FERRULE_POWERCUT";
const BOOT_NUMBER: &str = "FERRULE_POWERCUT_BOOT";
const MOUNT: &str = "FERRULE_POWERCUT_MOUNT";

const CONFIG: &str = "[ipam]\nstate_dir = \"/state\"\ncooldown_s = 3600\n\
    [[ipam.pool]]\nname = \"p\"\nsubnets = [\"10.0.0.0/20\", \"fd00::/116\"]\n";

type Addresses = Vec<IpNetwork>;

// --- inside ---------------------------------------------------------------------------------------------------------------

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The guest: shows what the store holds, then serves and calls until there is no power.
fn inside(share: &Path) {
    let boot: u32 = std::env::var(BOOT_NUMBER).unwrap().parse().unwrap();
    run("modprobe", &["virtio_blk"]);
    fs::create_dir("/state").unwrap();
    run("mount", &["-t", "ext4", "-o", &std::env::var(MOUNT).unwrap(), "/dev/vda", "/state"]);
    if boot > 0 {
        // One that cannot be read has lost everything.
        let held = SledStore::new(Path::new("/state/ipam")).load().unwrap_or_else(|error| {
            println!("{error}");
            Contents::default()
        });
        let lines = held.holdings.leases.into_iter().map(|lease| {
            let lease = lease.open();
            let addresses: Vec<String> = lease.addresses.iter().map(ToString::to_string).collect();
            format!("{} {}\n", lease.attachment.container_id, addresses.join(","))
        });
        report(share, &format!("held-{boot}"), &lines.collect::<String>());
        let rest = held.holdings.released.into_iter().map(|released| format!("{}\n", released.address));
        report(share, &format!("rest-{boot}"), &rest.collect::<String>());
    }
    let place = Place::within(Path::new("/run"), CONFIG);
    let _daemon = place.start();
    let mut client = client(&place);
    assert_eq!(leases(&mut client), [], "of the boot before\n{}", place.log_end());
    assert!(!place.log().contains("damaged"), "{}", place.log_end());
    scope(|scope| {
        for caller in 0..CALLERS {
            let place = &place;
            scope.spawn(move || call_for_ever(place, share, boot, caller));
        }
    });
}

/// A connection with the patience that an emulated machine wants.
fn client(place: &Place) -> Client {
    let socket = place.runtime_dir().join("ipamd.sock");
    Client::connect_wait(&socket, Instant::now() + BOOT)
        .unwrap_or_else(|e| panic!("{e:?}\n{}", place.log_end()))
}

/// A file that is there whole or not at all.
fn report(share: &Path, name: &str, text: &str) {
    let unready = share.join(format!("{name}.new"));
    fs::write(&unready, text).unwrap();
    fs::rename(unready, share.join(name)).unwrap();
}

/// Tells what it is about to ask, asks, tells the answer: each line is outside before the next step.
fn call_for_ever(place: &Place, share: &Path, boot: u32, caller: u32) {
    let mut log = File::create(share.join(format!("log-{boot}-{caller}"))).unwrap();
    let mut tell = |line: String| log.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut client = client(place);
    for number in 0.. {
        let id = format!("{boot}-{caller}-{number}");
        client.set_deadline(Instant::now() + BOOT);
        tell(format!("?allocate {id}"));
        let lease = client.call(&allocate(&id)).unwrap().lease;
        let addresses: Vec<String> = lease.addresses.iter().map(ToString::to_string).collect();
        tell(format!("allocated {id} {}", addresses.join(",")));
        // Half of them stay.
        if number % 2 == 0 {
            tell(format!("?release {id}"));
            client.call(&Release { attachment: attachment(&id) }).unwrap();
            tell(format!("released {id}"));
        }
    }
}

// --- outside --------------------------------------------------------------------------------------------------------------

/// A machine and its disk. Dropped: the power is cut.
struct Machine {
    disk: Child,
    vm: Child,
    qemu: PathBuf,
}

impl Machine {
    fn boot(dir: &Path, number: u32, mount: &str) -> Self {
        let (socket, qemu) =
            (dir.join(format!("disk-{number}.sock")), dir.join(format!("qemu-{number}.pid")));
        let image = dir.join("disk.img");
        let disk = Command::new("nbdkit")
            .args(["--foreground", "--threads=1", "--filter=cache", "--unix"])
            .args([&socket, Path::new("file"), &image])
            .arg("cache=writeback")
            .spawn()
            .expect("`nbdkit` is missing: tests/setup --vm");
        until("the disk is there", || socket.exists());
        let more = format!(
            "-pidfile {} -drive file=nbd:unix:{},format=raw,if=virtio,cache=writeback",
            qemu.display(),
            socket.display()
        );
        let vm = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vm/vmrun"))
            .args(["-t", "600", "-s"])
            .arg(dir.join("share"))
            .args(["-q", &more, "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact", "a_power_cut_loses_nothing_that_was_acknowledged"])
            .env(SHARE, dir.join("share"))
            .env(BOOT_NUMBER, number.to_string())
            .env(MOUNT, mount)
            .spawn()
            .unwrap();
        Self { disk, vm, qemu }
    }

    /// Waits until the guest has come so far.
    fn wait(&mut self, what: &str, is_so: impl Fn() -> bool) {
        let is_over = || {
            let ended = self.vm.try_wait().unwrap();
            assert!(ended.is_none(), "the machine ended: {ended:?} (its output is above)");
            is_so()
        };
        wait::until(BOOT, is_over, || what);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The disk first: what it holds back goes nowhere any more, and the machine cannot tell.
        let _ = self.disk.kill();
        if let Some(pid) = fs::read_to_string(&self.qemu).ok().and_then(|text| text.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.disk.wait();
        let _ = self.vm.wait();
    }
}

/// What the callers of a boot were told about a pod last, and what they asked without being told.
#[derive(Debug, Default, Clone)]
struct Known {
    leased: Option<Addresses>,
    released: Addresses,
    asked: bool,
}

fn addresses(text: &str) -> Addresses {
    text.split(',').map(|address| address.parse().unwrap()).collect()
}

fn known(share: &Path, boot: u32) -> (BTreeMap<String, Known>, usize) {
    let (mut pods, mut answers) = (BTreeMap::<String, Known>::new(), 0);
    for caller in 0..CALLERS {
        let text = fs::read_to_string(share.join(format!("log-{boot}-{caller}"))).unwrap_or_default();
        // The last line may be cut off; nobody acted on it.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split(' ').collect();
            let pod = pods.entry(words[1].to_owned()).or_default();
            pod.asked = words[0].starts_with('?');
            answers += usize::from(!pod.asked);
            match words[0] {
                "allocated" => pod.leased = Some(addresses(words[2])),
                "released" => pod.released = pod.leased.take().unwrap(),
                _ => {}
            }
        }
    }
    (pods, answers)
}

/// Holds what the store has after a cut against what was acknowledged before it; what was lost, and how many answers
/// there were.
fn judge(share: &Path, boot: u32) -> (Vec<String>, usize) {
    let (mut pods, answers) = known(share, boot - 1);
    let held = fs::read_to_string(share.join(format!("held-{boot}"))).unwrap();
    let mut taken = BTreeSet::new();
    for line in held.lines() {
        let (id, found) = line.split_once(' ').unwrap();
        let found = addresses(found);
        for address in &found {
            assert!(taken.insert(*address), "{address} is leased twice");
        }
        let pod = pods.remove(id).unwrap_or_else(|| panic!("{id} has a lease that nobody asked for"));
        let agrees = pod.leased.as_ref().map_or(pod.asked, |leased| *leased == found);
        assert!(agrees, "{id}: {pod:?}, found {found:?}");
    }
    let kept = |pod: &Known| pod.leased.is_none() || pod.asked;
    let lost = pods.iter().filter(|(_, pod)| !kept(pod)).map(|(id, pod)| format!("{id}: {pod:?}"));
    let mut lost: Vec<String> = lost.collect();
    let rest = fs::read_to_string(share.join(format!("rest-{boot}"))).unwrap();
    let rest: BTreeSet<IpNetwork> = rest.lines().map(|address| address.parse().unwrap()).collect();
    assert!(rest.is_disjoint(&taken), "an address rests and is leased");
    // The pool is large enough that nothing is taken out of its rest.
    let rests = |address: &&IpNetwork| rest.contains(*address);
    let forgotten = pods.values().flat_map(|pod| &pod.released).filter(|address| !rests(address));
    lost.extend(forgotten.map(|address| format!("{address} was released and does not rest")));
    println!(
        "cut {boot}: {answers} answers, {} leases and {} resting addresses found, {} lost",
        held.lines().count(),
        rest.len(),
        lost.len()
    );
    (lost, answers)
}

/// Boots again and again and cuts the power each time, with the disk mounted so; what was lost, and how many answers
/// there were.
fn cut(cuts: u32, mount: &str) -> (Vec<String>, usize) {
    let mut dice = Dice::new();
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path().join("share");
    fs::create_dir(&share).unwrap();
    let image = dir.path().join("disk.img");
    File::create(&image).unwrap().set_len(128 << 20).unwrap();
    run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
    let mut found = (Vec::new(), 0);
    for boot in 0..=cuts {
        let mut machine = Machine::boot(dir.path(), boot, mount);
        if boot > 0 {
            machine.wait("the store is read", || share.join(format!("rest-{boot}")).exists());
            let (lost, answers) = judge(&share, boot);
            found.0.extend(lost);
            found.1 += answers;
        }
        if boot == cuts {
            break;
        }
        machine.wait("it is under load", || known(&share, boot).1 >= FEW);
        sleep(Duration::from_millis(dice.roll(4000)));
        drop(machine);
    }
    found
}

#[test]
#[ignore = "boots virtual machines: make test-vm"]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    if let Some(share) = std::env::var_os(SHARE) {
        return inside(Path::new(&share));
    }
    let cuts = std::env::var("FERRULE_CUTS").map_or(CUTS, |text| text.parse().unwrap());
    let (lost, answers) = cut(cuts, "barrier");
    assert_eq!(lost, [""; 0]);
    println!("{cuts} cuts, {answers} answers, none lost, none doubled");
}

/// That silence means something: a file system that does not have the disk write its cache out loses what was told.
#[test]
#[ignore = "boots virtual machines: make test-vm"]
fn without_the_disk_s_flushes_the_loss_is_seen() {
    let (lost, answers) = cut(1, "nobarrier");
    assert!(!lost.is_empty(), "{answers} answers and none lost");
}
