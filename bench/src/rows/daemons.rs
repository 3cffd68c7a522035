//! Daemons from start to ready.

use std::{fs, time::Instant};

use ferrule_tests::{
    error::{Context, LabError, Result},
    ipam::Ipam,
};

use super::routes::Site;
use crate::row::{Row, Unit};
use crate::stand::{Bench, come_to_rest};
use crate::stats::Summary;

const LEASES: usize = 250;
const NODES: usize = 1000;
const CONFIG: &str = "[[ipam.pool]]\nname = \"bench\"\nsubnets = [\"10.0.0.0/16\"]\n";

/// `ipamd` with leases, `routed` with nodes and nothing in the kernel.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let rounds = bench.times(10, 3);
    let ipamd = ipamd(bench, rounds)?;
    let routed = (0..rounds)
        .map(|round| {
            come_to_rest()?;
            Site::start(bench, &format!("start-{round}"), NODES).map(|(took, _)| took)
        })
        .collect::<Result<Vec<_>>>()?;
    let row = |what: &str, times: &[f64], limit: f64| {
        let summary = Summary::of(times).ok_or_else(|| LabError::promise("a start", "none"))?;
        Ok::<_, LabError>(Row::new(what, Unit::Time, summary).at_most(limit))
    };
    Ok(vec![
        row("ipamd: start to ready, 250 leases", &ipamd, 0.05)?,
        row("routed: start to ready, 1,000 nodes from nothing", &routed, 0.2)?,
    ])
}

fn ipamd(bench: &Bench, rounds: usize) -> Result<Vec<f64>> {
    let (node, dir) = (Bench::bare("ipamd-start")?, bench.directory("ipamd-start")?);
    bench.install.place(&node)?;
    let config = dir.join("ferrule.toml");
    fs::write(&config, CONFIG).context(|| config.display().to_string())?;
    let first = bench.daemon(&node, "ipamd", &config)?;
    let mut ipam = Ipam::connect(&node)?;
    for lease in 0..LEASES {
        ipam.allocate("bench", &lease.to_string())?;
    }
    drop(ipam);
    first.stop()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let service = bench.daemon(&node, "ipamd", &config)?;
        times.push(start.elapsed().as_secs_f64());
        let leases = Ipam::connect(&node)?.leases()?.len();
        if leases != LEASES {
            return Err(LabError::promise(format!("{LEASES} leases after a restart"), leases.to_string()));
        }
        service.stop()?;
    }
    Ok(times)
}
