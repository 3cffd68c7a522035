//! Real network managers, which our files tell to leave our links alone. A link with almost the same name as ours is
//! the control: the manager must take it, or the check would prove nothing.
//!
//! `tests/setup` unpacks them to a place where only these tests look. If they were installed, they would take over the
//! machine's own network.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: what fails is to be seen")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Our links, and the control.
const OURS: [&str; 4] = ["ferrule.1", "ferrule-wg", "fer0123456789ab", "fei0123456789ab"];
const CONTROL: &str = "other0";

/// The beginning of every script. It keeps in what the programs write, and makes the links. `sys` is read-only, which
/// tells the programs that they need not wait for udev.
const BEGIN: &str = r#"
    mount -t tmpfs none /run
    mount -t tmpfs none /var/lib
    mount --bind /etc /etc
    mount -o remount,bind,ro /etc
    mount -t sysfs -o ro none /sys
    ip link set lo up
    number=0
    for link in $LINKS; do
        number=$((number + 1))
        ip link add "$link" type veth peer name "w$number"
        ip link set "$link" up
        ip link set "w$number" up
    done
    # Waits for a line of the program's log, for 20 s, and ends the program.
    until_logged() {
        deadline=$(($(date +%s) + 20))
        until grep -aqE "$1" /run/log; do
            [ "$(date +%s)" -lt "$deadline" ] || { cat /run/log; exit 1; }
        done
    }
    bus() {
        cat >/run/bus.conf <<'BUS'
<busconfig><listen>unix:path=/run/bus</listen><policy context="default"><allow send_destination="*" eavesdrop="true"/>
<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
BUS
        dbus-daemon --config-file=/run/bus.conf --nofork &
        bus=$!
        until [ -S /run/bus ]; do :; done
        export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus
    }
"#;

/// The directory of the programs.
fn managers() -> PathBuf {
    // It is beside what cargo builds, as in `tests/setup`.
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let root = target.join("managers");
    assert!(
        ["NetworkManager", "avahi-daemon"].iter().all(|name| root.join("usr/sbin").join(name).exists()),
        "{} lacks managers of networks: type tests/setup",
        root.display()
    );
    root
}

/// Runs a script in namespaces of its own, in `conf/`. Returns what it printed. `$with` runs one of the managers'
/// programs.
fn inside(script: &str) -> String {
    let root = managers();
    let libraries: Vec<_> =
        std::fs::read_dir(root.join("usr/lib")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let libraries = libraries.iter().find(|path| path.to_string_lossy().ends_with("-linux-gnu")).unwrap();
    let with = format!("env LD_LIBRARY_PATH={} ", libraries.display());
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-euc", &format!("{BEGIN}{script}")])
        .env("LINKS", format!("{} {CONTROL}", OURS.join(" ")))
        .env("ROOT", &root)
        .env("with", with)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn networkmanager_leaves_our_links_alone() {
    let said = inside(
        r#"
        bus
        mkdir -p /run/nm/conf.d
        printf '[main]\nplugins=keyfile\ndns=none\nrc-manager=unmanaged\n[keyfile]\npath=/run/nm/keys\n' >/run/nm/main
        cp NetworkManager/conf.d/10-ferrule.conf /run/nm/conf.d/
        $with "$ROOT/usr/sbin/NetworkManager" --config /run/nm/main --config-dir /run/nm/conf.d --system-config-dir /run/nm/none \
            --pid-file /run/nm/pid --state-file /run/nm/state --debug --log-level INFO >/run/log 2>&1 &
        manager=$!
        until_logged 'device \(other0\): state change: unavailable'
        $with "$ROOT/usr/bin/nmcli" --terse --fields DEVICE,STATE device status
        kill -9 $manager $bus
        grep -a '10-ferrule.conf' /run/log
        "#,
    );
    let state = |link: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(link)?.strip_prefix(':'))
            .unwrap_or_else(|| panic!("{link}: {said}"))
    };
    for link in OURS {
        assert_eq!(state(link), "unmanaged", "{link}: {said}");
    }
    assert_ne!(state(CONTROL), "unmanaged", "{said}");
}

#[test]
fn connman_leaves_our_links_alone() {
    let said = inside(
        r#"
        bus
        $with "$ROOT/usr/sbin/connmand" -n -r -d -c connman/ferrule.conf >/run/log 2>&1 &
        manager=$!
        until_logged 'other0 \{newlink\}.*operstate 6'
        kill -9 $manager $bus
        grep -a isfiltered /run/log
        "#,
    );
    for link in OURS {
        assert!(said.contains(&format!("ignoring device {link} ")), "{link}: {said}");
    }
    assert!(!said.contains(&format!("ignoring device {CONTROL} ")), "{said}");
}

