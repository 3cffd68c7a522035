//! The figures that every process has, under the names that Prometheus' own client libraries give them.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

use super::{Exposition, Kind};

/// Adds this process's processor time, memory, descriptors and start. What `/proc` does not tell is left out.
pub fn process_figures(page: &mut Exposition) {
    if let Some(stat) = Stat::read() {
        page.family(
            "process_cpu_seconds_total",
            Kind::Counter,
            "Processor time, user and system, in seconds.",
        )
        .sample(&[], stat.cpu_seconds);
        page.family("process_resident_memory_bytes", Kind::Gauge, "Memory that is in RAM.")
            .sample(&[], stat.resident_bytes);
        page.family(
            "process_start_time_seconds",
            Kind::Gauge,
            "When it was started, in seconds of Unix time.",
        )
        .sample(&[], stat.start_seconds);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them belongs to this look itself.
        page.family("process_open_fds", Kind::Gauge, "Open file descriptors.")
            .sample(&[], open.count().saturating_sub(1));
    }
}

struct Stat {
    cpu_seconds: f64,
    resident_bytes: u64,
    start_seconds: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let of = |variable| sysconf(variable).ok().flatten();
        let ticks = of(SysconfVar::CLK_TCK)?;
        let page_size = u64::try_from(of(SysconfVar::PAGE_SIZE)?).ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        // The name in brackets may hold anything. proc(5) counts from 1, and the third field follows the name.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        #[expect(clippy::cast_precision_loss, reason = "seconds since the boot in 1/100 s have some 40 bits")]
        let seconds = |count: u64| count as f64 / ticks as f64;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            start_seconds: boot + seconds(field(22)?),
            resident_bytes: field(24)? * page_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn they_are_there_and_plausible() {
        let mut page = Exposition::new();
        process_figures(&mut page);
        let text = page.into_text();
        let figure = |name: &str| -> f64 {
            text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap().parse().unwrap()
        };
        assert!(figure("process_resident_memory_bytes") > 1e5, "{text}");
        assert!((3.0..1000.0).contains(&figure("process_open_fds")), "{text}");
        assert!(figure("process_cpu_seconds_total") < 3600.0, "{text}");
        let now = UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - figure("process_start_time_seconds")).abs() < 3600.0, "{now} {text}");
    }
}
