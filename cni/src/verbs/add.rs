//! ADD: a veth pair into the pod's namespace and addresses for it, or nothing at all.
//!
//! The plugin asks for addresses first and makes the pair while it waits for the answer. If any step fails, it deletes
//! the pair with everything that depends on it, and then releases the lease, unless the attachment had that lease
//! before.

use std::time::Duration;

use ferrule_model::{HostSide, IfName, Link, LinkChange, LinkKind, Op, Place, PodEnd, VethSpec, Way};
use ferrule_netlink::{Bridges, Kernel, Renamed};
use ferrule_wire::{ClientError, remove_record, write_record};
use nix::errno::Errno;

use crate::act::extras;
use crate::act::hostend;
use crate::act::node::Node;
use crate::act::reserved;
use crate::act::sandbox::sandbox;
use crate::ask::addresses::{self, AddressSource};
use crate::decide::bridge;
use crate::decide::extras::{as_made, host_ports, mark, without_mark};
use crate::decide::grant::Grant;
use crate::decide::pod::{self, Ends};
use crate::decide::shaping::limits;
use crate::edge::config::{Bridge, Mode};
use crate::edge::error::{Error, Failure, refused};
use crate::edge::request::Add;
use crate::edge::result::{AddResult, Dns};

/// How long to wait at most for a bridge to forward frames from a new port. A bridge needs a millisecond or two. If
/// somebody has switched on the spanning tree protocol, it needs half a minute.
const FORWARDING: Duration = Duration::from_millis(100);

/// Attaches the pod and tells the result. The result has to arrive: a runtime that was not told of a pod never detaches
/// it.
///
/// An attachment that is alive already gets the same lease and keeps its link. Parts of it that are missing are made
/// again. Returns what an operator should know about it, one line for each thing.
///
/// # Errors
/// The first failure, and the failures while the ADD was taken back.
pub fn add<N: Node>(
    node: &N,
    request: &Add,
    tell: impl FnOnce(AddResult) -> Result<(), Error>,
) -> Result<Vec<String>, Failure> {
    let netns = sandbox(node, &request.sandbox)?;
    let config = &request.config;
    reserved::check(&config.extras.ports, &config.runtime_dir)?;
    // The connection is made early, so that the daemon is awake and has accepted it by the time there is a question.
    let mut ipam = AddressSource::wait(config)?;
    let mut attempt = Attempt {
        node,
        request,
        spec: mark(
            &config.extras,
            pod::veth(&request.attachment, &request.ifname, request.pod.as_ref(), &request.wanted),
        ),
        host: node.host().map_err(Error::socket)?,
        inside: node.inside(&netns).map_err(Error::socket)?,
        netns,
        pair: Pair::NotMade,
        lease: Lease::None,
        warnings: Vec::new(),
    };
    let attached = attempt.attach(&mut ipam).and_then(|result| {
        tell(match &request.previous {
            Some(previous) => result.after(previous.clone()),
            None => result,
        })
    });
    match attached {
        Ok(()) => Ok(attempt.warnings),
        Err(error) => Err(Failure { error, clean_up: attempt.take_back(&mut ipam) }),
    }
}

/// What has become of the veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pair {
    /// This ADD has not made one. A pair that was there before is left alone.
    NotMade,
    /// This ADD made it.
    Made,
    /// The kernel did not answer.
    Unknown,
}

/// What has become of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// This ADD has none.
    None,
    /// It was asked for, and the answer has not come yet.
    Asked,
    /// This ADD got it.
    New,
    /// The attachment had it before.
    Old,
    /// The answer will not come.
    Unknown,
}

struct Attempt<'a, N: Node> {
    node: &'a N,
    request: &'a Add,
    spec: VethSpec,
    host: N::Kernel,
    inside: N::Kernel,
    netns: N::Netns,
    pair: Pair,
    lease: Lease,
    warnings: Vec<String>,
}

