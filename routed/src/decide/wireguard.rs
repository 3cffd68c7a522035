//! The backend `wireguard`: one device, and a peer for every other node whose key is known. What there should be is
//! worked out here; [`crate::pass::wireguard`] keeps the device and the key.
//!
//! A packet to another node's pod leaves by a route out of the device. The device finds the peer by its allowed
//! networks, encrypts the packet and sends it to the node's address. A packet from a peer is dropped if its source is
//! not one of that peer's own pods, so no node can speak for another.
//!
//! WireGuard tells of no changes. So if someone removes a peer, that is found when everything is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ferrule_config::{Routing, Tunnel};
use ferrule_model::{
    Family, IfIndex, IpNetwork, Peer, PeerKey, PeerState, WgKey, WgSecret, WireguardSettings, WireguardSpec,
};

use crate::decide::desired::{Underlay, Why, pod_mtu};
use crate::decide::nodes::Node;

/// Outer IPv4 (20) and UDP (8) headers, WireGuard's (16) and its tag (16).
pub const OVERHEAD: u32 = 60;

/// The alias of our device, by which it is recognised: anyone may have a WireGuard device.
pub const ALIAS: &str = "ferrule: tunnels to the other nodes";

/// How long a session lives after its last handshake, in seconds (`REJECT_AFTER_TIME`). For so long what WireGuard
/// believes of an endpoint is proved.
const SESSION_S: u64 = 180;

/// This node's identity to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its private key.
    pub secret: WgSecret,
    /// Its public key.
    pub key: WgKey,
}

/// What peers depend on of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wg {
    /// Its number.
    pub link: IfIndex,
    /// This node's public key.
    pub key: WgKey,
    /// The UDP port of every node.
    pub port: u16,
    /// The keepalive interval, in seconds.
    pub keepalive_s: u16,
}

impl Wg {
    /// Whether `node` can be a peer, with `tunnel` outside.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn reaches(&self, node: &Node, tunnel: Family) -> Result<(PeerKey, SocketAddr), Why> {
        let key = node.wireguard_key.ok_or(Why::NoKey)?;
        if key == self.key {
            return Err(Why::Clash);
        }
        let address = node.address(tunnel).ok_or(Why::NoAddress(tunnel))?;
        Ok((PeerKey { link: self.link, key }, SocketAddr::new(address, self.port)))
    }

    /// The peer for `node`, with these networks.
    pub fn peer(&self, node: &Node, tunnel: Family, allowed: BTreeSet<IpNetwork>) -> Option<(PeerKey, Peer)> {
        let (key, endpoint) = self.reaches(node, tunnel).ok()?;
        let (endpoint, keepalive_s) = (Some(endpoint), self.keepalive_s);
        (!allowed.is_empty()).then_some((key, Peer { endpoint, allowed, keepalive_s, preshared: false }))
    }
}

/// The device that should be there, or `None` if none is needed.
pub fn spec(routing: &Routing, own: &Node, underlay: &Underlay) -> Option<WireguardSpec> {
    underlay.tunnel(own).filter(|_| routing.has(Tunnel::Wireguard))?;
    let mtu = pod_mtu(routing, own, underlay)?;
    Some(WireguardSpec { name: routing.wireguard.device.clone(), mtu, alias: ALIAS.into() })
}

/// The settings that make it this node's device.
pub fn settings(routing: &Routing, identity: &Identity) -> WireguardSettings {
    WireguardSettings { secret: identity.secret.clone(), port: routing.wireguard.port }
}

