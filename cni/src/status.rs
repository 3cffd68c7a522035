//! STATUS: could ADD be served now?

use crate::config::Config;
use crate::error::Failure;
use crate::ipam;

/// Asks `ipamd`, without which no pod gets an address. The kernel is not asked: what it would refuse shows only when
/// it is tried.
///
/// # Errors
/// Code 50, with the reason: the daemon is down, there is no pool, or it is exhausted.
pub fn status(config: &Config) -> Result<(), Failure> {
    Ok(ipam::status(config)?)
}
