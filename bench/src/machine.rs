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

/// The kernel's build configuration: its own copy, or the one that distributions put beside it.
fn kernel_config() -> String {
    let own = Command::new("gzip").args(["-dc", "/proc/config.gz"]).output();
    if let Some(output) = own.ok().filter(|output| output.status.success()) {
        return String::from_utf8_lossy(&output.stdout).into_owned();
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    fs::read_to_string(format!("/boot/config-{}", release.trim())).unwrap_or_default()
}
