//! The files of `conf/` that the system reads. The programs that read them get them in namespaces of their own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test: what fails is to be seen"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The path of networkd in Debian and its relatives; it is in no PATH.
const NETWORKD: &str = "/lib/systemd/systemd-networkd";

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name)
}

fn run(command: &mut Command) -> Output {
    let hint = "is not installed; `tests/setup` names the package";
    command.output().unwrap_or_else(|error| panic!("{:?} {hint}: {error}", command.get_program()))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// Runs a script in a mount and a network namespace of its own, in `conf/`. Returns what it printed.
fn inside(script: &str) -> String {
    let output = run(Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-euc", script])
        .current_dir(conf("")));
    assert!(output.status.success(), "{script}\n{}", text(&output));
    text(&output)
}

/// The unit with a program that exists, since its own program need not: `systemd-analyze verify` looks for it, and for
/// the socket that it takes.
fn unit(directory: &Path, name: &str) -> PathBuf {
    let shipped = fs::read_to_string(conf("systemd").join(format!("{name}.service"))).unwrap();
    let program = format!("ExecStart=/usr/local/bin/{name}\n");
    assert_eq!(shipped.matches(&program).count(), 1, "{name}.service: {program}");
    let path = directory.join(format!("{name}.service"));
    fs::copy(conf("systemd/ipamd.socket"), directory.join("ipamd.socket")).unwrap();
    fs::write(&path, shipped.replace(&program, "ExecStart=/bin/true\n")).unwrap();
    path
}

/// Appends the effective lines of a drop-in to the unit, which is how systemd reads it too.
fn drop_in(unit: &Path, name: &str) {
    let more = fs::read_to_string(conf("systemd").join(name)).unwrap();
    fs::write(unit, format!("{}\n{more}", fs::read_to_string(unit).unwrap())).unwrap();
}

fn verify(unit: &Path) -> String {
    let output = run(Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(unit));
    let said = text(&output);
    assert!(output.status.success() || !said.is_empty(), "{}", unit.display());
    said
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["ipamd", "routed", "proxyd"] {
        assert_eq!(verify(&unit(directory.path(), name)), "");
    }
    let with_metrics = unit(directory.path(), "ipamd");
    drop_in(&with_metrics, "metrics.conf");
    assert_eq!(verify(&with_metrics), "");
    let with_kubernetes = unit(directory.path(), "routed");
    drop_in(&with_kubernetes, "kubernetes.conf");
    assert_eq!(verify(&with_kubernetes), "");
    assert_eq!(verify(&directory.path().join("ipamd.socket")), "");
    // This shows that silence means something.
    let socket = directory.path().join("ipamd.socket");
    fs::write(&socket, fs::read_to_string(&socket).unwrap().replace("SocketMode", "SocketModes")).unwrap();
    assert!(verify(&socket).contains("SocketModes"));
    let broken = unit(directory.path(), "ipamd");
    fs::write(&broken, fs::read_to_string(&broken).unwrap().replace("WatchdogSec", "WatchdogSecs")).unwrap();
    assert!(verify(&broken).contains("WatchdogSecs"));
}

#[test]
fn the_units_expose_no_more_than_they_must() {
    let directory = tempfile::tempdir().unwrap();
    for (name, more, most) in [
        ("ipamd", None, 0.8),
        ("ipamd", Some("metrics.conf"), 1.1),
        ("routed", None, 1.7),
        ("routed", Some("kubernetes.conf"), 2.0),
        ("routed", Some("metrics.conf"), 2.0),
        ("proxyd", None, 1.6),
    ] {
        let unit = unit(directory.path(), name);
        if let Some(more) = more {
            drop_in(&unit, more);
        }
        let output = run(Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(&unit));
        let said = text(&output);
        let level = said.split_once("Overall exposure level for ").and_then(|(_, rest)| {
            rest.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok())
        });
        println!("exposure of {name}.service with {more:?}: {level:?} of at most {most}");
        assert!(level.is_some_and(|level| level <= most), "{said}");
    }
}

/// The one value of a key in a unit.
fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}"));
    assert!(values.next().is_none(), "{key} twice");
    value
}

#[test]
fn the_units_share_the_runtime_directory_and_have_no_rights_beyond_their_work() {
    let ipamd = fs::read_to_string(conf("systemd/ipamd.service")).unwrap();
    let routed = fs::read_to_string(conf("systemd/routed.service")).unwrap();
    for key in ["User", "Group", "RuntimeDirectory", "RuntimeDirectoryMode"] {
        assert_eq!(setting(&ipamd, key), setting(&routed, key), "{key}: the directory would change hands");
    }
    for unit in [&ipamd, &routed] {
        assert_eq!(setting(unit, "RuntimeDirectory"), "ferrule");
        assert_eq!(setting(unit, "RuntimeDirectoryPreserve"), "yes");
        assert_eq!(setting(unit, "Type"), "notify");
        assert_eq!(setting(unit, "Restart"), "always");
    }
    assert_eq!((setting(&ipamd, "CapabilityBoundingSet"), setting(&ipamd, "AmbientCapabilities")), ("", ""));
    assert_eq!(setting(&routed, "CapabilityBoundingSet"), "CAP_NET_ADMIN");
    assert_eq!(setting(&routed, "AmbientCapabilities"), "CAP_NET_ADMIN");
}

