//! What is broken comes back: things deleted by hand on a node, and both daemons killed, while packets flow.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    addressing::pod_cidrs,
    cluster::{BRIDGE, Cluster, READY_WITHIN, VXLAN_DEVICE},
    command::{json, run},
    error::{Context, LabError, Result},
    leftovers::Snapshot,
    ping,
    proof::first_to_last,
    report::{Report, time},
    topology::last_tunnelled,
};

/// Within this time a thing deleted by someone else must be back.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// Every repair in turn.
pub fn all(cluster: &mut Cluster, report: &mut Report) {
    report.prove("deleted by hand and back within a second", || by_hand(cluster));
    report.prove("routed and the pods' bridge leave each other's routes alone", || beside_a_bridge(cluster));
    report
        .prove("both daemons killed with -9 on every node while pings run across", || kill_daemons(cluster));
}

/// Deletes one thing after another on node 1, all of them on the way to node 2.
fn by_hand(cluster: &Cluster) -> Result<String> {
    let node = &cluster.nodes[0].machine.space;
    let before = Snapshot::take(node)?;
    let mut seen = Vec::new();
    for (what, command) in deletions(cluster, &before)? {
        run(node, &command)?;
        let took = before.wait_same(node, &format!("the {what} back (`{command}`)"), BACK_WITHIN)?;
        first_to_last(cluster)?;
        seen.push(format!("{what} {}", time(took)));
    }
    Ok(seen.join(", "))
}

/// What is deleted, and how. Each command fails if there is nothing to delete.
fn deletions(cluster: &Cluster, before: &Snapshot) -> Result<Vec<(&'static str, String)>> {
    let tunnelled = last_tunnelled(cluster.topology.backend, cluster.nodes.len());
    let last = tunnelled.unwrap_or(cluster.nodes.len());
    let [cidr4, cidr6] = pod_cidrs(last);
    let mut all = vec![
        ("IPv4 route", format!("ip route del {cidr4}")),
        ("IPv6 route", format!("ip -6 route del {cidr6}")),
        ("nexthop with its routes", format!("ip nexthop del id {}", nexthop(cluster)?)),
        ("nftables table", "nft delete table inet ferrule".to_owned()),
    ];
    if tunnelled.is_none() {
        return Ok(all);
    }
    // Which of the device's entries are the last node's is told by the MAC its FDB entry has.
    let underlay = cluster.node(last).machine.underlay.v4.to_string();
    let is_towards = |line: &&String| {
        line.ends_with(&format!("dst {underlay}")) || line.contains(&format!("dst {underlay} "))
    };
    let entry = before.lines("FDB").iter().find(is_towards);
    let mac = entry.and_then(|line| word_after(line, "mac")).ok_or_else(|| {
        LabError::promise(format!("an FDB entry towards {underlay}"), format!("{:?}", before.lines("FDB")))
    })?;
    let neighbours = before.lines("neighbours").iter().filter(|line| word_after(line, "lladdr") == Some(mac));
    for address in neighbours.filter_map(|line| word_after(line, "dst")) {
        let what = if address.contains(':') { "IPv6 neighbour" } else { "ARP entry" };
        all.push((what, format!("ip neigh del {address} dev {VXLAN_DEVICE}")));
    }
    all.push(("FDB entry", format!("bridge fdb del {mac} dev {VXLAN_DEVICE} dst {underlay} self")));
    if all.len() != 7 {
        let saw = format!("{:?}", before.lines("neighbours"));
        return Err(LabError::promise(format!("an IPv4 and an IPv6 neighbour with {mac}"), saw));
    }
    all.push(("VXLAN device", format!("ip link del {VXLAN_DEVICE}")));
    Ok(all)
}

/// The id of one of Ferrule's nexthops on node 1.
fn nexthop(cluster: &Cluster) -> Result<u64> {
    let all = json(&cluster.nodes[0].machine.space, "ip -j nexthop show protocol 70")?;
    all[0]["id"].as_u64().ok_or_else(|| LabError::promise("nexthops with protocol 70", all.to_string()))
}

