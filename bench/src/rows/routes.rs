//! `routed` with 5,000 nodes: from nothing to the kernel, one change, a comparison of everything, memory; and both daemons idling.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use ferrule_tests::{
    addressing::Backend,
    cluster::VXLAN_DEVICE,
    command::{run, run_here},
    error::{Context, LabError, Result},
    ipam::Ipam,
    service::Service,
    space::Space,
    topology::Topology,
};

use crate::process::{cpu_time, memory};
use crate::row::{Row, Unit};
use crate::stand::{Bench, come_to_rest};
use crate::stats::Summary;

use super::flood;
use super::nodes::{self, Listener};

/// How many nodes.
const NODES: usize = 5000;
/// How many leases `ipamd` holds while it idles.
const PODS: usize = 250;

/// All of it, on one node.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let (mut times, mut site) = ([const { Vec::new() }; 3], None);
    for round in 0..bench.times(5, 1) {
        for turn in 0..times.len() {
            // Each begins in its turn.
            let who = (round + turn) % times.len();
            let time = bench.calm(|| {
                // The last one stays for what follows.
                site = site.take().filter(|_| who != 0);
                come_to_rest()?;
                Ok(match who {
                    0 => {
                        let (cold, started) = Site::start(bench, &format!("routed-{round}"), NODES)?;
                        site = Some(started);
                        cold
                    }
                    1 => by_ip(bench, round)?,
                    _ => by_messages()?,
                })
            })?;
            times[who].push(time);
        }
    }
    let [ours, peer, floor] = times.map(|times| Summary::of(&times));
    let (Some(site), Some(ours), Some(peer), Some(floor)) = (site, ours, peer, floor) else {
        return Err(LabError::promise("a round", "none"));
    };
    let mut rows = vec![
        Row::new("routed: 5,000 nodes dual stack from nothing, start to ready", Unit::Time, ours)
            .peer("ip -batch", peer)
            .floor("the messages alone", floor)
            .at_most_peer(0.5),
    ];
    rows.push(site.changes(bench)?);
    rows.extend(site.idle(bench)?);
    let pid = site.pid()?;
    rows.push(
        Row::new("routed: memory at 5,000 nodes (RSS)", Unit::Bytes, Summary::single(memory(pid, "VmRSS")?))
            .at_most(30e6),
    );
    rows.push(Row::new(
        "routed: the most it ever took (peak RSS)",
        Unit::Bytes,
        Summary::single(memory(pid, "VmHWM")?),
    ));
    Ok(rows)
}

/// A node with `routed` and its nodes file.
pub(super) struct Site {
    node: Space,
    routed: Service,
    dir: PathBuf,
    nodes: usize,
    _topology: Topology,
}

impl Site {
    /// Starts `routed` on a fresh node with a nodes file of so many; gives how long it took to be ready, too.
    pub(super) fn start(bench: &Bench, name: &str, nodes: usize) -> Result<(f64, Site)> {
        let topology = Topology::build(Backend::Native, 1)?;
        let node = topology.machines[0].space.clone();
        bench.install.place(&node)?;
        let dir = bench.directory(name)?;
        nodes::write(&dir, nodes, 0)?;
        let config = dir.join("ferrule.toml");
        let text = format!(
            "[node]\nname = \"{}\"\n[routing.file]\npath = \"{}\"\n[[ipam.pool]]\nname = \"bench\"\nsubnets = [\"10.0.0.0/16\"]\n",
            nodes::name(0),
            dir.join("nodes.toml").display()
        );
        fs::write(&config, text).context(|| config.display().to_string())?;
        let start = Instant::now();
        let routed = bench.daemon(&node, "routed", &config)?;
        let took = start.elapsed().as_secs_f64();
        let found = objects(&node)?;
        if found != expected(nodes) {
            return Err(LabError::promise(
                format!("{:?} once routed is ready", expected(nodes)),
                format!("{found:?}"),
            ));
        }
        Ok((took, Site { node, routed, dir, nodes, _topology: topology }))
    }

    fn pid(&self) -> Result<i32> {
        self.routed.pid().ok_or_else(|| LabError::promise("routed to run", "no process"))
    }

    /// One node gets another pod CIDR: from the rename of the nodes file until the kernel tells of the new route.
    fn changes(&self, bench: &Bench) -> Result<Row> {
        let mut times = Vec::new();
        for change in 1..=bench.times(20, 4) {
            // Past the least gap between two passes that events start.
            thread::sleep(Duration::from_millis(300));
            let listener = self.node.enter(Listener::open)??;
            let (fresh, address) = nodes::prepare(&self.dir, self.nodes, change)?;
            let start = Instant::now();
            nodes::replace(&self.dir, &fresh)?;
            listener.wait_for_route(address)?;
            times.push(start.elapsed().as_secs_f64());
        }
        let summary = Summary::of(&times).ok_or_else(|| LabError::promise("a change", "none"))?;
        Ok(Row::new("routed: one change at 5,000 nodes, file to kernel", Unit::Time, summary).at_most(5e-3))
    }

