//! Every name that reaches the kernel or a path is checked as they will take it, before anything is done; and what ADD
//! refuses can be deleted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use ferrule_cni::{Face, RealNode, run};
use serde_json::{Value, json};

use crate::on_both_kernels;
use crate::support::machine::{Machine, RealMachine};
use crate::support::{Bench, failure, result};

/// Code and message of an ADD that has to be refused with nothing done.
fn refused<M: Machine>(bench: &Bench<'_, M>, variables: &[(&str, &str)], fields: &Value) -> (u64, String) {
    let before = bench.world();
    let (code, text) = failure(&bench.verb_with("ADD", variables, fields));
    assert_eq!(bench.world(), before, "{text}");
    assert!(bench.queued().is_empty(), "{text}");
    (code, text)
}

on_both_kernels! {
    fn a_name_of_an_interface_that_means_something_to_the_kernel_is_refused(bench) {
        for (name, reason) in [
            ("eth%d", "`%`"),
            ("%s", "`%`"),
            ("all", "all links"),
            ("default", "all links"),
            ("à", "white space"),
            ("a b", "white space"),
        ] {
            let (code, text) = refused(&bench, &[("CNI_IFNAME", name)], &json!({}));
            assert_eq!(code, 4, "{text}");
            assert!(text.contains("CNI_IFNAME") && text.contains(name) && text.contains(reason), "{text}");
            // A runtime sends DEL after an ADD that failed, and an earlier build may have granted the name.
            result(&bench.verb_with("DEL", &[("CNI_IFNAME", name)], &json!({})));
        }
    }

    fn a_bridge_has_a_name_of_its_own(bench) {
        for (name, reason) in [
            ("br%d", "`%`"),
            ("default", "all links"),
            ("sixteen-letters-", "15 bytes"),
            ("..", "directories"),
            ("ferrule.1", "name of a tunnel"),
            ("ferrule-wg", "name of a tunnel"),
            ("flannel.1", "name of a tunnel"),
            ("fer0123456789ab", "name of a pod's link"),
            ("fea0123456789ab", "name of a pod's link"),
            ("fei0123456789ab", "name of a pod's link"),
        ] {
            let (code, text) = refused(&bench, &[], &json!({ "mode": "bridge", "bridge": name }));
            assert_eq!(code, 7, "{text}");
            assert!(text.contains("\"bridge\"") && text.contains(name) && text.contains(reason), "{text}");
        }
    }

    fn a_name_that_is_too_long_is_refused_with_the_figures(bench) {
        let long = "a".repeat(256);
        let (code, text) = refused(&bench, &[("CNI_CONTAINERID", &long)], &json!({}));
        assert_eq!(code, 4, "{text}");
        assert!(text.contains("CNI_CONTAINERID") && text.contains("256 bytes, and at most 255"), "{text}");
        result(&bench.verb_with("DEL", &[("CNI_CONTAINERID", &long)], &json!({})));

        let arguments = format!("K8S_POD_NAME={long}");
        let (code, text) = refused(&bench, &[("CNI_ARGS", &arguments)], &json!({}));
        assert_eq!(code, 4, "{text}");
        assert!(text.contains("K8S_POD_NAME") && text.contains("at most 255"), "{text}");

        for (fields, field) in [
            (json!({ "name": long }), "\"name\""),
            (json!({ "ipam": { "type": "ferrule-ipam", "pool": long } }), "\"ipam.pool\""),
            (json!({ "ipam": { "type": long } }), "\"ipam.type\""),
            (json!({ "runtimeConfig": { "aliases": [long] } }), "\"runtimeConfig.aliases\""),
            (json!({ "runtimeConfig": { "aliases": ["a\u{0}b"] } }), "control character"),
        ] {
            let (code, text) = refused(&bench, &[], &fields);
            assert_eq!(code, 7, "{text}");
            assert!(text.contains(field), "{text}");
            let del = bench.verb_with("DEL", &[], &fields);
            assert!(del.ok, "{field}: {}", String::from_utf8_lossy(&del.stdout));
        }
        // What is too long for a socket, `sun_path`.
        let (code, text) = refused(&bench, &[], &json!({ "runtimeDir": format!("/{}", "a".repeat(100)) }));
        assert_eq!(code, 7, "{text}");
        assert!(text.contains("\"runtimeDir\"") && text.contains("at most 107"), "{text}");
    }
}

/// It was waited for for ever.
#[test]
fn what_is_no_network_namespace_is_named_at_once() {
    RealMachine::with(|machine| {
        let bench = Bench::new(machine);
        let directory = bench.dir.path();
        let (pipe, file) = (directory.join("pipe"), directory.join("file"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(&file, "").unwrap();
        let other = Path::new("/proc/self/ns/mnt");
        for path in [pipe.as_path(), &file, directory, other, &directory.join("nothing")] {
            let name = path.to_str().unwrap();
            for command in ["ADD", "CHECK"] {
                let config = json!({
                    "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeDir": directory,
                    "prevResult": { "cniVersion": "1.1.0" }
                });
                let variables: BTreeMap<_, _> = [
                    ("CNI_COMMAND", command),
                    ("CNI_CONTAINERID", "c0ffee"),
                    ("CNI_NETNS", name),
                    ("CNI_IFNAME", "eth0"),
                ]
                .into();
                let variable = |name: &str| variables.get(name).map(OsString::from);
                let begun = Instant::now();
                let answer = run(Face::Network, variable, config.to_string().as_bytes(), &RealNode);
                let (code, text) = failure(&answer);
                assert_eq!(code, 8, "{command}: {text}");
                assert!(text.contains("CNI_NETNS") && text.contains(name), "{command}: {text}");
                assert!(begun.elapsed() < Duration::from_secs(2), "{command} {name}: {:?}", begun.elapsed());
            }
            result(&bench.verb_with("DEL", &[("CNI_NETNS", name)], &json!({})));
        }
    });
}