/// The word that follows another in a snapshot's line.
fn word_after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let mut words = line.split(' ');
    words.find(|candidate| *candidate == word)?;
    words.next()
}

/// On a node with a bridge of pods, the kernel has a route to the node's pod CIDR by the bridge, and `routed` one that stops
/// packets to nobody. Each is there whatever becomes of the other; what the bridge does gives `routed` nothing to do.
fn beside_a_bridge(cluster: &mut Cluster) -> Result<String> {
    let number = cluster.nodes.len();
    let node = cluster.node(number).machine.space.clone();
    let log = cluster.node(number).dir.join("routed.log");
    let passes = || {
        let text = fs::read_to_string(&log).context(|| log.display().to_string())?;
        Ok::<_, LabError>(text.matches("applied in").count())
    };
    let before = Snapshot::take(&node)?;
    let passes_before = passes()?;
    let mut deleted = 0;
    for round in 0..2 {
        for (family, cidr) in ["-4", "-6"].iter().zip(pod_cidrs(number)) {
            let routes = json(&node, &format!("ip -j {family} route show exact {cidr}"))?;
            let all: Vec<&Value> = routes.as_array().into_iter().flatten().collect();
            let by_bridge = all.iter().any(|route| route["dev"] == BRIDGE);
            let stops = all.iter().find(|route| route["type"] == "unreachable");
            let (true, Some(stops)) = (by_bridge, stops) else {
                let expected = format!("a route to {cidr} by {BRIDGE} and one that is unreachable");
                return Err(LabError::promise(expected, routes.to_string()));
            };
            // By its metric: of IPv6 routes, the kernel takes the first that fits, whatever its type.
            run(&node, &format!("ip {family} route del {cidr} metric {}", stops["metric"]))?;
            deleted += 1;
            before.wait_same(&node, "the unreachable route back beside the bridge's", BACK_WITHIN)?;
        }
        if round == 0 {
            // What the bridge sees of it, `routed` has seen before the next deletions.
            cluster.attach(number, "passing")?;
            let passing = cluster.take_pod("passing")?;
            passing.detach(&node, &cluster.node(number).runtime)?;
        }
    }
    first_to_last(cluster)?;
    match passes()? - passes_before {
        applied if applied == deleted => Ok(format!("{deleted} deletions, {applied} repairs")),
        applied => {
            Err(LabError::promise(format!("{deleted} repairs of {deleted} deletions"), applied.to_string()))
        }
    }
}

/// Kills both daemons everywhere; their units start them again; the pods do not notice, and nothing changes.
fn kill_daemons(cluster: &Cluster) -> Result<String> {
    let (Some(first), Some(last)) = (cluster.pods.first(), cluster.pods.last()) else {
        return Err(LabError::promise("pods", "none"));
    };
    let before = cluster.snapshots()?;
    let runs = [
        ping::Run::start(&first.space, last.at.v4.into())?,
        ping::Run::start(&last.space, first.at.v6.into())?,
    ];
    let start = Instant::now();
    let services = || cluster.nodes.iter().flat_map(|node| node.routed.iter().chain(&node.ipamd));
    let counts: Vec<u64> = services().map(|service| service.ready_count()).collect();
    services().try_for_each(|service| service.crash())?;
    services().zip(&counts).try_for_each(|(service, count)| service.wait_ready(count + 1, READY_WITHIN))?;
    let ready = start.elapsed();
    let replies: Vec<usize> = runs.into_iter().map(ping::Run::stop).collect::<Result<_>>()?;
    for (node, before) in cluster.nodes.iter().zip(&before) {
        before.assert_same(&node.machine.space, "the same network after the restart")?;
    }
    let count: usize = replies.iter().sum();
    Ok(format!("{} daemons ready again after {}, none of {count} echoes lost", counts.len(), time(ready)))
}
