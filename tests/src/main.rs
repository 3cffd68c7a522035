//! `netns-lab`: Ferrule on several nodes on this machine, proved with packets. Lives here: arguments and exit status.
//!
//! Must be started in a network and mount namespace of its own; `test-netns.sh` does that, and builds what it needs.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, ValueEnum};
use ferrule_tests::{
    addressing::{Backend, MAX_NODES},
    error::{Context, LabError, Result},
    install::Install,
    report::Report,
    scenario::{self, Size},
};
use nix::sys::{
    prctl,
    signal::Signal,
    stat::{Mode, umask},
};

/// Where `ip`, `nft` and their like are, which an ordinary user's PATH leaves out.
const SYSTEM_DIRS: &str = "/usr/sbin:/sbin";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    Vxlan,
    Native,
    Auto,
    All,
}

/// Ferrule on several nodes on this machine, in namespaces of its own.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=MAX_NODES as i64))]
    nodes: u8,
    /// Pods on each node
    #[arg(long, value_name = "P", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=26))]
    pods: u8,
    /// How the nodes carry pod packets to each other
    #[arg(long, value_enum, default_value = "all")]
    backend: Choice,
    /// Leave the network up and open a shell in node 1
    #[arg(long)]
    keep: bool,
    /// Directory of the built daemons
    #[arg(long, value_name = "DIR")]
    bin_dir: PathBuf,
    /// The built plugin
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The repository's conf/
    #[arg(long, value_name = "DIR")]
    conf_dir: PathBuf,
    /// Directory for the nodes' configuration and logs
    #[arg(long, value_name = "DIR")]
    log_dir: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut report = Report::new();
    let log_dir = args.log_dir.clone();
    if let Err(error) = run(&args, &mut report) {
        report.fail("the lab itself", &error);
    }
    report.finish(&log_dir);
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(args: &Args, report: &mut Report) -> Result<()> {
    // Ends with the script that started it: nothing of the lab outlives it.
    prctl::set_pdeathsig(Signal::SIGTERM).context(|| "asking for a parent-death signal")?;
    // The daemons may run as another user, who reads the configuration written here.
    umask(Mode::from_bits_truncate(0o022));
    require_own_namespaces()?;
    let path = env::var("PATH").unwrap_or_default();
    if !path.split(':').any(|dir| dir == "/usr/sbin") {
        return Err(LabError::promise(format!("{SYSTEM_DIRS} in PATH"), path));
    }
    let install = Install {
        bin_dir: absolute(&args.bin_dir)?,
        plugin: absolute(&args.plugin)?,
        conf_dir: absolute(&args.conf_dir)?,
    };
    let log_dir = absolute(&args.log_dir)?;
    let backends: &[Backend] = match args.backend {
        Choice::Vxlan => &[Backend::Vxlan],
        Choice::Native => &[Backend::Native],
        Choice::Auto => &[Backend::Auto],
        Choice::All => &[Backend::Native, Backend::Vxlan, Backend::Auto],
    };
    let size = Size { nodes: args.nodes.into(), pods: args.pods.into() };
    for (index, backend) in backends.iter().enumerate() {
        let keep = args.keep && index + 1 == backends.len();
        // Two on each segment, so that both ways are gone.
        let nodes = if *backend == Backend::Auto { size.nodes.max(4) } else { size.nodes };
        scenario::run(*backend, Size { nodes, ..size }, &install, &log_dir, keep, report);
    }
    Ok(())
}

/// Nodes have other roots and directories: every path is made absolute before the first one is entered.
fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().context(|| path.display().to_string())
}

/// Refuses to work in the machine's own namespaces: only a network that holds nothing but loopback is the lab's.
fn require_own_namespaces() -> Result<()> {
    let links = ferrule_tests::command::run_here("ip -o link show")?;
    let count = links.lines().filter(|line| !line.contains(": lo:")).count();
    if count == 0 {
        return Ok(());
    }
    let expected = "a network namespace of the lab's own; start it by ./test-netns.sh";
    Err(LabError::promise(expected, format!("{count} links that are not the lab's")))
}
