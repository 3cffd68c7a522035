//! Addresses from other plugins, and ours for other plugins. Debian's are executed (`containernetworking-plugins`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use ferrule_model::{IfName, VethSpec, host_mac, host_veth_name, pod_mac};
use ferrule_netlink::Kernel;
use serde_json::{Value, json};

use crate::on_both_kernels;
use crate::support::faulty::Fault;
use crate::support::machine::{FakeMachine, Machine, RealMachine};
use crate::support::{Bench, attachment, failure, path_for_others, result};

/// Where Debian has the reference plugins.
const PLUGINS: &str = "/usr/lib/cni";

fn need(plugin: &str) {
    let file = Path::new(PLUGINS).join(plugin);
    assert!(file.exists(), "{} is missing: apt-get install containernetworking-plugins", file.display());
}

/// A configuration that has its addresses from Debian's host-local, three of them.
fn host_local(bench: &Bench<'_, impl Machine>) -> Value {
    need("host-local");
    let store = bench.dir.path().join("host-local");
    json!({ "cniVersion": "1.0.0", "ipam": {
        "type": "host-local", "dataDir": store,
        "ranges": [[{ "subnet": "10.9.0.0/29", "rangeStart": "10.9.0.2", "rangeEnd": "10.9.0.4" }], [{ "subnet": "fd09::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }]
    } })
}

/// What host-local holds.
fn held(bench: &Bench<'_, impl Machine>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(bench.dir.path().join("host-local/pods")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|name| name.starts_with("10.") || name.starts_with("fd09")).collect();
    names.sort();
    names
}

fn with_plugins(bench: &Bench<'_, impl Machine>, command: &str, fields: &Value) -> ferrule_cni::Answer {
    bench.verb_with(command, &[("CNI_PATH", PLUGINS)], fields)
}

fn with(fields: &Value, key: &str, value: &Value) -> Value {
    let mut fields = fields.clone();
    fields[key] = value.clone();
    fields
}

on_both_kernels! {
    fn host_local_gives_checks_and_takes_back(bench) {
        let before = bench.world();
        let fields = host_local(&bench);
        let added = result(&with_plugins(&bench, "ADD", &fields));
        let ips: Vec<_> = added["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap()).collect();
        assert_eq!(ips, ["10.9.0.2/32", "fd09::2/128"]);
        assert_eq!(added["ips"][0]["gateway"], "169.254.1.1");
        assert_eq!(held(&bench).len(), 2);
        result(&with_plugins(&bench, "CHECK", &with(&fields, "prevResult", &added)));
        result(&with_plugins(&bench, "DEL", &with(&fields, "prevResult", &added)));
        result(&with_plugins(&bench, "DEL", &fields));
        assert_eq!(held(&bench), Vec::<String>::new());
        assert_eq!(bench.world().host_state(), before.host_state());
        assert_eq!(bench.ipamd.state().calls.len(), 0, "ipamd has no part in it");
    }

    fn every_version_of_host_local_is_understood(bench) {
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            let fields = with(&host_local(&bench), "cniVersion", &json!(version));
            let added = result(&with_plugins(&bench, "ADD", &fields));
            assert_eq!(added["cniVersion"], version);
            result(&with_plugins(&bench, "DEL", &fields));
            assert_eq!(held(&bench), Vec::<String>::new());
        }
    }

    fn an_add_that_fails_gives_the_addresses_back(bench) {
        let before = bench.world();
        let fields = host_local(&bench);
        let mut n = 0;
        loop {
            bench.faults.set(n, Fault::Refused);
            let answer = with_plugins(&bench, "ADD", &fields);
            if bench.faults.take() {
                break;
            }
            failure(&answer);
            assert_eq!(held(&bench), Vec::<String>::new(), "request {n}");
            assert_eq!(bench.world().host_state(), before.host_state(), "request {n}");
            n += 1;
        }
        assert!(n > 8, "{n} requests");
    }

    /// host-local refuses a second ADD: the living attachment must not lose its addresses for that.
    fn a_second_add_of_a_living_attachment_fails_and_takes_nothing_from_it(bench) {
        let fields = host_local(&bench);
        let added = result(&with_plugins(&bench, "ADD", &fields));
        let before = bench.world().but_for_the_mark();
        let (_, text) = failure(&with_plugins(&bench, "ADD", &fields));
        assert!(text.contains("host-local: "), "{text}");
        assert_eq!(held(&bench).len(), 2);
        assert_eq!(bench.world().but_for_the_mark(), before);
        result(&with_plugins(&bench, "CHECK", &with(&fields, "prevResult", &added)));
    }

    fn its_errors_are_handed_on(bench) {
        let fields = with(&host_local(&bench), "ipam", &json!({ "type": "host-local", "ranges": [[{ "subnet": "nonsense" }]] }));
        let before = bench.world();
        let (code, text) = failure(&with_plugins(&bench, "ADD", &fields));
        assert_eq!(code, 999, "host-local's own");
        assert!(text.contains("host-local: ") && text.contains("nonsense"), "{text}");
        assert_eq!(bench.world(), before);
    }

    /// Without a gateway: it would look for it at CHECK, and a routed pod has another.
    fn addresses_of_static_are_set_up(bench) {
        need("static");
        let fields = json!({ "cniVersion": "1.0.0", "ipam": {
            "type": "static", "addresses": [{ "address": "10.8.0.7/32" }, { "address": "10.8.1.7/32" }],
            "dns": { "nameservers": ["10.8.0.53"] }
        } });
        let added = result(&with_plugins(&bench, "ADD", &fields));
        assert_eq!(added["ips"].as_array().unwrap().len(), 2);
        assert_eq!(added["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }]));
        assert_eq!(added["dns"]["nameservers"][0], "10.8.0.53");
        result(&with_plugins(&bench, "CHECK", &with(&fields, "prevResult", &added)));
        result(&with_plugins(&bench, "DEL", &fields));
    }

    fn a_plugin_that_is_not_there_is_named_and_what_add_refused_is_deletable(bench) {
        let fields = json!({ "ipam": { "type": "no-such" } });
        let (code, text) = failure(&with_plugins(&bench, "ADD", &fields));
        assert_eq!(code, 7);
        assert!(text.contains("no-such") && text.contains(PLUGINS), "{text}");
        result(&with_plugins(&bench, "DEL", &fields));
        // What an ADD made, it may hold something of.
        let (code, _) = failure(&with_plugins(&bench, "DEL", &with(&fields, "prevResult", &json!({}))));
        assert_eq!(code, 7);
    }
}

/// A plugin that writes down what it is asked, and answers as told.
struct Recorder(PathBuf);

impl Recorder {
    fn new(dir: &Path, answer: &str) -> Self {
        let file = dir.join("recorder");
        let log = dir.join("log");
        let script =
            format!("#!/bin/sh\n{{ env | grep ^CNI_ | sort; cat; echo; }} >>{}\n{answer}\n", log.display());
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        Self(log)
    }

    fn take(&self) -> String {
        let text = fs::read_to_string(&self.0).unwrap();
        fs::remove_file(&self.0).unwrap();
        text
    }
}

#[test]
fn every_verb_is_handed_on_with_environment_and_configuration() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let tools = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(
            tools.path(),
            r#"[ $CNI_COMMAND != ADD ] || echo '{"ips":[{"address":"10.1.2.3/24"}]}'"#,
        );
        let path = format!("/nonexistent:{}", tools.path().display());
        let variables = [("CNI_PATH", path.as_str()), ("CNI_ARGS", "IP=10.1.2.3")];
        let fields = json!({ "ipam": { "type": "recorder", "its": ["own"] } });
        let mut added = Value::Null;
        for command in ["STATUS", "ADD", "CHECK", "DEL", "GC"] {
            let fields = match command {
                "CHECK" => with(&fields, "prevResult", &added),
                "GC" => with(&fields, "cni.dev/valid-attachments", &json!([])),
                _ => fields.clone(),
            };
            let answer = result(&bench.verb_with(command, &variables, &fields));
            if command == "ADD" {
                added = answer;
            }
            let told = recorder.take();
            for part in [
                &format!("CNI_COMMAND={command}"),
                "CNI_CONTAINERID=c0ffee",
                "CNI_ARGS=IP=10.1.2.3",
                &path,
                r#""its":["own"]"#,
            ] {
                assert!(told.contains(part), "{command}: {part} in {told}");
            }
        }
    });
}

/// Debian 12's host-local is of before CNI 1.1.0.
#[test]
fn a_plugin_that_does_not_know_a_verb_is_told_apart_and_what_to_do() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let tools = tempfile::tempdir().unwrap();
        let path = tools.path().display().to_string();
        for msg in ["missing containerID", "unknown CNI_COMMAND: STATUS"] {
            let _recorder =
                Recorder::new(tools.path(), &format!(r#"echo '{{"Code":3,"Msg":"{msg}"}}'; exit 1"#));
            for command in ["STATUS", "GC"] {
                let fields = json!({
                    "cniVersion": "1.1.0", "ipam": { "type": "recorder" }, "cni.dev/valid-attachments": []
                });
                let (code, text) = failure(&bench.verb_with(command, &[("CNI_PATH", &path)], &fields));
                assert_eq!(code, 1, "{text}");
                assert!(text.contains(&format!("does not know {command} (it says: {msg})")), "{text}");
                assert!(text.contains("install a newer recorder"), "{text}");
            }
        }
    });
}

#[test]
fn whatever_a_plugin_answers_is_an_error_of_the_specification() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let before = bench.world();
        for (answer, code, says) in [
            (
                r#"echo '{"code":50,"msg":"full","details":"all of it"}'; exit 1"#,
                50,
                "recorder: full all of it",
            ),
            (r#"echo '{"msg":"odd"}'; exit 1"#, 102, "recorder: odd"),
            ("exit 3", 102, "exit status: 3 without an error object"),
            ("kill -9 $$", 102, "signal: 9"),
            ("echo nonsense", 102, "its result cannot be read"),
            ("echo '{}'", 102, "there is no address in its result"),
        ] {
            let tools = tempfile::tempdir().unwrap();
            let _recorder =
                Recorder::new(tools.path(), &format!("[ $CNI_COMMAND = DEL ] || {{ {answer}; }}"));
            let path = tools.path().to_str().unwrap();
            let fields = json!({ "ipam": { "type": "recorder" } });
            let (found, text) = failure(&bench.verb_with("ADD", &[("CNI_PATH", path)], &fields));
            assert_eq!(found, code, "{text}");
            assert!(text.contains(says), "{text}");
            assert_eq!(bench.world(), before);
        }
    });
}

