//! The same node twice: with the fake kernel, and with the real one in scratch namespaces.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use ferrule_cni::{Node, RealNode};
use ferrule_model::{
    Address, AddressKey, Family, IfIndex, IfName, Link, Mac, Neighbour, NeighbourKey, PROTOCOL, Route,
    RouteKey,
};
use ferrule_netlink::fake::{FakeKernel, FakeNetns, FakeWorld};
use ferrule_netlink::netns::{self, Netns, NetnsError};
use ferrule_netlink::nft::{FakeNetfilter, Netfilter, NetfilterSocket};
use ferrule_netlink::sysctl::{self, SysctlError};
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Bridges, Kernel, Netlink, Places, Renamed};

/// A node with pods, of which each has a name.
pub(crate) trait Machine {
    type Netns;
    type Kernel: Bridges<Netns = Self::Netns> + Places + Renamed + Traffic;
    type Netfilter: Netfilter;

    /// Runs `test` on a new machine, the calling thread being in its host's namespace.
    fn with(test: impl FnOnce(&Self));
    fn add_pod(&self, name: &str);
    fn remove_pod(&self, name: &str);
    /// What to write into `CNI_NETNS`; `host` is the node's own.
    fn path(&self, name: &str) -> String;
    fn netns(&self, path: &Path) -> Result<Self::Netns, NetnsError>;
    fn is_own(&self, netns: &Self::Netns) -> bool;
    fn host(&self) -> Self::Kernel;
    fn netfilter(&self) -> Self::Netfilter;
    fn without_dad(&self, link: &IfName) -> Result<(), SysctlError>;
    fn kernel(&self, netns: &Self::Netns) -> Self::Kernel;
    fn enable_ipv6(
        &self,
        netns: Option<&Self::Netns>,
        link: &IfName,
    ) -> Result<Result<(), SysctlError>, NetnsError>;
    fn listeners(&self, protocol: u8) -> Result<Vec<SocketAddr>, ferrule_netlink::Error>;
    fn announce(&self, netns: &Self::Netns, link: IfIndex, mac: Mac, addresses: &[IpAddr]) -> io::Result<()>;
    fn forwards(&self, family: Family) -> bool;

    fn inside(&self, name: &str) -> Self::Kernel {
        self.kernel(&self.netns(Path::new(&self.path(name))).unwrap())
    }
}

/// The node on maps.
pub(crate) struct FakeMachine {
    world: FakeWorld,
    netfilter: FakeNetfilter,
    pods: RefCell<BTreeMap<String, FakeNetns>>,
}

impl Machine for FakeMachine {
    type Netns = FakeNetns;
    type Kernel = FakeKernel;
    type Netfilter = FakeNetfilter;

    fn with(test: impl FnOnce(&Self)) {
        let machine =
            Self { world: FakeWorld::new(), netfilter: FakeNetfilter::new(), pods: RefCell::default() };
        machine.add_pod("host");
        test(&machine);
    }

    fn add_pod(&self, name: &str) {
        self.pods.borrow_mut().insert(self.path(name), self.world.netns());
    }

    fn remove_pod(&self, name: &str) {
        // The veth pair goes with either namespace; the fake's namespaces stay, so its links are deleted.
        let mut kernel = self.inside(name);
        for link in kernel.links().unwrap() {
            let _ = kernel.delete_link(&link.name);
        }
        self.pods.borrow_mut().remove(&self.path(name));
    }

    fn path(&self, name: &str) -> String {
        format!("/run/netns/{name}")
    }

