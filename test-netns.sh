#!/usr/bin/env bash
# Ferrule on several nodes on this machine, in namespaces of its own, proved with packets.
#
# Usage: ./test-netns.sh [--nodes N] [--pods P] [--backend vxlan|native|auto|all] [--keep] [--no-build]
#
#   --nodes N      number of nodes, 2 to 200 (default 3; auto has at least 4)
#   --pods P       pods on each node, 1 to 26 (default 2)
#   --backend B    how the nodes carry pod packets to each other (default all: one after the other)
#                    native   plain routes; all nodes on one segment
#                    vxlan    tunnels; two segments with a router between them
#                    auto     plain routes within a segment, tunnels across; two segments, nodes in turn on both
#   --keep         leave the network up at the end and open a shell in node 1; everything goes when you leave it
#   --no-build     run what was built last
#   --help         this text
#
# It installs what is missing (as root; else it names the one command to type), builds Ferrule, makes the nodes, starts
# ipamd and routed on each as their systemd units would, attaches the pods by executing the plugin as a container runtime
# does, and then shows that
#   - every pod reaches every pod, its own and the other nodes, and a host outside, by IPv4 and IPv6 (the table),
#   - addresses, routes, tunnels and daemons that are taken away come back as promised,
#   - nothing is left when the pods, and at last Ferrule, are gone.
# It runs as root or as an ordinary user (then inside a user namespace), and changes nothing outside its own namespaces.
#
# Exit status: 0 if all of it held; 1 if not, with what was expected, what was seen, and where the logs are.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
# Daemons' tools live where an ordinary user's PATH does not look.
export PATH=$PATH:/usr/sbin:/sbin

usage() {
    sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"
}

die() {
    echo "test-netns.sh: $*" >&2
    exit 1
}

# What this run could have changed on the machine itself, had its namespaces not held: links, routes, nexthop objects and tables by the
# names and numbers that Ferrule and the lab give, the sysctls that routed sets, and names in Ferrule's directories. What others do
# meanwhile is not its business.
machine_state() {
    local family directory
    ip -o link show | awk -F': ' '{ print $2 }' | grep -E '^(ferrule|fe[ri][0-9a-f]{12}|seg[0-9])' || true
    for family in -4 -6; do
        ip "$family" route show table all proto 70 | sed -E 's/ (linkdown|dead)//g'
    done
    ip nexthop show proto 70 2>/dev/null || true
    nft list tables 2>/dev/null | grep -w ferrule || true
    grep -H . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding 2>/dev/null || true
    for directory in /run/ferrule /etc/ferrule /etc/cni/net.d /opt/cni/bin /usr/local/bin; do
        find "$directory" -maxdepth 1 \( -path '*ferrule*' -o -name ipamd -o -name routed \) 2>/dev/null | sort || true
    done
}

# Without a build there is nothing to run.
require_build() {
    local file
    for file in "$@"; do
        [[ -x $file ]] || die "--no-build, and $file was never built; type: ./test-netns.sh"
    done
}

build() {
    make --no-print-directory build
    cargo build --locked --release --package ferrule-tests --bin netns-lab
}

main() {
    local nodes=3 pods=2 backend=all keep=() must_build=1
    while (($#)); do
        case $1 in
        --nodes | --pods | --backend)
            (($# > 1)) || die "$1 needs a value; see --help"
            local -n option=${1#--}
            # shellcheck disable=SC2034 # a name for the variable the option is called after
            option=$2
            shift 2
            ;;
        --keep) keep=(--keep) && shift ;;
        --no-build) must_build=0 && shift ;;
        --help | -h) usage && exit 0 ;;
        *) die "$1 is no option; see --help" ;;
        esac
    done

    # Before anything is built; netns-lab knows the same limits.
    if ! [[ $nodes =~ ^[0-9]{1,3}$ ]] || ((10#$nodes < 2 || 10#$nodes > 200)); then
        die "--nodes is a number from 2 to 200"
    fi
    if ! [[ $pods =~ ^[0-9]{1,2}$ ]] || ((10#$pods < 1 || 10#$pods > 26)); then
        die "--pods is a number from 1 to 26"
    fi
    [[ $backend =~ ^(vxlan|native|auto|all)$ ]] || die "--backend is vxlan, native, auto or all"

    tests/setup --lab
    if ((must_build)); then
        build
    fi
    # The same places as in the Makefile.
    local target=${CARGO_TARGET_DIR:-target}
    local plugin
    plugin=$target/$(rustc -vV | sed -n 's/^host: //p')/plugin/ferrule
    ((must_build)) || require_build "$target"/release/{ipamd,routed,netns-lab} "$plugin"

    local before status=0
    logs=$(mktemp -d "${TMPDIR:-/tmp}/ferrule-lab.XXXXXXXX")
    # Of a run that was interrupted nobody reads them; the namespaces go with the processes.
    trap 'rm -rf "$logs"' EXIT
    # Daemons that run as a user of their own read their configuration there.
    chmod 0755 "$logs"
    before=$(machine_state)
    local namespaces=(unshare --net --mount --propagation private)
    (($(id -u))) && namespaces=(unshare --user --map-root-user --net --mount --propagation private)
    "${namespaces[@]}" -- "$target/release/netns-lab" --nodes "$nodes" --pods "$pods" --backend "$backend" \
        --bin-dir "$target/release" --plugin "$plugin" --conf-dir conf --log-dir "$logs" "${keep[@]}" || status=$?

    if ! diff <(echo "$before") <(machine_state) >"$logs/machine.diff"; then
        echo "✘ something of Ferrule's appeared on the machine itself, or went, during the run ($logs/machine.diff):" >&2
        cat "$logs/machine.diff" >&2
        status=1
    fi
    if ((status)); then
        trap - EXIT
        exit 1
    fi
}

main "$@"
