//! The real daemon: its start and end, `node.json`, the queue of releases, what it tells the service manager.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::common::{Manager, Place, allocate, attachment, figure, leases, until};
use ferrule_wire::{CallError, Client, ClientError, Pod, Pools, Release, Status, queue_release, queued};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Instant;

const POOL: &str = "[[ipam.pool]]\nname = \"own\"\nsubnets = [\"10.9.0.0/24\", \"fd09::/64\"]\n";

fn node(cidrs: &str) -> String {
    format!(r#"{{"node":"a","pod_cidrs":[{cidrs}],"cluster_cidrs":[],"mtu":1450}}"#)
}

fn call_error(result: Result<impl std::fmt::Debug, ClientError>) -> CallError {
    match result {
        Err(ClientError::Call(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_serves_and_stops_on_sigterm_and_goes_on_where_it_was() {
    let place = Place::new(POOL);
    let daemon = place.start();
    let given = place.client().call(&allocate("a")).unwrap();
    assert_eq!(given.lease.addresses, ["10.9.0.1/32".parse().unwrap(), "fd09::1/128".parse().unwrap()]);
    let status = daemon.stop();
    assert!(status.success(), "{status}\n{}", place.log_end());
    assert!(!place.runtime_dir().join("ipamd.sock").exists());

    let _daemon = place.start();
    let mut client = place.client();
    let again = client.call(&allocate("a")).unwrap();
    assert!(again.existing);
    assert_eq!(again.lease, given.lease);
}

#[test]
fn each_lease_given_and_released_is_logged() {
    let place = Place::new(POOL);
    let _daemon = place.start();
    let mut call = allocate("c0ffee");
    call.pod = Some(Pod { namespace: "shop".into(), name: "web-0".into(), uid: String::new() });
    let mut client = place.client();
    client.call(&call).unwrap();
    client.call(&call).unwrap();
    client.call(&Release { attachment: attachment("c0ffee") }).unwrap();
    // The answer does not wait for its line.
    until("the release is logged", || place.log().contains("lease released"));
    let log = place.log();
    for what in ["lease given", "lease released"] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(what)).collect();
        assert_eq!(lines.len(), 1, "{log}");
        for part in ["10.9.0.1", "fd09::1", "shop/web-0", "pods", "c0ffee", "eth0"] {
            assert!(lines[0].contains(part), "{part} in {}", lines[0]);
        }
    }
}

#[test]
fn without_node_json_it_says_so_and_follows_it_when_it_comes() {
    let place = Place::new("");
    let _daemon = place.start();
    let mut client = place.client();
    for error in [call_error(client.call(&Status::default())), call_error(client.call(&allocate("a")))] {
        let CallError::NoPool { pool: None, reason } = &error else { panic!("{error:?}") };
        assert!(reason.contains("routed has not written node.json yet"), "{reason}");
    }
    place.write_node(&node("\"10.1.0.0/31\""));
    until("node.json is taken", || client.call(&Status::default()).is_ok());
    let first = client.call(&allocate("a")).unwrap();
    assert_eq!((first.lease.addresses[0].to_string(), first.mtu), ("10.1.0.0/32".into(), Some(1450)));

    // Another CIDR: new leases from it, the old one stays.
    place.write_node(&node("\"10.2.0.0/31\""));
    until("the change is taken", || client.call(&Pools {}).unwrap().pools[0].draining == 1);
    assert_eq!(client.call(&allocate("b")).unwrap().lease.addresses[0].to_string(), "10.2.0.0/32");
    assert!(client.call(&allocate("a")).unwrap().existing);

    // Broken: the last good state stays. Gone: the same.
    place.write_node("{");
    until("the fault is reported", || place.log().contains("node.json cannot be used"));
    assert_eq!(client.call(&allocate("c")).unwrap().lease.addresses[0].to_string(), "10.2.0.1/32");
    fs::remove_file(place.runtime_dir().join("node.json")).unwrap();
    until("it is missed", || place.log().contains("no node.json: waiting"));
    assert!(matches!(call_error(client.call(&Status::default())), CallError::PoolExhausted { .. }));
}

/// `[[ipam.pool]]` of these subnets.
fn pool_of(subnets: &str) -> String {
    format!("[ipam]\ncooldown_s = 0\n[[ipam.pool]]\nname = \"own\"\nsubnets = [{subnets}]\n")
}

#[test]
fn the_configuration_is_followed_and_withdrawn_subnets_drain() {
    let place = Place::new(&pool_of("\"10.1.0.0/31\""));
    let _daemon = place.start();
    let mut client = place.client();
    let mut first = |id: &str| client.call(&allocate(id)).map(|reply| reply.lease.addresses[0].to_string());
    assert_eq!(first("a").unwrap(), "10.1.0.0/32");

    // A file in the place of the file, as editors and configuration management do it.
    let new = place.dir.path().join("new");
    fs::write(&new, pool_of("\"10.2.0.0/31\"")).unwrap();
    fs::rename(&new, place.dir.path().join("ferrule.toml")).unwrap();
    until("the change counts", || place.log().contains("it counts from now on"));
    assert_eq!(first("b").unwrap(), "10.2.0.0/32");
    assert_eq!(first("a").unwrap(), "10.1.0.0/32", "its subnet drains, its lease stays");
    let pools = place.client().call(&Pools {}).unwrap().pools;
    assert_eq!((pools[0].draining, pools[0].in_use), (1, 1));

    // A fault: named with its line, and the last good state stays.
    fs::write(place.dir.path().join("ferrule.toml"), pool_of("\"10.2.0.1/31\"")).unwrap();
    until("the fault is told", || place.log().contains("the last good one stays"));
    assert!(place.log().contains("ferrule.toml:5:12: ipam.pool.subnets"), "{}", place.log_end());
    place.client().call(&Release { attachment: attachment("a") }).unwrap();
    assert_eq!(first("c").unwrap(), "10.2.0.1/32");
    assert!(
        matches!(call_error(first("d")), CallError::PoolExhausted { in_use: 2, .. }),
        "withdrawn is withdrawn"
    );
}

#[test]
fn sighup_reads_the_files_again() {
    let place = Place::new(&pool_of("\"10.1.0.0/31\""));
    let daemon = place.start();
    let mut client = place.client();
    client.call(&Status::default()).unwrap();
    nix::sys::signal::kill(daemon.pid(), nix::sys::signal::SIGHUP).unwrap();
    until("the signal is heard", || place.log().contains("nothing in it changed"));
    client.call(&Status::default()).unwrap();
    assert!(daemon.stop().success());
}

#[test]
fn addresses_and_ranges_can_be_requested() {
    let place = Place::new(POOL);
    let _daemon = place.start();
    let mut client = place.client();
    let mut call = allocate("a");
    call.requested = vec!["10.9.0.77".parse().unwrap()];
    let lease = client.call(&call).unwrap().lease;
    assert_eq!(lease.addresses, ["10.9.0.77/32".parse().unwrap(), "fd09::1/128".parse().unwrap()]);
    call.attachment = attachment("b");
    let CallError::AddressInUse { attachment: holder, .. } = call_error(client.call(&call)) else { panic!() };
    assert_eq!(holder, attachment("a"));
    call.requested = Vec::new();
    let (first, last) = ("fd09::77".parse().unwrap(), "fd09::78".parse().unwrap());
    call.ranges = vec![ferrule_wire::AddressRange { first, last }];
    assert_eq!(client.call(&call).unwrap().lease.addresses[1].ip(), first);
}

#[test]
fn node_json_that_is_there_at_the_start_is_used() {
    let place = Place::new("");
    place.write_node(&node("\"10.1.0.0/24\", \"fd01::/64\""));
    let _daemon = place.start();
    assert_eq!(place.client().call(&allocate("a")).unwrap().lease.addresses.len(), 2);
}

#[test]
fn queued_releases_are_done_before_it_is_ready_and_within_a_second_after() {
    let place = Place::new(POOL);
    let daemon = place.start();
    for id in ["a", "b", "c"] {
        place.client().call(&allocate(id)).unwrap();
    }
    daemon.kill();
    queue_release(&place.runtime_dir(), &attachment("a")).unwrap();

    let manager = Manager::new(place.dir.path());
    let mut command = place.command();
    let daemon = command.env("NOTIFY_SOCKET", &manager.path).spawn().map(Reaped).unwrap();
    let ready = manager.next();
    assert!(ready.contains("READY=1") && ready.contains("STATUS=serving, 2 leases"), "{ready}");
    assert_eq!(queued(&place.runtime_dir()).unwrap(), []);
    let mut client = Client::connect(&place.runtime_dir().join("ipamd.sock"), crate::common::soon()).unwrap();
    let ids = |client: &mut Client| -> Vec<String> {
        leases(client).into_iter().map(|lease| lease.attachment.container_id).collect()
    };
    assert_eq!(ids(&mut client), ["b", "c"]);

    queue_release(&place.runtime_dir(), &attachment("b")).unwrap();
    let begun = Instant::now();
    until("the release is performed", || ids(&mut client) == ["c"]);
    println!("a queued release was performed after {:?}", begun.elapsed());
    until("its file goes", || queued(&place.runtime_dir()).unwrap().is_empty());
    drop(daemon);
}

/// The daemon as after a reboot: with another boot id, mounted over the kernel's where nobody else sees it.
fn in_another_boot(place: &Place) -> Reaped {
    let id = place.dir.path().join("boot_id");
    fs::write(&id, "00000000-0000-4000-8000-000000000001\n").unwrap();
    let program = place.command();
    let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script]).arg(&id);
    command.arg(program.get_program()).args(program.get_args());
    command.spawn().map(Reaped).unwrap()
}

#[test]
fn a_reboot_ends_all_leases_wherever_the_store_lies() {
    let state = tempfile::tempdir().unwrap();
    // The test's own network namespace begins with it down (tests/in-namespace).
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let path = state.path().display();
    let config = format!("[ipam]\nstate_dir = \"{path}\"\n{POOL}[metrics]\nipamd = \"{metrics}\"\n");
    let place = Place::new(&config);
    let daemon = place.start();
    let mut client = place.client();
    client.call(&allocate("a")).unwrap();
    client.call(&allocate("b")).unwrap();
    daemon.kill();
    assert!(state.path().join("ipam").is_dir() && !place.runtime_dir().join("ipam").exists());

    let rebooted = in_another_boot(&place);
    let mut client = place.client();
    assert_eq!(leases(&mut client), []);
    let reclaimed = "ferrule_ipamd_leases_reclaimed_total{reason=\"reboot\"}";
    until("the metrics are served", || figure(&metrics, reclaimed).is_some());
    assert_eq!(figure(&metrics, reclaimed), Some(2.0));
    let lease = client.call(&allocate("c")).unwrap().lease;
    assert_eq!(lease.addresses[0].to_string(), "10.9.0.3/32", "those of the boot before rest");
    drop(rebooted);
}

/// Killed and waited for when dropped.
struct Reaped(std::process::Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_watchdog_is_fed_when_the_service_manager_asks_for_it() {
    let place = Place::new(POOL);
    let manager = Manager::new(place.dir.path());
    let mut command = place.command();
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    let _daemon = command.spawn().map(Reaped).unwrap();
    assert!(manager.next().contains("READY=1"));
    until("a beat comes", || manager.next().contains("WATCHDOG=1"));
}

#[test]
fn a_second_daemon_is_refused_and_harms_nobody() {
    let place = Place::new(POOL);
    let _daemon = place.start();
    place.client().call(&Status::default()).unwrap();
    let second = place.command().stderr(Stdio::piped()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another ipamd serves"), "{said}");
    place.client().call(&Status::default()).unwrap();
}

#[test]
fn a_store_of_a_later_version_stops_the_start_and_is_left_as_it_is() {
    let place = Place::new(POOL);
    let store = place.runtime_dir().join("ipam");
    let (entry, later) = (1_u64.to_be_bytes(), [2, 99]);
    {
        let db = sled::open(&store).unwrap();
        db.insert(entry, &later).unwrap();
        db.flush().unwrap();
    }
    let output = place.command().stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("entry 1") && said.contains("install the later one again"), "{said}");
    assert!(!place.runtime_dir().join("ipamd.sock").exists());
    assert_eq!(sled::open(&store).unwrap().get(entry).unwrap().unwrap(), later);
}

/// The journal may hang, and whoever reads a pipe may have stopped: the pods' addresses do not wait for the log.
#[test]
fn whoever_does_not_read_the_log_holds_up_nobody() {
    let place = Place::new(&POOL.replace("10.9.0.0/24", "10.9.0.0/20"));
    let mut command = place.command();
    command.stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let log = child.stderr.take().unwrap();
    let mut client = place.client();
    // Many times what a pipe holds, and more than is kept for the reader.
    let name = "n".repeat(255);
    for number in 0..1400 {
        let mut call = allocate(&format!("{number:0250}"));
        call.attachment.network.clone_from(&name);
        call.pod = Some(Pod { namespace: name.clone(), name: name.clone(), uid: String::new() });
        client.call(&call).unwrap();
    }
    client.call(&allocate("the-last")).unwrap();
    // Read again, it goes on.
    let (say, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(log).lines().map_while(Result::ok).for_each(|line| drop(say.send(line)));
    });
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.contains("lines of the log were lost")) {
        lines.push(said.recv_timeout(crate::common::LONG).expect("how many lines were lost is told"));
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().try_into().unwrap()),
        nix::sys::signal::SIGTERM,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    lines.extend(said);
    let first = format!("container_id=\"{:0250}\"", 1);
    assert!(lines.iter().any(|line| line.contains(&first)), "the first lines are kept, in their order");
    assert!(lines.iter().any(|line| line.contains("stopping")), "the last lines are waited for");
}

#[test]
fn the_command_line_teaches() {
    let run =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_ipamd")).args(arguments).output().unwrap();
    let help = run(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.status.success());
    for part in ["--config", "--runtime-dir", "io.ferrule.Ipam", "node.json"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(
        String::from_utf8_lossy(&run(&["--version"]).stdout),
        concat!("ipamd ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(run(&["--nonsense"]).status.code(), Some(2));
    let missing = run(&["--config", "/nonexistent/ferrule.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent/ferrule.toml"));
}
