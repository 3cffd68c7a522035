//! A pass: it works out which devices, routes and other ways to the nodes there should be, and carries out the
//! difference. [`crate::host`] keeps sysctls and packet filters, and [`crate::keep`] keeps the pods' links.
//!
//! A pass that reads ([`Applier::pass`]) compares everything. Three things start it: a change of this node, an event
//! that disagrees with what the last pass left ([`crate::decide::drift`]), and the clock. A change of other nodes
//! ([`Applier::update`]) reads nothing. It updates the goal, and walks over the affected objects and over those that
//! are not as they should be. All others are as they should be: the sets "observed" and "differing" make sure of that.

use std::collections::BTreeSet;
use std::time::Instant;

use ferrule_config::{Routing, Vxlan};
use ferrule_model::{Change, IfIndex, IpNetwork, Link, Op, RouteKey};
use ferrule_netlink::monitor::Event;
use ferrule_netlink::wake::NexthopEvent;
use ferrule_netlink::{Error, Tunnels};
use nix::errno::Errno;

use crate::decide::backoff::{Backoff, Which};
use crate::decide::desired::{self, Ground, Underlay, Ways};
use crate::decide::diverted::{Diverted, shadow};
use crate::decide::drift::{Belief, Concern, Devices, VxlanDevice};
use crate::decide::goal::Goal;
use crate::decide::nodes::{Cluster, Node, NodeChange};
use crate::decide::objects::{Keys, Links, Objects};
use crate::decide::owner::{self, ForeignDevice};
use crate::decide::reconcile::Pass;
use crate::decide::report::{self, Report};
use crate::decide::taken::Taken;
use crate::decide::wireguard::{self, Identity, Wg};
use crate::pass::device::{self, Device};
use crate::pass::observe;
use crate::pass::place::{Found, name_foreign, route_at};
use crate::pass::wireguard::{device as wireguard_device, epoch_s};
use crate::show::outlook::Standing;

mod devices;
mod ways;

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

/// Makes the passes.
#[derive(Debug)]
pub struct Applier<K> {
    kernel: K,
    routing: Routing,
    /// The networks that an operator has given to pods.
    given: Vec<IpNetwork>,
    /// This node's WireGuard identity. It is needed if there is to be a device.
    identity: Option<Identity>,
    backoff: Backoff,
    left: Option<Left>,
}

/// What the last pass left.
#[derive(Debug)]
struct Left {
    belief: Belief,
    goal: Goal,
    /// All objects that are not as they should be.
    differing: Keys,
    /// Whether something else is left to do, which only a pass that reads can do.
    unfinished: bool,
    /// Whether an event disagreed with the belief.
    doubted: bool,
    mtu: u32,
    underlay: String,
    /// What hinders packets, for reports until another pass reads.
    hindered: Option<String>,
    warnings: BTreeSet<String>,
    /// When everything was last looked at.
    looked: Instant,
}

/// The result of a walk.
struct Walked {
    observed: Objects,
    /// What is not as desired.
    differing: Keys,
    /// Routes of ours in whose place other routes stand.
    blocked: Vec<RouteKey>,
    /// Whether a number that was believed free is taken.
    taken: bool,
}

impl<K: Tunnels> Applier<K> {
    /// An applier that knows nothing yet of the kernel.
    pub fn new(kernel: K, routing: Routing) -> Self {
        Self { kernel, routing, given: Vec::new(), identity: None, backoff: Backoff::default(), left: None }
    }

    /// Tells the applier which networks an operator has given to pods.
    #[must_use]
    pub fn with_given(self, given: &[IpNetwork]) -> Self {
        Self { given: given.to_vec(), ..self }
    }

    /// Tells the applier what WireGuard needs.
    #[must_use]
    pub fn with_identity(self, identity: Option<Identity>) -> Self {
        Self { identity, ..self }
    }

    /// The kernel it works on.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// What it believes is in the kernel: what the last pass left, if that pass was completed.
    pub fn belief(&self) -> Option<&Belief> {
        self.left.as_ref().map(|left| &left.belief)
    }