impl<N: Node> Attempt<'_, N> {
    fn attach(&mut self, ipam: &mut AddressSource<'_>) -> Result<AddResult, Error> {
        let Add { config, attachment, sandbox, .. } = self.request;
        let sandbox = &sandbox.path;
        self.lease = Lease::Unknown;
        ipam.ask(self.request)?;
        self.lease = Lease::Asked;
        let mut ends = self.pair()?;
        let grant = self.granted(ipam)?;
        if self.pair == Pair::NotMade && self.lease == Lease::New {
            // A link that outlived its lease may hold another's address by now.
            self.delete()?;
            ends = self.make_again()?;
        }
        let (mut plan, result) = match &config.mode {
            Mode::Routed => {
                (pod::plan(&ends, &self.spec, &grant), pod::result(&ends, &self.spec, &grant, sandbox))
            }
            Mode::Bridge(bridged) => {
                let bridge = self.bridge(bridged, &ends.host)?;
                let plan = bridge::plan(&ends, &self.spec, &bridge, &grant);
                (plan, bridge::result(&ends, &self.spec, &bridge, &grant, sandbox))
            }
        };
        plan.pod.push(pod::loopback());
        if self.pair == Pair::Made {
            plan.host.splice(0..0, without_mark(&self.spec, ends.host.index));
        }
        for (place, ops) in plan.batches() {
            self.apply(place, ops)?;
        }
        if let Mode::Bridge(_) = config.mode {
            self.announce(&ends, &grant)?;
        }
        let link = (&self.spec, &ends, self.pair == Pair::NotMade);
        let bridged = matches!(config.mode, Mode::Bridge(_));
        self.warnings =
            extras::put(&config.extras, self.node, &mut self.host, attachment, link, bridged, &grant)?;
        // The record is written last: everything that it names exists.
        write_record(&config.runtime_dir, &self.host_side(&ends, &grant, &result)?).map_err(Error::Record)?;
        Ok(result)
    }

    /// Tells the node and the other pods on the bridge who has the pod's addresses now. They may still know the
    /// addresses as another pod's, and would go on sending to that pod for seconds.
    fn announce(&mut self, ends: &Ends, grant: &Grant) -> Result<(), Error> {
        let forwards = self.host.forwards(&self.spec.host_name, FORWARDING);
        forwards.map_err(looking("whether the bridge forwards"))?;
        let addresses: Vec<_> = grant.hosts().map(|address| address.ip()).collect();
        // A neighbour that was not told finds out by itself within seconds. The pod is attached in any case.
        let _ = self.node.announce(&self.netns, ends.pod.index, self.spec.pod_mac, &addresses);
        Ok(())
    }

    /// The record of what was made on the host, for `routed`, which keeps it so.
    fn host_side(&self, ends: &Ends, grant: &Grant, result: &AddResult) -> Result<HostSide, Error> {
        let Add { config, attachment, pod, sandbox, .. } = self.request;
        let mac = self.spec.pod_mac;
        let addresses = grant.hosts().map(|address| address.ip()).collect();
        let way = match &config.mode {
            Mode::Routed => Way::Routed { pod_mac: mac, addresses },
            Mode::Bridge(config) => Way::Bridge {
                name: config.name.clone(),
                mac: result.interfaces.first().and_then(|bridge| bridge.mac.as_ref()?.parse().ok()),
                isolated: config.isolated,
                gateways: grant.addresses.iter().filter_map(bridge::on_the_bridge).collect(),
                pod: Some(PodEnd { mac, addresses }),
            },
        };
        let bridged = matches!(config.mode, Mode::Bridge(_));
        let mtu = grant.mtu.unwrap_or(ends.host.mtu);
        Ok(HostSide {
            attachment: attachment.clone(),
            pod: pod.as_ref().map_or_else(|| attachment.to_string(), ToString::to_string),
            netns: sandbox.path.clone(),
            mtu,
            way,
            ports: host_ports(&config.extras, attachment, grant, bridged)?,
            limits: limits(&config.extras.bandwidth, mtu),
        })
    }

    /// Puts the host's end on the bridge. The bridge is made if this is its first pod.
    fn bridge(&mut self, config: &Bridge, host: &Link) -> Result<Link, Error> {
        let failed = |source| Error::Kernel { doing: "put the veth pair on its bridge", source };
        let spec = bridge::spec(config);
        let mut found = self.host.link(&spec.name).map_err(failed)?;
        if found.is_none() {
            match self.host.create_bridge(&spec) {
                // Another pod's ADD was faster.
                Err(error) if error.errno() == Some(Errno::EEXIST) => {}
                made => {
                    made.map_err(failed)?;
                    // While the kernel checks that nobody else has the link-local address, it does not ask for a pod's
                    // MAC when it forwards for others (`ndisc_solicit`), and their packets are lost. An error is
                    // ignored, because a node may lack IPv6.
                    let _ = self.node.without_dad(&spec.name);
                }
            }
            found = self.host.link(&spec.name).map_err(failed)?;
        }
        let bridge = found.filter(|link| link.kind == LinkKind::Other("bridge".into()));
        let Some(bridge) = bridge else { return Err(Error::NoBridge(spec.name)) };
        if !bridge.up {
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            self.apply(Place::Host, &[Op::SetLink(bridge.index, up)])?;
        }
        self.host.set_port(host.index, bridge::port(&bridge, config.isolated)).map_err(failed)?;
        Ok(bridge)
    }

    /// The addresses that were given. What became of the lease is remembered, in case this ADD has to be taken back.
    /// The configuration's MTU and name service replace those of the answer.
    fn granted(&mut self, ipam: &mut AddressSource<'_>) -> Result<Grant, Error> {
        let Add { config, wanted, .. } = self.request;
        match ipam.answer() {
            Ok((mut grant, existing)) => {
                self.lease = if existing { Lease::Old } else { Lease::New };
                grant.mtu = config.mtu.or(grant.mtu);
                let said = wanted.dns.clone().unwrap_or_else(|| config.dns.clone());
                grant.dns = if said == Dns::default() { grant.dns } else { said };
                Ok(grant)
            }
            Err(error) => {
                // If the daemon itself answered with an error, it gave nothing.
                let answered = match &error {
                    Error::Ipam(error) => matches!(**error, ClientError::Call(_)),
                    Error::Lease(_) => true,
                    _ => false,
                };
                self.lease = if answered { Lease::None } else { Lease::Unknown };
                Err(error)
            }
        }
    }

    /// Makes the veth pair, or finds the one that serves this attachment already.
    fn pair(&mut self) -> Result<Ends, Error> {
        match self.make()? {
            Some(ends) => Ok(ends),
            None => self.taken(),
        }
    }

    /// Makes the pair. Returns `None` if one of the two names is taken.
    fn make(&mut self) -> Result<Option<Ends>, Error> {
        let host = match self.host.create_veth(&as_made(&self.spec), &self.netns) {
            Ok(host) => host,
            Err(error) if error.errno() == Some(Errno::EEXIST) => return Ok(None),
            Err(source) => {
                self.pair = if source.errno().is_some() { Pair::NotMade } else { Pair::Unknown };
                return Err(Error::Kernel { doing: "make the veth pair", source });
            }
        };
        self.pair = Pair::Made;
        match Ends::made(host, &self.spec) {
            Some(ends) => Ok(Some(ends)),
            None => Err(Error::Vanished(self.spec.pod_name.clone())),
        }
    }

    /// What the name of a link that is there already means.
    fn taken(&mut self) -> Result<Ends, Error> {
        let looked =
            self.host.link(&self.spec.host_name).map_err(looking("for the host's end of the veth pair"))?;
        let Some(host) = looked else {
            let renamed = self.host.renamed(&self.spec.host_name);
            if renamed.map_err(looking("for the host's end of the veth pair"))?.is_none() {
                return Err(Error::IfNameTaken(self.spec.pod_name.clone()));
            }
            // Somebody has given it another name, under which nobody finds it.
            self.delete()?;
            return self.make_again();
        };
        if host.kind != LinkKind::Veth {
            return Err(Error::HostNameTaken(self.spec.host_name.clone()));
        }
        let looked =
            self.inside.link(&self.spec.pod_name).map_err(looking("for the pod's end of the veth pair"))?;
        match looked {
            Some(pod) if pod::are_joined(&host, &pod) => Ok(Ends { host, pod }),
            // Its pod is gone, or has renamed it: it serves nobody.
            _ => {
                self.delete()?;
                self.make_again()
            }
        }
    }

    fn make_again(&mut self) -> Result<Ends, Error> {
        self.make()?.ok_or_else(|| Error::IfNameTaken(self.spec.pod_name.clone()))
    }

    fn delete(&mut self) -> Result<(), Error> {
        // Without the record, `routed` puts nothing of an earlier ADD back. A record that cannot be removed does no
        // harm: `routed` repairs only links that are there.
        let _ = remove_record(&self.request.config.runtime_dir, &self.request.attachment);
        hostend::delete(&mut self.host, &self.spec.host_name).map(drop)
    }

    fn apply(&mut self, place: Place, ops: &[Op]) -> Result<(), Error> {
        let refused = self.try_apply(place, ops)?;
        // How the kernel says that IPv6 is switched off on the link: `inet6_addr_add`, `fib6_nh_init`.
        let refused = if refused.iter().any(|(_, errno)| *errno == Errno::EACCES) {
            self.enable_ipv6(place)?;
            self.try_apply(place, ops)?
        } else {
            refused
        };
        if refused.is_empty() {
            return Ok(());
        }
        Err(Error::Refused { place, refused: refused.into_iter().map(|(text, _)| text).collect() })
    }

    /// Applies `ops` and gives those that were refused.
    fn try_apply(&mut self, place: Place, ops: &[Op]) -> Result<Vec<(String, Errno)>, Error> {
        let kernel = match place {
            Place::Host => &mut self.host,
            Place::Pod => &mut self.inside,
        };
        let results =
            kernel.apply(ops).map_err(|source| Error::Kernel { doing: "set up the veth pair", source })?;
        let answers = ops.iter().zip(results);
        Ok(answers
            .filter_map(|(op, result)| result.err().map(|why| (refused(op, &why), why.errno)))
            .collect())
    }

    /// Container runtimes switch IPv6 off in namespaces that they do not expect to have any.
    fn enable_ipv6(&self, place: Place) -> Result<(), Error> {
        let (netns, link): (_, &IfName) = match (place, &self.request.config.mode) {
            (Place::Host, Mode::Routed) => (None, &self.spec.host_name),
            (Place::Host, Mode::Bridge(bridge)) => (None, &bridge.name),
            (Place::Pod, _) => (Some(&self.netns), &self.spec.pod_name),
        };
        let enabled = self.node.enable_ipv6(netns, link).map_err(Error::Netns)?;
        enabled.map_err(|source| Error::Ipv6Disabled { place, link: link.clone(), source })
    }

    /// Restores the state before this ADD as far as possible. Returns what went wrong meanwhile.
    fn take_back(&mut self, ipam: &mut AddressSource<'_>) -> Vec<Error> {
        let mut errors = Vec::new();
        if self.lease == Lease::Asked {
            // Only the answer tells whose the lease is. An error here means that there is no lease to release.
            let _ = self.granted(ipam);
        }
        let delete = match self.pair {
            Pair::NotMade => false,
            Pair::Made => true,
            // A link that a living attachment uses is not ours to delete; without a lease there was no living
            // attachment.
            Pair::Unknown => self.lease == Lease::New,
        };
        if delete && let Err(error) = self.delete() {
            errors.push(error);
            // While a link may still hold the address, the address is not released. The DEL that follows does both.
            return errors;
        }
        if delete
            && !self.request.config.extras.is_none()
            && let Err(error) = extras::remove(self.node, &mut self.host, &self.request.attachment, None)
        {
            errors.push(error);
            // The same holds while a host port may lead to the address.
            return errors;
        }
        let release = match self.lease {
            Lease::None | Lease::Asked | Lease::Old => false,
            Lease::New => true,
            // If the pair could be made, there was no earlier living pair that needs the lease.
            Lease::Unknown => self.pair == Pair::Made,
        };
        if release && let Err(error) = addresses::release(&self.request.config, &self.request.attachment) {
            errors.push(error);
        }
        errors
    }
}

fn looking(doing: &'static str) -> impl FnOnce(ferrule_netlink::Error) -> Error {
    move |source| Error::Kernel { doing, source }
}
