//! `ipamd`: the command. Arguments, configuration, logging; the work is the library's.

use clap::Parser;
use ferrule_daemon::{CommonArgs, start_logging};
use std::error::Error;
use std::process::ExitCode;

/// Gives addresses to the pods of this node and remembers to whom.
///
/// The plugin calls it on DIR/ipamd.sock (Varlink interface io.ferrule.Ipam; `varlinkctl introspect` shows it). Leases
/// are kept in DIR/ipam. The addresses are those of [[ipam.pool]] in the configuration, else the node's pod CIDRs
/// that routed writes to DIR/node.json. It needs no privilege but the right to write DIR.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may be what failed, so the reason goes out by itself.
            eprintln!("ipamd: {}", ipamd::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    start_logging(&cli.common.log)?;
    let config = cli.common.load_config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ipamd::run(config, cli.common.runtime_dir.clone()))?;
    Ok(())
}
