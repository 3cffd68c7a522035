//! `test-netns.sh`, as far as it can be looked at without running it: what it compares, and what it says without a build.

use std::process::{Command, Output};

/// Runs a script in the repository's directory, in namespaces of its own.
fn bash(script: &str) -> Output {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "bash", "-euc", script])
        .current_dir(repository)
        .output()
        .expect("`unshare` is missing: install util-linux")
}

/// What the script would compare, before and after something was done.
fn compared(done: &str) -> (String, String) {
    let load = "eval \"$(sed -n '/^machine_state()/,/^}/p' test-netns.sh)\"; mount -t tmpfs none /run; mkdir /run/netns";
    let output = bash(&format!("{load}; machine_state; echo ====; {done}; machine_state"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{done}: {}", String::from_utf8_lossy(&output.stderr));
    let (before, after) = said.split_once("====\n").expect("two states");
    (before.to_owned(), after.to_owned())
}

#[test]
fn what_others_do_meanwhile_is_not_compared_and_what_the_run_could_have_done_is() {
    for of_others in [
        "ip netns add somebody",
        "ip link add veth0 type veth peer name veth1; ip link set veth0 up; ip address add 203.0.113.1/24 dev veth0",
        "ip link set lo up; ip route add blackhole 198.51.100.0/24",
        "nft add table inet docker",
        "touch /run/else",
    ] {
        let (before, after) = compared(of_others);
        assert_eq!(before, after, "{of_others}");
    }
    for of_ours in [
        "ip link add ferrule.1 type vxlan id 1 dstport 8472",
        "ip link add fer0123456789ab type veth peer name x0",
        "ip link add seg1 type bridge",
        "ip link set lo up; ip route add blackhole 198.51.100.0/24 proto 70",
        "ip link set lo up; ip nexthop add id 7 blackhole proto 70",
        "nft add table inet ferrule",
        "mkdir /run/ferrule",
    ] {
        let (before, after) = compared(of_ours);
        assert_ne!(before, after, "{of_ours}");
    }
}

#[test]
fn without_a_build_it_says_what_to_type() {
    let load =
        "die() { echo \"$*\" >&2; exit 1; }; eval \"$(sed -n '/^require_build()/,/^}/p' test-netns.sh)\"";
    let output = bash(&format!("{load}; require_build /bin/true /nowhere/ipamd"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("/nowhere/ipamd was never built; type: ./test-netns.sh"), "{said}");
    assert!(bash(&format!("{load}; require_build /bin/true")).status.success());
}
