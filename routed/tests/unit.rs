//! The daemon with the rights that its unit gives it, and with those of a container: CAP_NET_ADMIN alone suffices for
//! everything.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod systemd;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::etcd::server::Etcd;
use crate::lab::{Node, PATIENCE, within};
use nix::sys::signal::Signal;
use systemd::Systemd;

/// The bit of CAP_NET_ADMIN (12) as /proc prints it.
const NET_ADMIN: &str = "0000000000001000";
/// The number of a user that does not exist.
const USER: u32 = 64_997;

/// The value of a key in the unit.
fn unit(key: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/systemd/routed.service");
    let text = fs::read_to_string(path).unwrap();
    let mut values =
        text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
    values.next().unwrap()
}

/// The arguments of `setpriv` for the unit's capabilities. Where there is more than one user, it becomes an ordinary
/// one.
fn rights() -> Vec<String> {
    let set = |key: &str| {
        let names = unit(key);
        let names = names.split_whitespace().map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
        names.map(|name| format!(",+{name}")).collect::<String>()
    };
    let (bounding, ambient) = (set("CapabilityBoundingSet"), set("AmbientCapabilities"));
    let mut rights = vec![
        format!("--bounding-set=-all{bounding}"),
        format!("--inh-caps=-all{ambient}"),
        format!("--ambient-caps=-all{ambient}"),
    ];
    assert_eq!(unit("NoNewPrivileges"), "yes");
    rights.push("--no-new-privs".to_owned());
    if has_users() {
        rights.extend([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()]);
    }
    rights
}

/// Whether there is more than one user: the namespace of an ordinary user has root alone.
fn has_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap() > USER.into()
}

/// Puts the program where every user can run it, and makes a runtime directory that is the user's.
fn place(node: &Node) -> String {
    let program = node.path("routed");
    fs::copy(env!("CARGO_BIN_EXE_routed"), &program).unwrap();
    fs::create_dir(node.path("run")).unwrap();
    if has_users() {
        fs::set_permissions(node.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        chown(node.path("run"), Some(USER), Some(USER)).unwrap();
    }
    program.display().to_string()
}

#[test]
fn with_the_units_user_and_one_capability_it_does_all_of_its_work() {
    let node = Node::new("vxlan");
    node.configure_routing("accept_forward = true\n", "");
    node.run("iptables-nft", "-P FORWARD DROP");
    node.write_nodes(&[1, 2, 3]);
    let program = place(&node);
    let mut command = Command::new("setpriv");
    command.args(rights()).arg(&program).args(node.arguments().split(' ')).current_dir("/");
    let daemon = node.start_as(command);
    daemon.wait_until_ready();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim();
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(of(set), NET_ADMIN, "{set}");
    }
    let right = node.state();
    assert!(right.contains("10.244.3.0/24") && right.contains("table inet ferrule"), "{right}");
    assert!(right.contains("jump FERRULE-FORWARD"), "{right}");
    for sysctl in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        assert_eq!(node.run("sysctl", &format!("-n {sysctl}")).trim(), "1", "{sysctl}");
    }
    assert_eq!(node.run("sysctl", "-n net.ipv4.conf.ferrule/1.rp_filter").trim(), "2");
    let socket = fs::metadata(node.path("run/routed.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    assert_eq!(socket.uid(), fs::metadata(node.path("run")).unwrap().uid());
    for breakage in ["ip link del ferrule.1", "nft delete table inet ferrule", "iptables-nft -F FORWARD"] {
        let (program, arguments) = breakage.split_once(' ').unwrap();
        node.run(program, arguments);
        assert!(within(PATIENCE, || node.state() == right).is_some(), "{breakage}:\n{}", daemon.log());
    }
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
    assert!(daemon.signal(Signal::SIGTERM).success());

    let arguments = format!("{} {program} {} cleanup", rights().join(" "), node.arguments());
    node.run("setpriv", &arguments);
    assert!(!node.state().contains("10.244."), "{}", node.state());
}

/// The whole unit, including its filter of system calls, which also applies to nft and iptables.
#[test]
fn under_systemd_with_the_whole_unit_it_does_all_of_its_work_too() {
    assert!(has_users(), "systemd as the first process of a namespace needs root");
    let node = Node::new("vxlan");
    node.configure_routing("accept_forward = true\n", "");
    node.run("iptables-nft", "-P FORWARD DROP");
    node.write_nodes(&[1, 2, 3]);
    let systemd = Systemd::start(&node);
    let status = systemd.read(&format!("/proc/{}/status", systemd.property("MainPID")));
    let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim();
    assert_eq!((of("CapEff:"), of("Seccomp:"), of("NoNewPrivs:")), (NET_ADMIN, "2", "1"));
    assert!(of("Uid:").starts_with(&USER.to_string()), "{status}");
    let right = node.state();
    for part in ["10.244.3.0/24", "fd00:10:244:3::/64", "masquerade", "jump FERRULE-FORWARD"] {
        assert!(right.contains(part), "{part} is not in\n{right}\n{}", systemd.log());
    }
    assert_eq!(node.run("sysctl", "-n net.ipv4.conf.ferrule/1.rp_filter").trim(), "2");
    assert!(systemd.read("/run/ferrule/node.json").contains("10.244.1.0/24"));
    for breakage in ["ip link del ferrule.1", "nft delete table inet ferrule", "iptables-nft -F FORWARD"] {
        let (program, arguments) = breakage.split_once(' ').unwrap();
        node.run(program, arguments);
        assert!(within(PATIENCE, || node.state() == right).is_some(), "{breakage}:\n{}", systemd.log());
    }
    assert!(!systemd.log().contains("ERROR"), "{}", systemd.log());
    assert!(systemd.command("systemctl", "stop routed").status.success());
    assert_eq!((systemd.property("Result"), systemd.property("NRestarts")), ("success".into(), "0".into()));
    assert_eq!(node.state(), right, "all stays");
}

#[test]
fn the_unit_reaches_no_store_but_with_the_drop_in_for_it() {
    assert!(has_users(), "systemd as the first process of a namespace needs root");
    let node = Node::new("vxlan");
    let mut etcd = Etcd::new(node.directory.path(), 23_000);
    node.inside(|| {
        etcd.start();
        etcd.put_config(r#"{"Network":"10.244.0.0/16"}"#);
    });
    node.ip("route add default via 192.0.2.254");
    let store = format!("[routing.etcd]\nendpoints = [\"{}\"]\n", etcd.url());
    node.configure_routing("source = \"etcd\"\n", &store);
    let without = Systemd::launch(&node, &[]);
    let is_refused = || without.log().contains("Address family not supported by protocol");
    assert!(within(PATIENCE, is_refused).is_some(), "{}", without.log());
    drop(without);
    let with = Systemd::launch(&node, &["kubernetes.conf"]);
    with.wait_until_ready(&node);
    assert!(node.state().contains("unreachable 10.244."), "{}", with.log());
}

#[test]
fn without_its_one_right_it_says_which_that_is_and_what_gives_it() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", env!("CARGO_BIN_EXE_routed")]);
    command.args(node.arguments().split(' '));
    let daemon = node.start_as(command);
    daemon.wait_for_log("CAP_NET_ADMIN in this network namespace is needed: run this as root, by its unit");
}

/// Starts the daemon as in a container, where /proc/sys cannot be written.
fn start_without_sysctls(node: &Node) -> crate::lab::Daemon {
    let script = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh", "setpriv"]);
    command.args(["--bounding-set=-all,+net_admin,+dac_override", env!("CARGO_BIN_EXE_routed")]);
    command.args(node.arguments().split(' '));
    node.start_as(command)
}

#[test]
fn where_sysctls_cannot_be_written_it_names_them_and_does_the_rest() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    node.run("sysctl", "-w net.ipv4.ip_forward=1");
    assert_eq!(node.run("sysctl", "-n net.ipv6.conf.eth0.accept_ra").trim(), "1");
    let daemon = start_without_sysctls(&node);
    daemon.wait_until_ready();
    assert!(node.state().contains("10.244.2.0/24"), "{}", daemon.log());
    daemon.wait_for_log("net/ipv6/conf/all/forwarding: Read-only file system (os error 30); it is 0 and has to be 1: set it on \
                         the node itself");
    for right in ["net/ipv4/ip_forward", "rp_filter", "accept_ra"] {
        assert!(!daemon.log().contains(right), "what is right needs nobody:\n{}", daemon.log());
    }
}

