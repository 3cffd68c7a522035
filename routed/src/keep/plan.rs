//! What would be put back of what pods have on the host. It is told and not done.

use std::path::Path;

use ferrule_model::table::{MAPS, SETS, TABLE};
use ferrule_model::{BridgePort, Element, HostSide, Link, Op, Way, ifb_name};
use ferrule_netlink::nft::Netfilter;
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Bridges, Error};
use ferrule_wire::{Record, RecordError, Records};

use super::{ports, repair};

/// A change that would be made for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A change by this request to the kernel.
    Op(Op, String),
    /// A change in words.
    Words(String),
}

/// Why the changes cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The records cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The kernel cannot be read.
    #[error(transparent)]
    Kernel(#[from] Error),
}

/// What would be put back for the records in `runtime_dir`. The rules of the table of host ports are not compared: only
/// the process that has written them knows how nft prints them.
///
/// # Errors
/// See [`PlanError`].
pub fn plan<K: Bridges + Traffic, N: Netfilter>(
    kernel: &mut K,
    netfilter: impl FnOnce() -> Result<N, Error>,
    runtime_dir: &Path,
) -> Result<Vec<Change>, PlanError> {
    let records = Records::new(runtime_dir);
    let (mut changes, mut pods) = (Vec::new(), Vec::new());
    let mut names = records.names()?;
    names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    for name in names {
        let Record::Kept(made) = records.read(&name)? else { continue };
        match kernel.link(&name)? {
            Some(link) => of_link(kernel, &made, &link, &mut changes)?,
            None => changes.push(Change::Words(repair::gone(&made, Path::new(&made.netns).exists()))),
        }
        pods.push(*made);
    }
    if pods.iter().any(|made| made.ports.is_some()) {
        of_ports(&mut netfilter()?, &pods, &mut changes)?;
    }
    Ok(changes)
}

fn of_link<K: Bridges + Traffic>(
    kernel: &mut K,
    made: &HostSide,
    link: &Link,
    changes: &mut Vec<Change>,
) -> Result<(), Error> {
    let of = repair::of(made);
    let mut ways = Vec::new();
    for wanted in made.ways(link.index) {
        let neighbour = kernel.neighbour(wanted.neighbour.0)?;
        let route = kernel.route_match(wanted.neighbour.0.address)?;
        ways.push(repair::Found { wanted, neighbour, route });
    }
    let fixes = repair::fixes(made, link, &ways).into_iter();
    changes.extend(fixes.map(|fix| Change::Op(fix.op, of.clone())));
    if let Way::Bridge { name, isolated, .. } = &made.way {
        let bridge = kernel.link(name)?.map(|bridge| bridge.index);
        let there = kernel.port(&link.name)?;
        let is_right = |bridge| there == Some(BridgePort { bridge, hairpin: true, isolated: *isolated });
        if !bridge.is_some_and(is_right) {
            changes.push(Change::Words(format!("put link {} on bridge {name}{of}", link.name)));
        }
    }
    if made.limits.receives.is_some() && kernel.limit_of(link.index)? != made.limits.receives {
        changes.push(Change::Words(format!("set the limit of what {} sends to the pod{of}", link.name)));
    }
    if made.limits.sends.is_some() {
        let device = kernel.link(&ifb_name(&made.attachment))?.filter(|device| device.up);
        let limit = device.as_ref().map(|device| kernel.limit_of(device.index)).transpose()?.flatten();
        let leads_to = kernel.redirect_of(link.index)?;
        if limit != made.limits.sends || leads_to != device.map(|device| device.index) {
            changes.push(Change::Words(format!("set the limit of what {} gets from the pod{of}", link.name)));
        }
    }
    Ok(())
}

fn of_ports(
    netfilter: &mut impl Netfilter,
    pods: &[HostSide],
    changes: &mut Vec<Change>,
) -> Result<(), Error> {
    let mut found: Vec<Element> = Vec::new();
    if netfilter.has_table(TABLE)? {
        for set in MAPS.iter().chain(&SETS) {
            found.append(&mut netfilter.elements(TABLE, set)?);
        }
    } else {
        changes.push(Change::Words(format!("set nftables table inet {TABLE}")));
    }
    for made in pods {
        let Some(kept) = &made.ports else { continue };
        let (missing, taken) = ports::differences(&found, &ports::elements(kept));
        if !missing.is_empty() && taken.is_none() {
            changes.push(Change::Words(format!("open host ports {}{}", kept.names, repair::of(made))));
        }
    }
    Ok(())
}