    fn netns(&self, path: &Path) -> Result<FakeNetns, NetnsError> {
        self.pods.borrow().get(path.to_str().unwrap()).copied().ok_or_else(|| NetnsError::Open {
            path: path.to_owned(),
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    fn is_own(&self, netns: &FakeNetns) -> bool {
        self.netns(Path::new(&self.path("host"))).unwrap() == *netns
    }

    fn netfilter(&self) -> FakeNetfilter {
        self.netfilter.clone()
    }

    fn without_dad(&self, _link: &IfName) -> Result<(), SysctlError> {
        Ok(())
    }

    fn host(&self) -> FakeKernel {
        self.inside("host")
    }

    fn kernel(&self, netns: &FakeNetns) -> FakeKernel {
        self.world.kernel(netns)
    }

    fn enable_ipv6(
        &self,
        _netns: Option<&FakeNetns>,
        _link: &IfName,
    ) -> Result<Result<(), SysctlError>, NetnsError> {
        Ok(Ok(()))
    }

    fn listeners(&self, _protocol: u8) -> Result<Vec<SocketAddr>, ferrule_netlink::Error> {
        Ok(Vec::new())
    }

    fn announce(
        &self,
        _netns: &FakeNetns,
        _link: IfIndex,
        _mac: Mac,
        _addresses: &[IpAddr],
    ) -> io::Result<()> {
        Ok(())
    }

    fn forwards(&self, _family: Family) -> bool {
        true
    }
}

/// The node on the running kernel. The pods' namespaces live as long as this.
pub(crate) struct RealMachine {
    pods: RefCell<BTreeMap<String, Netns>>,
}

impl Machine for RealMachine {
    type Netns = Netns;
    type Kernel = Netlink;
    type Netfilter = NetfilterSocket;

    fn with(test: impl FnOnce(&Self)) {
        let host = netns::make().expect("CAP_SYS_ADMIN is needed: run through tests/in-namespace");
        let on_a_node = || {
            // What routed sets.
            sysctl::set("net/ipv4/ip_forward", "1").unwrap();
            sysctl::set("net/ipv6/conf/all/forwarding", "1").unwrap();
            test(&Self { pods: RefCell::default() });
        };
        host.run(on_a_node).unwrap();
    }

    fn add_pod(&self, name: &str) {
        self.pods.borrow_mut().insert(name.to_owned(), netns::make().unwrap());
    }

    fn remove_pod(&self, name: &str) {
        self.pods.borrow_mut().remove(name);
    }

    fn path(&self, name: &str) -> String {
        match self.pods.borrow().get(name) {
            Some(pod) => format!("/proc/self/fd/{}", pod.as_fd().as_raw_fd()),
            None if name == "host" => "/proc/thread-self/ns/net".to_owned(),
            None => format!("/proc/self/fd/no-such-{name}"),
        }
    }

    fn netns(&self, path: &Path) -> Result<Netns, NetnsError> {
        RealNode.netns(path)
    }

    fn is_own(&self, netns: &Netns) -> bool {
        RealNode.is_own(netns).unwrap()
    }

    fn netfilter(&self) -> NetfilterSocket {
        RealNode.netfilter().unwrap()
    }

    fn without_dad(&self, link: &IfName) -> Result<(), SysctlError> {
        RealNode.without_dad(link)
    }

    fn host(&self) -> Netlink {
        RealNode.host().unwrap()
    }

    fn kernel(&self, netns: &Netns) -> Netlink {
        RealNode.inside(netns).unwrap()
    }

    fn enable_ipv6(
        &self,
        netns: Option<&Netns>,
        link: &IfName,
    ) -> Result<Result<(), SysctlError>, NetnsError> {
        RealNode.enable_ipv6(netns, link)
    }

    fn listeners(&self, protocol: u8) -> Result<Vec<SocketAddr>, ferrule_netlink::Error> {
        RealNode.listeners(protocol)
    }

    fn announce(&self, netns: &Netns, link: IfIndex, mac: Mac, addresses: &[IpAddr]) -> io::Result<()> {
        RealNode.announce(netns, link, mac, addresses)
    }

    fn forwards(&self, family: Family) -> bool {
        RealNode.forwards(family)
    }
}

/// Everything the plugin could leave behind in one namespace.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    links: Vec<Link>,
    addresses: BTreeMap<AddressKey, Address>,
    routes: BTreeMap<RouteKey, Route>,
    neighbours: BTreeMap<NeighbourKey, Neighbour>,
}

impl Snapshot {
    pub(crate) fn forget_marks(&mut self) {
        for alias in self.links.iter_mut().filter_map(|link| link.alias.as_mut()) {
            alias.truncate(alias.trim_end_matches(", (+)").len());
        }
    }
}

pub(crate) fn snapshot<K: Kernel>(kernel: &mut K) -> Snapshot {
    let links = kernel.links().unwrap();
    let mut addresses = BTreeMap::new();
    let mut neighbours = BTreeMap::new();
    for link in &links {
        addresses.extend(kernel.addresses(link.index).unwrap());
        neighbours.extend(kernel.neighbours(link.index).unwrap());
    }
    // The kernel's own link-local addresses come and go with duplicate address detection.
    addresses.retain(|key, _| !matches!(key.prefix.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()));
    Snapshot { links, addresses, routes: kernel.routes(PROTOCOL).unwrap(), neighbours }
}

/// Makes each test two: on the fake kernel and on the real one.
#[macro_export]
macro_rules! on_both_kernels {
    ($($(#[$doc:meta])* fn $name:ident($bench:ident) $body:block)+) => {
        $($(#[$doc])* mod $name {
            use super::*;

            fn test<M: $crate::support::machine::Machine>(machine: &M) {
                #[allow(unused_mut, reason = "some tests change the bench")]
                let mut $bench = Bench::new(machine);
                $body
            }

            #[test]
            fn fake_kernel() {
                <$crate::support::machine::FakeMachine as $crate::support::machine::Machine>::with(test);
            }

            #[test]
            fn real_kernel() {
                <$crate::support::machine::RealMachine as $crate::support::machine::Machine>::with(test);
            }
        })+
    };
}
