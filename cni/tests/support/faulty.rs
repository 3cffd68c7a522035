//! A kernel that fails at a chosen request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ferrule_cni::Node;
use ferrule_model::{
    Address, AddressKey, BridgePort, BridgeSpec, Bucket, Element, Family, FdbEntry, FdbKey, IfIndex, IfName,
    Link, Mac, Neighbour, NeighbourKey, Nexthop, NexthopId, Op, PolicyRule, Route, RouteKey, VethSpec,
};
use ferrule_netlink::netns::NetnsError;
use ferrule_netlink::nft::{Change, Flow, Netfilter, NftError};
use ferrule_netlink::sysctl::SysctlError;
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Bridges, Error, Kernel, Place, Places, Refusal, Renamed, Routes};
use nix::errno::Errno;

use super::machine::Machine;

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The kernel says no and does nothing.
    Refused,
    /// The kernel does it and the answer is lost.
    Lost,
    /// The kernel says no to this and to everything after it.
    RefusedFromHere,
}

/// The fault to come, shared by all the kernels of a node: one op of a batch is one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Rc<RefCell<Option<(u64, Fault)>>>);

impl Faults {
    /// Lets `n` requests pass and fails the next.
    pub(crate) fn set(&self, n: u64, fault: Fault) {
        *self.0.borrow_mut() = Some((n, fault));
    }

    /// Takes back a fault that did not happen; whether there was one.
    pub(crate) fn take(&self) -> bool {
        self.0.borrow_mut().take().is_some()
    }

    /// Takes back a fault that did not happen, and tells how many requests it was still to let pass.
    pub(crate) fn left(&self) -> u64 {
        self.0.borrow_mut().take().map_or(0, |(left, _)| left)
    }

    fn next(&self) -> Option<Fault> {
        let mut pending = self.0.borrow_mut();
        match &mut *pending {
            Some((0, Fault::RefusedFromHere)) => Some(Fault::RefusedFromHere),
            Some((0, fault)) => {
                let fault = *fault;
                *pending = None;
                Some(fault)
            }
            Some((n, _)) => {
                *n -= 1;
                None
            }
            None => None,
        }
    }

    fn request<T>(&self, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        match self.next() {
            None => run(),
            Some(Fault::Refused | Fault::RefusedFromHere) => {
                Err(Error::Refused { request: "(injected)".into(), refusal: Errno::ENOMEM.into() })
            }
            Some(Fault::Lost) => {
                let _ = run();
                Err(lost())
            }
        }
    }
}

fn lost() -> Error {
    Error::Receive(io::Error::from(io::ErrorKind::WouldBlock))
}

pub(crate) struct FaultyNode<'a, M> {
    pub(crate) machine: &'a M,
    pub(crate) faults: Faults,
}

impl<M: Machine> Node for FaultyNode<'_, M> {
    type Netns = M::Netns;
    type Kernel = FaultyKernel<M::Kernel>;
    type Netfilter = FaultyNetfilter<M::Netfilter>;

    fn netns(&self, path: &Path) -> Result<M::Netns, NetnsError> {
        self.machine.netns(path)
    }

    fn is_own(&self, netns: &M::Netns) -> Result<bool, NetnsError> {
        Ok(self.machine.is_own(netns))
    }

    fn host(&self) -> Result<Self::Kernel, Error> {
        Ok(FaultyKernel { kernel: self.machine.host(), faults: self.faults.clone() })
    }

    fn inside(&self, netns: &M::Netns) -> Result<Self::Kernel, Error> {
        Ok(FaultyKernel { kernel: self.machine.kernel(netns), faults: self.faults.clone() })
    }

    fn enable_ipv6(
        &self,
        netns: Option<&M::Netns>,
        link: &IfName,
    ) -> Result<Result<(), SysctlError>, NetnsError> {
        self.machine.enable_ipv6(netns, link)
    }

    fn netfilter(&self) -> Result<Self::Netfilter, Error> {
        Ok(FaultyNetfilter { netfilter: self.machine.netfilter(), faults: self.faults.clone() })
    }

    fn without_dad(&self, link: &IfName) -> Result<(), SysctlError> {
        self.machine.without_dad(link)
    }

    fn listeners(&self, protocol: u8) -> Result<Vec<SocketAddr>, Error> {
        self.machine.listeners(protocol)
    }

    fn announce(&self, netns: &M::Netns, link: IfIndex, mac: Mac, addresses: &[IpAddr]) -> io::Result<()> {
        self.machine.announce(netns, link, mac, addresses)
    }

    fn forwards(&self, family: Family) -> bool {
        self.machine.forwards(family)
    }
}

