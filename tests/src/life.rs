//! Life with pods that come and go and nodes that leave: cooldown, the nodes file, `ipamd` away, and the end of everything. What is
//! broken by hand and repaired lives in `repair`.

use std::time::{Duration, Instant};

use crate::{
    addressing::pod_cidrs,
    cluster::{BRIDGE, COOLDOWN, Cluster, READY_WITHIN},
    command::{run, wait_for},
    error::{LabError, Result},
    ipam::Ipam,
    leftovers::Snapshot,
    pod::Sandbox,
    proof::{first_to_last, pod_name},
    report::{Report, time},
    runtime::{Runtime, Verb},
    service::Service,
    space::Space,
};

/// How soon `routed` takes away what it keeps in the kernel for the port of a bridge, after the pod's link has gone.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(1);
/// How long the daemons may take to follow the nodes file: it is watched, so that this is a matter of events.
const FOLLOW_WITHIN: Duration = Duration::from_secs(2);
/// How long a call of the plugin may take when `ipamd` is away before a runtime would think it hangs.
const GIVE_UP_WITHIN: Duration = Duration::from_secs(10);
/// The network the lab's own leases are under.
const FILL: &str = "lab-fill";

/// All of it, on a cluster with its pods attached.
pub fn live(cluster: &mut Cluster, pods_per_node: usize, report: &mut Report) {
    let last_pod = pod_name(1, pods_per_node - 1);
    report.prove("a deleted pod's address rests", || cooldown(cluster, &last_pod));
    let last_node = cluster.nodes.len();
    report.prove(&format!("node{last_node} leaves the nodes file and comes back"), || {
        node_leaves(cluster, last_node)
    });
    report.prove("GC removes what the runtime has forgotten", || collect(cluster));
    crate::repair::all(cluster, report);
    report.prove("ADD while ipamd is down", || add_without_ipamd(cluster));
    report.prove("DEL while ipamd is down", || del_without_ipamd(cluster, &last_pod));
}

/// The address of a deleted pod is not given while it rests, though everything else of the pool is, and is given afterwards.
fn cooldown(cluster: &mut Cluster, name: &str) -> Result<String> {
    let pod = cluster.take_pod(name)?;
    let node = cluster.node(pod.node).machine.space.clone();
    let (number, old) = (pod.node, pod.at);
    let deleted = Instant::now();
    pod.detach(&node, &cluster.node(number).runtime)?;

    let mut ipam = Ipam::connect(&node)?;
    let mut given = 0;
    while ipam.counts4()?.free > 0 {
        let lease = ipam.allocate(FILL, &format!("{given}"))?;
        if lease.addresses.contains(&old.v4.to_string()) || lease.addresses.contains(&old.v6.to_string()) {
            let saw = format!("{:?} given {} after DEL", lease.addresses, time(deleted.elapsed()));
            return Err(LabError::promise(
                format!("{} and {} to rest for {COOLDOWN:?}", old.v4, old.v6),
                saw,
            ));
        }
        given += 1;
    }
    if given == 0 || deleted.elapsed() >= COOLDOWN {
        let saw = format!("{given} addresses given in {}", time(deleted.elapsed()));
        return Err(LabError::promise(format!("the rest of the pool given within {COOLDOWN:?}"), saw));
    }

    let no_rest = || {
        let counts = ipam.counts4()?;
        Ok(if counts.resting == 0 && counts.free == 1 { Ok(()) } else { Err(format!("{counts:?}")) })
    };
    wait_for("one address free and none resting", COOLDOWN + Duration::from_secs(2), no_rest)?;
    let rested = deleted.elapsed();
    if rested < COOLDOWN {
        return Err(LabError::promise(format!("a rest of {COOLDOWN:?}"), time(rested)));
    }
    let again = cluster.attach(number, name)?.at.v4;
    if again != old.v4 {
        return Err(LabError::promise(format!("{}, the only free address", old.v4), again.to_string()));
    }
    ipam.collect_all(FILL)?;
    Ok(format!(
        "{} not among the {given} others given at once, and given again after {}",
        old.v4,
        time(rested)
    ))
}