/// The socket is the one that the plugin calls, in the directory of the daemon and for its user. The service takes it.
#[test]
fn the_socket_is_the_one_that_ipamd_would_make() {
    let ipamd = fs::read_to_string(conf("systemd/ipamd.service")).unwrap();
    let socket = fs::read_to_string(conf("systemd/ipamd.socket")).unwrap();
    let directory = setting(&ipamd, "RuntimeDirectory");
    assert_eq!(setting(&socket, "ListenStream"), format!("/run/{directory}/ipamd.sock"));
    for (of_socket, of_service) in
        [("SocketUser", "User"), ("SocketGroup", "Group"), ("DirectoryMode", "RuntimeDirectoryMode")]
    {
        assert_eq!(setting(&socket, of_socket), setting(&ipamd, of_service), "{of_socket}");
    }
    assert_eq!(setting(&socket, "SocketMode"), "0600");
    assert_eq!((setting(&ipamd, "Sockets"), setting(&ipamd, "Also")), ("ipamd.socket", "ipamd.socket"));
}

#[test]
fn the_user_of_the_units_is_made() {
    let root = tempfile::tempdir().unwrap();
    let files = root.path().join("usr/lib/sysusers.d");
    fs::create_dir_all(&files).unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::copy(conf("sysusers.d/ferrule.conf"), files.join("ferrule.conf")).unwrap();
    let output = run(Command::new("systemd-sysusers").arg(format!("--root={}", root.path().display())));
    assert!(output.status.success(), "{}", text(&output));
    let users = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let routed = fs::read_to_string(conf("systemd/routed.service")).unwrap();
    assert!(users.starts_with(&format!("{}:", setting(&routed, "User"))), "{users}");
}

#[test]
fn ip_knows_the_protocol_by_name() {
    let said = inside(
        "mount -t tmpfs none /etc/iproute2; mkdir /etc/iproute2/rt_protos.d
         cp iproute2/ferrule.conf /etc/iproute2/rt_protos.d/
         ip link set lo up; ip route add blackhole 198.51.100.0/24 proto 70
         ip route show proto ferrule; ip route show",
    );
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    assert_eq!(lines, ["blackhole 198.51.100.0/24", "blackhole 198.51.100.0/24 proto ferrule"]);
}

/// systemd-networkd itself. One file tells it to give every link an address, and our files tell it to leave ours alone.
/// A link with almost the name of a pod's link is the control: it must get the address, or the check would prove
/// nothing.
///
/// The user that networkd wants to become may have no number here (an ordinary user's namespace), so it becomes root.
#[test]
fn networkd_leaves_our_links_and_routes_alone() {
    assert!(Path::new(NETWORKD).exists(), "{NETWORKD} is missing; `tests/setup` names the package");
    let script = r#"
        mount -t tmpfs none /run
        mkdir -p /run/systemd/network /run/systemd/networkd.conf.d /run/systemd/netif/links
        cp systemd/network/00-ferrule.network /run/systemd/network/
        cp systemd/networkd.conf.d/10-ferrule.conf /run/systemd/networkd.conf.d/
        printf '[Match]\nName=*\n[Network]\nAddress=198.51.100.1/24\n' >/run/systemd/network/10-all.network
        sed 's/^systemd-network:x:[0-9]*:[0-9]*:/systemd-network:x:0:0:/' /etc/passwd >/run/passwd
        mount --bind /run/passwd /etc/passwd
        # Read-only, it tells networkd that no udev is there to be waited for.
        mount -t sysfs -o ro none /sys
        ip link set lo up
        ip link add ferrule.1 type vxlan id 1 dstport 8472
        ip link set ferrule.1 up
        ip link add fer0123456789ab type veth peer name fer0123456789xy
        ip link set fer0123456789ab up
        ip route add blackhole 203.0.113.0/24 proto 70
        ip nexthop add id 7 blackhole proto 70
        SYSTEMD_LOG_TARGET=console NETWORKD 2>/run/log &
        networkd=$!
        deadline=$(($(date +%s) + 20))
        until ip -4 -brief address show fer0123456789xy | grep -q 198.51.100.1; do
            [ "$(date +%s)" -lt "$deadline" ] || { cat /run/log; kill -9 $networkd; exit 1; }
        done
        kill -9 $networkd
        cat /run/log
        for link in ferrule.1 fer0123456789ab fer0123456789xy; do ip -4 -brief address show "$link"; done
        ip route show proto 70
        ip nexthop show proto 70
    "#;
    let said = inside(&script.replace("NETWORKD", NETWORKD));
    let with_address: Vec<&str> = said.lines().filter(|line| line.contains("198.51.100.1/24")).collect();
    assert!(with_address.len() == 1 && with_address[0].starts_with("fer0123456789xy"), "{said}");
    assert!(said.contains("blackhole 203.0.113.0/24") && said.contains("id 7 blackhole"), "{said}");
    // systemd before 256 does not know the last of the three keys. It must know all others.
    let unknown: Vec<&str> = said.lines().filter(|line| line.contains("Unknown")).collect();
    assert!(unknown.iter().all(|line| line.contains("ManageForeignNextHops")), "{unknown:?}");
}

/// udevd does not run here. What can be checked is that its file has the keys that udevd reads (systemd.link(5)) and
/// the names that we give.
#[test]
fn udev_keeps_names_and_macs_of_our_links() {
    let settings = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(conf("systemd/network").join(name)).unwrap();
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    };
    let digits = "[0-9a-f]".repeat(12);
    let names = format!("fer{digits} ferrule.*");
    let link = settings("00-ferrule.link");
    assert_eq!(
        link,
        ["[Match]", &format!("OriginalName={names}"), "[Link]", "NamePolicy=keep", "MACAddressPolicy=none"]
    );
    assert_eq!(
        settings("00-ferrule.network"),
        ["[Match]", &format!("Name={names}"), "[Link]", "Unmanaged=yes"]
    );
}
