//! The routing daemon's program: arguments, log, and off.

use std::process::ExitCode;

use clap::Parser;
use ferrule_daemon::{AskError, start_logging};
use routed::cli::{Cli, Command};
use routed::show::tell;
use routed::{plan, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let _log = match start_logging(&cli.common.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("routed: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = |result: Result<(), run::RunError>| {
        result.map(|()| ExitCode::SUCCESS).map_err(|error| error.to_string())
    };
    let told = |result: Result<ExitCode, AskError>| result.map_err(|error| error.to_string());
    let result = match cli.command {
        None => done(run::daemon(&cli.common)),
        Some(Command::Plan) => done(plan::plan(&cli.common)),
        Some(Command::Cleanup) => done(run::cleanup(&cli.common)),
        Some(Command::WireguardKey) => done(run::wireguard_key(&cli.common)),
        Some(Command::Status(form)) => told(tell::status(&cli.common, form)),
        Some(Command::Nodes(form)) => told(tell::nodes(&cli.common, form)),
    };
    match (result, cli.command) {
        (Ok(code), _) => code,
        // These commands are for people, so their errors bear no time and no level.
        (Err(error), Some(Command::Status(_) | Command::Nodes(_))) => {
            eprintln!("routed: {error}");
            ExitCode::FAILURE
        }
        (Err(error), _) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