/// A node's routes, neighbours, FDB entries and nexthops go with its entry and come back with it.
fn node_leaves(cluster: &Cluster, leaver: usize) -> Result<String> {
    let before = cluster.snapshots()?;
    let marks = marks(cluster, leaver, &before[0])?;
    cluster.write_nodes_file(Some(leaver))?;
    let gone = is_gone(cluster, leaver, &marks);
    cluster.write_nodes_file(None)?;
    let gone = gone?;
    let start = Instant::now();
    for (node, before) in cluster.nodes.iter().zip(&before) {
        before.wait_same(&node.machine.space, &format!("all of node{leaver} back"), FOLLOW_WITHIN)?;
    }
    let back = start.elapsed();
    first_to_last(cluster)?;
    let (marks, gone, back) = (marks.join(", "), time(gone), time(back));
    Ok(format!("{marks} gone in {gone}, back in {back}, and reached again"))
}

/// Waits until nothing of a node is left on the others.
fn is_gone(cluster: &Cluster, leaver: usize, marks: &[String]) -> Result<Duration> {
    let start = Instant::now();
    for node in cluster.nodes.iter().filter(|node| node.machine.number != leaver) {
        let gone = || {
            let now = Snapshot::take(&node.machine.space)?;
            let left: Vec<&String> = marks.iter().filter(|mark| now.mentions(mark) > 0).collect();
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?} on {}", node.machine.space.name()))
            })
        };
        wait_for(&format!("nothing of node{leaver} left on the others"), FOLLOW_WITHIN, gone)?;
    }
    Ok(start.elapsed())
}

/// What a node is known by in the others' networks; each must occur before it leaves, or its absence would prove nothing.
fn marks(cluster: &Cluster, node: usize, seen: &Snapshot) -> Result<Vec<String>> {
    let [cidr4, cidr6] = pod_cidrs(node);
    let underlay = cluster.node(node).machine.underlay;
    let mut marks = vec![cidr4.clone(), cidr6, underlay.v4.to_string()];
    // The VXLAN device's neighbours name the node's MAC, which its FDB entry is for.
    let vtep = cidr4.split('/').next().unwrap_or_default().to_owned();
    let neighbour = seen.lines("neighbours").iter().find(|line| line.contains(&format!("dst {vtep} ")));
    let mac = neighbour.and_then(|line| line.split("lladdr ").nth(1)?.split(' ').next());
    marks.extend(mac.map(str::to_owned));
    match marks.iter().find(|mark| seen.mentions(mark) == 0) {
        None => Ok(marks),
        Some(absent) => Err(LabError::promise(
            format!("{absent} in node1's network while node{node} is in the file"),
            "it is not",
        )),
    }
}

/// A pod that its runtime does not know any more goes with GC, on a routed node and on one with a bridge, and no other.
fn collect(cluster: &mut Cluster) -> Result<String> {
    let mut slowest = Duration::ZERO;
    let numbers = [1, cluster.nodes.len()];
    for number in numbers {
        let before = Snapshot::take(&cluster.node(number).machine.space)?;
        cluster.attach(number, "forgotten")?;
        let forgotten = cluster.take_pod("forgotten")?;
        let node = cluster.node(number);
        let space = &node.machine.space;
        let known: Vec<_> = cluster.pods.iter().filter(|pod| pod.node == number).collect();
        let valid: Vec<_> = known.iter().map(|pod| &pod.container).collect();
        slowest = slowest.max(node.runtime.collect(space, &valid)?.expect_success("GC")?.took);
        before.wait_same(space, "the network without the forgotten pod", FOLLOWED_WITHIN)?;
        let leases = Ipam::connect(space)?.leases()?;
        if leases.iter().any(|lease| lease.container_id == forgotten.container.id) {
            return Err(LabError::promise("no lease of the forgotten pod", format!("{leases:?}")));
        }
        known.iter().try_for_each(|pod| pod.check(space, &node.runtime).map(drop))?;
        // The runtime may remember later.
        forgotten.detach(space, &node.runtime)?;
    }
    first_to_last(cluster)?;
    Ok(format!("on {} nodes, the other pods untouched; one GC took at most {}", numbers.len(), time(slowest)))
}

/// Does something on a node whose `ipamd` is stopped; it runs again afterwards, whatever came of it.
fn without_ipamd<T>(
    cluster: &mut Cluster,
    number: usize,
    work: impl FnOnce(&Runtime, &Space) -> Result<T>,
) -> Result<T> {
    let node = &mut cluster.nodes[number - 1];
    node.ipamd.take().map(Service::stop).transpose()?;
    let result = work(&node.runtime, &node.machine.space);
    let service = node.service(&cluster.install, "ipamd")?;
    let ready = service.wait_ready(1, READY_WITHIN);
    node.ipamd = Some(service);
    result.and_then(|value| ready.map(|()| value))
}

