//! `ipamd`: the command. Arguments, configuration, logging; the work is the library's.

use clap::{Parser, Subcommand};
use ferrule_daemon::{CommonArgs, block_on, start_logging};
use ipamd::{Form, Moving};
use std::error::Error;
use std::process::ExitCode;

/// What stands below the options in `--help`.
const MORE: &str = "\
Examples:
  ipamd                     with /etc/ferrule/ferrule.toml, as the unit runs it
  ipamd list                which pod has which address
  ipamd list --json         the same for a program, such as jq
  ipamd pools               what is left

Exit status: 0; 1 if the daemon does not run, does not answer or cannot be used, with the reason; 2 for a wrong command line.";

/// Gives addresses to the pods of this node and remembers to whom.
///
/// The plugin calls it on DIR/ipamd.sock (Varlink interface io.ferrule.Ipam; `varlinkctl introspect` shows it). Leases
/// are kept in DIR/ipam. The addresses are those of [[ipam.pool]] in the configuration, else the node's pod CIDRs
/// that routed writes to DIR/node.json. It needs no privilege but the right to write DIR.
#[derive(Debug, Parser)]
#[command(version, after_help = MORE)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the leases of the daemon that runs here: which pod has which address, and since when
    ///
    /// A container is shown by the first 13 characters of its identifier. Needs root, or the daemon's own user.
    List(Form),
    /// Shows the pools of the daemon that runs here: what is in use, resting, reserved and free
    ///
    /// RESTING: released, and given again only after `cooldown_s`, or if nothing else is left. RESERVED: never given, the node's own
    /// addresses among them. DRAINING: in leases, and no longer the pool's. Needs root, or the daemon's own user.
    Pools(Form),
    /// Takes over the addresses of pods that host-local gave theirs; they run on
    ///
    /// For a node that leaves bridge, ptp or flannel. ipamd must not run, and neither must anything that starts or ends pods
    /// (kubelet, the container runtime's requests). An address counts if it is up in some network namespace. Conflicts
    /// with leases or with the node's own addresses are named, and then nothing is taken over. Needs root.
    Import(Moving),
    /// Writes the leases back as host-local's files, so that it goes on where ipamd stops
    ///
    /// The way back of `import`, with the same options. ipamd and whatever starts pods must not run. Needs root.
    Export(Moving),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may be what failed, so the reason goes out by itself.
            eprintln!("ipamd: {}", ferrule_model::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let _log = start_logging(&cli.common.log)?;
    match &cli.command {
        Some(Command::Import(moving)) => return Ok(ipamd::import(&cli.common, moving)?),
        Some(Command::Export(moving)) => return Ok(ipamd::export(&cli.common, moving)?),
        Some(Command::List(form)) => return Ok(ipamd::list(&cli.common, *form)?),
        Some(Command::Pools(form)) => return Ok(ipamd::pools(&cli.common, *form)?),
        None => {}
    }
    Ok(block_on(ipamd::run(&cli.common))??)
}