#[test]
fn dhcpcd_leaves_our_links_alone() {
    let said = inside(
        r#"
        cp dhcpcd/ferrule.conf /run/dhcpcd.conf
        mkdir /run/dhcpcd
        $with "$ROOT/usr/sbin/dhcpcd" --nobackground --ipv4only --debug --config /run/dhcpcd.conf --script /bin/true >/run/log 2>&1 &
        manager=$!
        until_logged 'other0: (IAID|soliciting|using|executing)'
        # Without a user of its own it does not go on for long.
        kill -9 $manager 2>/dev/null || :
        cat /run/log
        "#,
    );
    for link in OURS {
        assert!(!said.lines().any(|line| line.contains(link)), "{link}: {said}");
    }
}

/// Starts avahi-daemon with this file. Returns its log up to when it has looked at all links. Each link has an address,
/// because avahi would not use it without. `eth0` is the uplink.
fn avahi(file: &str) -> String {
    inside(&format!(
        r#"
        {file} >/run/avahi.conf
        echo 'enable-dbus=no' >>/run/avahi.conf
        ip link add eth0 type veth peer name w0
        ip link set eth0 up
        ip link set w0 up
        ip address add 192.0.2.1/24 dev eth0
        for link in $LINKS; do ip address add 10.244.1.0/32 dev "$link"; done
        # It wants a user and a group of its own, even if it stays root.
        (cat /etc/passwd; echo avahi:x:990:990::/:/bin/false) >/run/passwd
        (cat /etc/group; echo avahi:x:990:) >/run/group
        mount --bind /run/passwd /etc/passwd
        mount --bind /run/group /etc/group
        $with "$ROOT/usr/sbin/avahi-daemon" --no-drop-root --no-chroot --no-rlimits --debug --file /run/avahi.conf \
            >/run/log 2>&1 &
        manager=$!
        until_logged 'Network interface enumeration completed'
        until_logged 'Registering new address record for 192.0.2.1 on eth0'
        kill -9 $manager
        cat /run/log
        ip -oneline -4 address show
        "#,
    ))
}

/// Whether avahi uses a link: it sends and receives there, and tells the network that the link's address is this
/// machine's.
fn is_used_by_avahi(log: &str, link: &str) -> bool {
    let lines = [
        format!("Joining mDNS multicast group on interface {link}.IPv4"),
        format!("Registering new address record for 10.244.1.0 on {link}."),
    ];
    lines.iter().any(|line| log.contains(line))
}

#[test]
fn avahi_uses_our_links_unless_its_file_names_the_uplinks() {
    let (without, with) = (avahi("echo '[server]'"), avahi("cat avahi/ferrule.conf"));
    for link in OURS {
        assert!(is_used_by_avahi(&without, link), "{link}: {without}");
        assert!(!is_used_by_avahi(&with, link), "{link}: {with}");
    }
    // It gives no addresses, with our line or without.
    for log in [without, with] {
        let given = log.lines().filter(|line| line.contains(" inet ") && !line.contains(" lo "));
        assert_eq!(given.count(), OURS.len() + 2, "{log}");
    }
}

/// Starts ifupdown with this file, as the boot does (`ifup -a`) and as udev does for each link. Returns the links that
/// it configured.
fn ifupdown(file: &str) -> Vec<String> {
    let said = inside(&format!(
        r#"
        hotplug=$(find "$ROOT" -name ifupdown-hotplug)
        sbin=$(dirname "$(find "$ROOT" -name ifquery -path '*/sbin/*')")
        mkdir -p /run/etc/network/if-pre-up.d /run/etc/network/if-up.d /run/network
        {file} >/run/etc/network/interfaces
        echo 'iface uplink inet static' >>/run/etc/network/interfaces
        echo '    address 198.51.100.7/24' >>/run/etc/network/interfaces
        printf '#!/bin/sh\necho uplink\n' >/run/map
        chmod +x /run/map
        mount --bind /run/etc /etc
        # The only directories in which the script looks for programs.
        mount --bind "$sbin" /usr/sbin
        ip link add enp9s0 type veth peer name w0
        ifup -a
        for link in $LINKS enp9s0; do
            # The script goes on in the background: until it ends, it keeps the pipe open.
            ACTION=add INTERFACE="$link" "$hotplug" 9>&1 | cat
        done
        ip -oneline -4 address show
        "#,
    ));
    let configured = said.lines().filter(|line| line.contains("inet 198.51.100.7/24"));
    configured.map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect()
}

#[test]
fn ifupdown_touches_our_links_only_where_its_file_covers_all_links() {
    // The file as Debian installs it.
    assert_eq!(ifupdown("echo 'auto lo'"), [""; 0]);
    let everything = [
        "echo 'auto /*=uplink'",
        // By hotplug. A pattern alone gives ifupdown no stanza for a link.
        "printf 'allow-hotplug /*\\nmapping *\\n script /run/map\\n'",
    ];
    for file in everything {
        let all = ifupdown(file);
        for link in OURS.into_iter().chain([CONTROL, "enp9s0"]) {
            assert!(all.iter().any(|configured| configured == link), "{file}: {link}: {all:?}");
        }
    }
    assert_eq!(ifupdown("cat ifupdown/ferrule.conf"), ["enp9s0"]);
}
