//! The lab's supervisor does to a service what its unit says, shown on services made of a shell; and the shipped units and network
//! list are such that it can. Needs `setpriv` and `systemd-notify`; fails without.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ferrule_tests::{conflist::Conflist, install::Install, service::Service, space::Space, unit::Unit};

const SOON: Duration = Duration::from_secs(5);

fn start(dir: &Path, lines: &str) -> Service {
    let unit = Unit::parse("demo", &format!("[Service]\nType=notify\n{lines}\n")).expect("a unit");
    let node = Space::node("node1").expect("a node");
    Service::start(&node, &unit, &dir.join("demo.log")).expect("a service")
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("demo.log")).expect("a log")
}

#[test]
fn a_service_is_ready_when_it_says_so_comes_back_after_a_crash_and_stops_when_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = start(
        dir.path(),
        "ExecStart=/bin/sh -c \"echo started; systemd-notify --ready; exec sleep 1000\"\nRestart=always\nRestartSec=20ms",
    );
    service.wait_ready(1, SOON).expect("ready");
    for count in 2..=3 {
        service.crash().expect("killed");
        service.wait_ready(count, SOON).expect("ready again");
    }
    service.stop().expect("stopped");
    assert_eq!(log(dir.path()), "started\n".repeat(3));
}

#[test]
fn a_service_lives_under_the_limits_of_its_unit() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = start(
        dir.path(),
        "ExecStart=/bin/sh -c \"setpriv --dump; umask; ls -A /proc/sys/net/ipv4/conf; stat -c %%a /run/demo; systemd-notify --ready; \
         exec sleep 1000\"\nEnvironment=DEMO=1\nCapabilityBoundingSet=CAP_NET_ADMIN\nNoNewPrivileges=yes\nUMask=0027\nUser=nobody\n\
         RuntimeDirectory=demo\nRuntimeDirectoryMode=0750\nPrivateNetwork=yes",
    );
    service.wait_ready(1, SOON).expect("ready");
    service.stop().expect("stopped");
    let log = log(dir.path());
    for told in ["bounding set: net_admin\n", "no_new_privs: 1\n", "\n0027\n", "\n750\n"] {
        assert!(log.contains(told), "{told:?} in\n{log}");
    }
}

#[test]
fn a_service_that_fails_is_told_with_the_end_of_its_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = start(dir.path(), "ExecStart=/bin/sh -c \"echo no such file >&2; exit 3\"\nRestart=no");
    let error = service.wait_ready(1, SOON).expect_err("not ready").to_string();
    assert!(error.contains("exit status: 3") && error.contains("no such file"), "{error}");
}

#[test]
fn what_is_shipped_can_be_installed() {
    let conf_dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../conf"));
    let install =
        Install { bin_dir: "/nowhere".into(), plugin: "/nowhere".into(), conf_dir: conf_dir.clone() };
    for name in ["ipamd", "routed"] {
        let unit = install.unit(name, Path::new("/lab/ferrule.toml")).expect("a unit");
        assert_eq!(
            unit.exec,
            [format!("/usr/local/bin/{name}"), "--config".into(), "/lab/ferrule.toml".into()]
        );
        assert!(unit.notifies && unit.no_new_privileges && unit.capabilities.is_some(), "{unit:?}");
    }
    let text = fs::read_to_string(conf_dir.join("10-ferrule.conflist")).expect("the list");
    let list = Conflist::parse(&text).expect("a list");
    assert_eq!((list.plugin_type().expect("a type"), list.version.as_str()), ("ferrule", "1.1.0"));
    let node = Space::node("node1").expect("a node");
    let error = install.place(&node).expect_err("nothing is built there").to_string();
    assert!(error.contains("/nowhere/ipamd (build it first)"), "{error}");
}