/// ADD fails soon, with the code for "try again later" and words, and leaves nothing.
fn add_without_ipamd(cluster: &mut Cluster) -> Result<String> {
    without_ipamd(cluster, 1, |runtime, node| {
        let before = Snapshot::take(node)?;
        let sandbox = Sandbox::create(node, "pod1x")?;
        let reply = runtime.call(node, Verb::Add, Some(&sandbox.container), None)?;
        // A runtime cleans up after an ADD that failed.
        let deleted = runtime.call(node, Verb::Del, Some(&sandbox.container), None)?;
        sandbox.remove(node)?;
        let (code, message) =
            (reply.output["code"].as_u64(), reply.output["msg"].as_str().unwrap_or_default());
        if reply.success || code != Some(11) || message.is_empty() || reply.took > GIVE_UP_WITHIN {
            let saw = format!("{} {} after {}", reply.output, reply.log.trim(), time(reply.took));
            let expected = format!("error code 11 and a message within {GIVE_UP_WITHIN:?}");
            return Err(LabError::promise(expected, saw));
        }
        deleted.expect_success("DEL after a failed ADD")?;
        before.wait_same(node, "nothing left by the failed ADD", FOLLOWED_WITHIN)?;
        Ok(format!("code 11, {message:?}, after {}", time(reply.took)))
    })
}

/// DEL succeeds without `ipamd`; the address is free as soon as `ipamd` is back.
fn del_without_ipamd(cluster: &mut Cluster, name: &str) -> Result<String> {
    let pod = cluster.take_pod(name)?;
    let (number, id, address) = (pod.node, pod.container.id.clone(), pod.at.v4);
    let space = cluster.node(number).machine.space.clone();
    let held = Ipam::connect(&space)?.leases()?;
    if !held.iter().any(|lease| lease.container_id == id) {
        return Err(LabError::promise(format!("a lease of {name}"), format!("{held:?}")));
    }
    let reply = without_ipamd(cluster, number, |runtime, node| pod.detach(node, runtime))?;
    let held = Ipam::connect(&space)?.leases()?;
    if held.iter().any(|lease| lease.container_id == id || lease.addresses.contains(&address.to_string())) {
        return Err(LabError::promise(format!("{address} free once ipamd is back"), format!("{held:?}")));
    }
    cluster.attach(number, name)?;
    Ok(format!("success after {}, and {address} is free once ipamd is back", time(reply.took)))
}

/// Deletes every pod, and then Ferrule itself; nothing may be left of either.
pub fn end(cluster: &mut Cluster, without_pods: &[Snapshot], report: &mut Report) {
    report.prove("every pod deleted: links, routes, rules, neighbours, FDB, nexthops, nftables", || {
        let mut slowest = Duration::ZERO;
        let count = cluster.pods.len();
        for pod in std::mem::take(&mut cluster.pods) {
            let node = cluster.node(pod.node);
            slowest = slowest.max(pod.detach(&node.machine.space, &node.runtime)?.took);
        }
        for node in cluster.nodes.iter().filter(|node| node.is_bridged) {
            // It stays for the pods to come, until somebody deletes it.
            run(&node.machine.space, &format!("ip link del {BRIDGE}"))?;
        }
        for (node, before) in cluster.nodes.iter().zip(without_pods) {
            before.wait_same(
                &node.machine.space,
                "the network as it was before the pods",
                FOLLOWED_WITHIN,
            )?;
        }
        Ok(format!("{count} pods, nothing left; one DEL took at most {}", time(slowest)))
    });
    report.prove("every pod deleted: leases and queued releases", || {
        for node in &cluster.nodes {
            let space = &node.machine.space;
            let mut leases = Ipam::connect(space)?.leases()?;
            // The bridge's own address is no pod's.
            leases.retain(|lease| !(node.is_bridged && lease.container_id == "gateway"));
            let queued = run(space, "ls -A /run/ferrule/releases")?;
            let pinned = run(space, "ls -A /run/netns")?;
            if !leases.is_empty() || !queued.is_empty() || !pinned.is_empty() {
                return Err(LabError::promise(
                    "no leases, no queue, no namespaces",
                    format!("{leases:?} {queued} {pinned}"),
                ));
            }
        }
        Ok("none".to_owned())
    });
    report.prove("the daemons stop, and routed cleanup leaves what was there before Ferrule", || {
        let install = cluster.install.clone();
        for node in &mut cluster.nodes {
            node.uninstall(&install)?;
            node.bare.assert_same(&node.machine.space, "the network as it was before Ferrule")?;
        }
        Ok(format!("{} nodes as they were", cluster.nodes.len()))
    });
}
