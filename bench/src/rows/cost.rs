//! What one verb of the plugin costs in things that can be counted: bytes, processes, system calls, round trips to the kernel.

use std::{collections::BTreeSet, fs, path::Path};

use ferrule_tests::error::{Context, LabError, Result};

use crate::contender::{Contender, Verb};
use crate::process::Exec;
use crate::row::{Row, Unit};
use crate::stand::{Bench, POOL_V4};
use crate::stats::Summary;

/// Counted with strace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Processes, the one executed included.
    pub processes: usize,
    /// System calls of all of them.
    pub system_calls: usize,
    /// Messages sent to netlink: each is a round trip.
    pub round_trips: usize,
}

/// The most that one ADD may be.
const BYTES_MAX: f64 = 900e3;
const ROUND_TRIPS_MAX: f64 = 3.0;

/// The plugin beside ptp.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let stand = bench.stand("plugin")?;
    let ours = Contender::ferrule(&bench.install, &stand.node(1).machine.space, POOL_V4)?;
    let (peer, floor) = (Contender::peer("ptp", 1)?, Contender::floor(bench)?);
    let all = [&ours, &peer, &floor];
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..bench.times(7, 2) {
        for (contender, costs) in all.iter().zip(&mut costs) {
            costs.push(cost(bench, contender)?);
        }
    }
    let size = |path: &Path| {
        let length = fs::metadata(path).context(|| path.display().to_string())?.len();
        Ok::<_, LabError>(Summary::single(length as f64))
    };
    let peers = Path::new(crate::contender::PEERS);
    let both = size(&peers.join("ptp"))?.p50 + size(&peers.join("host-local"))?.p50;
    let row = |what: &str, verb: usize, of: fn(&Cost) -> usize| {
        let samples =
            costs.each_ref().map(|costs| costs.iter().map(|both| of(&both[verb]) as f64).collect::<Vec<_>>());
        let [ours, peer, floor] =
            samples.map(|samples| Summary::of(&samples).unwrap_or(Summary::single(f64::NAN)));
        Row::new(what, Unit::Count, ours).peer("ptp + host-local", peer).floor("floor", floor)
    };
    Ok(vec![
        Row::new("the plugin's file", Unit::Bytes, size(&bench.install.plugin)?)
            .peer("ptp + host-local", Summary::single(both))
            .floor("floor", size(&bench.floor)?)
            .at_most(BYTES_MAX),
        row("processes of an ADD", 0, |cost| cost.processes).at_most(1.0),
        row("netlink round trips of an ADD", 0, |cost| cost.round_trips).at_most(ROUND_TRIPS_MAX),
        row("system calls of an ADD", 0, |cost| cost.system_calls),
        row("system calls of a DEL", 1, |cost| cost.system_calls),
    ])
}

/// What an ADD and a DEL of a contender cost.
///
/// # Errors
/// strace is missing or not allowed, or a verb fails.
pub fn cost(bench: &Bench, contender: &Contender) -> Result<[Cost; 2]> {
    let seat = contender.seat(1)?;
    let trace = bench.directory("trace")?.join(contender.name);
    let cost = |verb| {
        let exec = under_strace(contender.exec(verb, &seat), &trace);
        contender.node.enter(|| exec.run())??;
        let text = fs::read_to_string(&trace).context(|| trace.display().to_string())?;
        Ok::<_, LabError>(count(&text))
    };
    let (add, del) = (cost(Verb::Add)?, cost(Verb::Del)?);
    seat.sandbox.remove(&contender.node)?;
    Ok([add, del])
}

fn under_strace(exec: Exec, trace: &Path) -> Exec {
    let options = ["-f", "-qq", "-e", "signal=none", "-yy", "-o"].map(str::to_owned);
    let command = [trace.display().to_string(), exec.program.display().to_string()];
    let args = options.into_iter().chain(command).chain(exec.args).collect();
    Exec { program: "strace".into(), args, ..exec }
}

/// Reads a trace: a line for each call, beginning with the thread's number. A call that was interrupted by another thread's line
/// has a second line that begins with `<...`.
fn count(trace: &str) -> Cost {
    let mut cost = Cost { processes: 0, system_calls: 0, round_trips: 0 };
    let mut threads = BTreeSet::new();
    let mut forked = BTreeSet::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        threads.insert(thread);
        if call.starts_with("<...") {
            continue;
        }
        cost.system_calls += 1;
        let sends = ["sendto(", "sendmsg(", "sendmmsg("].iter().any(|name| call.starts_with(name));
        cost.round_trips += usize::from(sends && call.contains("NETLINK"));
        // A thread is made with CLONE_THREAD; whatever else is made is a process.
        if ["fork(", "vfork(", "clone(", "clone3("].iter().any(|name| call.starts_with(name))
            && !call.contains("CLONE_THREAD")
        {
            forked.insert(cost.system_calls);
        }
    }
    cost.processes = usize::from(!threads.is_empty()) + forked.len();
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
10 execve(\"/x\", [\"/x\"], 0x7ffd /* 3 vars */) = 0
10 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 3<NETLINK:[ROUTE:1]>
10 sendto(3<NETLINK:[ROUTE:10]>, [...], 32, 0, NULL, 0) = 32
10 sendto(4<UNIX-STREAM:[7]>, \"{}\", 2, 0, NULL, 0) = 2
10 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}, 88) = 11
10 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>
11 sendmsg(3<NETLINK:[ROUTE:10]>, {}, 0 <unfinished ...>
10 <... clone resumed>) = 12
11 <... sendmsg resumed>) = 20
12 exit_group(0) = ?
";

    #[test]
    fn a_trace_is_counted_call_by_call() {
        assert_eq!(count(TRACE), Cost { processes: 2, system_calls: 8, round_trips: 2 });
        assert_eq!(count("").processes, 0);
    }
}
