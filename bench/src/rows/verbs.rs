//! ADD and DEL one at a time: the plugin, the peer and the floor in turn, each time one after the other on a machine that has come
//! to rest.

use std::{
    fs,
    path::PathBuf,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use ferrule_tests::{
    error::{Context, LabError, Result},
    space::Space,
};
use nix::unistd::gettid;

use crate::contender::{Contender, Seat, Verb};
use crate::row::{Row, Unit};
use crate::stand::{Bench, POOL_DUAL, POOL_V4};
use crate::stats::Summary;

/// Between two measurements: what the kernel does behind a deletion takes 15 to 30 ms.
const REST: Duration = Duration::from_millis(40);
/// The peer waits seconds for duplicate address detection; more rounds of it say nothing more.
const DUAL_ROUNDS: usize = 10;

/// IPv4.
pub(super) fn one_family(bench: &Bench) -> Result<Vec<Row>> {
    let stand = bench.stand("add-del")?;
    let ours = Contender::ferrule(&bench.install, &stand.node(1).machine.space, POOL_V4)?;
    let all = [ours, Contender::peer("ptp", 1)?, Contender::floor(bench)?];
    let Times { add, del, left } = in_turn(&all, bench.rounds)?;
    let row = |what: &str, times: &[Summary]| {
        let row = Row::new(what, Unit::Time, times[0]);
        row.peer("ptp + host-local", times[1]).floor("floor", times[2])
    };
    let vanished = format!("nothing of the pod left when DEL returns ({left} of {} times)", bench.rounds);
    Ok(vec![
        row("ADD, IPv4, one at a time", &add).at_most_peer(0.22).at_most_floor(1.5),
        row("DEL, IPv4, one at a time", &del).at_most_peer(0.1).at_most_floor(1.5).target(
            vanished,
            left as f64,
            left == 0,
        ),
    ])
}

/// Both families, with our own IPv4 ADD beside it.
pub(super) fn dual_stack(bench: &Bench) -> Result<Vec<Row>> {
    let stand = bench.stand("dual")?;
    let node = &stand.node(1).machine.space;
    let ours = Contender::ferrule(&bench.install, node, POOL_DUAL)?;
    let mut own = Contender::ferrule(&bench.install, node, POOL_V4)?;
    own.name = "ipv4";
    let short = in_turn(&[ours.clone(), own], bench.rounds)?;
    let peer = in_turn(&[ours, Contender::peer("ptp", 2)?], bench.rounds.min(DUAL_ROUNDS))?;
    let ratio = short.add[0].p50 / short.add[1].p50;
    Ok(vec![
        Row::new("ADD, dual stack", Unit::Time, short.add[0])
            .peer("ptp + host-local", peer.add[1])
            .floor("our IPv4 ADD", short.add[1])
            .target("≤ 1.25 × our IPv4 ADD".to_owned(), ratio, ratio <= 1.25),
        Row::new("DEL, dual stack", Unit::Time, short.del[0])
            .peer("ptp + host-local", peer.del[1])
            .floor("our IPv4 DEL", short.del[1]),
    ])
}

/// What came of the rounds, for each contender in order.
struct Times {
    add: Vec<Summary>,
    del: Vec<Summary>,
    /// How often something of the first contender's pod was still to be seen when its DEL had returned.
    left: usize,
}

/// Every contender adds and deletes one pod a round; who begins changes.
fn in_turn(contenders: &[Contender], rounds: usize) -> Result<Times> {
    let mut times = vec![[Vec::new(), Vec::new()]; contenders.len()];
    let mut left = 0;
    let seats = contenders.iter().map(|contender| contender.seat(1)).collect::<Result<Vec<_>>>()?;
    let lookout = Lookout::post(&seats[0].sandbox.space)?;
    for round in 0..rounds {
        let order = (0..contenders.len()).map(|place| (place + round) % contenders.len());
        for (verb, which) in
            [Verb::Add, Verb::Del].into_iter().flat_map(|verb| order.clone().map(move |w| (verb, w)))
        {
            // Not a wait for anything in particular: the next one shall not pay for what the last one left to the kernel.
            thread::sleep(REST);
            let (contender, seat) = (&contenders[which], &seats[which]);
            let exec = contender.exec(verb, seat);
            let watched = which == 0 && verb == Verb::Del;
            let (took, seen) = contender.node.enter(|| {
                let took = exec.run();
                (took, watched && lookout.sees_anything())
            })?;
            times[which][usize::from(verb == Verb::Del)].push(took?.as_secs_f64());
            left += usize::from(seen);
        }
    }
    lookout.withdraw();
    for (contender, seat) in contenders.iter().zip(seats) {
        seat.sandbox.remove(&contender.node)?;
    }
    let summaries =
        |verb: usize| times.iter().filter_map(|both| Summary::of(&both[verb])).collect::<Vec<_>>();
    let (add, del) = (summaries(0), summaries(1));
    if add.len() < contenders.len() {
        return Err(LabError::promise("at least one round", rounds.to_string()));
    }
    Ok(Times { add, del, left })
}

/// A thread that stays in a pod's namespace, so that anybody can look there without entering it first.
struct Lookout {
    pod: PathBuf,
    stay: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Lookout {
    fn post(pod: &Space) -> Result<Lookout> {
        let (stay, leave) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let pod = pod.clone();
        let thread = thread::spawn(move || {
            let entered = pod.adopt_thread().map(|()| gettid());
            let _ = tell.send(entered);
            // Ends when the other side hangs up.
            let _ = leave.recv();
        });
        let tid = told.recv().map_err(std::io::Error::other).context(|| "a thread in the pod")??;
        Ok(Lookout { pod: format!("/proc/self/task/{tid}/net").into(), stay, thread })
    }

    /// Whether the calling thread's namespace has anything of the plugin's, or the pod more than its loopback.
    fn sees_anything(&self) -> bool {
        let text =
            |path: PathBuf| fs::read_to_string(path).unwrap_or_else(|_| "unreadable: eth0 fer".to_owned());
        let host = PathBuf::from("/proc/thread-self/net");
        ["dev", "route", "ipv6_route", "arp", "if_inet6"]
            .iter()
            .any(|table| text(host.join(table)).contains("fer"))
            || ["dev", "route", "arp"].iter().any(|table| text(self.pod.join(table)).contains("eth0"))
    }

    fn withdraw(self) {
        drop(self.stay);
        let _ = self.thread.join();
    }
}

/// One ADD after the other of two contenders that differ in their nodes only; the seats are attached in the end.
pub(super) fn alternate(bench: &Bench, pair: [(&Contender, &Seat); 2]) -> Result<[Vec<f64>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..bench.rounds {
        let measured = bench.calm(|| {
            let mut times = [0.0; 2];
            for place in 0..2 {
                let which = (place + round) % 2;
                let (contender, seat) = pair[which];
                thread::sleep(REST);
                times[which] = contender.call(Verb::Add, seat)?.as_secs_f64();
                contender.call(Verb::Del, seat)?;
            }
            Ok(times)
        })?;
        times.iter_mut().zip(measured).for_each(|(times, time)| times.push(time));
    }
    Ok(times)
}
