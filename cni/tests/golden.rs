//! What goes out on standard output, byte for byte, for each verb in each version; and that a second implementation of
//! the specification understands it.
//!
//! A text that is to change is written anew with `UPDATE_GOLDEN=1`, and looked at before it is committed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use cni_plugin::reply::{ErrorReply, SuccessReply, VersionReply};
use ferrule_cni::Answer;
use serde_json::{Value, json};

use crate::support::machine::{FakeMachine, Machine};
use crate::support::{Bench, result};

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"))
}

/// Compares with `golden/NAME.json`; the paths of this run are made the same in all runs.
fn golden<M: Machine>(bench: &Bench<'_, M>, name: &str, answer: &Answer) {
    let dir = bench.dir.path().to_str().unwrap();
    let text = String::from_utf8(answer.stdout.clone()).unwrap().replace(dir, "/run/ferrule");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file(name), &text).unwrap();
    }
    let expected = std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(text, expected, "golden/{name}.json");
}

fn in_version(version: &str) -> Value {
    json!({ "cniVersion": version })
}

fn on_fake(test: impl FnOnce(&mut Bench<'_, FakeMachine>)) {
    FakeMachine::with(|machine| test(&mut Bench::new(machine)));
}

#[test]
fn add() {
    for version in VERSIONS {
        on_fake(|bench| {
            let answer = bench.verb_with("ADD", &[], &in_version(version));
            golden(bench, &format!("add-{version}"), &answer);
            let object: Value = serde_json::from_slice(&answer.stdout).unwrap();
            if version < "0.3.0" {
                // The other implementation begins with 0.3.1.
                let of = |family: &str| object[family]["ip"].as_str().unwrap().to_owned();
                assert_eq!((of("ip4"), of("ip6")), ("10.244.1.1/32".into(), "fd00:10:244:1::1/128".into()));
                return;
            }
            let read: SuccessReply = serde_json::from_value(object).unwrap();
            assert_eq!(read.cni_version.to_string(), version);
            assert_eq!(read.interfaces.len(), 2);
            assert_eq!(read.interfaces[0].sandbox.to_str(), Some(""));
            assert_eq!(read.interfaces[1].name, "eth0");
            assert_eq!(read.interfaces[1].sandbox.to_str(), Some("/run/netns/pod"));
            assert!(read.interfaces.iter().all(|interface| interface.mac.is_some()));
            let ips: Vec<_> = read.ips.iter().map(|ip| (ip.address.to_string(), ip.interface)).collect();
            assert_eq!(ips, [("10.244.1.1/32".into(), Some(1)), ("fd00:10:244:1::1/128".into(), Some(1))]);
            let routes: Vec<_> = read.routes.iter().map(|route| route.dst.to_string()).collect();
            assert_eq!(routes, ["0.0.0.0/0", "::/0"]);
            assert!(read.specific.is_empty(), "fields it does not know: {:?}", read.specific);
        });
    }
}

#[test]
fn add_of_ipv4_alone() {
    on_fake(|bench| {
        bench.ipamd.state().v4_only = true;
        golden(bench, "add-v4-1.1.0", &bench.verb("ADD"));
    });
}

#[test]
fn the_verbs_without_a_result_write_nothing() {
    for version in VERSIONS {
        on_fake(|bench| {
            let added = result(&bench.verb_with("ADD", &[], &in_version(version)));
            let fields = json!({ "cniVersion": version, "prevResult": added });
            let verbs = if version < "0.4.0" { &["DEL"][..] } else { &["CHECK", "DEL"] };
            for command in verbs {
                let answer = bench.verb_with(command, &[], &fields);
                assert!(answer.ok && answer.stdout.is_empty() && answer.log.is_none(), "{command} {version}");
            }
        });
    }
    on_fake(|bench| {
        assert!(bench.verb("STATUS").stdout.is_empty());
        assert!(bench.verb_with("GC", &[], &json!({ "cni.dev/valid-attachments": [] })).stdout.is_empty());
    });
}

#[test]
fn version() {
    on_fake(|bench| {
        let answer = bench.verb("VERSION");
        golden(bench, "version", &answer);
        let read: VersionReply = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap()["supportedVersions"], json!(VERSIONS));
    });
}

#[test]
fn errors() {
    for version in VERSIONS {
        on_fake(|bench| {
            let with = |fields: Value| {
                let mut all = in_version(version);
                all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
                all
            };
            let added = result(&bench.verb_with("ADD", &[], &in_version(version)));
            let answers = [
                ("add", bench.verb_with("ADD", &[], &with(json!({ "mode": "tunnel" })))),
                ("del", bench.verb_with("DEL", &[], &with(json!({ "name": "-" })))),
                ("check", {
                    bench.ipamd.state().leases.clear();
                    bench.verb_with("CHECK", &[], &with(json!({ "prevResult": added })))
                }),
                ("status", {
                    bench.ipamd.stop();
                    bench.verb_with("STATUS", &[], &in_version(version))
                }),
                ("gc", bench.verb_with("GC", &[], &with(json!({ "cni.dev/valid-attachments": [] })))),
            ];
            for (verb, answer) in answers {
                assert!(!answer.ok);
                golden(bench, &format!("{verb}-error-{version}"), &answer);
                // It wants `details`, and a message without escapes.
                let mut object: Value = serde_json::from_slice(&answer.stdout).unwrap();
                object.as_object_mut().unwrap().entry("details").or_insert_with(|| "".into());
                let plain = object["msg"].as_str().unwrap().replace('"', "'");
                object["msg"] = plain.into();
                let text = object.to_string();
                let read: ErrorReply<'_> = serde_json::from_str(&text).unwrap();
                assert_eq!(read.cni_version.to_string(), version);
            }
        });
    }
}
