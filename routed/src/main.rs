//! The routing daemon's program: arguments, log, and off.

use std::process::ExitCode;

use clap::Parser;
use ferrule_daemon::start_logging;
use routed::cli::{Cli, Command};
use routed::{plan, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_logging(&cli.common.log) {
        eprintln!("routed: {error}");
        return ExitCode::FAILURE;
    }
    let result = match cli.command {
        None => run::daemon(&cli.common),
        Some(Command::Plan) => plan::plan(&cli.common),
        Some(Command::Cleanup) => run::cleanup(&cli.common),
        Some(Command::WireguardKey) => run::wireguard_key(&cli.common),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
