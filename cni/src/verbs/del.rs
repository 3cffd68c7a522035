//! DEL: removes the record first, then the link, then the addresses. Without the record, `routed` puts nothing back;
//! and an address never becomes free while a link still holds it.
//!
//! DEL succeeds when nothing is left to do, whatever was there before. It needs neither the pod's namespace nor a
//! running `ipamd`.

use ferrule_model::host_veth_name;
use ferrule_wire::remove_record;

use crate::act::extras;
use crate::act::hostend;
use crate::act::node::Node;
use crate::ask::addresses::Releasing;
use crate::edge::error::{Error, Failure};
use crate::edge::request::Del;

/// Detaches the pod.
///
/// # Errors
/// The link cannot be deleted, or a host port cannot be closed; then the lease stays too, and the runtime tries again.
/// Or the lease can be neither released nor queued for release.
pub fn del<N: Node>(node: &N, request: &Del) -> Result<(), Failure> {
    // From here on `routed` puts nothing back. A record that cannot be removed does no harm once the link is gone.
    let _ = remove_record(&request.config.runtime_dir, &request.attachment);
    let ipam = Releasing::prepare(&request.config);
    let mut host = node.host().map_err(|source| Error::Kernel { doing: "open a netlink socket", source })?;
    let deleted = hostend::delete(&mut host, &host_veth_name(&request.attachment))?;
    extras::remove(node, &mut host, &request.attachment, deleted.as_ref())?;
    Ok(ipam.release(&request.attachment)?)
}
