//! WireGuard devices and their peers with the kernel's keys for them, and cryptographic keys as `wg(8)` writes them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::{IfIndex, IfName, IpNetwork, Link, LinkKind};

/// Bytes of a key.
const LEN: usize = 32;
/// Letters of a key: base64 with one letter of padding (RFC 4648).
const LETTERS: usize = 44;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A public key. It says who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WgKey(pub [u8; LEN]);

/// A private key. Nothing shows it by accident: only [`WgSecret::reveal`] writes it.
#[derive(Clone, PartialEq, Eq)]
pub struct WgSecret(pub [u8; LEN]);

/// The text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAKey;

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is not 44 letters of base64 with 32 bytes in them")
    }
}

impl std::error::Error for NotAKey {}

impl fmt::Display for WgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for WgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WgKey({self})")
    }
}

impl fmt::Debug for WgSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WgSecret")
    }
}

impl FromStr for WgKey {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<Self, NotAKey> {
        decode(text).map(Self)
    }
}

impl FromStr for WgSecret {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<Self, NotAKey> {
        decode(text).map(Self)
    }
}

impl WgSecret {
    /// The key as text, which can be parsed again.
    pub fn reveal(&self) -> String {
        encode(&self.0)
    }
}

fn encode(bytes: &[u8; LEN]) -> String {
    let mut text = String::with_capacity(LETTERS);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..=three.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text.push('=');
    text
}

fn decode(text: &str) -> Result<[u8; LEN], NotAKey> {
    let letters = text.strip_suffix('=').filter(|_| text.len() == LETTERS).ok_or(NotAKey)?;
    let (mut bytes, mut place, mut bits, mut held) = ([0; LEN], 0, 0_u32, 0);
    for letter in letters.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter).ok_or(NotAKey)?;
        bits = bits << 6 | u32::try_from(value).map_err(|_| NotAKey)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            *bytes.get_mut(place).ok_or(NotAKey)? = (bits >> held) as u8;
            place += 1;
        }
    }
    // The last letter holds two bits more than the key has.
    if bits & ((1 << held) - 1) == 0 { Ok(bytes) } else { Err(NotAKey) }
}

/// A WireGuard device to be made. It is switched off and has no key yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardSpec {
    /// Its name.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its alias, by which it is recognised later.
    pub alias: String,
}

impl WireguardSpec {
    /// The device as it is once it is made with this index.
    pub fn link(&self, index: IfIndex) -> Link {
        Link {
            index,
            name: self.name.clone(),
            mac: None,
            mtu: self.mtu,
            up: false,
            carrier: false,
            alias: Some(self.alias.clone()),
            peer: None,
            kind: LinkKind::Wireguard,
        }
    }
}

/// How this node appears to the other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardSettings {
    /// Its private key.
    pub secret: WgSecret,
    /// The UDP port that it listens on.
    pub port: u16,
}

/// What tells one peer from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerKey {
    /// The device.
    pub link: IfIndex,
    /// The peer's public key.
    pub key: WgKey,
}

/// Another node, as the device knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The address to which its packets are sent, until it sends from another one.
    pub endpoint: Option<SocketAddr>,
    /// The networks from which its packets may come. Packets to these networks are sent to it. A network belongs to one
    /// peer: if it is given to another peer, the first one loses it.
    pub allowed: BTreeSet<IpNetwork>,
    /// Seconds after which it is sent an empty packet if there was nothing to send. 0 means never.
    pub keepalive_s: u16,
    /// Whether it has a symmetric key in addition. Ferrule never sets one.
    pub preshared: bool,
}

/// What the kernel says of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardState {
    /// Its private key, if it has one.
    pub secret: Option<WgSecret>,
    /// Its UDP port.
    pub port: u16,
    /// Its peers.
    pub peers: std::collections::BTreeMap<PeerKey, PeerState>,
}

/// What the kernel says of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// The peer as it was set. Its endpoint may be a newer one from which the peer has sent.
    pub peer: Peer,
    /// When it last proved who it is, in seconds since 1970. `None` if it never did.
    pub handshake_s: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_wg_writes_it() {
        let key = WgKey(std::array::from_fn(|n| n as u8));
        assert_eq!(key.to_string(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        assert_eq!(WgKey([0xff; 32]).to_string(), "//////////////////////////////////////////8=");
        for n in 0..=255 {
            let key = WgKey(std::array::from_fn(|at| n ^ (at as u8).wrapping_mul(37)));
            assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = WgKey([7; 32]).to_string();
        let no_padding = good.replace('=', "A");
        let odd_bits = good.replace("c=", "d=");
        assert_ne!(good, odd_bits);
        for text in
            ["", "=", &good[1..], &no_padding, &odd_bits, &good.replace('B', "-"), &good.replace('B', "ä")]
        {
            assert_eq!(text.parse::<WgKey>(), Err(NotAKey), "{text}");
        }
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let settings = WireguardSettings { secret: WgSecret([7; 32]), port: 51820 };
        assert_eq!(format!("{settings:?}"), "WireguardSettings { secret: WgSecret, port: 51820 }");
    }
}
