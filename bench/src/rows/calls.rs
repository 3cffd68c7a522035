//! `ipamd` under 16 clients: Allocate and Release on a /16, with the store in memory and on a disk.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::Barrier,
    thread,
    time::Instant,
};

use ferrule_tests::{
    command::run,
    error::{Context, LabError, Result},
    ipam::SOCKET,
    space::Space,
};

use super::{
    burst::at_once,
    load::{self, Samples},
};
use crate::contender::{Contender, Verb};
use crate::row::{Row, Unit};
use crate::stand::Bench;
use crate::stats::Summary;

pub(super) const CLIENTS: usize = 16;
pub(super) const CONFIG: &str = "[[ipam.pool]]\nname = \"bench\"\nsubnets = [\"10.0.0.0/16\"]\n";
/// Rate and latency of `ipamd`: the promises.
const RATE_MIN: f64 = 20_000.0;
pub(super) const P99_MAX: f64 = 1e-3;

/// What a store on a disk cannot do without.
const SYNC: &str = "fdatasync of 4 KiB";

/// The store in memory (`/run`, as shipped) and on a disk.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let rounds = bench.times(5, 1);
    let (memory, disk) = (Daemon::prepare(bench, false)?, Daemon::prepare(bench, true)?);
    let mut samples = [Samples::default(), Samples::default()];
    let (mut peer, mut sync_rates, mut sync_times) = (Vec::new(), Vec::new(), Vec::new());
    let mut nothing = Samples::default();
    for _ in 0..rounds {
        for (daemon, samples) in [&memory, &disk].into_iter().zip(&mut samples) {
            daemon.drive(bench, samples)?;
        }
        peer.push(host_local()?);
        let times = syncs(&bench.dir)?;
        sync_rates.push(times.len() as f64 / times.iter().sum::<f64>());
        sync_times.extend(times);
        load::nothing(bench, CLIENTS, &mut nothing)?;
    }
    let of = |samples: &[f64]| {
        Summary::of(samples).ok_or_else(|| LabError::promise("calls that were answered", "none"))
    };
    let peer = of(&peer)?;
    let rate = |store: &str, samples: &Samples| {
        let what = format!("Allocate + Release, 16 clients, store {store}: calls");
        Ok::<_, LabError>(Row::new(what, Unit::PerSecond, of(&samples.rates)?).peer("host-local", peer))
    };
    let latency = |store: &str, samples: &Samples| {
        let what = format!("the same, store {store}: one call");
        Ok::<_, LabError>(
            Row::new(what, Unit::Time, of(&samples.latencies)?).with_tail().p99_at_most(P99_MAX),
        )
    };
    let [memory, disk] = samples;
    Ok(vec![
        rate("in memory", &memory)?.at_least(RATE_MIN),
        latency("in memory", &memory)?.floor(load::NOTHING, of(&nothing.latencies)?),
        // One sync serves every call that waits at the time.
        rate("on disk", &disk)?.floor(SYNC, of(&sync_rates)?),
        latency("on disk", &disk)?.floor(SYNC, of(&sync_times)?),
    ])
}

struct Daemon {
    node: Space,
    _service: ferrule_tests::service::Service,
}

impl Daemon {
    fn prepare(bench: &Bench, on_disk: bool) -> Result<Daemon> {
        let name = if on_disk { "ipamd-disk" } else { "ipamd-memory" };
        let (node, dir) = (Bench::bare(name)?, bench.directory(name)?);
        bench.install.place(&node)?;
        if on_disk {
            let store = bench.directory(&format!("{name}/run"))?;
            run(&node, "mkdir /run/ferrule")?;
            run(&node, &format!("mount --bind {} /run/ferrule", store.display()))?;
        }
        let config = dir.join("ferrule.toml");
        fs::write(&config, CONFIG).context(|| config.display().to_string())?;
        let service = bench.daemon(&node, "ipamd", &config)?;
        Ok(Daemon { node, _service: service })
    }

    /// All clients at once for a while.
    fn drive(&self, bench: &Bench, samples: &mut Samples) -> Result<()> {
        drive(&self.node, bench, samples)
    }
}

/// All clients at once for a while, each with a connection of its own and never without a call.
pub(super) fn drive(node: &Space, bench: &Bench, samples: &mut Samples) -> Result<()> {
    let duration = load::duration(bench);
    let round = bench.calm(|| {
        let mut round = Samples::default();
        node.enter(|| load::pairs(Path::new(SOCKET), CLIENTS, duration, &mut round))??;
        Ok(round)
    })?;
    samples.add(round);
    Ok(())
}

/// Has every client do something in the node, all of them at once.
pub(super) fn clients<T: Send>(node: &Space, client: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let ready = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        let client = |number| {
            let (ready, client) = (&ready, &client);
            move || {
                let entered = node.adopt_thread();
                ready.wait();
                entered?;
                client(number)
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        let join = |client: thread::ScopedJoinHandle<'_, Result<T>>| {
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        clients.into_iter().map(join).collect::<Result<Vec<_>>>()
    })
}

/// The peer's IPAM under as many callers, where a call is a process.
fn host_local() -> Result<f64> {
    const CALLS: u16 = 64;
    // Executed by itself, as an interface plugin executes it.
    let peer = Contender::peer("host-local", 1)?;
    let seats = peer.seats(CALLS)?;
    let took = at_once(&peer, Verb::Add, &seats, CLIENTS)? + at_once(&peer, Verb::Del, &seats, CLIENTS)?;
    for seat in seats {
        seat.sandbox.remove(&peer.node)?;
    }
    Ok(f64::from(CALLS) * 2.0 / took.as_secs_f64())
}

/// The times of synchronised writes to a file beside the store, one after the other.
fn syncs(dir: &Path) -> Result<Vec<f64>> {
    const WRITES: usize = 100;
    let path = dir.join("sync");
    let mut file = File::create(&path).context(|| path.display().to_string())?;
    let mut sync = || {
        let start = Instant::now();
        file.write_all(&[0; 4096]).and_then(|()| file.sync_data()).context(|| path.display().to_string())?;
        Ok(start.elapsed().as_secs_f64())
    };
    (0..WRITES).map(|_| sync()).collect()
}
