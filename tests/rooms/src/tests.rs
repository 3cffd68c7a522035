//! The rooms are as the table says; and the check sees what is planted.

use super::*;

const ROOM: Room = Room { place: "routed/src/decide", imports: Some(&["decide"]), apart: &[], pure: true };

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What is found in `source`, a file of the module `crate::decide::planted`.
fn found(source: &str) -> Vec<(String, Why)> {
    let module = ["crate", "decide", "planted"].map(str::to_owned);
    let named = mentions(source, &module).unwrap();
    let crates = ["tokio", "ferrule_netlink", "ferrule_model", "nix"].map(str::to_owned);
    let faults = judge(&ROOM, &crates, Path::new("planted.rs"), &named);
    faults.into_iter().map(|fault| (fault.name, fault.why)).collect()
}

#[test]
fn rooms_import_what_they_may_and_the_pure_ones_have_no_effects() {
    let faults = check(&root()).unwrap();
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "\n{}", lines.join("\n"));
}

#[test]
fn every_effect_that_is_planted_is_found() {
    let effect = |name: &str| vec![(name.to_owned(), Why::Effect)];
    let all = [
        ("fn f() { let now = std::time::Instant::now(); }", "std::time::Instant::now"),
        ("use std::time::Instant;\nfn f() { g(Instant::now()) }", "std::time::Instant::now"),
        ("use std::time;\nfn f() { x.unwrap_or_else(time::Instant::now) }", "std::time::Instant::now"),
        ("use std::time::{self, Duration};\nfn f() { time::Instant::now() }", "std::time::Instant::now"),
        ("use std::time::Instant as Clock;\nfn f() { Clock::now() }", "std::time::Instant::now"),
        ("fn f() { println!(\"{:?}\", std::time::Instant::now()) }", "std::time::Instant::now"),
        ("fn f() { g(..std::time::Instant::now()) }", "std::time::Instant::now"),
        ("fn f() { ::std::fs::read(path) }", "std::fs::read"),
        ("mod inner { fn f() { std::fs::read(path) } }", "std::fs::read"),
        ("fn f() { use std::process::Command; }", "std::process::Command"),
        ("use std::{fmt, net::{IpAddr, UdpSocket}};", "std::net::UdpSocket"),
        ("use std::time::SystemTime;", "std::time::SystemTime"),
        ("use std::fs::*;", "std::fs"),
        ("fn f(since: std::time::Instant) { since.elapsed() }", "elapsed"),
        ("fn f(path: &std::path::Path) { path.exists() }", "exists"),
    ];
    for (source, name) in all {
        assert_eq!(found(source), effect(name), "{source}");
    }
    // What would hide a banned name is one itself.
    assert_eq!(found("use std::time::*;"), effect("std::time"));
    assert_eq!(found("use std::*;"), effect("std"));
}

#[test]
fn rooms_and_crates_with_effects_are_found_however_they_are_named() {
    let all = [
        ("use crate::pass::observe::Links;", "crate::pass::observe::Links", Why::Room),
        ("use super::super::pass::observe;", "crate::pass::observe", Why::Room),
        ("use crate::{decide::nodes, pass::apply};", "crate::pass::apply", Why::Room),
        ("fn f() { crate::pass::apply::go() }", "crate::pass::apply::go", Why::Room),
        ("mod inner { use super::super::super::host::Host; }", "crate::host::Host", Why::Room),
        ("use crate::*;", "crate", Why::Room),
        ("use ferrule_netlink::Netlink;", "ferrule_netlink::Netlink", Why::Crate),
        ("use ferrule_netlink as other;", "ferrule_netlink", Why::Crate),
        ("use nix::unistd::getpid;", "nix::unistd::getpid", Why::Crate),
        ("#[derive(tokio::Wait)] struct S;", "tokio::Wait", Why::Crate),
    ];
    for (source, name, why) in all {
        assert_eq!(found(source), [(name.to_owned(), why)], "{source}");
    }
}

#[test]
fn values_tests_comments_and_strings_are_none_of_its_business() {
    let all = [
        "use std::time::{Duration, Instant};\nfn f(now: Instant) -> Instant { now + Duration::ZERO }",
        "use std::net::{IpAddr, SocketAddr};\nuse ferrule_model::Op;\nuse nix::errno::Errno;",
        "use crate::decide::nodes::Node;\nuse super::roll::Roll;\nuse self::inner::Thing;",
        "/// As [`std::fs::read`].\nfn f() -> &'static str { \"std::fs::read\" } // std::fs::read",
        "#[cfg(test)]\nmod tests { use std::fs; #[test] fn f() { std::process::id(); } }",
        "#[cfg(test)]\nuse std::{fs, process};\n#[test]\nfn f() { std::process::id(); }",
        "fn f(all: &[u8]) { g(all[..elapsed(1)].len()) }",
    ];
    for source in all {
        assert_eq!(found(source), [], "{source}");
    }
    let after = "#[cfg(test)]\nuse std::{fs, process};\nuse std::env;";
    assert_eq!(found(after), [("std::env".to_owned(), Why::Effect)], "tests end where they end");
}

#[test]
fn what_is_planted_in_a_real_file_is_found_with_its_line() {
    let file = root().join("routed/src/decide/roll.rs");
    let source = fs::read_to_string(file).unwrap();
    let lines = source.lines().count();
    assert_eq!(found(&source), []);
    let planted = format!("{source}\nfn planted() {{\n    std::fs::remove_file(\"/etc/passwd\").ok();\n}}\n");
    let module = ["crate", "decide", "roll"].map(str::to_owned);
    let faults = judge(&ROOM, &[], Path::new("roll.rs"), &mentions(&planted, &module).unwrap());
    let [fault] = &faults[..] else { panic!("{faults:?}") };
    assert_eq!((fault.line, fault.name.as_str()), (lines + 3, "std::fs::remove_file"));
    assert!(
        fault.to_string().starts_with(&format!("roll.rs:{}: std::fs::remove_file has an effect", lines + 3))
    );
}

#[test]
fn what_stands_apart_in_a_room_is_not_named_by_the_rest() {
    let room = Room { place: "config/src", imports: None, apart: &["load"], pure: true };
    let module = ["crate", "nodes"].map(str::to_owned);
    let named = mentions("use crate::document::Document;\nuse crate::load::read;", &module).unwrap();
    let faults = judge(&room, &[], Path::new("nodes.rs"), &named);
    let [fault] = &faults[..] else { panic!("{faults:?}") };
    assert_eq!((fault.name.as_str(), fault.why), ("crate::load::read", Why::Room));
}

#[test]
fn a_room_that_is_not_there_is_told() {
    let gone = Room { place: "routed/src/decide/gone", ..ROOM };
    assert!(check_room(&root(), &gone).unwrap_err().to_string().contains("no room /decide/gone"));
}

#[test]
fn a_manifest_names_the_crates_as_paths_do() {
    let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nferrule-model.workspace = true\n# A word.\n\
                    nix = { workspace = true }\n\n[dev-dependencies]\nproptest.workspace = true\n";
    assert_eq!(dependencies(manifest), ["ferrule_model", "nix"]);
}