pub(crate) struct FaultyNetfilter<F> {
    netfilter: F,
    faults: Faults,
}

impl<F: Netfilter> Netfilter for FaultyNetfilter<F> {
    fn change(&mut self, table: &str, changes: &[Change<'_>], generation: Option<u32>) -> Result<(), Error> {
        self.faults.request(|| self.netfilter.change(table, changes, generation))
    }

    fn elements(&mut self, table: &str, set: &'static str) -> Result<Vec<Element>, Error> {
        self.faults.request(|| self.netfilter.elements(table, set))
    }

    fn has_table(&mut self, table: &str) -> Result<bool, Error> {
        self.faults.request(|| self.netfilter.has_table(table))
    }

    fn generation(&mut self) -> Result<u32, Error> {
        self.faults.request(|| self.netfilter.generation())
    }

    fn load(&mut self, script: &str) -> Result<(), NftError> {
        match self.faults.request(|| Ok(self.netfilter.load(script))) {
            Ok(result) => result,
            Err(error) => Err(NftError::Refused(error.to_string())),
        }
    }

    fn forget_udp(
        &mut self,
        family: Family,
        port: Option<u16>,
        wanted: &dyn Fn(&Flow) -> bool,
    ) -> Result<usize, Error> {
        self.faults.request(|| self.netfilter.forget_udp(family, port, wanted))
    }
}

impl<K: Renamed> Renamed for FaultyKernel<K> {
    fn renamed(&mut self, made_as: &IfName) -> Result<Option<Link>, Error> {
        self.faults.request(|| self.kernel.renamed(made_as))
    }

    fn made_as(&mut self, now: &IfName) -> Result<Option<IfName>, Error> {
        self.faults.request(|| self.kernel.made_as(now))
    }
}

impl<K: Places> Places for FaultyKernel<K> {
    fn places(&mut self) -> Result<Vec<Place>, Error> {
        self.faults.request(|| self.kernel.places())
    }
}

impl<K: Kernel + Traffic> Traffic for FaultyKernel<K> {
    fn add_ifb(&mut self, name: &IfName, mtu: u32, alias: &str) -> Result<Link, Error> {
        self.faults.request(|| self.kernel.add_ifb(name, mtu, alias))
    }

    fn set_alias(&mut self, name: &IfName, alias: &str) -> Result<(), Error> {
        self.faults.request(|| self.kernel.set_alias(name, alias))
    }

    fn limit(&mut self, link: IfIndex, tbf: Bucket) -> Result<(), Error> {
        self.faults.request(|| self.kernel.limit(link, tbf))
    }

    fn redirect(&mut self, from: IfIndex, to: IfIndex) -> Result<(), Error> {
        self.faults.request(|| self.kernel.redirect(from, to))
    }

    fn unlimit(&mut self, link: IfIndex) -> Result<(), Error> {
        self.faults.request(|| self.kernel.unlimit(link))
    }
    fn keep(&mut self, from: IfIndex) -> Result<(), Error> {
        self.faults.request(|| self.kernel.keep(from))
    }
    fn limit_of(&mut self, link: IfIndex) -> Result<Option<Bucket>, Error> {
        self.faults.request(|| self.kernel.limit_of(link))
    }

