//! What can be seen of the worker's work from outside: the state of things ([`View`], pure), and what was done
//! ([`Counts`]). The worker writes it after each pass. A reader holds nobody up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferrule_daemon::{Counter, Histogram};
use ferrule_model::{IpNetwork, Mac, RouteKey, WgKey};
use ferrule_wire::routed::{Kind, Objects};

use crate::decide::backoff::{Backoff, Key, Refused};
use crate::decide::diverted::Diversion;
use crate::decide::drift::{Belief, FULL_DIFF};
use crate::decide::goal::Goal;
use crate::decide::nodes::{Cluster, Node};
use crate::decide::objects::Keys;
use crate::decide::report::{Report, Tally};

/// All kinds of objects, in the order in which they are told.
pub const KINDS: [Kind; 7] =
    [Kind::Links, Kind::Addresses, Kind::Fdb, Kind::Neighbours, Kind::Peers, Kind::Nexthops, Kind::Routes];

/// The state of things after a pass.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// What is in the kernel.
    pub belief: &'a Belief,
    /// What there should be.
    pub goal: &'a Goal,
    /// What is not as it should be.
    pub differing: &'a Keys,
    /// What the kernel has refused.
    pub backoff: &'a Backoff,
    /// When everything was last looked at.
    pub looked: Instant,
}

/// The state of things, for those outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Why the last pass could not be made at all.
    pub last_error: Option<String>,
    /// Why packets to other nodes do not go as they should, although passes are made.
    pub hindered: Option<String>,
    /// This node's addresses and the links that hold them.
    pub underlay: String,
    /// The MTU of the pods in bytes; 0 before it is known.
    pub mtu: u32,
    /// Objects by kind; empty before the first pass.
    pub objects: Vec<Objects>,
    /// What the kernel has refused.
    pub refused: Vec<Refused>,
    /// What keeps a node, or one of its networks, from being reached; by the node's name.
    pub errors: BTreeMap<String, String>,
}

impl View {
    /// The view after a pass.
    pub fn new(standing: Standing<'_>, cluster: &Cluster, report: &Report) -> Self {
        let mut refused: Vec<_> = standing.backoff.refused_objects().collect();
        let diverted: Vec<_> =
            standing.belief.diverted.all.iter().map(|one| told(one, standing.looked)).collect();
        let errors = errors(standing, cluster, &refused, &diverted);
        refused.extend(diverted);
        Self {
            last_error: None,
            hindered: report.hindered.clone(),
            underlay: report.underlay.clone(),
            mtu: report.mtu,
            objects: objects(standing, &refused),
            errors,
            refused,
        }
    }
}

fn objects(standing: Standing<'_>, refused: &[Refused]) -> Vec<Objects> {
    let Standing { belief, goal, differing, .. } = standing;
    let (want, have, vxlan) = (goal.objects(), &belief.ours, &belief.devices.vxlan);
    let device = [usize::from(vxlan.spec.is_some()), usize::from(vxlan.index.is_some())];
    let of_kinds = want.counts().into_iter().zip(have.counts()).zip(differing.counts());
    let counts = std::iter::once((device[0], device[1], device[0].abs_diff(device[1])))
        .chain(of_kinds.map(|((desired, observed), pending)| (desired, observed, pending)));
    let failed = |kind| refused.iter().filter(|refused| kind_of(&refused.key) == kind).count();
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let told = |(kind, (desired, observed, pending)): (Kind, _)| Objects {
        kind,
        desired: number(desired),
        observed: number(observed),
        pending: number(pending),
        failed: number(failed(kind)),
    };
    KINDS.into_iter().zip(counts).map(told).collect()
}

fn kind_of(key: &Key) -> Kind {
    match key {
        Key::Link(_) | Key::Device(_) => Kind::Links,
        Key::Address(_) => Kind::Addresses,
        Key::Fdb(_) => Kind::Fdb,
        Key::Neighbour(_) => Kind::Neighbours,
        Key::Peer(_) => Kind::Peers,
        Key::Nexthop(..) | Key::StrangeNexthop(_) => Kind::Nexthops,
        Key::Route(_) => Kind::Routes,
    }
}

/// A diversion of packets, told as if the kernel had refused the route that the packets should take.
fn told(diversion: &Diversion, looked: Instant) -> Refused {
    let Diversion { networks, object, reason } = diversion;
    // There is at least one.
    let key = networks.first().map_or(Key::StrangeNexthop(0), |network| Key::Route(RouteKey::main(*network)));
    Refused { key, object: object.clone(), reason: reason.clone(), due: looked + FULL_DIFF }
}

