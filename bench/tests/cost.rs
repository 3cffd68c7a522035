//! Holds what one ADD and one DEL of the shipped plugin may cost in things that do not depend on the machine: processes, round trips
//! to the kernel, system calls. `make bench` shows the same beside the peers.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::{cell::Cell, os::unix::fs::PermissionsExt, path::Path, process::Command};

use ferrule_bench::{
    contender::Contender,
    rows::{Cost, cost},
    stand::{Bench, POOL_DUAL, POOL_V4},
};
use ferrule_tests::install::Install;
use tempfile::TempDir;

/// What it is now. Fewer is progress: lower the number. More needs a reason.
const ADD: Cost = Cost { processes: 1, system_calls: 67, round_trips: 3 };
/// The second process sends the deletion, which the kernel holds up for long after the link is gone.
const DEL: Cost = Cost { processes: 2, system_calls: 57, round_trips: 2 };

#[test]
fn an_add_and_a_del_cost_no_more_than_they_did() {
    let (bench, _dir) = bench();
    let stand = bench.stand("cost").unwrap();
    let ours = |pool| Contender::ferrule(&bench.install, &stand.node(1).machine.space, pool).unwrap();
    for pool in [POOL_V4, POOL_DUAL] {
        let [add, del] = cost(&bench, &ours(pool)).unwrap();
        holds(&format!("ADD from pool {pool}"), add, ADD);
        holds(&format!("DEL from pool {pool}"), del, DEL);
    }
}

fn holds(what: &str, found: Cost, most: Cost) {
    let within = found.processes <= most.processes
        && found.round_trips <= most.round_trips
        && found.system_calls <= most.system_calls;
    assert!(within, "{what}: {found:?}, at most {most:?} (`strace -f -yy` of the plugin shows them)");
}

/// The programs as they are shipped, built if they are not up to date.
fn bench() -> (Bench, TempDir) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut make = Command::new("make");
    // What cargo tells a test of its package, a build that the test starts must not hear: build scripts that watch these
    // variables would run again, and once more in the next build outside.
    for (name, _) in std::env::vars_os() {
        let told = |prefix: &str| name.to_str().is_some_and(|name| name.starts_with(prefix));
        if told("CARGO_") && !told("CARGO_TARGET_DIR") && !told("CARGO_HOME") {
            make.env_remove(&name);
        }
    }
    let made = make.args(["--silent", "build"]).current_dir(root).status().unwrap();
    assert!(made.success(), "`make build` in {}: {made}", root.display());
    let target = root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let rustc = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let rustc = String::from_utf8(rustc).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let plugin = target.join(host).join("plugin/ferrule");
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let install =
        Install { bin_dir: target.join("release"), plugin: plugin.clone(), conf_dir: root.join("conf") };
    let floor = plugin.with_file_name("ferrule-floor");
    (
        Bench { install, floor, dir: dir.path().to_owned(), rounds: 1, quick: true, again: Cell::default() },
        dir,
    )
}
