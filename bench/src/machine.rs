//! What the figures were measured on.

use std::{fs, process::Command};

use serde_json::{Value, json};

/// The machine, as far as it decides the figures.
#[derive(Clone, Debug)]
pub struct Machine {
    kernel: String,
    hz: String,
    cores: usize,
    processor: String,
    load: String,
}

impl Machine {
    /// Looks.
    pub fn look() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once([':', '='])).map(|(_, value)| value.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        Machine {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            hz: field(&kernel_config(), "CONFIG_HZ=").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// One line.
    pub fn text(&self) -> String {
        let Machine { kernel, hz, cores, processor, load } = self;
        format!("Linux {kernel}, HZ={hz}, {cores} cores ({processor}), load average at the start {load}")
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        json!({ "kernel": self.kernel, "hz": self.hz, "cores": self.cores, "processor": self.processor, "load": self.load })
    }
}

/// What the host of a virtual machine keeps of its cores for others, counted from a moment on: `steal` in `/proc/stat`
/// (proc_stat(5)). The machine stands still then, whatever runs on it.
#[derive(Clone, Copy, Debug)]
pub struct Stolen {
    stolen: u64,
    all: u64,
}

impl Stolen {
    /// From now on.
    pub fn now() -> Stolen {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let cores = stat.lines().next().unwrap_or_default();
        let times: Vec<u64> = cores.split_whitespace().skip(1).map_while(|time| time.parse().ok()).collect();
        // The last two, of guests of this machine, are in the first two already.
        Stolen { stolen: times.get(7).copied().unwrap_or_default(), all: times.iter().take(8).sum() }
    }

    /// The part of the cores' time since then.
    pub fn part(self) -> f64 {
        let Stolen { stolen, all } = Stolen::now();
        (stolen - self.stolen) as f64 / (all - self.all).max(1) as f64
    }
}

/// The kernel's build configuration: its own copy, or the one that distributions put beside it.
fn kernel_config() -> String {
    let own = Command::new("gzip").args(["-dc", "/proc/config.gz"]).output();
    if let Some(output) = own.ok().filter(|output| output.status.success()) {
        return String::from_utf8_lossy(&output.stdout).into_owned();
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    fs::read_to_string(format!("/boot/config-{}", release.trim())).unwrap_or_default()
}
