//! The one place where the kernel's state is changed: a pass reads what is there, works out what there should be, and
//! carries out the difference.
//!
//! A pass reads everything. It is started by a change of the nodes, by an event that disagrees with what the last pass
//! left ([`crate::drift`]), by an object that is due again after a refusal, and by the clock.

use std::collections::BTreeMap;
use std::time::Instant;

use ferrule_config::Routing;
use ferrule_model::{IfIndex, IpNetwork, Mac, Op, PROTOCOL, RouteKey, VxlanSpec};
use ferrule_netlink::{Error, Kernel, Refusal};
use nix::errno::Errno;

use crate::backoff::Backoff;
use crate::desired::{self, Underlay};
use crate::drift::{Belief, Concern};
use crate::nexthops;
use crate::nodes::{Cluster, Node};
use crate::observe::{self, Links, Seen};
use crate::owner::{self, DeviceStep, ForeignDevice};
use crate::reconcile::{Objects, Pass};
use crate::report::{self, Report};
use ferrule_netlink::wake::NexthopEvent;

/// Why a pass could not be made. What is in the kernel stays as it is, and the next pass looks afresh.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The kernel cannot be read or written.
    #[error(transparent)]
    Kernel(#[from] Error),
    /// No link has an address of this node.
    #[error(
        "no link has this node's address {addresses}; put it on the link to the other nodes, or correct the nodes file"
    )]
    NoUnderlay {
        /// The addresses of this node, as the nodes file has them.
        addresses: String,
    },
    /// The device's name is taken.
    #[error(transparent)]
    Foreign(#[from] ForeignDevice),
    /// The kernel refused the device.
    #[error("{0}")]
    Device(String),
}

/// Our VXLAN device, as far as a pass has come to it.
struct Device {
    index: Option<IfIndex>,
    /// It was made in this pass: what hung on it before is gone with it.
    fresh: bool,
    /// To be removed at the end: the routes over it are replaced first.
    leaves: bool,
}

/// Makes the passes.
#[derive(Debug)]
pub struct Applier<K> {
    kernel: K,
    routing: Routing,
    backoff: Backoff,
    belief: Option<Belief>,
}

impl<K: Kernel> Applier<K> {
    /// An applier that knows nothing yet of the kernel.
    pub fn new(kernel: K, routing: Routing) -> Self {
        Self { kernel, routing, backoff: Backoff::default(), belief: None }
    }

    /// The kernel it works on.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// What it believes is in the kernel: what the last pass left, if that came to its end.
    pub fn belief(&self) -> Option<&Belief> {
        self.belief.as_ref()
    }

    /// Whether a pass is due because of an event.
    pub fn hears(&mut self, event: &ferrule_netlink::monitor::Event) -> bool {
        let concern = self.belief.as_mut().map_or(Concern::Ground, |belief| belief.hears(event));
        if concern == Concern::Ground {
            self.backoff.forget();
        }
        concern != Concern::None
    }

    /// Whether a pass is due because of an event of a nexthop object.
    pub fn hears_nexthop(&self, event: &NexthopEvent) -> bool {
        self.belief.as_ref().is_none_or(|belief| belief.hears_nexthop(event) != Concern::None)
    }

    /// What was refused may be tried again at once.
    pub fn forget_refusals(&mut self) {
        self.backoff.forget();
    }

    /// When something that was refused is to be tried again.
    pub fn next_due(&self) -> Option<Instant> {
        self.backoff.next_due()
    }