    /// The state of things, if the last pass was completed.
    pub fn standing(&self) -> Option<Standing<'_>> {
        let Left { belief, goal, differing, looked, .. } = self.left.as_ref()?;
        Some(Standing { belief, goal, differing, backoff: &self.backoff, looked: *looked })
    }

    /// Takes in an event. Returns whether it makes a pass that reads due.
    pub fn hears(&mut self, event: &Event) -> bool {
        let concern = self.left.as_mut().map_or(Concern::Ground, |left| left.belief.hears(event));
        if concern == Concern::Ground {
            self.backoff.forget();
        }
        let differs = match concern {
            Concern::None => return false,
            Concern::Object => self.is_doubted() || !self.agrees(event).unwrap_or(false),
            Concern::Way | Concern::Ground => true,
        };
        self.doubt(differs)
    }

    /// The same for an event of a nexthop object.
    pub fn hears_nexthop(&mut self, event: &NexthopEvent) -> bool {
        let Some(left) = &mut self.left else { return true };
        if event.change == Change::Put {
            left.goal.has_foreign(event.id);
        }
        if left.belief.hears_nexthop(event) == Concern::None {
            return false;
        }
        let known = left.belief.ours.nexthops.get(&event.id).copied();
        let differs = left.doubted || !self.kernel.nexthop(event.id).is_ok_and(|found| found == known);
        self.doubt(differs)
    }

    fn is_doubted(&self) -> bool {
        self.left.as_ref().is_none_or(|left| left.doubted)
    }

    /// Notes whether something differs. Once something does, no event is looked into until the next pass that reads.
    fn doubt(&mut self, differs: bool) -> bool {
        if let Some(left) = &mut self.left {
            left.doubted |= differs;
        }
        differs
    }

    /// Whether the kernel has the object of an event as we believe, whatever the event says. An event from before our
    /// own last change of the object is out of date.
    fn agrees(&mut self, event: &Event) -> Result<bool, Error> {
        let Some(left) = &self.left else { return Ok(false) };
        let ours = &left.belief.ours;
        Ok(match event {
            Event::Route(_, key, _) => {
                let known = ours.routes.get(key).copied();
                match route_at(&mut self.kernel, key)? {
                    Found::Route(route) => known == Some(route),
                    Found::None => known.is_none(),
                    Found::Hidden => false,
                }
            }
            Event::Neighbour(_, key, _) => {
                let found = self.kernel.neighbour(*key)?.filter(|neighbour| neighbour.permanent);
                found == ours.neighbours.get(key).copied()
            }
            Event::Fdb(_, key, _) => self.kernel.fdb_entry(*key)? == ours.fdb.get(key).copied(),
            Event::Link(..) | Event::Port(..) | Event::Address(..) | Event::OddRoute(..) | Event::Overrun => {
                false
            }
        })
    }

    /// Forgets the last goal, because this node itself has changed. What was refused may be tried again at once.
    pub fn start_over(&mut self) {
        self.backoff.forget();
        self.doubt(true);
    }

    /// When something that was refused is tried again.
    pub fn next_due(&self) -> Option<Instant> {
        self.backoff.next_due()
    }

    /// A pass towards the same `cluster` as the last pass. It ends early if all that it reads is as the last pass left
    /// it and nothing was left to do. Then it does not work out again what there should be.
    ///
    /// # Errors
    /// As [`Applier::pass`].
    pub fn check(&mut self, cluster: &Cluster, now: Instant) -> Result<Report, PassError> {
        match self.as_left(cluster, now)? {
            Some(report) => Ok(report),
            None => self.pass(cluster, now),
        }
    }

    /// Reads everything. Returns a report if all is as the last pass left it and as it should be.
    fn as_left(&mut self, cluster: &Cluster, now: Instant) -> Result<Option<Report>, PassError> {
        let Some(left) = self.left.as_mut().filter(|left| left.is_done()) else { return Ok(None) };
        let (belief, ground) = (&mut left.belief, left.goal.ground());
        let devices: Vec<_> = belief.devices.vxlans().collect();
        let (settings, kernel) = (&self.routing.vxlan, &mut self.kernel);
        let known = left.goal.objects();
        let of = (&devices[..], belief.devices.wireguard, owner::are_flannels(settings));
        let mut seen = ways::observed(kernel, of, known, &known.routes, shadow::leads)?;
        let peers = std::mem::take(&mut seen.peers);
        seen.ours.peers = wireguard::settled(peers, Some(&belief.ours.peers), epoch_s());
        let (own, links) = (&ground.own, &seen.links);
        let (underlay, taken) = observe::underlay(kernel, cluster, (&self.routing, &self.given), links)?;
        let ways = observe::next_hops(kernel, ground.follows(), &cluster.all_others(), links)?;
        if (&underlay, &taken, &ways) != (&ground.underlay, &ground.taken, &ground.ways) || !seen.is(known) {
            return Ok(None);
        }
        let Devices { vxlan, vxlan6, .. } = &belief.devices;
        let first = device::Wish { spec: vxlan.spec.as_ref(), settings, mac: own.vtep_mac };
        let mut are_right = device::is_right(kernel, first, links, vxlan.index)?;
        if let (Some(settings), Some(second)) = (second_settings(settings), vxlan6) {
            let wanted = device::Wish { spec: second.spec.as_ref(), settings: &settings, mac: own.vtep_mac6 };
            are_right &= device::is_right(kernel, wanted, links, second.index)?;
        }
        let spec = wireguard::spec(&self.routing, own, &underlay);
        let keys = self.identity.as_ref().map(|identity| wireguard::settings(&self.routing, identity));
        let name = &self.routing.wireguard.device;
        let wish = wireguard_device::Wish { spec: spec.as_ref(), settings: keys.as_ref(), name };
        are_right &= wireguard_device::is_right(kernel, &wish, links, belief.devices.wireguard)?;
        if !are_right {
            return Ok(None);
        }
        let (others, at) = ((&seen.foreign[..], seen.rules), (&seen.links, &self.given[..]));
        belief.diverted = ways::diverted(others, &left.goal, &belief.ours.routes, at);
        belief.links = seen.links;
        left.looked = now;
        let mut report = Report { mtu: left.mtu, underlay: left.underlay.clone(), ..Report::default() };
        left.tell(&mut report);
        Ok(Some(report))
    }

    /// One pass towards `cluster` that reads everything.
    ///
    /// # Errors
    /// See [`PassError`]. An object that the kernel refuses is no error: it is in the report, and the others go on.
    pub fn pass(&mut self, cluster: &Cluster, now: Instant) -> Result<Report, PassError> {
        // Until this pass has ended, nothing is known for certain.
        let before = self.left.take().map(|left| left.belief);
        let links = observe::links(&mut self.kernel)?;
        let settings = &self.routing.vxlan.clone();
        let own = &cluster.own;
        let (underlay, taken) =
            observe::underlay(&mut self.kernel, cluster, (&self.routing, &self.given), &links)?;
        let mut report = self.begin(own, &underlay, &links)?;
        let mtu = report.mtu;
        let spec = desired::device(&self.routing, own, &underlay);
        let wanted = device::Wish { spec: spec.as_ref(), settings, mac: own.vtep_mac };
        let had = before.as_ref().map(|belief| &belief.devices.vxlan);
        let device = device::keep(&mut self.kernel, wanted, &links, had, &mut report);
        let is_usable = |link: &Link| device::is_usable(spec.as_ref(), link);
        let device = self.spare(device, Which::Vxlan, is_usable, now, &mut report)?;
        let second = self.second(own, &underlay, (&links, before.as_ref()), now, &mut report)?;
        let wireguard = self.keep_wireguard(Some((own, &underlay)), &links, before.as_ref(), &mut report);
        let wireguard = self.spare(wireguard, Which::Wireguard, |_| false, now, &mut report)?;
        let devices: Vec<_> =
            device.index.into_iter().chain(second.as_ref().and_then(|(second, _)| second.index)).collect();
        let device6 = second.as_ref().map(|(_, belief)| belief.index);
        let ways = self.ways(cluster, &underlay, &links)?;
        let ground =
            Ground { device6, taken, ways, ..self.ground((own, mtu), &underlay, (&device, &wireguard)) };
        let (kept, wg) = (ground.device, ground.wireguard.as_ref().map(|wg| wg.link));
        let (mut seen, goal) = self.see(cluster, ground, (&devices, wireguard.index))?;
        let fresh =
            device.fresh || wireguard.fresh || second.as_ref().is_some_and(|(second, _)| second.fresh);
        let mut known = before.filter(|_| !fresh).map(|belief| belief.ours);
        ways::yield_to_others(&mut seen, known.as_mut(), goal.objects());
        seen.ours.peers = wireguard::settled(seen.peers, known.as_ref().map(|known| &known.peers), epoch_s());
        let others = (seen.foreign, seen.rules);
        let mut walked =
            self.walk(goal.objects(), seen.ours, (known.as_ref(), &seen.links), now, &mut report)?;
        drop(known);
        let at = (&seen.links, &self.given[..]);
        let diverted = ways::diverted((&others.0, others.1), &goal, &walked.observed.routes, at);
        let devices = Devices {
            vxlan: VxlanDevice { index: kept, spec, name: self.routing.vxlan.device.clone() },
            vxlan6: second.as_ref().map(|(_, belief)| belief.clone()),
            wireguard: wg,
            wireguard_name: self.routing.wireguard.device.clone(),
        };
        let mut left = Left {
            differing: std::mem::take(&mut walked.differing),
            unfinished: walked.taken,
            doubted: false,
            belief: self.belief_of(cluster, devices, seen.links, &underlay, (walked, diverted)),
            goal,
            mtu,
            underlay: report.underlay.clone(),
            hindered: report.hindered.clone(),
            warnings: report.warnings.clone(),
            looked: now,
        };
        let all = [Some(device), second.map(|(second, _)| second), Some(wireguard)];
        let refused = all.iter().flatten().any(|device| device.refused);
        let leaving = |device: Device| device.index.filter(|_| device.leaves && !refused);
        for index in all.into_iter().flatten().filter_map(leaving) {
            left.unfinished |= !self.remove(index, &left.belief, &mut report)?;
        }
        left.unfinished |= refused || !device.whole;
        left.tell(&mut report);
        self.left = Some(left);
        Ok(report)
    }

    /// What is told about the underlay alone.
    fn begin(&self, own: &Node, underlay: &Underlay, links: &Links) -> Result<Report, PassError> {
        let mtu = desired::pod_mtu(&self.routing, own, underlay).ok_or_else(|| no_underlay(own))?;
        Ok(Report {
            mtu,
            underlay: describe(underlay, links),
            hindered: desired::without_any_family(own, mtu),
            warnings: desired::mtu_warnings(&self.routing, own, underlay).into_iter().collect(),
            ..Report::default()
        })
    }

    fn ground(
        &self,
        (own, mtu): (&Node, u32),
        underlay: &Underlay,
        (device, wireguard): (&Device, &Device),
    ) -> Ground {
        let stays = |device: &Device| device.index.filter(|_| !device.leaves);
        let settings = &self.routing.wireguard;
        let wg = |(link, identity): (IfIndex, &Identity)| Wg {
            link,
            key: identity.key,
            port: settings.port,
            keepalive_s: settings.keepalive_s,
        };
        Ground {
            backend: self.routing.backend,
            own: own.clone(),
            underlay: *underlay,
            mtu,
            device: stays(device),
            device6: None,
            taken: Taken::default(),
            ways: Ways::default(),
            wireguard: stays(wireguard).zip(self.identity.as_ref()).map(wg),
        }
    }

    fn belief_of(
        &self,
        cluster: &Cluster,
        devices: Devices,
        links: Links,
        underlay: &Underlay,
        (walked, diverted): (Walked, Diverted),
    ) -> Belief {
        let mut belief = Belief {
            links,
            devices,
            uplinks: underlay.all().map(|uplink| uplink.link).collect(),
            own: cluster.own.clone(),
            ours: walked.observed,
            blocked: walked.blocked,
            diverted,
            followed: BTreeSet::new(),
        };
        belief.follow(desired::following(self.routing.backend, underlay), &cluster.all_others());
        belief
    }

    /// Removes a device that is no longer wanted. Returns `false` if a refusal has kept something on it, which the
    /// kernel would delete with the device.
    fn remove(&mut self, index: IfIndex, belief: &Belief, report: &mut Report) -> Result<bool, PassError> {
        let ours = &belief.ours;
        if ours.nexthops.values().any(|nexthop| nexthop.link == index)
            || ours.routes.values().any(|route| route.link() == Some(index))
        {
            return Ok(false);
        }
        device::carry_out(&mut self.kernel, &Op::DeleteLink(index), &belief.links, report)?;
        Ok(true)
    }

    /// One pass towards `cluster`, which differs from the last pass's cluster by `changes` of other nodes. It tries
    /// again what was refused and is due. Its cost depends on the changes alone, and it reads nothing.
    ///
    /// # Errors
    /// As [`Applier::pass`]. It becomes such a pass if it is not known what is in the kernel, or if nodes claim the
    /// same.
    pub fn update(
        &mut self,
        cluster: &Cluster,
        changes: &[NodeChange],
        now: Instant,
    ) -> Result<Report, PassError> {
        let Some(mut left) = self.left.take().filter(|left| !left.unfinished) else {
            return self.pass(cluster, now);
        };
        self.learn_ways(&mut left, changes)?;
        let Some(touched) = left.goal.change(changes, &left.belief.ours) else {
            self.left = Some(left);
            return self.pass(cluster, now);
        };
        self.backoff.forget_these(&touched, [left.goal.objects(), &left.belief.ours]);
        left.differing.extend(touched);
        let desired = left.goal.objects().only(&left.differing);
        let mut observed = left.belief.ours.only(&left.differing);
        ways::yield_to(&left.belief.diverted.routes, &mut observed, &desired);
        let mut report = Report { mtu: left.mtu, underlay: left.underlay.clone(), ..Report::default() };
        let walked = self.walk(&desired, observed, (None, &left.belief.links), now, &mut report)?;
        let differing = walked.differing;
        left.belief.ours.replace(&left.differing, walked.observed);
        left.belief.blocked.retain(|key| differing.routes.contains(key));
        left.belief.blocked.extend(walked.blocked);
        left.belief.diverted.keep(&left.belief.ours.routes);
        left.differing = differing;
        left.unfinished = walked.taken;
        left.tell(&mut report);
        self.left = Some(left);
        Ok(report)
    }

    /// The next hops to the other nodes, if plain routes have to follow them.
    fn ways(&mut self, cluster: &Cluster, underlay: &Underlay, links: &Links) -> Result<Ways, Error> {
        let families = desired::following(self.routing.backend, underlay);
        observe::next_hops(&mut self.kernel, families, &cluster.all_others(), links)
    }

    /// The same for nodes that came or changed. It is the one thing about them that is read.
    fn learn_ways(&mut self, left: &mut Left, changes: &[NodeChange]) -> Result<(), Error> {
        let nodes = changes.iter().filter_map(|change| change.after.as_deref());
        let families = left.goal.ground().follows();
        let ways = observe::next_hops(&mut self.kernel, families, &nodes, &left.belief.links)?;
        left.belief.follow(left.goal.ground().follows(), &nodes);
        left.goal.learn(ways);
        Ok(())
    }

    /// Walks from `observed` to `desired`; `known` is what the last pass left.
    fn walk(
        &mut self,
        desired: &Objects,
        observed: Objects,
        (known, links): (Option<&Objects>, &Links),
        now: Instant,
        report: &mut Report,
    ) -> Result<Walked, PassError> {
        let (mut blocked, mut taken) = (Vec::new(), false);
        let mut pass = Pass::new(desired, observed, known, &mut self.backoff, now);
        while let Some(ops) = pass.next_batch() {
            let mut answers = self.kernel.apply(&ops)?;
            for (op, answer) in ops.iter().zip(&mut answers) {
                match (op, answer) {
                    (Op::AddRoute(key, _), Err(refusal)) if refusal.errno == Errno::EEXIST => {
                        blocked.push(*key);
                        name_foreign(&mut self.kernel, key, refusal)?;
                    }
                    (Op::AddNexthop(..), Err(refusal)) => taken |= refusal.errno == Errno::EEXIST,
                    (op, Ok(())) => {
                        report.tally.count(op);
                        let repair =
                            known.and_then(|known| report::repair(op, known, pass.observed(), links));
                        report.repaired.extend(repair);
                    }
                    (_, Err(_)) => {}
                }
            }
            for (op, refusal) in pass.answered(ops, answers) {
                report.refused.insert(report::refusal(&op, &refusal, pass.observed(), links));
                let object = report::object(&op, pass.observed(), links);
                pass.explain(&op, object, report::reason(&op, &refusal));
            }
        }
        let (observed, differing) = pass.finish();
        self.backoff.walked(now);
        Ok(Walked { observed, differing, blocked, taken })
    }
}

impl Left {
    /// Whether everything was as it should be, and no event since then says otherwise.
    fn is_done(&self) -> bool {
        self.differing.is_empty() && !self.unfinished && !self.doubted
    }

    fn tell(&self, report: &mut Report) {
        report.pending = self.differing.len() + usize::from(self.unfinished);
        report.objects = self.goal.objects().len().saturating_sub(report.pending);
        report.skipped = self.goal.skipped().cloned().collect();
        report.hindered.clone_from(&self.hindered);
        report.warnings.clone_from(&self.warnings);
        report.warnings.extend(self.belief.diverted.lines());
    }
}

/// The settings, with the name of the second device instead of that of the first.
fn second_settings(settings: &Vxlan) -> Option<Vxlan> {
    Some(Vxlan { device: settings.device6.clone()?, device6: None, ..settings.clone() })
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
