//! Finds the addresses by which the others reach this node: the configured ones, or those of the default routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ferrule_config::Node;

use super::fault::Fault;
use super::network::Network;
use crate::source::lease::Public;

/// Addresses that no host has (RFC 5737, RFC 3849). A packet to them would take the default route, as everything
/// without a better route does.
const ELSEWHERE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ELSEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// The addresses of this node. An IPv6 address is wanted if the network has IPv6, or if there is no IPv4 address.
///
/// # Errors
/// [`Fault::NoAddress`]
pub(super) fn public(node: &Node, network: &Network) -> Result<Public, Fault> {
    let v4 = match node.address {
        Some(address) => Ok(address),
        None => source(ELSEWHERE_V4.into()).and_then(|address| match address {
            IpAddr::V4(address) => Ok(address),
            IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }),
    };
    let v6 = node.address6.or_else(|| match source(ELSEWHERE_V6.into()) {
        Ok(IpAddr::V6(address)) if network.v6.is_some() || v4.is_err() => Some(address),
        _ => None,
    });
    match (v4, v6) {
        (Err(error), None) => {
            Err(Fault::NoAddress(format!("there is no default route to tell it by ({error})")))
        }
        (v4, v6) => Ok(Public { v4: v4.ok(), v6 }),
    }
}

/// The source address that the kernel gives to packets to `destination`. Nothing is sent.
fn source(destination: IpAddr) -> io::Result<IpAddr> {
    let any = if destination.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Port 9 is the discard port.
    socket.connect(SocketAddr::new(destination, 9))?;
    Ok(socket.local_addr()?.ip())
}
