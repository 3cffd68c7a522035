//! WireGuard's messages: `linux/wireguard.h`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ferrule_model::{
    IfIndex, IpNetwork, Peer, PeerKey, PeerState, WgKey, WgSecret, WireguardSettings, WireguardState,
};
use netlink_packet_core::DefaultNla;
use nix::libc;

use crate::attributes::nested;
use crate::generic::{self, HEADER_LEN, attributes};
use crate::socket::Request;

/// `WG_GENL_VERSION`, and the name of WireGuard's family.
const VERSION: u8 = 1;
pub(super) const FAMILY: &str = "wireguard";

const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;

/// `WGDEVICE_A_*`.
mod device {
    pub(super) const INDEX: u16 = 1;
    pub(super) const PRIVATE_KEY: u16 = 3;
    pub(super) const LISTEN_PORT: u16 = 6;
    pub(super) const PEERS: u16 = 8;
}

/// `WGPEER_A_*` and `WGPEER_F_*`.
mod peer {
    pub(super) const PUBLIC_KEY: u16 = 1;
    pub(super) const PRESHARED_KEY: u16 = 2;
    pub(super) const FLAGS: u16 = 3;
    pub(super) const ENDPOINT: u16 = 4;
    pub(super) const KEEPALIVE: u16 = 5;
    pub(super) const LAST_HANDSHAKE: u16 = 6;
    pub(super) const ALLOWED_IPS: u16 = 9;
    pub(super) const REMOVE_ME: u32 = 1;
    pub(super) const REPLACE_ALLOWED_IPS: u32 = 2;
}

/// `WGALLOWEDIP_A_*`.
mod allowed {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const MASK: u16 = 3;
}

/// Asks for all of a device, by a dump.
pub(super) fn get(family: u16, link: IfIndex) -> Request {
    request(family, GET_DEVICE, link, &[])
}

/// Gives a device its key and its port.
pub(super) fn set(family: u16, link: IfIndex, settings: &WireguardSettings) -> Request {
    let secret = DefaultNla::new(device::PRIVATE_KEY, settings.secret.0.to_vec());
    let port = DefaultNla::new(device::LISTEN_PORT, settings.port.to_ne_bytes().to_vec());
    request(family, SET_DEVICE, link, &[secret, port])
}

/// Puts a peer. Of an existing peer only the session stays.
pub(super) fn put_peer(family: u16, key: &PeerKey, value: &Peer) -> Request {
    let networks: Vec<_> = value.allowed.iter().map(allowed_ip).collect();
    let mut inside = vec![
        DefaultNla::new(peer::PUBLIC_KEY, key.key.0.to_vec()),
        DefaultNla::new(peer::PRESHARED_KEY, vec![0; 32]),
        DefaultNla::new(peer::FLAGS, peer::REPLACE_ALLOWED_IPS.to_ne_bytes().to_vec()),
        DefaultNla::new(peer::KEEPALIVE, value.keepalive_s.to_ne_bytes().to_vec()),
    ];
    inside.extend(value.endpoint.map(|endpoint| DefaultNla::new(peer::ENDPOINT, socket_address(endpoint))));
    inside.push(nested(peer::ALLOWED_IPS, &networks));
    request(family, SET_DEVICE, key.link, &[nested(device::PEERS, &[nested(0, &inside)])])
}

/// Removes a peer.
pub(super) fn delete_peer(family: u16, key: &PeerKey) -> Request {
    let inside = [
        DefaultNla::new(peer::PUBLIC_KEY, key.key.0.to_vec()),
        DefaultNla::new(peer::FLAGS, peer::REMOVE_ME.to_ne_bytes().to_vec()),
    ];
    request(family, SET_DEVICE, key.link, &[nested(device::PEERS, &[nested(0, &inside)])])
}

