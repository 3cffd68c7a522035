//! STATUS: could ADD be served now?

use crate::act::node::Node;
use crate::ask::addresses;
use crate::edge::config::Config;
use crate::edge::error::{Error, Failure};

/// Asks whether an address could be given, because no pod is attached without one, and looks whether the node forwards
/// packets, because no pod reaches anything if it does not. Whatever else the kernel may refuse shows only at an ADD.
///
/// # Errors
/// Code 50, with the reason: the daemon is down, there is no pool, or it is exhausted. Code 51 if the node does not
/// forward: then the pods that run are cut off too.
pub fn status<N: Node>(node: &N, config: &Config) -> Result<(), Failure> {
    match addresses::status(config)?.into_iter().find(|family| !node.forwards(*family)) {
        Some(family) => Err(Error::NotForwarding(family).into()),
        None => Ok(()),
    }
}
