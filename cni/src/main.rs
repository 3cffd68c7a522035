//! The CNI plugin `ferrule`: hands the process's environment and standard input to the library and writes what it
//! answers. Nothing else ever goes to standard output.
#![no_main]

use std::io::{Write, stderr, stdin, stdout};
use std::path::Path;

use ferrule_cni::{Answer, Face, RealNode, run};

ferrule_netlink::start!(plugin);

/// Gives the exit status.
fn plugin() -> u8 {
    let Answer { stdout: result, log, ok } =
        run(face(), |name| std::env::var_os(name), stdin().lock(), &RealNode);
    // One write each, so that lines of plugins running at the same time do not mix. A log that nobody reads is no
    // reason to fail.
    if let Some(line) = log {
        let _ = stderr().write_all(line.as_bytes());
    }
    let written = stdout().write_all(&result).and_then(|()| stdout().flush());
    u8::from(!ok || written.is_err())
}

/// The name it was called by decides.
fn face() -> Face {
    let called = std::env::args_os().next().unwrap_or_default();
    match Path::new(&called).file_name() {
        Some(name) if name == "ferrule-ipam" => Face::Ipam,
        _ => Face::Network,
    }
}