/// Reads one message of the answer to [`get`]. A peer with many networks continues in the next message.
pub(super) fn take(payload: &[u8], link: IfIndex, state: &mut WireguardState) {
    let Some(body) = payload.get(HEADER_LEN..) else { return };
    for (kind, value) in attributes(body) {
        match kind {
            device::PRIVATE_KEY => state.secret = value.try_into().ok().map(WgSecret),
            device::LISTEN_PORT => state.port = value.try_into().map_or(0, u16::from_ne_bytes),
            device::PEERS => attributes(&value).for_each(|(_, value)| take_peer(&value, link, state)),
            _ => {}
        }
    }
}

fn take_peer(bytes: &[u8], link: IfIndex, state: &mut WireguardState) {
    let key = attributes(bytes).find(|(kind, _)| *kind == peer::PUBLIC_KEY);
    let Some(key) = key.and_then(|(_, value)| value.try_into().ok()).map(WgKey) else { return };
    let nobody = Peer { endpoint: None, allowed: BTreeSet::new(), keepalive_s: 0, preshared: false };
    let known = state.peers.entry(PeerKey { link, key });
    let known = known.or_insert(PeerState { peer: nobody, handshake_s: None });
    for (kind, value) in attributes(bytes) {
        match kind {
            peer::PRESHARED_KEY => known.peer.preshared = value.iter().any(|byte| *byte != 0),
            peer::ENDPOINT => known.peer.endpoint = parse_socket_address(&value),
            peer::KEEPALIVE => known.peer.keepalive_s = value.try_into().map_or(0, u16::from_ne_bytes),
            peer::LAST_HANDSHAKE => {
                let seconds = value.get(..8).and_then(|bytes| bytes.try_into().ok()).map(i64::from_ne_bytes);
                known.handshake_s = seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
            }
            peer::ALLOWED_IPS => {
                known.peer.allowed.extend(attributes(&value).filter_map(|(_, value)| parse_allowed(&value)));
            }
            _ => {}
        }
    }
}

fn parse_allowed(bytes: &[u8]) -> Option<IpNetwork> {
    let find = |wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let octets = find(allowed::ADDRESS)?;
    let address: IpAddr = match octets.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into(),
    };
    IpNetwork::new(address, *find(allowed::MASK)?.first()?).ok()
}

fn allowed_ip(network: &IpNetwork) -> DefaultNla {
    let (family, octets) = match network.network() {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let inside = [
        DefaultNla::new(allowed::FAMILY, (family as u16).to_ne_bytes().to_vec()),
        DefaultNla::new(allowed::ADDRESS, octets),
        DefaultNla::new(allowed::MASK, vec![network.prefix()]),
    ];
    nested(0, &inside)
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = (family as u16).to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(v4) => {
            bytes.extend(v4.octets());
            bytes.resize(size_of::<libc::sockaddr_in>(), 0);
        }
        IpAddr::V6(v6) => {
            bytes.extend([0; 4]);
            bytes.extend(v6.octets());
            bytes.resize(size_of::<libc::sockaddr_in6>(), 0);
        }
    }
    bytes
}

fn parse_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address: IpAddr = if bytes.len() == size_of::<libc::sockaddr_in>() {
        Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into()
    } else {
        Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into()
    };
    Some(SocketAddr::new(address, port))
}

