//! How a pass looks at the ways: what there should be, what there is, what is taken over from flannel, and which ways
//! of others come first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrule_model::{ForeignRoute, IfIndex, IpNetwork, Op, PROTOCOL, PolicyRule, Route, RouteKey};
use ferrule_netlink::{Error, Tunnels};

use super::{Applier, PassError};
use crate::decide::desired::Ground;
use crate::decide::diverted::policy::{self, Place};
use crate::decide::diverted::{Diverted, shadow};
use crate::decide::goal::Goal;
use crate::decide::nodes::Cluster;
use crate::decide::objects::{Links, Objects};
use crate::decide::owner;
use crate::decide::wanted::Target;
use crate::pass::observe::{self, Seen};
use crate::pass::spare;

impl<K: Tunnels> Applier<K> {
    /// What the cluster needs on this ground, and what is in the kernel. `devices` are our VXLAN devices, and
    /// `wireguard` is the other one. What was flannel's and is to be ours counts as ours.
    pub(super) fn see(
        &mut self,
        cluster: &Cluster,
        ground: Ground,
        (devices, wireguard): (&[IfIndex], Option<IfIndex>),
    ) -> Result<(Seen, Goal), PassError> {
        let wanted = ground.objects(cluster.others.values().map(AsRef::as_ref));
        let leads: fn(&Target) -> bool = |target| *target != Target::Unreachable;
        let of = (devices, wireguard, owner::are_flannels(&self.routing.vxlan));
        let mut seen = observed(&mut self.kernel, of, &Objects::default(), &wanted.routes, leads)?;
        let goal = Goal::of(ground, wanted, &seen.nexthops);
        spare::hold(&mut seen.ours, goal.skipped());
        self.adopt(&mut seen.ours, goal.objects())?;
        let plain = std::mem::take(&mut seen.plain).into_iter();
        seen.ours
            .routes
            .extend(plain.filter(|(key, route)| owner::is_flannels_to(key, route, goal.objects())));
        // What is taken over in this pass diverts no packets of ours.
        let Seen { foreign, ours, .. } = &mut seen;
        let is_adopted = |route: &Route| route.protocol != PROTOCOL;
        foreign.retain(|route| !ours.routes.get(&route.key).is_some_and(is_adopted));
        Ok((seen, goal))
    }

    /// Whether a pass that reads is due, because some policy rule was made or removed.
    pub fn hears_rule(&mut self) -> bool {
        let Some(left) = self.left.as_ref().filter(|left| !left.doubted) else { return true };
        let known = &left.belief.diverted.rules;
        let same = self.kernel.rules().is_ok_and(|rules| policy::before_main(&rules) == *known);
        self.doubt(!same)
    }

    /// Takes over routes of flannel's that lead nowhere any more: they get our protocol, because the kernel deletes a
    /// route only by its protocol.
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
                // The next pass looks at it again.
                Err(_) => drop(observed.routes.remove(&key)),
            }
        }
        Ok(())
    }
}

/// What is in the kernel (see [`observe::ours`]). It includes what others have put before those of our `routes` that
/// lead to other nodes.
pub(super) fn observed<K: Tunnels, V>(
    kernel: &mut K,
    (devices, wireguard, were_flannels): (&[IfIndex], Option<IfIndex>, bool),
    known: &Objects,
    routes: &BTreeMap<RouteKey, V>,
    leads: fn(&V) -> bool,
) -> Result<Seen, Error> {
    let rules = policy::before_main(&kernel.rules()?);
    let tables = policy::tables(&rules);
    let matters = |key: &RouteKey| {
        shadow::taken_from(routes, key).is_some_and(|(_, ours)| leads(ours))
            || (tables.contains(&key.table) && policy::overlaps(routes, &key.dst))
    };
    let seen = observe::ours(kernel, devices, wireguard, were_flannels, (known, &matters))?;
    Ok(Seen { rules, ..seen })
}

/// Some of our routes stand behind one of `others` with the same key. Takes those that are to be changed out of
/// `observed`. The kernel would change the first route with this key (`fib_table_insert`), which is not ours. A route
/// that seems to be missing is added instead, and the kernel refuses that as long as the other route is there.
pub(super) fn yield_to(others: &BTreeSet<RouteKey>, observed: &mut Objects, desired: &Objects) {
    for key in others {
        let is_right = |route: &Route| desired.routes.get(key).is_none_or(|wanted| wanted == route);
        if !observed.routes.get(key).is_none_or(is_right) {
            observed.routes.remove(key);
        }
    }
}

/// The same for what was seen, and `known` from the pass before.
pub(super) fn yield_to_others(seen: &mut Seen, known: Option<&mut Objects>, desired: &Objects) {
    let first = seen.foreign.iter().filter(|route| route.is_first).map(|route| route.key);
    let mut behind: BTreeSet<_> = first.filter(|key| seen.ours.routes.contains_key(key)).collect();
    yield_to(&behind, &mut seen.ours, desired);
    behind.retain(|key| !seen.ours.routes.contains_key(key));
    if let Some(known) = known {
        known.routes.retain(|key, _| !behind.contains(key));
    }
}

/// What diverts packets, among the routes and rules of others that were seen. `ours` are our routes in the kernel.
pub(super) fn diverted(
    (foreign, rules): (&[ForeignRoute], Vec<PolicyRule>),
    goal: &Goal,
    ours: &BTreeMap<RouteKey, Route>,
    (links, given): (&Links, &[IpNetwork]),
) -> Diverted {
    let (wanted, ground) = (goal.objects(), goal.ground());
    let found = shadow::find(foreign, &wanted.routes, ours, links);
    let addresses: Vec<_> = ground.taken.addresses().filter(is_sent_from).collect();
    let devices = [ground.device, ground.device6.flatten(), ground.wireguard.as_ref().map(|wg| wg.link)];
    let uplinks = ground.underlay.all().map(|uplink| uplink.link);
    let ways: Vec<_> = uplinks.chain(devices.into_iter().flatten()).collect();
    let own = &ground.own.pod_cidrs;
    let place = Place { addresses: &addresses, own, given, wanted, links, ways: &ways };
    let mut all = found.all;
    all.extend(policy::find(&rules, foreign, &place));
    Diverted { all, tables: policy::tables(&rules), rules, ..found }
}

/// Whether packets to pods are sent from this address.
fn is_sent_from(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}
