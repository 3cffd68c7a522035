//! How a pass looks at the ways: what there should be, what there is, what becomes ours, and what others have put before it.

use std::collections::BTreeMap;

use ferrule_model::{IfIndex, Op, PROTOCOL, Route, RouteKey};
use ferrule_netlink::Tunnels;

use super::{Applier, PassError};
use crate::decide::desired::Ground;
use crate::decide::diverted::shadow;
use crate::decide::goal::Goal;
use crate::decide::nodes::Cluster;
use crate::decide::objects::Objects;
use crate::decide::owner;
use crate::decide::wanted::Target;
use crate::pass::observe::{self, Seen};
use crate::pass::spare;

impl<K: Tunnels> Applier<K> {
    /// What the cluster needs on this ground, and what is in the kernel, with `devices` as our VXLAN devices, and `wireguard` as the
    /// other one. What was flannel's and is to be ours is among ours then.
    pub(super) fn see(
        &mut self,
        cluster: &Cluster,
        ground: Ground,
        (devices, wireguard): (&[IfIndex], Option<IfIndex>),
    ) -> Result<(Seen, Goal), PassError> {
        let wanted = ground.objects(cluster.others.values().map(AsRef::as_ref));
        let leads = |target: &Target| *target != Target::Unreachable;
        let mut seen = observe::ours(
            &mut self.kernel,
            devices,
            wireguard,
            owner::are_flannels(&self.routing.vxlan),
            (&Objects::default(), &|key| matter(&wanted.routes, key, leads)),
        )?;
        let goal = Goal::of(ground, wanted, &seen.nexthops);
        spare::hold(&mut seen.ours, goal.skipped());
        self.adopt(&mut seen.ours, goal.objects())?;
        let plain = std::mem::take(&mut seen.plain).into_iter();
        seen.ours
            .routes
            .extend(plain.filter(|(key, route)| owner::is_flannels_to(key, route, goal.objects())));
        // What becomes ours in this pass takes no packets of ours.
        let Seen { foreign, ours, .. } = &mut seen;
        let is_adopted = |route: &Route| route.protocol != PROTOCOL;
        foreign.retain(|route| !ours.routes.get(&route.key).is_some_and(is_adopted));
        Ok((seen, goal))
    }

    /// Makes routes of flannel's that lead nowhere any more ours: the kernel deletes a route by its protocol only.
    fn adopt(&mut self, observed: &mut Objects, desired: &Objects) -> Result<(), PassError> {
        let is_stale = |(key, route): &(&RouteKey, &Route)| {
            route.protocol != PROTOCOL && !desired.routes.contains_key(key)
        };
        let stale: Vec<_> = observed.routes.iter().filter(is_stale).map(|(key, _)| *key).collect();
        let ops: Vec<_> = stale.iter().map(|key| Op::PutRoute(*key, Route::unreachable())).collect();
        let answers = if ops.is_empty() { Vec::new() } else { self.kernel.apply(&ops)? };
        for (key, answer) in stale.into_iter().zip(answers) {
            match answer {
                Ok(()) => drop(observed.routes.insert(key, Route::unreachable())),
                // It is looked at again in the next pass.
                Err(_) => drop(observed.routes.remove(&key)),
            }
        }
        Ok(())
    }
}

/// Whether a route of another program with this key may take packets that one of `routes`, which are ours, should have.
pub(super) fn matter<V>(routes: &BTreeMap<RouteKey, V>, key: &RouteKey, leads: impl Fn(&V) -> bool) -> bool {
    shadow::taken_from(routes, key).is_some_and(|(_, ours)| leads(ours))
}
