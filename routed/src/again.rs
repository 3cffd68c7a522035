//! SIGHUP: the daemon reads the configuration and the nodes file again. If the configuration has changed, a new daemon
//! starts in the place of this one, because each key takes effect only when a daemon starts. No packet is lost by that.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStringExt;

use ferrule_config::Config;
use ferrule_daemon::{CommonArgs, Signals};

use crate::run::{RunError, identity, system};

/// Whether the configuration differs from the one that runs, and can be used.
pub(crate) fn is_due(args: &CommonArgs, running: &Config) -> bool {
    let read = || -> Result<Config, RunError> {
        let config = args.load_config()?;
        CommonArgs::node_name(&config)?;
        identity(&config.routing)?;
        Ok(config)
    };
    match read() {
        Ok(config) if config == *running => {
            tracing::info!("configuration read, nothing in it changed; the nodes are looked at again");
            false
        }
        Ok(_) => {
            tracing::info!(
                "configuration read, it counts from now on: routed starts over, and everything stays as it is in the kernel \
                 until then"
            );
            true
        }
        Err(error) => {
            tracing::error!("{error}; the configuration cannot be used, the last good one stays");
            false
        }
    }
}

/// Replaces this process by the same program with the same arguments. Returns only if that failed.
///
/// # Errors
/// The program cannot be started.
pub(crate) fn start_over() -> Result<Infallible, RunError> {
    let arguments = std::env::args_os().map(|argument| CString::new(argument.into_vec()));
    let arguments = arguments.collect::<Result<Vec<_>, _>>().map_err(io::Error::other);
    let arguments = arguments.map_err(system("read the arguments"))?;
    let program = arguments.first().ok_or_else(|| io::Error::other("there is no name of the program"));
    // The next SIGHUP stays blocked until the new program catches it.
    Signals::hold_reload().map_err(system("hold back SIGHUP"))?;
    let refused = nix::unistd::execvp(program.map_err(system("start over"))?, &arguments);
    refused.map_err(io::Error::from).map_err(system("start over"))
}