/// The peers as they were put, except for endpoints that do not work. A peer may answer from another address, because
/// its address is translated or it has several. It has then moved its endpoint itself and proved its identity, so the
/// endpoint stays. `known` is what was put, `now_s` the time since 1970.
pub fn settled(
    peers: BTreeMap<PeerKey, PeerState>,
    known: Option<&BTreeMap<PeerKey, Peer>>,
    now_s: u64,
) -> BTreeMap<PeerKey, Peer> {
    let settle = |(key, PeerState { mut peer, handshake_s })| {
        let lives = handshake_s.is_some_and(|at| now_s.saturating_sub(at) < SESSION_S);
        if let Some(put) = known.and_then(|known| known.get(&key)).filter(|_| lives) {
            peer.endpoint = put.endpoint;
        }
        (key, peer)
    };
    peers.into_iter().map(settle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_config::Backend;
    use ferrule_model::vtep_mac;

    fn node(number: u8, key: Option<u8>) -> Node {
        let name = format!("n{number}");
        Node {
            v4: Some([192, 0, 2, number].into()),
            v6: Some(format!("2001:db8::{number}").parse().unwrap()),
            pod_cidrs: vec![format!("10.244.{number}.0/24").parse().unwrap()],
            vtep_mac: vtep_mac(&name),
            vtep_mac6: vtep_mac(&name),
            further: Vec::new(),
            wireguard_key: key.map(|byte| WgKey([byte; 32])),
            name,
        }
    }

    fn wg() -> Wg {
        Wg { link: IfIndex(7), key: WgKey([1; 32]), port: 51820, keepalive_s: 25 }
    }

    #[test]
    fn a_node_is_a_peer_by_its_key_its_address_and_its_pods() {
        let networks: BTreeSet<IpNetwork> = ["10.244.2.0/24".parse().unwrap()].into();
        let (key, peer) = wg().peer(&node(2, Some(2)), Family::V6, networks.clone()).unwrap();
        assert_eq!(key, PeerKey { link: IfIndex(7), key: WgKey([2; 32]) });
        assert_eq!(peer.endpoint, Some("[2001:db8::2]:51820".parse().unwrap()));
        assert_eq!((peer.allowed, peer.keepalive_s), (networks, 25));
        assert_eq!(wg().peer(&node(2, Some(2)), Family::V4, BTreeSet::new()), None, "nothing to say to it");
        assert_eq!(wg().reaches(&node(2, None), Family::V4), Err(Why::NoKey));
        assert_eq!(wg().reaches(&node(2, Some(1)), Family::V4), Err(Why::Clash), "our own key");
        let without = Node { v4: None, ..node(2, Some(2)) };
        assert_eq!(wg().reaches(&without, Family::V4), Err(Why::NoAddress(Family::V4)));
    }

    #[test]
    fn an_endpoint_that_a_living_peer_has_moved_is_left_and_any_other_is_not() {
        let key = |byte| PeerKey { link: IfIndex(7), key: WgKey([byte; 32]) };
        let at = |endpoint: &str| Peer {
            endpoint: Some(endpoint.parse().unwrap()),
            allowed: BTreeSet::new(),
            keepalive_s: 0,
            preshared: false,
        };
        let (put, moved) = (at("192.0.2.2:51820"), at("198.51.100.9:1024"));
        let known = BTreeMap::from([(key(2), put.clone())]);
        let seen =
            |byte, handshake_s| BTreeMap::from([(key(byte), PeerState { peer: moved.clone(), handshake_s })]);
        let now = 1_000_000;
        let settle =
            |byte, handshake_s, known| settled(seen(byte, handshake_s), known, now)[&key(byte)].clone();
        assert_eq!(settle(2, Some(now - 100), Some(&known)), put);
        assert_eq!(settle(2, Some(now - 181), Some(&known)), moved, "its session is over");
        assert_eq!(settle(2, None, Some(&known)), moved, "it never answered");
        assert_eq!(settle(3, Some(now), Some(&known)), moved, "it is not known where it was put");
        assert_eq!(settle(2, Some(now), None), moved);
    }

    #[test]
    fn the_device_leaves_room_for_what_goes_around_a_packet() {
        let routing = Routing { backend: Backend::Wireguard, ..Routing::default() };
        let uplink = |address: &str| {
            let address = address.parse().unwrap();
            crate::decide::desired::Uplink {
                link: IfIndex(2),
                address,
                prefix_len: 24,
                mtu: 1500,
                usable: true,
                holds: false,
            }
        };
        let underlay = Underlay { v4: Some(uplink("192.0.2.1")), v6: Some(uplink("2001:db8::1")) };
        let mtu = |own: &Node| spec(&routing, own, &underlay).unwrap().mtu;
        assert_eq!(mtu(&node(1, None)), 1440);
        assert_eq!(mtu(&Node { v4: None, ..node(1, None) }), 1420);
        assert_eq!(spec(&Routing::default(), &node(1, None), &underlay), None);
    }
}
