//! GC: removes the links of this network that belong to none of the attachments that the runtime names, and then their
//! leases.
//!
//! The runtime adds and deletes nothing meanwhile (section 2, "GC"). This is the only verb that lists the node's links.

use std::collections::BTreeSet;

use ferrule_model::{IfName, Link, host_veth_name, is_host_veth};
use ferrule_netlink::{Kernel, Renamed};
use ferrule_wire::{Record, Records};

use crate::act::extras;
use crate::act::node::Node;
use crate::ask::addresses;
use crate::decide::pod::network_of;
use crate::edge::error::{Error, Failure};
use crate::edge::request::Gc;

/// Removes what is left behind. An error does not stop it.
///
/// # Errors
/// All of them. What could not be removed is there for the next GC.
pub fn gc<N: Node>(node: &N, request: &Gc) -> Result<(), Failure> {
    let mut errors = Vec::new();
    match links(node, request, &mut errors) {
        // While a link may still hold an address, the address must not become free.
        Ok(None) => {}
        Ok(Some(stuck)) => errors.extend(addresses::collect(&request.config, &request.valid, &stuck).err()),
        Err(error) => errors.push(error),
    }
    Failure::of(errors)
}

/// Deletes the hosts' ends that belong to no valid attachment. Returns the names of those that could not be deleted.
/// `None` means that something else may have stayed.
fn links<N: Node>(
    node: &N,
    request: &Gc,
    errors: &mut Vec<Error>,
) -> Result<Option<BTreeSet<IfName>>, Error> {
    let mut host = node.host().map_err(|source| Error::Kernel { doing: "open a netlink socket", source })?;
    let links = host.links().map_err(|source| Error::Kernel { doing: "list the links", source })?;
    let valid: BTreeSet<_> = request.valid.iter().map(host_veth_name).collect();
    let (mut stuck, records) = (BTreeSet::new(), Records::new(&request.config.runtime_dir));
    let mut known = true;
    for link in links.iter().filter(|link| network_of(link) == Some(&request.config.name)) {
        let made_as = match made_as(&mut host, link) {
            Ok(found) => found.filter(|name| !valid.contains(name)),
            Err(error) => {
                errors.push(error);
                known = false;
                None
            }
        };
        let Some(made_as) = made_as else { continue };
        // The record goes first, so that `routed` puts nothing back, as in DEL.
        let _ = records.remove(&made_as);
        if let Err(source) = host.delete_link(&link.name) {
            errors.push(Error::Kernel { doing: "delete a veth pair that no attachment has", source });
            stuck.insert(made_as);
        }
    }
    errors.extend(records_left(&mut host, &records, request, &valid).err());
    let left = extras::collect(node, &mut host, &links, &request.config.name, &request.valid);
    let closed = left.is_empty();
    errors.extend(left);
    // The same holds while a host port may lead to the address.
    if closed && known { Ok(Some(stuck)) } else { Ok(None) }
}

/// The name under which a link was made, which says that it is a pod's. `None` if it is not a link of ours.
fn made_as(host: &mut impl Renamed, link: &Link) -> Result<Option<IfName>, Error> {
    if is_host_veth(link.name.as_str()) {
        return Ok(Some(link.name.clone()));
    }
    let looked = host.made_as(&link.name);
    looked.map_err(|source| Error::Kernel { doing: "look for the first name of a veth pair", source })
}

/// Removes the records of attachments of the network that are not valid and whose links have gone by themselves.
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
            // A record that was cut short does not name its attachment. If its link is gone, it belongs to nobody.
            Record::Unreadable(_) => true,
        };
        if is_of_network {
            let is_gone = || matches!(host.link(name), Ok(None));
            records.clear(name, is_gone).map_err(Error::Record)?;
        }
    }
    Ok(())
}
