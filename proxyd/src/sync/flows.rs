//! Tracked UDP connections whose endpoint is gone, or that were not translated when they began: forgotten, so that their
//! next packet goes where it should.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ferrule_model::{Family, IpNetwork};
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Flow, Netfilter};

use crate::decide::{Key, Place, Protocol};

/// Up to this number of ports the kernel is asked for the connections to each of them. Above, it is asked for all UDP
/// connections at once.
const PORTS: usize = 16;

/// Forgets the UDP connections to these frontends that `stays` does not hold for. Returns how many there were.
pub(super) fn forget(
    netfilter: &mut impl Netfilter,
    (frontends, node_ports): (&HashSet<Key>, &[IpNetwork]),
    stays: impl Fn(&Key, IpAddr, u16) -> bool,
) -> Result<usize, Error> {
    let is_stale = |flow: &Flow| {
        let Some(port) = NonZeroU16::new(flow.port) else { return false };
        let key = Key { place: Place::Address(flow.destination), protocol: Protocol::Udp, port };
        let Some(key) = whose(key, frontends, node_ports) else { return false };
        !stays(&key, flow.answers_from, flow.answering_port)
    };
    let mut forgotten = 0;
    for family in Family::BOTH {
        let of_family = frontends.iter().filter(|key| key.place.family() == family);
        let ports: HashSet<_> = of_family.map(|key| key.port.get()).collect();
        if ports.len() > PORTS {
            forgotten += netfilter.forget_udp(family, None, &is_stale)?;
            continue;
        }
        for port in ports {
            forgotten += netfilter.forget_udp(family, Some(port), &is_stale)?;
        }
    }
    Ok(forgotten)
}

/// The one of these frontends that packets to this address, protocol and port belong to: the frontend of this address,
/// or a node port.
pub(super) fn whose(key: Key, frontends: &HashSet<Key>, node_ports: &[IpNetwork]) -> Option<Key> {
    if frontends.contains(&key) {
        return Some(key);
    }
    let Place::Address(address) = key.place else { return None };
    let on_node = Key { place: Place::Node(Family::of(address)), ..key };
    let is_node = node_ports.iter().any(|network| network.contains(address));
    (is_node && frontends.contains(&on_node)).then_some(on_node)
}
