//! The host's end of a pod's veth pair, which is found even if somebody renamed it. The second name is looked up only
//! if there is no link with the first.

use ferrule_model::{IfName, Link};
use ferrule_netlink::Renamed;

use crate::edge::error::Error;

/// Deletes the link that was made under this name, and returns it as it was. Returns `None` if there is none.
///
/// # Errors
/// The kernel refused, or did not answer.
pub(crate) fn delete(host: &mut impl Renamed, made_as: &IfName) -> Result<Option<Link>, Error> {
    let failed = |source| Error::Kernel { doing: "delete the veth pair", source };
    let deleted = host.delete_link(made_as).map_err(failed)?;
    if deleted.is_some() {
        return Ok(deleted);
    }
    match host.renamed(made_as).map_err(failed)? {
        Some(link) => host.delete_link(&link.name).map_err(failed),
        None => Ok(None),
    }
}