    /// Both daemons with nothing to do. What `routed` does every half minute is a comparison of everything.
    fn idle(&self, bench: &Bench) -> Result<Vec<Row>> {
        const LOOK: Duration = Duration::from_millis(20);
        const QUIET_LOOKS: u32 = 50;
        let ipamd = bench.daemon(&self.node, "ipamd", &self.dir.join("ferrule.toml"))?;
        let mut ipam = Ipam::connect(&self.node)?;
        for pod in 0..PODS {
            ipam.allocate("bench", &pod.to_string())?;
        }
        drop(ipam);
        let (routed, addresses) =
            (self.pid()?, ipamd.pid().ok_or_else(|| LabError::promise("ipamd to run", "no process"))?);
        thread::sleep(Duration::from_secs(1));
        let duration = Duration::from_secs(bench.times(60, 33) as u64);
        let (start, before) = (Instant::now(), [cpu_time(routed)?, cpu_time(addresses)?]);
        let (mut diffs, mut burst, mut last, mut quiet) = (Vec::new(), Duration::ZERO, before[0], 0);
        while start.elapsed() < duration {
            thread::sleep(LOOK);
            let now = cpu_time(routed)?;
            let used = now - last;
            last = now;
            // Waking for the watchdog takes less than this; a comparison more, though it may pause in between.
            if used > LOOK / 40 {
                burst += used;
                quiet = 0;
            } else if !burst.is_zero() {
                quiet += 1;
                if quiet == QUIET_LOOKS {
                    diffs.push(std::mem::take(&mut burst).as_secs_f64());
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let part =
            |after: Duration, before: Duration| Summary::single((after - before).as_secs_f64() / seconds);
        let mut rows = Vec::new();
        let diff = Summary::of(&diffs).ok_or_else(|| LabError::promise("a comparison every 30 s", "none"))?;
        rows.push(
            Row::new("routed: comparison of everything, no drift (CPU)", Unit::Time, diff).at_most(0.15),
        );
        let idle = |what: &str, summary| Row::new(what, Unit::CpuPart, summary).at_most(1e-3);
        rows.push(idle("routed: idle with 5,000 nodes", part(cpu_time(routed)?, before[0])));
        rows.push(idle("ipamd: idle with 250 pods", part(cpu_time(addresses)?, before[1])));
        Ok(rows)
    }
}

/// The same objects by iproute2: one `ip -batch` and one `bridge -batch`, on a node of their own.
fn by_ip(bench: &Bench, round: usize) -> Result<f64> {
    let topology = Topology::build(Backend::Native, 1)?;
    let node = &topology.machines[0].space;
    let dir = bench.directory(&format!("ip-{round}"))?;
    let [ip, bridge] = nodes::batches(&dir, NODES)?;
    let start = Instant::now();
    node.enter(|| {
        run_here(&format!("ip -batch {}", ip.display()))?;
        run_here(&format!("bridge -batch {}", bridge.display()))
    })??;
    let took = start.elapsed().as_secs_f64();
    let found = objects(node)?;
    if found != expected(NODES) {
        return Err(LabError::promise(format!("{:?} from ip -batch", expected(NODES)), format!("{found:?}")));
    }
    Ok(took)
}

/// The same objects by nothing but their messages, on a node of their own.
fn by_messages() -> Result<f64> {
    let topology = Topology::build(Backend::Native, 1)?;
    let node = &topology.machines[0].space;
    let took = node.enter(|| flood::send(NODES))??;
    let found = objects(node)?;
    if found != expected(NODES) {
        return Err(LabError::promise(format!("{:?}", expected(NODES)), format!("{found:?}")));
    }
    Ok(took)
}

/// Routes, neighbours, FDB entries and nexthops.
fn objects(node: &Space) -> Result<[usize; 4]> {
    let lines =
        |line: &str| Ok::<_, LabError>(run(node, line)?.lines().filter(|line| !line.is_empty()).count());
    let routes = lines("ip -4 route show proto 70")? + lines("ip -6 route show proto 70")?;
    let neighbours = lines(&format!("ip neigh show dev {VXLAN_DEVICE} nud permanent"))?;
    let fdb = lines(&format!("bridge fdb show dev {VXLAN_DEVICE}"))?;
    Ok([routes, neighbours, fdb, lines("ip nexthop show protocol 70")?])
}

/// Those of the other nodes, and the routes of this node's own networks.
fn expected(nodes: usize) -> [usize; 4] {
    let others = nodes - 1;
    [2 * others + 2, 2 * others, others, 2 * others]
}