/// Sends one router advertisement, with a default route and a prefix for addresses, out of the link `wire`.
const ADVERTISEMENT: &str = "
import socket, struct
prefix = socket.inet_pton(socket.AF_INET6, '2001:db8:5::')
option = struct.pack('>BBBBIII', 3, 4, 64, 0xc0, 86400, 14400, 0) + prefix
message = struct.pack('>BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0) + option
source = socket.inet_pton(socket.AF_INET6, 'fe80::9')
everybody = socket.inet_pton(socket.AF_INET6, 'ff02::1')
whole = source + everybody + struct.pack('>II', len(message), 58) + message
total = sum(struct.unpack('>%dH' % (len(whole) // 2), whole))
while total >> 16:
    total = (total & 0xffff) + (total >> 16)
message = message[:2] + struct.pack('>H', 0xffff & ~total) + message[4:]
head = struct.pack('>IHBB', 6 << 28, len(message), 58, 255) + source + everybody
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(('wire', 0))
wire.send(bytes.fromhex('333300000001' + '020000000009' + '86dd') + head + message)
";

/// Without this setting the node would lose its default route as soon as it forwards.
#[test]
fn accept_ra_that_cannot_be_written_is_named_where_a_router_gives_ipv6() {
    let node = Node::new("vxlan");
    node.write_nodes(&[1, 2]);
    let send = || Command::new("python3").args(["-c", ADVERTISEMENT]).status();
    let sent = node.inside(send).expect("python3 is needed: install the package python3");
    assert!(sent.success());
    let has_default = || node.ip("-6 route show default").contains("via fe80::9 dev eth0 proto ra");
    assert!(within(PATIENCE, has_default).is_some(), "{}", node.ip("-6 route show"));
    let said = "net/ipv6/conf/eth0/accept_ra: Read-only file system (os error 30); it is 1 and has to be 2";
    let daemon = start_without_sysctls(&node);
    daemon.wait_until_ready();
    daemon.wait_for_log(said);
    drop(daemon);
    // The state of a node on which another program has switched forwarding on: the kernel removes the default route at
    // once.
    node.ip("-6 route del default");
    let daemon = start_without_sysctls(&node);
    daemon.wait_for_log(said);
    drop(daemon);
    // With a unit, the setting is written before forwarding begins, on whatever link the router is.
    node.ip("link add eth1 type veth peer name wire1");
    node.ip("link set wire1 up");
    node.ip("link set eth1 up");
    node.ip("-6 route add default via fe80::8 dev eth1 proto ra metric 2048");
    let daemon = node.start();
    daemon.wait_until_ready();
    for link in ["eth0", "eth1"] {
        assert_eq!(node.run("sysctl", &format!("-n net.ipv6.conf.{link}.accept_ra")).trim(), "2", "{link}");
    }
    assert!(node.ip("-6 route show default").contains("via fe80::8 dev eth1 proto ra"), "{}", daemon.log());
}