/// A verb whose plugin `hangs`, as a shell does it.
fn hanging(command: &str, hangs: &str, code: u64) {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let before = bench.world();
        let tools = tempfile::tempdir().unwrap();
        let path = tools.path().to_str().unwrap();
        let file = tools.path().join("hangs");
        let script =
            format!("#!/bin/sh\n[ $CNI_COMMAND = {command} ] || exit 0\necho $$ >{path}/pid\n{hangs}\n");
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        // More than a pipe holds.
        let fields = json!({ "ipam": { "type": "hangs", "big": "x".repeat(100_000) } });
        let begin = Instant::now();
        let answer = bench.verb_with(command, &[("CNI_PATH", path)], &fields);
        let took = begin.elapsed();
        let (found, text) = failure(&answer);
        assert_eq!(found, code, "{text}");
        let says = format!("the IPAM plugin hangs (field \"ipam.type\") did not answer {command} within 8 s");
        assert!(text.contains(&says), "{text}");
        assert!((8..13).contains(&took.as_secs()), "{took:?}");
        let pid = fs::read_to_string(tools.path().join("pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it is gone");
        assert_eq!(bench.world(), before);
    });
}

/// Whatever it hangs in: nothing is waited for longer, and it does not go on behind our back.
#[test]
fn a_plugin_that_hangs_is_killed_and_everything_is_as_before() {
    std::thread::scope(|scope| {
        for (command, hangs, code) in [
            ("ADD", "exec sleep 1000", 11),
            // It gives an address, and goes on.
            ("ADD", r#"echo '{"ips":[{"address":"10.1.2.3/24"}]}'; exec sleep 1000 >/dev/null"#, 11),
            ("DEL", "exec sleep 1000", 11),
            ("STATUS", "exec sleep 1000", 50),
        ] {
            scope.spawn(move || hanging(command, hangs, code));
        }
    });
}

/// Runs one of Debian's plugins on `ferrule-ipam`.
fn debian(bench: &Bench<'_, RealMachine>, command: &str, config: &Value) -> Value {
    let kind = config["type"].as_str().unwrap();
    need(kind);
    let tools = bench.dir.path().join("bin");
    if !tools.exists() {
        fs::create_dir(&tools).unwrap();
        symlink(env!("CARGO_BIN_EXE_ferrule"), tools.join("ferrule-ipam")).unwrap();
    }
    let mut child = Command::new(Path::new(PLUGINS).join(kind))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c0ffee")
        .env("CNI_NETNS", path_for_others(&bench.machine.path("pod")))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", tools)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command} of {kind}: {text}");
    if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
}

