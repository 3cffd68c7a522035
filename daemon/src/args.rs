//! The arguments that every daemon takes, and what follows from them at once.

use std::path::PathBuf;

use clap::Args;
use ferrule_config::{Config, ConfigError, DEFAULT_RUNTIME_DIR, NodeNameError};
use ferrule_wire::SOCKET_PATH_MAX;

/// Arguments of every daemon; put in with `#[command(flatten)]`. They may stand before or behind a subcommand.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// The configuration [default: /etc/ferrule/ferrule.toml, which need not exist]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where the daemons and the plugin meet: socket, leases, node.json
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = DEFAULT_RUNTIME_DIR,
        value_parser = runtime_dir
    )]
    pub runtime_dir: PathBuf,

    /// What to log: a level (error, warn, info, debug, trace), or levels by module as in "info,routed=debug"
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "FERRULE_LOG",
        default_value = "info",
        value_parser = log_filter
    )]
    pub log: String,
}

impl CommonArgs {
    /// The configuration of `--config`, or of the default file, or all defaults if there is none.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_config(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref())
    }

    /// This node's name: `[node] name`, else `NODE_NAME` of the environment, else the hostname.
    ///
    /// # Errors
    /// As [`ferrule_config::node_name`].
    pub fn node_name(config: &Config) -> Result<String, NodeNameError> {
        let environment = std::env::var("NODE_NAME").ok();
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        ferrule_config::node_name(config.node.name.as_deref(), environment.as_deref(), hostname.as_deref())
    }

    /// A file of the runtime directory.
    #[must_use]
    pub fn runtime_file(&self, name: &str) -> PathBuf {
        self.runtime_dir.join(name)
    }
}

/// The longest name of a socket in the runtime directory.
const LONGEST_SOCKET: &str = "routed.sock";

/// Refuses a directory that is too long for the sockets in it, before anything is made there.
fn runtime_dir(text: &str) -> Result<PathBuf, String> {
    let directory = PathBuf::from(text);
    let length = directory.join(LONGEST_SOCKET).as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let most = text.len().saturating_sub(length - SOCKET_PATH_MAX);
        return Err(format!(
            "it has {} bytes, and at most {most} are possible, as the kernel has room for {SOCKET_PATH_MAX} in the path of a \
             socket",
            text.len()
        ));
    }
    Ok(directory)
}

/// The levels, by name.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Refuses an invalid filter while the command line is still being read. The parser accepts more than is meant here: it
/// takes every word for a module of which everything is to be logged, and logs nothing of the others.
fn log_filter(text: &str) -> Result<String, String> {
    for part in text.split(',') {
        let (module, level) =
            part.split_once('=').map_or((None, part), |(module, level)| (Some(module), level));
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!(
                "{level:?} is no level: error, warn, info, debug, trace or off, as in \"info,routed=debug\""
            ));
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
        if module.is_some_and(|module| module.is_empty() || !module.chars().all(is_part)) {
            return Err(format!("{part:?} names no module: write it as in \"info,routed=debug\""));
        }
    }
    tracing_subscriber::EnvFilter::builder().parse(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        common: CommonArgs,
        #[command(subcommand)]
        command: Option<Command>,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Command {
        Cleanup,
    }

    #[test]
    fn the_arguments_may_stand_behind_a_subcommand() {
        for line in ["daemon --config f --runtime-dir d cleanup", "daemon cleanup --config f --runtime-dir d"]
        {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(matches!(cli.command, Some(Command::Cleanup)), "{line}");
            assert_eq!(cli.common.config.as_deref(), Some(std::path::Path::new("f")), "{line}");
            assert_eq!(cli.common.runtime_dir, PathBuf::from("d"), "{line}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_installation() {
        let cli = Cli::try_parse_from(["daemon"]).unwrap();
        assert_eq!(cli.common.config, None);
        assert_eq!(cli.common.runtime_file("ipamd.sock"), PathBuf::from("/run/ferrule/ipamd.sock"));
        assert_eq!(cli.common.log, "info");
    }

    #[test]
    fn a_runtime_directory_that_is_too_long_for_a_socket_is_refused_with_the_figures() {
        let parse = |length: usize| {
            let directory = format!("/{}", "a".repeat(length - 1));
            Cli::try_parse_from(["daemon", "--runtime-dir", &directory]).map_err(|error| error.to_string())
        };
        assert_eq!(parse(95).unwrap().common.runtime_file("routed.sock").as_os_str().len(), 107);
        let error = parse(96).unwrap_err();
        assert!(
            error.contains("--runtime-dir") && error.contains("it has 96 bytes, and at most 95"),
            "{error}"
        );
    }

    #[test]
    fn a_filter_that_cannot_be_parsed_is_refused_by_name() {
        let error = Cli::try_parse_from(["daemon", "--log", "routed=loud"]).unwrap_err().to_string();
        assert!(error.contains("routed=loud") && error.contains("--log"), "{error}");
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_instead_of_silencing_all_else() {
        for wrong in [
            "x y",
            "warning",
            "routed",
            "info,",
            "",
            "info,x y=debug",
            "=debug",
            "info routed=debug",
            "[span]=info",
        ] {
            let error = Cli::try_parse_from(["daemon", "--log", wrong]).unwrap_err().to_string();
            assert!(error.contains("--log") && error.contains("info,routed=debug"), "{wrong:?}: {error}");
        }
        for right in [
            "info",
            "DEBUG",
            "off",
            "info,routed=debug",
            "warn,ferrule_netlink::events=trace",
            "routed=debug",
        ] {
            assert_eq!(Cli::try_parse_from(["daemon", "--log", right]).unwrap().common.log, right);
        }
    }

    #[test]
    fn a_configuration_that_was_asked_for_must_exist() {
        let cli = Cli::try_parse_from(["daemon", "--config", "/nonexistent/ferrule.toml"]).unwrap();
        assert!(cli.common.load_config().unwrap_err().is_missing());
    }

    #[test]
    fn the_configured_name_wins_over_what_the_machine_is_called() {
        let mut config = Config::default();
        assert!(CommonArgs::node_name(&config).is_ok());
        config.node.name = Some("configured".to_owned());
        assert_eq!(CommonArgs::node_name(&config).unwrap(), "configured");
    }
}
