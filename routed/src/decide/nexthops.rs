//! Gives numbers to nexthop objects: pure. The objects share their numbers with every other program of the network
//! namespace, and a number must not change while routes use it. So an object that the kernel has keeps its number, and
//! a new object gets a free one.

use std::collections::HashMap;

use ferrule_model::{NexthopId, PROTOCOL, Route, Via};

use crate::decide::objects::Nexthops;
use crate::decide::objects::Objects;
use crate::decide::wanted::{HopKey, Target, Wanted};

/// The first of our numbers: the protocol number, followed by six digits, so that a person recognises them at a glance.
pub const FIRST: u32 = PROTOCOL as u32 * 1_000_000;

/// The number of each nexthop object. One is looked up for each route.
pub type Ids = HashMap<HopKey, NexthopId>;

/// A number for each nexthop object of `wanted`: the one that it has in the kernel, else a free one.
///
/// `present` are all nexthop objects there are, including other programs'.
pub fn number(wanted: &Wanted, present: &Nexthops) -> Ids {
    let mut ids = known(wanted, present);
    let mut free = FIRST;
    for hop in wanted.nexthops.keys() {
        ids.entry(*hop).or_insert_with(|| take_free(&mut free, |id| present.contains_key(&id)));
    }
    ids
}

/// The next number from `free` on that is not taken. Afterwards `free` is behind it. There are thousands of millions.
pub fn take_free(free: &mut u32, is_taken: impl Fn(NexthopId) -> bool) -> NexthopId {
    loop {
        let id = NexthopId(*free);
        *free = free.checked_add(1).unwrap_or(FIRST);
        if !is_taken(id) {
            return id;
        }
    }
}

/// `wanted` with the numbers `ids`.
pub fn numbered(wanted: Wanted, ids: &Ids) -> Objects {
    let mut routes = Vec::with_capacity(wanted.routes.len());
    routes.extend(wanted.routes.into_iter().filter_map(|(key, target)| {
        let route = match target {
            Target::Unreachable => Route::unreachable(),
            Target::Link(link) => Route::ours(Via::Link(link)),
            Target::Via(HopKey { link, gateway: address }) => {
                Route::ours(Via::Gateway { address, link, onlink: false })
            }
            Target::Hop(hop) => Route::ours(Via::Nexthop(*ids.get(&hop)?)),
        };
        Some((key, route))
    }));
    let mut nexthops = Vec::with_capacity(wanted.nexthops.len());
    nexthops
        .extend(wanted.nexthops.into_iter().filter_map(|(hop, nexthop)| Some((*ids.get(&hop)?, nexthop))));
    Objects {
        addresses: wanted.addresses,
        fdb: wanted.fdb,
        neighbours: wanted.neighbours,
        peers: wanted.peers,
        nexthops: nexthops.into_iter().collect(),
        routes: routes.into_iter().collect(),
    }
}

/// The lowest number of each wanted nexthop object that is in the kernel exactly as wanted.
fn known(wanted: &Wanted, present: &Nexthops) -> Ids {
    let mut known = HashMap::with_capacity(wanted.nexthops.len());
    for (id, nexthop) in present.iter().filter_map(|(id, nexthop)| Some((id, nexthop.as_ref()?))) {
        let key = HopKey::of(nexthop);
        if wanted.nexthops.get(&key) == Some(nexthop) {
            known.entry(key).or_insert(*id);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use ferrule_model::{IfIndex, Nexthop, RouteKey, RouteKind};

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
        let present = BTreeMap::from([
            (NexthopId(7), Some(nexthop("192.0.2.2"))),
            (NexthopId(FIRST), Some(foreign)),
            (NexthopId(FIRST + 1), None),
        ]);
        let wanted = wanted(&["192.0.2.1", "192.0.2.2"]);
        let ids = number(&wanted, &present);
        let objects = numbered(wanted, &ids);
        let ids: Vec<_> = objects.nexthops.iter().map(|(id, nh)| (id.0, nh.gateway.to_string())).collect();
        assert_eq!(ids, [(7, "192.0.2.2".into()), (FIRST + 2, "192.0.2.1".into())]);
        let vias: Vec<_> = objects.routes.values().map(|route| route.kind).collect();
        assert_eq!(vias, [FIRST + 2, 7].map(|id| RouteKind::Unicast(Via::Nexthop(NexthopId(id)))));
    }

    #[test]
    fn of_two_equal_objects_the_lower_number_is_used() {
        let same = nexthop("192.0.2.1");
        let present = BTreeMap::from([(NexthopId(9), Some(same)), (NexthopId(8), Some(same))]);
        let ids = number(&wanted(&["192.0.2.1"]), &present);
        assert_eq!(ids.into_values().collect::<Vec<_>>(), [NexthopId(8)]);
    }

    #[test]
    fn free_numbers_begin_again_at_the_end() {
        let mut free = u32::MAX;
        let taken = |id: NexthopId| id.0 == FIRST;
        let ids = [(); 2].map(|()| take_free(&mut free, taken).0);
        assert_eq!(ids, [u32::MAX, FIRST + 1]);
    }
}
