//! The CNI plugin `ferrule`: hands the process's environment and standard input to the library and writes what it
//! answers. Nothing else ever goes to standard output.
#![no_main]

use std::fs::File;
use std::io::{Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::path::Path;

use ferrule_cni::{Answer, Face, RealNode, serve};

ferrule_netlink::start!(plugin);

/// Gives the exit status.
fn plugin() -> u8 {
    // A file of its own: the library's standard output takes a failure for success where it cannot be written at all.
    let Ok(own) = stdout().as_fd().try_clone_to_owned() else { return 1 };
    let mut output = File::from(own);
    let variable = |name: &str| std::env::var_os(name);
    let Answer { stdout: result, log, ok } = serve(face(), variable, stdin().lock(), &mut output, &RealNode);
    // One write each, so that lines of plugins running at the same time do not mix. A log that nobody reads is no
    // reason to fail.
    if let Some(line) = log {
        let _ = stderr().write_all(line.as_bytes());
    }
    u8::from(output.write_all(&result).is_err() || !ok)
}

/// The name it was called by decides.
fn face() -> Face {
    let called = std::env::args_os().next().unwrap_or_default();
    match Path::new(&called).file_name() {
        Some(name) if name == "ferrule-ipam" => Face::Ipam,
        _ => Face::Network,
    }
}
