//! STATUS: could ADD be served now?

use crate::act::node::Node;
use crate::ask::ipam;
use crate::edge::config::Config;
use crate::edge::error::{Error, Failure};

/// Asks whoever gives addresses, without whom no pod is attached, and looks whether the node forwards packets, without which no
/// pod reaches anything. What else the kernel would refuse shows only when it is tried.
///
/// # Errors
/// Code 50, with the reason: the daemon is down, there is no pool, or it is exhausted. Code 51 if the node does not
/// forward: then the pods that run are cut off too.
pub fn status<N: Node>(node: &N, config: &Config) -> Result<(), Failure> {
    match ipam::status(config)?.into_iter().find(|family| !node.forwards(*family)) {
        Some(family) => Err(Error::NotForwarding(family).into()),
        None => Ok(()),
    }
}