/// ADD, CHECK and DEL of one of Debian's plugins with our addresses.
fn under(kind: &str, fields: &Value) {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        // Something for macvlan to sit on.
        machine.add_pod("outside");
        let outside = machine.netns(machine.path("outside").as_ref()).unwrap();
        let spec = VethSpec {
            host_name: IfName::new("up0").unwrap(),
            host_mac: host_mac(&attachment()),
            alias: None,
            pod_name: IfName::new("up0").unwrap(),
            pod_mac: pod_mac(&attachment()),
        };
        machine.host().create_veth(&spec, &outside).unwrap();
        let mut config = json!({ "cniVersion": "1.0.0", "name": "pods", "type": kind,
            "ipam": { "type": "ferrule-ipam", "runtimeDir": bench.dir.path() } });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let added = debian(&bench, "ADD", &config);
        let ips: Vec<_> = added["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| (ip["address"].as_str().unwrap(), ip["gateway"].as_str().unwrap()))
            .collect();
        assert_eq!(
            ips,
            [("10.244.1.2/24", "10.244.1.1"), ("fd00:10:244:1::2/64", "fd00:10:244:1::1")],
            "{added}"
        );
        assert_eq!(added["routes"][0]["dst"], "0.0.0.0/0");
        let lease = bench.ipamd.leases().remove(&attachment()).unwrap();
        assert!(lease.netns.is_some());
        debian(&bench, "CHECK", &with(&config, "prevResult", &added));
        debian(&bench, "DEL", &with(&config, "prevResult", &added));
        debian(&bench, "DEL", &config);
        let left: Vec<_> =
            bench.ipamd.leases().into_keys().map(|attachment| attachment.container_id).collect();
        assert_eq!(left, ["gateway"], "the network's way out stays");
    });
}

