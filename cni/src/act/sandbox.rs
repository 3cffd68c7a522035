//! The pod's namespace, opened.

use std::path::Path;

use crate::act::node::Node;
use crate::edge::error::Error;
use crate::edge::request::Sandbox;

/// The pod's namespace, which is not the node's.
pub(crate) fn sandbox<N: Node>(node: &N, sandbox: &Sandbox) -> Result<N::Netns, Error> {
    let netns = node.netns(Path::new(&sandbox.path)).map_err(Error::Netns)?;
    if !sandbox.may_be_own && node.is_own(&netns).map_err(Error::Netns)? {
        return Err(Error::OwnNetns(sandbox.path.clone()));
    }
    Ok(netns)
}
