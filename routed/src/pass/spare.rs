//! Makes sure that one refusal stops nothing but itself. If the kernel refuses a device, or another link has its name,
//! only what needs the device has to wait. Meanwhile other ways to the nodes that need it are left alone.

use std::collections::BTreeSet;
use std::time::Instant;

use ferrule_model::{IfName, IpNetwork, Link, RouteKind, Via};
use ferrule_netlink::{Error, Kernel};

use crate::decide::backoff::{Backoff, Key, Which};
use crate::decide::desired::{Skipped, Why};
use crate::decide::objects::Objects;
use crate::decide::report::Report;
use crate::pass::apply::PassError;
use crate::pass::device::Device;

/// Returns the device as far as it came. `name` is its name, and `is_right` says whether a link can be used as the
/// device in spite of what was refused.
///
/// # Errors
/// The kernel cannot be read or written.
pub(crate) fn device<K: Kernel>(
    kernel: &mut K,
    kept: Result<Device, PassError>,
    (which, name): (Which, &IfName),
    is_right: impl Fn(&Link) -> bool,
    (backoff, now): (&mut Backoff, Instant),
    report: &mut Report,
) -> Result<Device, PassError> {
    let key = Key::Device(which);
    let why = match kept {
        Ok(device) => {
            backoff.accepted(&key);
            return Ok(device);
        }
        Err(PassError::Device(why)) => why,
        Err(PassError::Foreign(foreign)) => foreign.to_string(),
        Err(error) => return Err(error),
    };
    backoff.refused(key, now);
    backoff.explain(&key, format!("link {name}"), why.clone());
    report.hindered.get_or_insert_with(|| why.clone());
    report.refused.insert(why);
    let found: Result<_, Error> = kernel.link(name);
    let index = found?.filter(is_right).map(|link| link.index);
    Ok(Device { index, fresh: false, leaves: false, whole: false, refused: true })
}

/// Takes what leads to networks that wait for a device out of `observed`: what is not observed is not removed.
pub(crate) fn hold<'a>(observed: &mut Objects, skipped: impl Iterator<Item = &'a Skipped>) {
    let waiting = skipped.filter(|skipped| skipped.why == Why::NoDevice);
    let networks: BTreeSet<IpNetwork> = waiting.flat_map(|skipped| skipped.cidrs.iter().copied()).collect();
    let Objects { addresses, fdb, neighbours, peers, nexthops, routes } = observed;
    let (mut hops, mut links) = (BTreeSet::new(), BTreeSet::new());
    routes.retain(|key, route| {
        let leads_there = networks.contains(&key.dst) && matches!(route.kind, RouteKind::Unicast(_));
        if leads_there {
            match route.kind {
                RouteKind::Unicast(Via::Nexthop(id)) => drop(hops.insert(id)),
                RouteKind::Unicast(Via::Gateway { link, .. } | Via::Link(link)) => drop(links.insert(link)),
                RouteKind::Unreachable => {}
            }
        }
        !leads_there
    });
    nexthops.retain(|id, hop| {
        let held = hops.contains(id);
        if held {
            links.insert(hop.link);
        }
        !held
    });
    neighbours.retain(|key, _| !links.contains(&key.link));
    fdb.retain(|key, _| !links.contains(&key.link));
    addresses.retain(|key, _| !links.contains(&key.link));
    peers.retain(|key, _| !links.contains(&key.link));
}
