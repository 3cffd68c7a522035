//! The plugin as it is run, with too few rights: the message says which right is missing and what gives it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::Write;
use std::process::{Command, Stdio};

use ferrule_netlink::sysctl;
use serde_json::{Value, json};

use crate::support::Bench;
use crate::support::machine::{Machine, RealMachine};

/// Code and message of an ADD that is run by this command, and fails.
fn add_by(bench: &Bench<'_, RealMachine>, command: &[&str]) -> (u64, String) {
    let netns = crate::support::path_for_others(&bench.machine.path("pod"));
    let config = json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeDir": bench.dir.path()
    });
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .arg(env!("CARGO_BIN_EXE_ferrule"))
        .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c0ffee"), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_NETNS", netns.as_str()), ("CNI_PATH", "/opt/cni/bin")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; install the package util-linux", command[0]));
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{command:?}: {text}");
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    (object["code"].as_u64().unwrap(), object["msg"].as_str().unwrap().to_owned())
}

fn add_without(bench: &Bench<'_, RealMachine>, capability: &str) -> (u64, String) {
    let without = format!("-{capability}");
    add_by(bench, &["setpriv", "--bounding-set", &without, "--inh-caps", &without])
}

#[test]
fn a_right_that_the_plugin_lacks_is_told_with_what_gives_it() {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        let before = bench.world();
        let (code, text) = add_without(&bench, "net_admin");
        assert_eq!(code, 100, "{text}");
        assert!(text.contains("CAP_NET_ADMIN in this network namespace is needed"), "{text}");
        let (code, text) = add_without(&bench, "sys_admin");
        assert_eq!(code, 8, "{text}");
        assert!(text.contains("CNI_NETNS") && text.contains("CAP_SYS_ADMIN is needed"), "{text}");
        assert_eq!(bench.world(), before, "nothing was done");
    });
}

#[test]
fn ipv6_that_is_off_is_not_called_a_missing_right() {
    RealMachine::with(|machine| {
        sysctl::set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let bench = Bench::new(machine);
        let before = bench.world();
        let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec $0";
        let (code, text) = add_by(&bench, &["unshare", "--mount", "sh", "-c", read_only]);
        assert_eq!(code, 100, "{text}");
        assert!(text.contains("IPv6 is off on fer"), "{text}");
        assert!(text.contains("must not be read-only") && !text.contains("CAP_"), "{text}");
        assert_eq!(bench.world().host_state(), before.host_state(), "nothing is left");
    });
}
