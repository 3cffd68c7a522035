//! GC: what belongs to none of the attachments that the runtime knows goes: links of this network, and then leases.
//!
//! The runtime adds and deletes nothing meanwhile (section 2, "GC"). Of all verbs this one alone lists the node's links.

use std::collections::BTreeSet;

use ferrule_model::{IfName, host_veth_name};
use ferrule_netlink::Kernel;
use ferrule_wire::{Record, Records};

use crate::error::{Error, Failure};
use crate::extras;
use crate::ipam;
use crate::node::Node;
use crate::pod::network_of;
use crate::request::Gc;

/// Removes what is left behind. An error does not stop it.
///
/// # Errors
/// All of them. What could not be removed is there for the next GC.
pub fn gc<N: Node>(node: &N, request: &Gc) -> Result<(), Failure> {
    let mut errors = Vec::new();
    match links(node, request, &mut errors) {
        // An address is not free while a link may hold it.
        Ok(None) => {}
        Ok(Some(stuck)) => errors.extend(ipam::collect(&request.config, &request.valid, &stuck).err()),
        Err(error) => errors.push(error),
    }
    Failure::of(errors)
}

/// Deletes the host's ends that nothing valid has, and gives the names of those that stay nevertheless; `None`
/// if something else stays.
fn links<N: Node>(
    node: &N,
    request: &Gc,
    errors: &mut Vec<Error>,
) -> Result<Option<BTreeSet<IfName>>, Error> {
    let mut host = node.host().map_err(|source| Error::Kernel { doing: "open a netlink socket", source })?;
    let links = host.links().map_err(|source| Error::Kernel { doing: "list the links", source })?;
    let valid: BTreeSet<_> = request.valid.iter().map(host_veth_name).collect();
    let ours = |link: &&_| network_of(link) == Some(&request.config.name);
    let (mut stuck, records) = (BTreeSet::new(), Records::new(&request.config.runtime_dir));
    for link in links.iter().filter(ours).filter(|link| !valid.contains(&link.name)) {
        // So that nothing comes back, as in DEL.
        let _ = records.remove(&link.name);
        if let Err(source) = host.delete_link(&link.name) {
            errors.push(Error::Kernel { doing: "delete a veth pair that no attachment has", source });
            stuck.insert(link.name.clone());
        }
    }
    errors.extend(records_left(&mut host, &records, request, &valid).err());
    let left = extras::collect(node, &mut host, &links, &request.config.name, &request.valid);
    let closed = left.is_empty();
    errors.extend(left);
    // Nor while a host port may lead to it.
    if closed { Ok(Some(stuck)) } else { Ok(None) }
}

/// Removes the records of attachments of the network that nothing valid has, and whose links went by themselves.
fn records_left<K: Kernel>(
    host: &mut K,
    records: &Records,
    request: &Gc,
    valid: &BTreeSet<IfName>,
) -> Result<(), Error> {
    for name in records.names().map_err(Error::Record)?.iter().filter(|name| !valid.contains(name)) {
        let is_of_network = match records.read(name).map_err(Error::Record)? {
            Record::None => false,
            Record::Kept(made) => made.attachment.network == request.config.name,
            // Cut short, and nobody's if there is no link.
            Record::Unreadable(_) => true,
        };
        if is_of_network {
            let is_gone = || matches!(host.link(name), Ok(None));
            records.clear(name, is_gone).map_err(Error::Record)?;
        }
    }
    Ok(())
}