fn request(family: u16, command: u8, link: IfIndex, more: &[DefaultNla]) -> Request {
    let index = DefaultNla::new(device::INDEX, link.0.to_ne_bytes().to_vec());
    generic::request(family, (command, VERSION), &[&[index], more].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: IfIndex = IfIndex(9);

    fn key(byte: u8) -> PeerKey {
        PeerKey { link: LINK, key: WgKey([byte; 32]) }
    }

    fn peer(endpoint: &str, networks: &[&str]) -> Peer {
        Peer {
            endpoint: Some(endpoint.parse().unwrap()),
            allowed: networks.iter().map(|text| text.parse().unwrap()).collect(),
            keepalive_s: 25,
            preshared: false,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes that `wg set wg0 peer … preshared-key /dev/null endpoint … persistent-keepalive 25 allowed-ips …`
    /// sends on a little endian machine. Only the order of attributes is ours.
    #[test]
    fn a_peer_is_put_as_the_kernels_header_describes_it() {
        let request = put_peer(0x1e, &key(0xab), &peer("192.0.2.2:51820", &["10.244.2.0/24"]));
        assert_eq!((request.kind, request.flags), (0x1e, 0));
        let expected = [
            "01010000",                                 // WG_CMD_SET_DEVICE, version 1
            "0800010009000000",                         // WGDEVICE_A_IFINDEX 9
            "94000880",                                 // WGDEVICE_A_PEERS, nested, 148 bytes
            "90000080",                                 // the first, nested
            &format!("24000100{}", "ab".repeat(32)),    // WGPEER_A_PUBLIC_KEY
            &format!("24000200{}", "00".repeat(32)),    // WGPEER_A_PRESHARED_KEY: none
            "0800030002000000",                         // WGPEER_A_FLAGS: WGPEER_F_REPLACE_ALLOWEDIPS
            "0600050019000000",                         // WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL 25
            "140004000200ca6cc00002020000000000000000", // WGPEER_A_ENDPOINT: sockaddr_in
            "20000980",                                 // WGPEER_A_ALLOWEDIPS, nested
            "1c000080",                                 // the first, nested
            "0600010002000000",                         // WGALLOWEDIP_A_FAMILY AF_INET
            "080002000af40200",                         // WGALLOWEDIP_A_IPADDR
            "0500030018000000",                         // WGALLOWEDIP_A_CIDR_MASK 24
        ];
        let expected: String = expected.concat();
        if cfg!(target_endian = "little") {
            assert_eq!(hex(&request.payload), expected);
        }
    }

    #[test]
    fn a_device_is_set_and_a_peer_removed_as_the_kernels_header_describes_it() {
        let settings = WireguardSettings { secret: WgSecret([0xcd; 32]), port: 51820 };
        let set = set(0x1e, LINK, &settings);
        let remove = delete_peer(0x1e, &key(0xab));
        if cfg!(target_endian = "little") {
            let expected = format!("01010000080001000900000024000300{}060006006cca0000", "cd".repeat(32));
            assert_eq!(hex(&set.payload), expected);
            let expected = format!(
                "010100000800010009000000340008803000008024000100{}0800030001000000",
                "ab".repeat(32)
            );
            assert_eq!(hex(&remove.payload), expected);
        }
    }

    #[test]
    fn what_the_kernel_says_in_several_messages_is_one_state() {
        let first = peer("192.0.2.2:51820", &["10.244.2.0/24"]);
        let second = peer("[2001:db8::3]:51821", &["fd00:3::/64", "10.244.3.0/24"]);
        let mut state = WireguardState::default();
        let settings = WireguardSettings { secret: WgSecret([0xcd; 32]), port: 51820 };
        take(&set(0, LINK, &settings).payload, LINK, &mut state);
        take(&put_peer(0, &key(2), &first).payload, LINK, &mut state);
        // The networks of the second peer come in two messages.
        for network in second.allowed.clone() {
            let part = Peer { allowed: [network].into(), ..second.clone() };
            take(&put_peer(0, &key(3), &part).payload, LINK, &mut state);
        }
        assert_eq!((state.secret, state.port), (Some(settings.secret), 51820));
        let peers: Vec<_> = state.peers.into_iter().map(|(key, state)| (key, state.peer)).collect();
        assert_eq!(peers, [(key(2), first), (key(3), second)]);
    }

    #[test]
    fn nonsense_is_passed_over() {
        let good = put_peer(0, &key(2), &peer("192.0.2.2:1", &["10.244.2.0/24", "fd00::/64"])).payload;
        for cut in 0..good.len() {
            let mut state = WireguardState::default();
            take(&good[..cut], LINK, &mut state);
            let mut bent = good.clone();
            bent[cut] ^= 0xff;
            take(&bent, LINK, &mut state);
        }
    }
}
