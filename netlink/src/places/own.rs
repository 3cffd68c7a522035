//! Finds the addresses that are the node's own, on which host ports are open. Pure.
//!
//! The kernel accepts packets to more addresses than those. IPVS and others put the addresses of Services on a device
//! that leads nowhere (`kube-ipvs0`, `kube-dummy-if`), or on `lo`. A packet to such an address is the Service's,
//! whatever its port. An address on any other device is the node's: packets come in there, and an address that moves
//! between nodes (VRRP) is on such a device too. An address on `lo` or a dummy device is the node's if the node uses it
//! as a source. That is so where BGP tells the routes and the uplinks have no addresses.

use std::net::IpAddr;

use ferrule_model::LinkKind;

use super::Place;

/// Those of the addresses that are the node's own. Addresses that mean another machine on another link are left out:
/// loopback addresses, and link-local ones of IPv6.
pub fn nodes_own(places: &[Place]) -> impl Iterator<Item = IpAddr> {
    places.iter().filter(|place| is_own(place)).map(|place| place.address)
}

fn is_own(place: &Place) -> bool {
    let elsewhere = match place.address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    };
    let leads_nowhere = match &place.kind {
        LinkKind::Loopback => true,
        LinkKind::Other(kind) => kind == "dummy",
        _ => false,
    };
    !elsewhere && (!leads_nowhere || place.is_source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_leads_nowhere_is_the_nodes_if_the_node_speaks_from_it() {
        let other = |kind: &str| LinkKind::Other(kind.into());
        for (kind, address, is_source, is_own) in [
            (other(""), "192.0.2.1", true, true),
            (other(""), "192.0.2.77", false, true),
            (other("bridge"), "10.244.1.1", false, true),
            (other("bond"), "2001:db8::1", false, true),
            (other("dummy"), "10.96.0.10", false, false),
            (other("dummy"), "2001:db8:96::a", false, false),
            (other("dummy"), "198.51.100.1", true, true),
            (LinkKind::Loopback, "198.51.100.7", false, false),
            (LinkKind::Loopback, "198.51.100.1", true, true),
            (LinkKind::Loopback, "127.0.0.1", false, false),
            (LinkKind::Loopback, "::1", false, false),
            (other(""), "fe80::1", false, false),
        ] {
            let place = Place { address: address.parse().unwrap(), kind, is_source };
            assert_eq!(nodes_own(std::slice::from_ref(&place)).count() == 1, is_own, "{place:?}");
        }
    }
}