#[test]
fn ferrule_ipam_serves_debians_bridge() {
    under("bridge", &json!({ "bridge": "cni7", "isDefaultGateway": true, "hairpinMode": true }));
}

#[test]
fn ferrule_ipam_serves_debians_ptp() {
    under("ptp", &json!({}));
}

#[test]
fn ferrule_ipam_serves_debians_macvlan() {
    under("macvlan", &json!({ "master": "up0" }));
}

/// The program under its other name, by itself.
fn ipam(bench: &Bench<'_, FakeMachine>, command: &str, fields: &Value) -> ferrule_cni::Answer {
    let mut config =
        json!({ "cniVersion": "1.1.0", "name": "pods", "type": "bridge", "mtu": "not ours to judge" });
    config["ipam"] = json!({ "type": "ferrule-ipam", "runtimeDir": bench.dir.path() });
    for (key, value) in fields.as_object().unwrap() {
        if key == "ipam" {
            config["ipam"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        } else {
            config[key] = value.clone();
        }
    }
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(command.into()),
        "CNI_CONTAINERID" => Some("c0ffee".into()),
        "CNI_IFNAME" => Some("eth0".into()),
        "CNI_NETNS" => Some("/nonexistent".into()),
        _ => None,
    };
    let node = crate::support::faulty::FaultyNode { machine: bench.machine, faults: bench.faults.clone() };
    ferrule_cni::run(ferrule_cni::Face::Ipam, variable, config.to_string().as_bytes(), &node)
}

#[test]
fn ferrule_ipam_has_every_verb() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        result(&ipam(&bench, "STATUS", &json!({})));
        let added = result(&ipam(&bench, "ADD", &json!({})));
        assert_eq!(added["interfaces"], Value::Null, "an IPAM plugin has none");
        assert_eq!(added["ips"][0], json!({ "address": "10.244.1.2/24", "gateway": "10.244.1.1" }));
        assert_eq!(result(&ipam(&bench, "ADD", &json!({}))), added, "the same again");
        result(&ipam(&bench, "CHECK", &json!({ "prevResult": added })));
        let (code, _) = failure(&ipam(
            &bench,
            "CHECK",
            &json!({ "prevResult": { "ips": [{ "address": "10.244.1.9/24" }] } }),
        ));
        assert_eq!(code, 102);
        let valid = json!([{ "containerID": "c0ffee", "ifname": "eth0" }]);
        result(&ipam(&bench, "GC", &json!({ "cni.dev/valid-attachments": valid })));
        assert_eq!(bench.ipamd.leases().len(), 2);
        result(&ipam(&bench, "GC", &json!({ "cni.dev/valid-attachments": [] })));
        assert_eq!(bench.ipamd.leases().len(), 1, "the way out stays");
        assert!(result(&ipam(&bench, "VERSION", &json!({})))["supportedVersions"].is_array());
        assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
    });
}

#[test]
fn ferrule_ipam_gives_the_configurations_routes_and_refuses_what_it_does_not_know() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let routes = json!([{ "dst": "192.0.2.0/24" }]);
        let added = result(&ipam(&bench, "ADD", &json!({ "ipam": { "routes": routes } })));
        assert_eq!(added["routes"], routes);
        let (code, text) = failure(&ipam(&bench, "ADD", &json!({ "ipam": { "subnet": "10.0.0.0/8" } })));
        assert_eq!(code, 7);
        assert!(text.contains("ipam.subnet"), "{text}");
        let old = result(&ipam(&bench, "ADD", &json!({ "cniVersion": "0.2.0" })));
        assert_eq!(old["ip4"]["ip"], "10.244.1.2/24");
    });
}

#[test]
fn a_pod_outside_of_its_gateways_subnet_is_refused_and_holds_nothing() {
    FakeMachine::with(|machine| {
        let bench = Bench::new(machine);
        let fields = json!({ "runtimeConfig": { "ips": ["10.99.0.1"] } });
        let (code, text) = failure(&ipam(&bench, "ADD", &fields));
        assert_eq!(code, 102);
        assert!(text.contains("10.99.0.1"), "{text}");
        assert_eq!(bench.ipamd.leases().len(), 1);
    });
}