/// Everything that is left out, that the kernel has refused, and that diverts packets, each under the node that it
/// concerns.
fn errors(
    standing: Standing<'_>,
    cluster: &Cluster,
    refused: &[Refused],
    diverted: &[Refused],
) -> BTreeMap<String, String> {
    let mut errors: BTreeMap<_, _> =
        standing.goal.skipped().map(|skipped| (skipped.node.clone(), skipped.to_string())).collect();
    let mut about = About::new(refused);
    for (one, told) in standing.belief.diverted.all.iter().zip(diverted) {
        about.networks.extend(one.networks.iter().map(|network| (*network, told)));
    }
    if about.is_empty() {
        return errors;
    }
    for node in std::iter::once(&cluster.own).chain(cluster.others.values().map(AsRef::as_ref)) {
        if let Some(refused) = about.node(node) {
            errors.insert(node.name.clone(), format!("{}: {}", refused.object, refused.reason));
        }
    }
    errors
}

/// Refused objects, sorted by what tells which node they concern.
#[derive(Default)]
struct About<'a> {
    networks: BTreeMap<IpNetwork, &'a Refused>,
    addresses: BTreeMap<IpAddr, &'a Refused>,
    macs: BTreeMap<Mac, &'a Refused>,
    keys: BTreeMap<WgKey, &'a Refused>,
}

impl<'a> About<'a> {
    fn new(refused: &'a [Refused]) -> Self {
        let mut about = Self::default();
        for one in refused {
            match one.key {
                Key::Route(key) => drop(about.networks.insert(key.dst, one)),
                Key::Nexthop(_, gateway) => drop(about.addresses.insert(gateway, one)),
                Key::Neighbour(key) => drop(about.addresses.insert(key.address, one)),
                Key::Address(key) => drop(about.addresses.insert(key.prefix.ip(), one)),
                Key::Fdb(key) => drop(about.macs.insert(key.mac, one)),
                Key::Peer(key) => drop(about.keys.insert(key.key, one)),
                Key::Link(_) | Key::Device(_) | Key::StrangeNexthop(_) => {}
            }
        }
        about
    }

    fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.addresses.is_empty() && self.macs.is_empty() && self.keys.is_empty()
    }

    /// A refused object that concerns `node`. One of its tunnel or its address comes before one of a network, which may
    /// be a consequence.
    fn node(&self, node: &Node) -> Option<&'a Refused> {
        use ferrule_model::Family;
        let addresses = Family::BOTH.into_iter().flat_map(|family| [node.address(family), node.vtep(family)]);
        let mut addresses = addresses.flatten().filter_map(|address| self.addresses.get(&address));
        let mac = self.macs.get(&node.vtep_mac).or_else(|| self.keys.get(&node.wireguard_key?));
        let mut networks = node.pod_cidrs.iter().filter_map(|cidr| self.networks.get(cidr));
        mac.or_else(|| addresses.next()).or_else(|| networks.next()).copied()
    }
}

/// What was done since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Passes that read everything, and how long they took.
    pub full: Histogram,
    /// Passes over what changed.
    pub changes: Histogram,
    /// Passes that could not be made.
    pub failed: Counter,
    /// Objects put and deleted, by kind.
    pub objects: [[Counter; 2]; KINDS.len()],
    /// Objects put back that somebody else had deleted or changed, those of pods included.
    pub repaired: Counter,
    /// Callers of the socket that were refused, because they may not call.
    pub refused_callers: Counter,
}

/// What the worker shows.
#[derive(Debug, Default)]
pub struct Outlook {
    view: Mutex<View>,
    /// What was done.
    pub counts: Counts,
}

impl Outlook {
    /// How things stand.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a pass that was completed.
    pub fn passed(&self, view: View, report: &Report, (took, read): (Duration, bool)) {
        let Counts { full, changes, repaired, .. } = &self.counts;
        let times = if read { full } else { changes };
        times.observe(took);
        repaired.add(u64::try_from(report.repaired.len()).unwrap_or(u64::MAX));
        self.changed(&report.tally);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Notes a pass that could not be made.
    pub fn failed(&self, error: String) {
        self.counts.failed.increment();
        self.view.lock().unwrap_or_else(PoisonError::into_inner).last_error = Some(error);
    }

    fn changed(&self, tally: &Tally) {
        for (counters, (_, counts)) in self.counts.objects.iter().zip(tally.kinds()) {
            for (counter, count) in counters.iter().zip(counts) {
                counter.add(u64::try_from(count).unwrap_or(u64::MAX));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::kinds;

    #[test]
    fn the_kinds_are_told_in_the_order_in_which_they_are_counted() {
        let told = KINDS[1..].iter().map(|kind| format!("{kind:?}"));
        assert!(told.eq(kinds::Kind::ALL.iter().map(|kind| format!("{kind:?}"))));
    }
}
