//! Numbers of nexthop objects: pure. They are shared with every other program of the network namespace and must not
//! change while routes use them, so they are found again from what the kernel has and otherwise chosen free.

use std::collections::{BTreeMap, BTreeSet};

use ferrule_model::{Nexthop, NexthopId, PROTOCOL, Route};

use crate::desired::{HopKey, Target, Wanted};
use crate::reconcile::Objects;

/// Where our numbers begin: the protocol number, followed by six digits, so that a person knows them at a glance.
const FIRST: u32 = PROTOCOL as u32 * 1_000_000;

/// `wanted` with the numbers that its nexthop objects have in the kernel, and free ones for those that are not there.
///
/// `present` are all nexthop objects there are, other programs' included.
pub fn number(wanted: &Wanted, present: &BTreeMap<NexthopId, Nexthop>) -> Objects {
    let known = known(wanted, present);
    let mut free = free(present);
    let mut ids = BTreeMap::new();
    let mut nexthops = BTreeMap::new();
    for (key, nexthop) in &wanted.nexthops {
        // Four thousand million numbers: there is always a free one.
        let Some(id) = known.get(key).copied().or_else(|| free.next()) else { continue };
        ids.insert(*key, id);
        nexthops.insert(id, *nexthop);
    }
    let routes = wanted.routes.iter().filter_map(|(key, target)| {
        let route = match target {
            Target::Unreachable => Route::unreachable(),
            Target::Hop(hop) => Route::ours(ferrule_model::Via::Nexthop(*ids.get(hop)?)),
        };
        Some((*key, route))
    });
    Objects {
        addresses: wanted.addresses.clone(),
        fdb: wanted.fdb.clone(),
        neighbours: wanted.neighbours.clone(),
        routes: routes.collect(),
        nexthops,
    }
}

/// The lowest number of each wanted nexthop that is there already, exactly as wanted.
fn known(wanted: &Wanted, present: &BTreeMap<NexthopId, Nexthop>) -> BTreeMap<HopKey, NexthopId> {
    let mut known = BTreeMap::new();
    for (id, nexthop) in present {
        let key = HopKey { link: nexthop.link, gateway: nexthop.gateway };
        if wanted.nexthops.get(&key) == Some(nexthop) {
            known.entry(key).or_insert(*id);
        }
    }
    known
}

/// The numbers that nobody uses, from ours on.
fn free(present: &BTreeMap<NexthopId, Nexthop>) -> impl Iterator<Item = NexthopId> {
    let taken: BTreeSet<u32> = present.keys().map(|id| id.0).collect();
    (FIRST..u32::MAX).filter(move |id| !taken.contains(id)).map(NexthopId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::{IfIndex, RouteKey, RouteKind, Via};

    fn nexthop(gateway: &str) -> Nexthop {
        Nexthop { gateway: gateway.parse().unwrap(), link: IfIndex(2), onlink: false, protocol: PROTOCOL }
    }

    fn wanted(gateways: &[&str]) -> Wanted {
        let mut wanted = Wanted::default();
        for (number, gateway) in gateways.iter().enumerate() {
            let nexthop = nexthop(gateway);
            let key = HopKey { link: nexthop.link, gateway: nexthop.gateway };
            wanted.nexthops.insert(key, nexthop);
            let dst = format!("10.244.{number}.0/24").parse().unwrap();
            wanted.routes.insert(RouteKey::main(dst), Target::Hop(key));
        }
        wanted
    }

    #[test]
    fn a_number_is_kept_and_a_foreign_one_is_never_taken() {
        let mut foreign = nexthop("192.0.2.1");
        foreign.protocol = 4;
        let present = BTreeMap::from([(NexthopId(FIRST), foreign), (NexthopId(7), nexthop("192.0.2.2"))]);
        let objects = number(&wanted(&["192.0.2.1", "192.0.2.2"]), &present);
        let ids: Vec<_> = objects.nexthops.iter().map(|(id, nh)| (id.0, nh.gateway.to_string())).collect();
        assert_eq!(ids, [(7, "192.0.2.2".into()), (FIRST + 1, "192.0.2.1".into())]);
        let vias: Vec<_> = objects.routes.values().map(|route| route.kind).collect();
        assert_eq!(vias, [FIRST + 1, 7].map(|id| RouteKind::Unicast(Via::Nexthop(NexthopId(id)))));
    }

    #[test]
    fn of_two_equal_objects_the_lower_number_is_used() {
        let same = nexthop("192.0.2.1");
        let present = BTreeMap::from([(NexthopId(9), same), (NexthopId(8), same)]);
        let objects = number(&wanted(&["192.0.2.1"]), &present);
        assert_eq!(objects.nexthops.keys().collect::<Vec<_>>(), [&NexthopId(8)]);
    }
}
