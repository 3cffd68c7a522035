//! What a pod has in addition to its link because the runtime asked for it: host ports (`hostports`) and a limited
//! bandwidth (`shaping`). The verbs use both through this module.
//!
//! The mark on the host's end of the veth pair tells whether the pod may have any (`decide::extras`). If the link is
//! gone, nothing tells it, so they are looked for.

use ferrule_model::{Attachment, IpNetwork, Link, VethSpec};
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Error as NetlinkError, Kernel};

use crate::act::node::Node;
use crate::act::{hostports, shaping};
use crate::decide::extras::{has_alias, may_have_some};
use crate::decide::grant::Grant;
use crate::decide::pod::Ends;
use crate::decide::ports;
use crate::decide::shaping::stale;
use crate::edge::config::Extras;
use crate::edge::error::Error;

/// Gives the pod what was asked for. The pod may be on a bridge. Returns what an operator should know about it.
///
/// # Errors
/// Something cannot be provided. What was done before that stays until [`remove`] is called.
pub(crate) fn put<N: Node>(
    extras: &Extras,
    node: &N,
    host: &mut N::Kernel,
    attachment: &Attachment,
    (spec, ends, was_there): (&VethSpec, &Ends, bool),
    bridged: bool,
    grant: &Grant,
) -> Result<Vec<String>, Error> {
    let mut link = ends.host.clone();
    if extras.is_none() && !was_there {
        return Ok(Vec::new());
    }
    let addresses: Vec<_> = grant.hosts().collect();
    let wanted = ports::elements(&extras.ports, &addresses, attachment, bridged)?;
    if was_there {
        // An earlier ADD of this attachment may have been asked for more.
        shaping::lift(host, &link, &extras.bandwidth, attachment)?;
        hostports::keep(node, attachment, &wanted)?;
    }
    if let Some(alias) = spec.alias.as_ref().filter(|alias| was_there && !has_alias(&link, alias)) {
        // The earlier ADD asked for something else. The mark is set before the extras are made, and removed after they
        // are removed.
        host.set_alias(&link.name, alias)
            .map_err(|source| Error::Kernel { doing: "mark the veth pair", source })?;
        link.alias = Some(alias.clone());
    }
    shaping::put(host, &link, &extras.bandwidth, attachment, grant.mtu.unwrap_or(link.mtu))?;
    if extras.ports.is_empty() {
        return Ok(Vec::new());
    }
    hostports::put(node, host, &wanted)
}

/// The extras that are not as they were asked for: for each what it is, how it should be, and how it is.
///
/// # Errors
/// The kernel did not answer.
pub(crate) fn differences<N: Node>(
    extras: &Extras,
    node: &N,
    host: &mut N::Kernel,
    attachment: &Attachment,
    link: &Link,
    (addresses, bridged): (&[IpNetwork], bool),
) -> Result<Vec<(String, String, String)>, NetlinkError> {
    let mut differences = shaping::differences(host, link, &extras.bandwidth, attachment, link.mtu)?;
    if !extras.ports.is_empty() {
        match ports::elements(&extras.ports, addresses, attachment, bridged) {
            Ok(wanted) => differences.extend(hostports::missing(node, &wanted)?),
            Err(error) => {
                differences.push(("host ports".into(), "as configured".into(), error.to_string()));
            }
        }
    }
    Ok(differences)
}

/// Removes the extras that an attachment may have. `deleted` is its host's end, which was deleted before this. It is
/// `None` if there was none.
///
/// # Errors
/// The kernel refused.
pub(crate) fn remove<N: Node>(
    node: &N,
    host: &mut N::Kernel,
    attachment: &Attachment,
    deleted: Option<&Link>,
) -> Result<(), Error> {
    if deleted.is_some_and(|link| !may_have_some(link)) {
        return Ok(());
    }
    let closed = hostports::remove(node, attachment);
    shaping::remove(host, attachment)?;
    closed
}

/// Removes the extras of all attachments in `network` that are not `valid`. `links` are the node's. Returns the errors.
pub(crate) fn collect<N: Node>(
    node: &N,
    host: &mut N::Kernel,
    links: &[Link],
    network: &str,
    valid: &[Attachment],
) -> Vec<Error> {
    let mut errors = Vec::new();
    for name in stale(links, network, valid) {
        if let Err(source) = host.delete_link(name) {
            errors.push(Error::Kernel { doing: "delete a device that limits nobody's bandwidth", source });
        }
    }
    errors.extend(hostports::collect(node, network, valid).err());
    errors
}
