//! What the verbs need of the node: its kernel, the pods' namespaces, and sysctls. It is a trait, so that tests can
//! replace the node by a fake.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ferrule_model::{Family, IfIndex, IfName, Mac};
use ferrule_netlink::netns::{Netns, NetnsError};
use ferrule_netlink::nft::{Netfilter, NetfilterSocket};
use ferrule_netlink::sysctl::{self, SysctlError};
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Bridges, Error, Netlink, Places, Renamed};

/// A node.
pub trait Node {
    /// A network namespace.
    type Netns;
    /// The kernel as one namespace sees it.
    type Kernel: Bridges<Netns = Self::Netns> + Places + Renamed + Traffic;
    /// Netfilter in our own namespace.
    type Netfilter: Netfilter;

    /// The namespace at `path`.
    ///
    /// # Errors
    /// There is nothing at the path, or it is not a namespace.
    fn netns(&self, path: &Path) -> Result<Self::Netns, NetnsError>;

    /// Whether `netns` is the namespace the plugin runs in.
    ///
    /// # Errors
    /// The plugin's own namespace cannot be determined.
    fn is_own(&self, netns: &Self::Netns) -> Result<bool, NetnsError>;

    /// The kernel in our own namespace.
    ///
    /// # Errors
    /// A socket cannot be opened.
    fn host(&self) -> Result<Self::Kernel, Error>;

    /// The kernel in `netns`.
    ///
    /// # Errors
    /// A socket cannot be opened.
    fn inside(&self, netns: &Self::Netns) -> Result<Self::Kernel, Error>;

    /// Switches IPv6 on for one link, in `netns` or in our own namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the sysctl cannot be written.
    fn enable_ipv6(
        &self,
        netns: Option<&Self::Netns>,
        link: &IfName,
    ) -> Result<Result<(), SysctlError>, NetnsError>;

    /// Netfilter in our own namespace.
    ///
    /// # Errors
    /// A socket cannot be opened.
    fn netfilter(&self) -> Result<Self::Netfilter, Error>;

    /// Makes a link of our own namespace use its IPv6 addresses without checking first whether somebody else has them.
    ///
    /// # Errors
    /// The sysctl cannot be written. Without IPv6 it does not exist.
    fn without_dad(&self, link: &IfName) -> Result<(), SysctlError>;

    /// The addresses and ports of the node on which its processes listen by this protocol, TCP or UDP.
    ///
    /// # Errors
    /// The kernel cannot list them.
    fn listeners(&self, protocol: u8) -> Result<Vec<SocketAddr>, Error>;

    /// Says on `link`, a link in `netns`, that `mac` has these addresses.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the packets cannot be sent.
    fn announce(&self, netns: &Self::Netns, link: IfIndex, mac: Mac, addresses: &[IpAddr]) -> io::Result<()>;

    /// Whether the node forwards packets of this family. If that cannot be read, the answer is yes.
    fn forwards(&self, family: Family) -> bool;
}

/// The node on which the plugin runs.
#[derive(Debug, Clone, Copy)]
pub struct RealNode;

impl Node for RealNode {
    type Netns = Netns;
    type Kernel = Netlink;
    type Netfilter = NetfilterSocket;

    fn netns(&self, path: &Path) -> Result<Netns, NetnsError> {
        Netns::open(path)
    }

    fn is_own(&self, netns: &Netns) -> Result<bool, NetnsError> {
        netns.is_current()
    }

    fn host(&self) -> Result<Netlink, Error> {
        Netlink::open()
    }

    fn inside(&self, netns: &Netns) -> Result<Netlink, Error> {
        Netlink::open_in(netns)
    }

    fn enable_ipv6(
        &self,
        netns: Option<&Netns>,
        link: &IfName,
    ) -> Result<Result<(), SysctlError>, NetnsError> {
        let set = || sysctl::set(&format!("net/ipv6/conf/{link}/disable_ipv6"), "0").map(drop);
        match netns {
            Some(netns) => netns.run(set),
            None => Ok(set()),
        }
    }

    fn netfilter(&self) -> Result<NetfilterSocket, Error> {
        NetfilterSocket::open()
    }

    fn without_dad(&self, link: &IfName) -> Result<(), SysctlError> {
        sysctl::set(&format!("net/ipv6/conf/{link}/accept_dad"), "0").map(drop)
    }

    fn listeners(&self, protocol: u8) -> Result<Vec<SocketAddr>, Error> {
        ferrule_netlink::listeners(protocol)
    }

    fn announce(&self, netns: &Netns, link: IfIndex, mac: Mac, addresses: &[IpAddr]) -> io::Result<()> {
        let announce = || ferrule_netlink::announce(link, mac, addresses.iter().copied());
        netns.run(announce).map_err(io::Error::other)?
    }

    fn forwards(&self, family: Family) -> bool {
        let name = match family {
            Family::V4 => "net/ipv4/ip_forward",
            Family::V6 => "net/ipv6/conf/all/forwarding",
        };
        sysctl::get(name).map_or(true, |value| value != "0")
    }
}
