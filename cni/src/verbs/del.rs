//! DEL: the record of what is kept first, then the link, its addresses afterwards, so that nothing comes back, and an address is never free while a link holds it.
//!
//! It succeeds when nothing is left to do, whatever was there, and needs neither the pod's namespace nor a running `ipamd`.

use ferrule_model::host_veth_name;
use ferrule_wire::remove_record;

use crate::act::extras;
use crate::act::hostend;
use crate::act::node::Node;
use crate::ask::ipam::Releasing;
use crate::edge::error::{Error, Failure};
use crate::edge::request::Del;

/// Detaches the pod.
///
/// # Errors
/// The link cannot be deleted, or a host port not be closed: then the lease stays too, and the runtime tries again. Or the release can neither be done
/// nor queued.
pub fn del<N: Node>(node: &N, request: &Del) -> Result<(), Failure> {
    // From here on nobody puts anything back. A record that cannot be removed does no harm without the link.
    let _ = remove_record(&request.config.runtime_dir, &request.attachment);
    let ipam = Releasing::prepare(&request.config);
    let mut host = node.host().map_err(|source| Error::Kernel { doing: "open a netlink socket", source })?;
    let deleted = hostend::delete(&mut host, &host_veth_name(&request.attachment))?;
    extras::remove(node, &mut host, &request.attachment, deleted.as_ref())?;
    Ok(ipam.release(&request.attachment)?)
}
