//! What a pod has beside its link because the runtime asked for it: host ports (`ports`, `hostports`) and a limited
//! bandwidth (`shaping`). The verbs meet both here.
//!
//! These are the things that do not all go with the veth pair. So that the many pods without them cost nothing more, the
//! host's end says in its alias that there may be some; where the host's end is gone already, they are looked for.

use ferrule_model::{Attachment, HostPorts, IpNetwork, Link, PortElement, VethSpec};
use ferrule_netlink::nft::Element;
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Error as NetlinkError, Kernel};

use crate::act::hostports;
use crate::act::node::Node;
use crate::act::shaping::{self, Bandwidth};
use crate::decide::grant::Grant;
use crate::decide::pod::Ends;
use crate::decide::ports::{self, Owner, PortMapping};
use crate::edge::error::Error;

/// What the runtime asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras {
    /// `runtimeConfig.portMappings`.
    pub ports: Vec<PortMapping>,
    /// `runtimeConfig.bandwidth`.
    pub bandwidth: Bandwidth,
}

/// The end of a host's end's alias, as one more of the pod's names: none looks like it.
const MARK: &str = ", (+)";
/// The kernel keeps no more of an alias, and may have cut the mark off.
const ALIAS_MAX: usize = 255;

impl Extras {
    /// Whether nothing is asked for.
    pub const fn is_none(&self) -> bool {
        self.ports.is_empty() && self.bandwidth.is_none()
    }

    /// The veth pair with the mark, if it needs one.
    pub(crate) fn mark(&self, spec: VethSpec) -> VethSpec {
        if self.is_none() {
            return spec;
        }
        VethSpec { alias: spec.alias.map(|alias| alias + MARK), ..spec }
    }

    /// Gives the pod, which may be on a bridge, what was asked for, and tells what an operator should know of that.
    ///
    /// # Errors
    /// Something is not to be had; what was done by then is there until [`remove`].
    pub(crate) fn put<N: Node>(
        &self,
        node: &N,
        host: &mut N::Kernel,
        attachment: &Attachment,
        (spec, ends, was_there): (&VethSpec, &Ends, bool),
        bridged: bool,
        grant: &Grant,
    ) -> Result<Vec<String>, Error> {
        let mut link = ends.host.clone();
        if self.is_none() && !was_there {
            return Ok(Vec::new());
        }
        let addresses: Vec<_> = grant.hosts().collect();
        let wanted = ports::elements(&self.ports, &addresses, attachment, bridged)?;
        if was_there {
            // An ADD before may have been asked for more. Its mark does not tell: the attempt to make the pair has renewed it.
            shaping::lift(host, &link, &self.bandwidth, attachment)?;
            hostports::keep(node, attachment, &wanted)?;
        }
        if let Some(alias) = spec.alias.as_ref().filter(|_| !may_have_some(&link)) {
            // An ADD before did not ask for any.
            host.set_alias(&link.name, alias)
                .map_err(|source| Error::Kernel { doing: "mark the veth pair", source })?;
            link.alias = Some(alias.clone());
        }
        shaping::put(host, &link, &self.bandwidth, attachment, grant.mtu.unwrap_or(link.mtu))?;
        if self.ports.is_empty() {
            return Ok(Vec::new());
        }
        hostports::put(node, host, &wanted)
    }

    /// The host ports as they are written down.
    ///
    /// # Errors
    /// As [`ports::elements`].
    pub(crate) fn host_ports(
        &self,
        attachment: &Attachment,
        grant: &Grant,
        bridged: bool,
    ) -> Result<Option<HostPorts>, Error> {
        if self.ports.is_empty() {
            return Ok(None);
        }
        let addresses: Vec<_> = grant.hosts().collect();
        let elements = ports::elements(&self.ports, &addresses, attachment, bridged)?;
        let names: Vec<_> = self.ports.iter().map(PortMapping::name).collect();
        Ok(Some(HostPorts {
            owner: Owner::of(attachment).to_string(),
            names: names.join(", "),
            elements: elements.into_iter().map(written).collect(),
        }))
    }

    /// What is not as it was asked for: what, how it should be, how it is.
    ///
    /// # Errors
    /// The kernel did not answer.
    pub(crate) fn differences<N: Node>(
        &self,
        node: &N,
        host: &mut N::Kernel,
        attachment: &Attachment,
        link: &Link,
        (addresses, bridged): (&[IpNetwork], bool),
    ) -> Result<Vec<(String, String, String)>, NetlinkError> {
        let mut differences = shaping::differences(host, link, &self.bandwidth, attachment, link.mtu)?;
        if !self.ports.is_empty() {
            match ports::elements(&self.ports, addresses, attachment, bridged) {
                Ok(wanted) => differences.extend(hostports::missing(node, &wanted)?),
                Err(error) => {
                    differences.push(("host ports".into(), "as configured".into(), error.to_string()));
                }
            }
        }
        Ok(differences)
    }
}

fn written(Element { set, key, value, comment: _ }: Element) -> PortElement {
    PortElement { set: set.to_owned(), key, value }
}

fn may_have_some(link: &Link) -> bool {
    link.alias.as_ref().is_none_or(|alias| alias.ends_with(MARK) || alias.len() >= ALIAS_MAX)
}

/// Removes what an attachment may have, whose host's end was `deleted` before, if it was there.
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

/// Removes what is in `network` and none of the `valid` attachments'; `links` are the node's. Gives what went wrong.
pub(crate) fn collect<N: Node>(
    node: &N,
    host: &mut N::Kernel,
    links: &[Link],
    network: &str,
    valid: &[Attachment],
) -> Vec<Error> {
    let mut errors = Vec::new();
    for name in shaping::stale(links, network, valid) {
        if let Err(source) = host.delete_link(name) {
            errors.push(Error::Kernel { doing: "delete a device that limits nobody's bandwidth", source });
        }
    }
    errors.extend(hostports::collect(node, network, valid).err());
    errors
}