    /// One pass towards `cluster`.
    ///
    /// # Errors
    /// See [`PassError`]. An object that the kernel refuses is no error: it is in the report, and the others go on.
    pub fn pass(&mut self, cluster: &Cluster, now: Instant) -> Result<Report, PassError> {
        // Until this pass is through, nobody knows.
        let before = self.belief.take();
        let links = observe::links(&mut self.kernel)?;
        let device_name = self.routing.vxlan.device.clone();
        let underlay = observe::underlay(&mut self.kernel, &cluster.own, &device_name, &links)?;
        let mtu = desired::pod_mtu(&self.routing, &cluster.own, &underlay)
            .ok_or_else(|| no_underlay(&cluster.own))?;
        let mut report = Report { mtu, underlay: describe(&underlay, &links), ..Report::default() };

        let spec = desired::device(&self.routing, &cluster.own, &underlay);
        let device = self.device(spec.as_ref(), cluster, &links, before.as_ref(), &mut report)?;
        let seen = observe::ours(&mut self.kernel, device.index)?;
        let backend = self.routing.backend;
        let wanted = desired::objects(backend, cluster, &underlay, device.index.filter(|_| !device.leaves));
        report.skipped = wanted.skipped.iter().cloned().collect();
        let desired = nexthops::number(&wanted, &seen.nexthops);
        let known = before.as_ref().filter(|_| !device.fresh).map(|belief| &belief.ours);
        let (ours, blocked) = self.walk(&desired, &seen, known, now, &mut report)?;
        report.pending = ours.distance(&desired);
        if let Some(index) = device.index.filter(|_| device.leaves) {
            // The kernel would delete with it what a refusal has kept on it.
            if ours.nexthops.values().any(|nexthop| nexthop.link == index) {
                report.pending += 1;
            } else {
                self.link_op(&Op::DeleteLink(index), &seen.links, &mut report)?;
            }
        }
        report.objects = desired.len().saturating_sub(report.pending);
        self.belief = Some(Belief {
            links: seen.links,
            device: device.index.filter(|_| !device.leaves),
            spec,
            device_name,
            uplinks: underlay.all().map(|uplink| uplink.link).collect(),
            own: cluster.own.clone(),
            ours,
            blocked,
        });
        Ok(report)
    }

    /// Removes all that is ours: routes (but not those to pods), nexthop objects, and the device with all on it.
    ///
    /// # Errors
    /// The kernel cannot be read or written. What it refused is in the report.
    pub fn clean(&mut self, own_mac: Mac, now: Instant) -> Result<Report, PassError> {
        self.belief = None;
        self.backoff.forget();
        let mut report = Report::default();
        let settings = &self.routing.vxlan;
        let found = self.kernel.link(&settings.device)?;
        let step = owner::device_step(None, found.as_ref(), settings, own_mac)?;
        let device = if let DeviceStep::Remove(index) = step { Some(index) } else { None };
        let seen = observe::ours(&mut self.kernel, device)?;
        let nothing = Objects::default();
        let (left, _) = self.walk(&nothing, &seen, None, now, &mut report)?;
        report.pending = left.len();
        if let Some(index) = device {
            self.link_op(&Op::DeleteLink(index), &seen.links, &mut report)?;
        }
        Ok(report)
    }

    /// Brings the device to what it should be, except that one that is not wanted any more stays until the end.
    fn device(
        &mut self,
        spec: Option<&VxlanSpec>,
        cluster: &Cluster,
        links: &Links,
        before: Option<&Belief>,
        report: &mut Report,
    ) -> Result<Device, PassError> {
        let name = self.routing.vxlan.device.clone();
        let found = links.values().find(|link| link.name == name);
        let step = owner::device_step(spec, found, &self.routing.vxlan, cluster.own.vtep_mac)?;
        let had = before.and_then(|belief| belief.device);
        match (step, spec) {
            (DeviceStep::Keep(index), _) => Ok(Device { index: Some(index), fresh: false, leaves: false }),
            (DeviceStep::Remove(index), _) => Ok(Device { index: Some(index), fresh: false, leaves: true }),
            (DeviceStep::Change(index, change), _) => {
                if had == Some(index) && before.and_then(|belief| belief.spec.as_ref()) == spec {
                    report.repaired.push(report::device_repair(name.as_str(), &change));
                }
                let fresh = change.up.is_some();
                self.link_op(&Op::SetLink(index, change), links, report)?;
                Ok(Device { index: Some(index), fresh, leaves: false })
            }
            (DeviceStep::Recreate(index), Some(spec)) => {
                self.link_op(&Op::DeleteLink(index), links, report)?;
                self.create(spec, links, report)
            }
            (DeviceStep::Create, Some(spec)) => {
                if had.is_some() {
                    report.repaired.push(format!("link {name} was deleted by someone else; made again"));
                }
                self.create(spec, links, report)
            }
            (DeviceStep::Nothing | DeviceStep::Create | DeviceStep::Recreate(_), _) => {
                Ok(Device { index: None, fresh: false, leaves: false })
            }
        }
    }

    fn create(&mut self, spec: &VxlanSpec, links: &Links, report: &mut Report) -> Result<Device, PassError> {
        self.link_op(&Op::AddVxlan(spec.clone()), links, report)?;
        let made = self.kernel.link(&spec.name)?;
        let gone = || PassError::Device(format!("the link {} was deleted as soon as it was made", spec.name));
        Ok(Device { index: Some(made.ok_or_else(gone)?.index), fresh: true, leaves: false })
    }

