//! The command line.

use clap::{Parser, Subcommand};
use ferrule_daemon::CommonArgs;

/// What stands below the options in `--help`.
const MORE: &str = "\
How it works:
proxyd reads the Services and their endpoints (the file of [services] path, /etc/ferrule/services.toml by default) and keeps one \
nftables table in this node's kernel, inet ferrule-services. A connection to a Service goes to one of its endpoints. What others \
remove of the table comes back within a second.

It runs in the foreground and logs to standard error. When it stops, the table stays as it is: Services go on being served.

Examples:
  proxyd                          as the unit runs it
  proxyd --log proxyd=debug       saying more
  proxyd plan --config my.toml    where packets to each Service would go with that configuration
  proxyd cleanup                  removes the table from this node
  nft list map inet ferrule-services services4     what is served

Exit status: 0; 1 if something could not be done, with the reason; 2 for a wrong command line.";

/// The daemon of Services of Ferrule: their addresses lead to their endpoints
#[derive(Debug, Parser)]
#[command(name = "proxyd", version, about, after_help = MORE)]
pub struct Cli {
    /// What every daemon takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running.
#[derive(Debug, Clone, Copy, Subcommand, PartialEq, Eq)]
pub enum Command {
    /// Say where packets to each Service would go with this configuration, and change nothing
    Plan,
    /// Remove the table from this node, and exit
    Cleanup,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["proxyd", "--runtime-dir", "/tmp/r", "cleanup"]).unwrap();
        assert_eq!(cli.command, Some(Command::Cleanup));
        assert_eq!(Cli::try_parse_from(["proxyd", "plan"]).unwrap().command, Some(Command::Plan));
        assert_eq!(Cli::try_parse_from(["proxyd"]).unwrap().command, None);
    }
}
