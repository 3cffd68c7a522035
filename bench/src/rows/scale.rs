//! `ipamd` with as many leases as a /16 has room for: its start, its memory, and Allocate beside them.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use ferrule_tests::{
    error::{Context, LabError, Result},
    ipam::{Ipam, SOCKET},
    service::Service,
};
use ferrule_wire::{Allocate, Attachment, Client, ClientError, Pod};

use super::calls::{CLIENTS, CONFIG, P99_MAX, clients, drive};
use super::load::{self, Samples};
use crate::process::memory;
use crate::row::{Row, Unit};
use crate::stand::Bench;
use crate::stats::Summary;

const LEASES: usize = 65_000;
/// The promises: seconds, bytes.
const START_MAX: f64 = 0.3;
const MEMORY_MAX: f64 = 40e6;

/// Filled once, then started again and again, and called between.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let (node, dir) = (Bench::bare("ipamd-scale")?, bench.directory("ipamd-scale")?);
    bench.install.place(&node)?;
    let config = dir.join("ferrule.toml");
    fs::write(&config, CONFIG).context(|| config.display().to_string())?;
    let mut service = bench.daemon(&node, "ipamd", &config)?;
    clients(&node, fill)?;
    let filled = resident(&service)?;
    let (mut starts, mut started) = (Vec::new(), Vec::new());
    let (mut samples, mut nothing) = (Samples::default(), Samples::default());
    drive(&node, bench, &mut samples)?;
    let worn = resident(&service)?;
    for _ in 0..bench.times(5, 2) {
        service.stop()?;
        let start = Instant::now();
        service = bench.daemon(&node, "ipamd", &config)?;
        starts.push(start.elapsed().as_secs_f64());
        started.push(resident(&service)?);
        let leases = Ipam::connect(&node)?.leases()?.len();
        if leases != LEASES {
            return Err(LabError::promise(format!("{LEASES} leases after a restart"), leases.to_string()));
        }
        drive(&node, bench, &mut samples)?;
        load::nothing(bench, CLIENTS, &mut nothing)?;
    }
    let of = |samples: &[f64]| Summary::of(samples).ok_or_else(|| LabError::promise("samples", "none"));
    let row = |what: &str, unit, summary| Row::new(format!("ipamd, 65,000 leases: {what}"), unit, summary);
    Ok(vec![
        row("start to ready", Unit::Time, of(&starts)?).at_most(START_MAX),
        row("Allocate, 16 clients", Unit::Time, of(&samples.allocations)?)
            .with_tail()
            .floor(load::NOTHING, of(&nothing.allocations)?)
            .p99_at_most(P99_MAX),
        row("memory once filled (RSS)", Unit::Bytes, Summary::single(filled)).at_most(MEMORY_MAX),
        row("memory under calls once filled (RSS)", Unit::Bytes, Summary::single(worn)).at_most(MEMORY_MAX),
        row("memory after a start (RSS)", Unit::Bytes, of(&started)?).at_most(MEMORY_MAX),
        row("memory under calls after starts (RSS)", Unit::Bytes, Summary::single(resident(&service)?))
            .at_most(MEMORY_MAX),
    ])
}

fn resident(service: &Service) -> Result<f64> {
    let pid = service.pid().ok_or_else(|| LabError::promise("ipamd to run", "it ended"))?;
    memory(pid, "VmRSS")
}

/// A client's part of the leases, with all that a kubelet's runtime tells of a pod.
fn fill(client: usize) -> Result<()> {
    let failed = |error: ClientError| LabError::promise("ipamd to answer", error.to_string());
    let end = Instant::now() + Duration::from_secs(120);
    let mut connection = Client::connect(Path::new(SOCKET), end).map_err(failed)?;
    for number in (client..LEASES).step_by(CLIENTS) {
        // Digits that look like an id's, and the same in each run.
        let id = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let uuid = format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            id >> 32,
            id >> 16 & 0xffff,
            number & 0xfff,
            id & 0xfff,
            number
        );
        let container_id =
            [id, id.rotate_left(17), !id, id.rotate_left(40)].map(|part| format!("{part:016x}")).concat();
        let attachment = Attachment { network: "bench".to_owned(), container_id, ifname: "eth0".to_owned() };
        let name = format!("web-{:09x}-{:05x}", number / 16, number);
        let pod = Pod { namespace: format!("team-{}", number % 50), name, uid: uuid.clone() };
        let netns = Some(format!("/var/run/netns/cni-{uuid}"));
        let allocate =
            Allocate { pod: Some(pod), netns, deadline_ms: Some(5000), ..Allocate::new(attachment) };
        connection.call(&allocate).map_err(failed)?;
    }
    Ok(())
}
