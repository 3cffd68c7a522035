//! The record of a pod's host ports, and the mark that tells whether a pod may have extras at all. Pure.
//!
//! Host ports and limited bandwidth are not all removed together with the veth pair. Most pods have neither, and must
//! not pay for looking for them. So the alias of the host's end has a mark if the pod may have extras.

use ferrule_model::{
    Attachment, Element, HostPorts, IfIndex, Link, LinkChange, Op, Owner, PortElement, VethSpec,
};

use crate::decide::grant::Grant;
use crate::decide::ports::elements;
use crate::edge::config::Extras;
use crate::edge::error::Error;
use crate::edge::mappings::PortMapping;

/// The mark. It stands at the end of the alias like one more name of the pod, but no name looks like it.
const MARK: &str = ", (+)";
/// The kernel keeps only this many bytes of an alias, and may have cut the mark off.
const ALIAS_MAX: usize = 255;

/// Adds the mark to the veth pair, if it needs one.
pub fn mark(extras: &Extras, spec: VethSpec) -> VethSpec {
    if extras.is_none() { spec } else { marked(spec) }
}

/// The veth pair as it is made first, always with the mark. If the pair exists already, the attempt to make it
/// overwrites the alias. The mark that an earlier ADD set must not get lost by that.
pub fn as_made(spec: &VethSpec) -> VethSpec {
    let has_mark = spec.alias.as_ref().is_some_and(|alias| alias.ends_with(MARK));
    if has_mark { spec.clone() } else { marked(spec.clone()) }
}

/// The operation that removes the mark from a link that was just made, if it is to have none. It is carried out before
/// the link is switched on.
pub fn without_mark(spec: &VethSpec, link: IfIndex) -> Option<Op> {
    let alias = spec.alias.clone().filter(|alias| !alias.ends_with(MARK))?;
    Some(Op::SetLink(link, LinkChange { alias: Some(alias), ..LinkChange::default() }))
}

fn marked(spec: VethSpec) -> VethSpec {
    VethSpec { alias: spec.alias.map(|alias| alias + MARK), ..spec }
}

/// Whether the link has this alias, or as much of it as the kernel keeps.
pub fn has_alias(link: &Link, alias: &str) -> bool {
    link.alias.as_deref() == Some(&alias[..alias.floor_char_boundary(ALIAS_MAX)])
}

/// Whether the attachment of this host's end may have extras.
pub fn may_have_some(link: &Link) -> bool {
    link.alias.as_ref().is_none_or(|alias| alias.ends_with(MARK) || alias.len() >= ALIAS_MAX)
}

/// The host ports as the record has them.
///
/// # Errors
/// The same as for [`elements`].
pub fn host_ports(
    extras: &Extras,
    attachment: &Attachment,
    grant: &Grant,
    bridged: bool,
) -> Result<Option<HostPorts>, Error> {
    if extras.ports.is_empty() {
        return Ok(None);
    }
    let addresses: Vec<_> = grant.hosts().collect();
    let elements = elements(&extras.ports, &addresses, attachment, bridged)?;
    let names: Vec<_> = extras.ports.iter().map(PortMapping::name).collect();
    Ok(Some(HostPorts {
        owner: Owner::of(attachment).to_string(),
        names: names.join(", "),
        elements: elements.into_iter().map(written).collect(),
    }))
}

fn written(Element { set, key, value, .. }: Element) -> PortElement {
    PortElement { set: set.to_owned(), key, value: value.data().to_vec() }
}
