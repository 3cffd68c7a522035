//! The CNI plugin `ferrule`: hands the process's environment and standard input to the library and writes what it
//! answers. Nothing else ever goes to standard output.
#![no_main]

use std::io::{self, Write, stderr, stdin, stdout};
use std::path::Path;

use ferrule_cni::{Answer, Face, RealNode, serve};

ferrule_netlink::start!(plugin);

/// Gives the exit status.
fn plugin() -> u8 {
    let mut output = Output;
    let variable = |name: &str| std::env::var_os(name);
    let Answer { stdout: result, log, ok } = serve(face(), variable, stdin().lock(), &mut output, &RealNode);
    // One write each, so that lines of plugins running at the same time do not mix. A log that nobody reads is no
    // reason to fail.
    if let Some(line) = log {
        let _ = stderr().write_all(line.as_bytes());
    }
    u8::from(output.write_all(&result).is_err() || !ok)
}

/// Standard output as the kernel has it: the library's takes a failure for success where it cannot be written at all.
struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The name it was called by decides.
fn face() -> Face {
    let called = std::env::args_os().next().unwrap_or_default();
    match Path::new(&called).file_name() {
        Some(name) if name == "ferrule-ipam" => Face::Ipam,
        _ => Face::Network,
    }
}
