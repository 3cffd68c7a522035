//! The program of the daemon of Services: arguments, log, and off.

use std::process::ExitCode;

use clap::Parser;
use ferrule_daemon::start_logging;
use proxyd::cli::{Cli, Command};
use proxyd::{plan, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let _log = match start_logging(&cli.common.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("proxyd: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match cli.command {
        None => run::daemon(&cli.common),
        Some(Command::Plan) => plan::plan(&cli.common),
        Some(Command::Cleanup) => run::cleanup(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
