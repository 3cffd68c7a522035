//! Finds the link that `[node] interface` means now. [`crate::decide::interface`] decides what counts.

use std::collections::BTreeMap;

use ferrule_config::{Config, Interface};
use ferrule_model::{IfIndex, IfName, is_host_veth};
use ferrule_netlink::{Error, Kernel, Listed, Netlink};

use crate::decide::interface::{Candidate, Chosen, Unfit, choose};
use crate::pass::observe;

/// Why the link by which this node is reached is not known.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No link fits the configuration.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The kernel does not tell its links.
    #[error("the link of [node] interface is not known: {0}")]
    Kernel(#[from] Error),
}

/// The link that `wanted` means now. `before` was the link the last time.
///
/// # Errors
/// See [`UplinkError`].
pub fn look(wanted: &Interface, config: &Config, before: Option<&Chosen>) -> Result<Chosen, UplinkError> {
    let mut kernel = Netlink::open()?;
    let links = kernel.links()?;
    let addresses = kernel.addresses_in_order()?;
    let mut of_links = BTreeMap::<IfIndex, Vec<Listed>>::new();
    for listed in addresses {
        of_links.entry(listed.link).or_default().push(listed);
    }
    let is_candidate =
        |name: &IfName| !is_host_veth(name.as_str()) && !observe::is_ours(&config.routing, name);
    let links = links.into_iter().filter(|link| is_candidate(&link.name));
    let there: Vec<_> = links
        .map(|link| {
            let mut listed = of_links.remove(&link.index).unwrap_or_default();
            // A single address without a network is more likely one that moves between machines, or one of a lease.
            listed.sort_by_key(|listed| (listed.is_lesser, listed.prefix == listed.prefix.ip().into()));
            Candidate {
                usable: link.up && link.carrier,
                name: link.name,
                addresses: listed.into_iter().map(|listed| listed.prefix).collect(),
            }
        })
        .collect();
    Ok(choose(wanted, &config.node, &there, before)?)
}
