//! The addresses of a namespace in the kernel's own order, each with whether the kernel would prefer another one.

use std::net::IpAddr;

use ferrule_model::{IfIndex, IpNetwork};
use netlink_packet_core::Parseable;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use crate::{Error, Netlink, decode, encode};

/// An address as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// The link that it is on.
    pub link: IfIndex,
    /// Address and prefix length.
    pub prefix: IpNetwork,
    /// Whether another address goes before it. It is a second one of its network, temporary for privacy, deprecated, or
    /// also in use on another machine (`IFA_F_SECONDARY`, which is `IFA_F_TEMPORARY`, `IFA_F_DEPRECATED`,
    /// `IFA_F_DADFAILED`).
    pub is_lesser: bool,
}

impl Netlink {
    /// All addresses of all links by which another machine can reach this one. The older ones of a link come first.
    ///
    /// # Errors
    /// The socket failed.
    pub fn addresses_in_order(&mut self) -> Result<Vec<Listed>, Error> {
        // The number 0, which no link has, asks for all links.
        let mut all = self.list(&encode::addresses_of(IfIndex(0)), listed)?;
        all.retain(|listed| is_for_others(listed.prefix.ip()));
        // The kernel lists IPv6 addresses newest first (`ipv6_link_dev_addr`), IPv4 addresses oldest first.
        let (mut ordered, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(|listed| listed.prefix.is_ipv4());
        ordered.extend(v6.into_iter().rev());
        Ok(ordered)
    }
}

fn listed(payload: &[u8]) -> Option<Listed> {
    let message = AddressMessage::parse(payload).ok()?;
    let (key, _) = decode::address_message(&message)?;
    // The header has room for the lower eight flags. These are among them.
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        }
    }
    let lesser = AddressFlags::Secondary | AddressFlags::Deprecated | AddressFlags::Dadfailed;
    Some(Listed { link: key.link, prefix: key.prefix, is_lesser: flags.intersects(lesser) })
}

const fn is_for_others(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}