    fn redirect_of(&mut self, link: IfIndex) -> Result<Option<IfIndex>, Error> {
        self.faults.request(|| self.kernel.redirect_of(link))
    }
}

pub(crate) struct FaultyKernel<K> {
    kernel: K,
    faults: Faults,
}

impl<K: Kernel> Kernel for FaultyKernel<K> {
    type Netns = K::Netns;

    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let faults: Vec<_> = ops.iter().map(|_| self.faults.next()).collect();
        let Some(place) = faults.iter().position(Option::is_some) else { return self.kernel.apply(ops) };
        if faults[place] == Some(Fault::Lost) {
            return self.kernel.apply(ops).and_then(|_| Err(lost()));
        }
        let mut results = Vec::new();
        for (op, fault) in ops.iter().zip(faults) {
            match fault {
                None => results.extend(self.kernel.apply(std::slice::from_ref(op))?),
                Some(_) => results.push(Err(Errno::ENOMEM.into())),
            }
        }
        Ok(results)
    }

    fn create_veth(&mut self, spec: &VethSpec, pod: &K::Netns) -> Result<Link, Error> {
        self.faults.request(|| self.kernel.create_veth(spec, pod))
    }

    fn delete_link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        self.faults.request(|| self.kernel.delete_link(name))
    }

    fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        self.faults.request(|| self.kernel.link(name))
    }

    fn route_match(&mut self, dst: IpAddr) -> Result<Option<(RouteKey, Route)>, Error> {
        self.faults.request(|| self.kernel.route_match(dst))
    }

    fn neighbour(&mut self, key: NeighbourKey) -> Result<Option<Neighbour>, Error> {
        self.faults.request(|| self.kernel.neighbour(key))
    }

    fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.faults.request(|| self.kernel.links())
    }

    fn addresses(&mut self, link: IfIndex) -> Result<BTreeMap<AddressKey, Address>, Error> {
        self.faults.request(|| self.kernel.addresses(link))
    }

    fn routes(&mut self, protocol: u8) -> Result<BTreeMap<RouteKey, Route>, Error> {
        self.faults.request(|| self.kernel.routes(protocol))
    }

    fn all_routes(
        &mut self,
        protocol: u8,
        known: &BTreeMap<RouteKey, Route>,
        matters: &dyn Fn(&RouteKey) -> bool,
    ) -> Result<Routes, Error> {
        self.faults.request(|| self.kernel.all_routes(protocol, known, matters))
    }

    fn rules(&mut self) -> Result<Vec<PolicyRule>, Error> {
        self.faults.request(|| self.kernel.rules())
    }

    fn nexthops(&mut self) -> Result<BTreeMap<NexthopId, Option<Nexthop>>, Error> {
        self.faults.request(|| self.kernel.nexthops())
    }

    fn nexthop(&mut self, id: NexthopId) -> Result<Option<Nexthop>, Error> {
        self.faults.request(|| self.kernel.nexthop(id))
    }

    fn fdb_entry(&mut self, key: FdbKey) -> Result<Option<FdbEntry>, Error> {
        self.faults.request(|| self.kernel.fdb_entry(key))
    }

    fn neighbours(&mut self, link: IfIndex) -> Result<BTreeMap<NeighbourKey, Neighbour>, Error> {
        self.faults.request(|| self.kernel.neighbours(link))
    }

    fn fdb(&mut self, link: IfIndex) -> Result<BTreeMap<FdbKey, FdbEntry>, Error> {
        self.faults.request(|| self.kernel.fdb(link))
    }
}

impl<K: Bridges> Bridges for FaultyKernel<K> {
    fn create_bridge(&mut self, spec: &BridgeSpec) -> Result<(), Error> {
        self.faults.request(|| self.kernel.create_bridge(spec))
    }

    fn set_port(&mut self, link: IfIndex, port: BridgePort) -> Result<(), Error> {
        self.faults.request(|| self.kernel.set_port(link, port))
    }

    fn port(&mut self, link: &IfName) -> Result<Option<BridgePort>, Error> {
        self.faults.request(|| self.kernel.port(link))
    }

    fn forwards(&mut self, link: &IfName, within: Duration) -> Result<bool, Error> {
        self.faults.request(|| self.kernel.forwards(link, within))
    }
}
