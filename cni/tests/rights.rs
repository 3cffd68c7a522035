//! The plugin as it is run, with too few rights: the message says which right is missing and what gives it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use support::Bench;
use support::machine::{Machine, RealMachine};

/// Code and message of an ADD by a process that lacks `capability`.
fn add_without(bench: &Bench<'_, RealMachine>, capability: &str) -> (u64, String) {
    let netns = support::path_for_others(&bench.machine.path("pod"));
    let config = json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeDir": bench.dir.path()
    });
    let without = format!("-{capability}");
    let mut child = Command::new("setpriv")
        .args(["--bounding-set", &without, "--inh-caps", &without, env!("CARGO_BIN_EXE_ferrule")])
        .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c0ffee"), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_NETNS", netns.as_str()), ("CNI_PATH", "/opt/cni/bin")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("setpriv: {error}; install the package util-linux"));
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "without {capability}: {text}");
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    (object["code"].as_u64().unwrap(), object["msg"].as_str().unwrap().to_owned())
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