    fn link_op(&mut self, op: &Op, links: &Links, report: &mut Report) -> Result<(), PassError> {
        let answer = self.kernel.apply(std::slice::from_ref(op))?.pop();
        match answer {
            Some(Err(refusal)) if !(matches!(op, Op::DeleteLink(_)) && refusal.errno == Errno::ENODEV) => {
                Err(PassError::Device(report::refusal(op, &refusal, &Objects::default(), links)))
            }
            _ => {
                report.tally.count(op);
                Ok(())
            }
        }
    }

    /// Walks from what was seen to `desired`; `known` is what the last pass left. Gives what is there then, and the
    /// routes in whose place others stand.
    fn walk(
        &mut self,
        desired: &Objects,
        seen: &Seen,
        known: Option<&Objects>,
        now: Instant,
        report: &mut Report,
    ) -> Result<(Objects, Vec<RouteKey>), PassError> {
        let mut blocked = Vec::new();
        let mut pass = Pass::new(desired, seen.ours.clone(), &mut self.backoff, now);
        while let Some(ops) = pass.next_batch() {
            let answers = answer(&mut self.kernel, &ops, &seen.ours, known)?;
            let (done, refused) = pass.answered(ops, answers);
            for op in &done {
                report.tally.count(op);
                report.repaired.extend(known.and_then(|b| report::repair(op, b, &seen.ours, &seen.links)));
            }
            for (op, refusal) in &refused {
                report.refused.insert(report::refusal(op, refusal, &seen.ours, &seen.links));
                if let (Op::PutRoute(key, _), Errno::EEXIST) = (op, refusal.errno) {
                    blocked.push(*key);
                }
            }
        }
        Ok((pass.finish(), blocked))
    }
}

/// What the kernel says to each op. A new route in whose place another program's stands is not even asked for: the
/// kernel would replace that one.
fn answer<K: Kernel>(
    kernel: &mut K,
    ops: &[Op],
    found: &Objects,
    known: Option<&Objects>,
) -> Result<Vec<Result<(), Refusal>>, PassError> {
    let mut taken = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        let Op::PutRoute(key, _) = op else { continue };
        let is_new =
            !found.routes.contains_key(key) && !known.is_some_and(|objects| objects.routes.contains_key(key));
        if is_new && let Some(protocol) = foreign_route(kernel, key)? {
            let reason = Some(format!("a route of protocol {protocol} has the same destination and metric"));
            taken.insert(at, Refusal { errno: Errno::EEXIST, reason });
        }
    }
    if taken.is_empty() {
        return Ok(kernel.apply(ops)?);
    }
    let free = ops.iter().enumerate().filter(|(at, _)| !taken.contains_key(at)).map(|(_, op)| op.clone());
    let mut answers = kernel.apply(&free.collect::<Vec<_>>())?.into_iter();
    let each = (0..ops.len()).map(|at| match taken.remove(&at) {
        Some(refusal) => Err(refusal),
        None => answers.next().unwrap_or(Err(Refusal::from(Errno::EIO))),
    });
    Ok(each.collect())
}

/// The protocol of another program's route with this very key.
fn foreign_route<K: Kernel>(kernel: &mut K, key: &RouteKey) -> Result<Option<u8>, Error> {
    // The last address of a prefix is the least likely to have a more specific route of its own.
    let last = match key.dst {
        IpNetwork::V4(prefix) => prefix.broadcast().into(),
        IpNetwork::V6(prefix) => prefix.broadcast().into(),
    };
    let found = kernel.route_match(last)?;
    Ok(found
        .filter(|(found, route)| found == key && route.protocol != PROTOCOL)
        .map(|(_, route)| route.protocol))
}

fn no_underlay(own: &Node) -> PassError {
    let addresses = ferrule_model::Family::BOTH.iter().filter_map(|family| own.address(*family));
    let addresses = addresses.map(|address| address.to_string()).collect::<Vec<_>>().join(", ");
    PassError::NoUnderlay { addresses }
}

/// The underlay for a person, as in `192.0.2.1 on eth0`.
fn describe(underlay: &Underlay, links: &Links) -> String {
    let names = underlay.all().map(|uplink| match links.get(&uplink.link) {
        Some(link) => format!("{} on {}", uplink.address, link.name),
        None => uplink.address.to_string(),
    });
    names.collect::<Vec<_>>().join(", ")
}
