//! What is written down of a pod's host ports, and the mark that tells whether a pod may have extras at all. Pure.
//!
//! Host ports and limited bandwidth do not all go with the veth pair. So that the many pods without them cost nothing more,
//! the host's end says in its alias that there may be some.

use ferrule_model::{Attachment, Element, HostPorts, IfIndex, Link, LinkChange, Op, PortElement, VethSpec};

use crate::decide::grant::Grant;
use crate::decide::ports::{Owner, elements};
use crate::edge::config::Extras;
use crate::edge::error::Error;
use crate::edge::mappings::PortMapping;

/// The end of a host's end's alias, as one more of the pod's names: none looks like it.
const MARK: &str = ", (+)";
/// The kernel keeps no more of an alias, and may have cut the mark off.
const ALIAS_MAX: usize = 255;

/// The veth pair with the mark, if it needs one.
pub fn mark(extras: &Extras, spec: VethSpec) -> VethSpec {
    if extras.is_none() { spec } else { marked(spec) }
}

/// The veth pair as it is made, always with the mark. Where the pair is there already, the attempt to make it overwrites the alias,
/// and the mark of an ADD before must not get lost.
pub fn as_made(spec: &VethSpec) -> VethSpec {
    let has_mark = spec.alias.as_ref().is_some_and(|alias| alias.ends_with(MARK));
    if has_mark { spec.clone() } else { marked(spec.clone()) }
}

/// What gives a link that was just made its own alias, if it is to be without the mark; done before the link goes on.
pub fn without_mark(spec: &VethSpec, link: IfIndex) -> Option<Op> {
    let alias = spec.alias.clone().filter(|alias| !alias.ends_with(MARK))?;
    Some(Op::SetLink(link, LinkChange { alias: Some(alias), ..LinkChange::default() }))
}

fn marked(spec: VethSpec) -> VethSpec {
    VethSpec { alias: spec.alias.map(|alias| alias + MARK), ..spec }
}

/// Whether the link has this alias, as far as the kernel has room for it.
pub fn has_alias(link: &Link, alias: &str) -> bool {
    link.alias.as_deref() == Some(&alias[..alias.floor_char_boundary(ALIAS_MAX)])
}

/// Whether the attachment behind this host's end may have extras.
pub fn may_have_some(link: &Link) -> bool {
    link.alias.as_ref().is_none_or(|alias| alias.ends_with(MARK) || alias.len() >= ALIAS_MAX)
}

/// The host ports as they are written down.
///
/// # Errors
/// As [`elements`].
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

fn written(Element { set, key, value, comment: _ }: Element) -> PortElement {
    PortElement { set: set.to_owned(), key, value }
}
