//! Managers of networks that others install: the real programs, told by our files to leave our links alone. A link that is almost named
//! like ours is the control: it must be taken, or the check would prove nothing.
//!
//! `tests/setup` unpacks them where nothing but this looks: installed, they would take over the machine's own network.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: what fails is to be seen")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Links of ours, and the control.
const OURS: [&str; 4] = ["ferrule.1", "ferrule-wg", "fer0123456789ab", "fei0123456789ab"];
const CONTROL: &str = "other0";

/// What every script begins with: nothing that the programs write gets out, and the links are there. `sys` is read-only, which tells
/// that no udev is there to be waited for.
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

/// Where the programs are.
fn managers() -> PathBuf {
    // Beside what cargo builds, as `tests/setup` has it.
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let root = target.join("managers");
    assert!(
        root.join("usr/sbin/NetworkManager").exists(),
        "{} is not there: type tests/setup",
        root.display()
    );
    root
}

/// Runs a script in namespaces of its own, in `conf/`; what it printed. `$with` runs a program of the managers'.
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
