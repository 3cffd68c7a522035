//! Host ports: what `runtimeConfig.portMappings` asks for, and the elements of nftables' maps that grant it. Pure; that
//! they get into the kernel and out again is `hostports`'.
//!
//! A packet to a port of the node meets the maps of the `table` and goes on to the pod. Its source stays as it is, with two
//! exceptions, for which there are elements too: a pod that reaches itself, whose answers would never come back here, and
//! the node's own 127.0.0.1, which means another machine in the pod. In mode `bridge` there is a third: a pod behind a
//! bridge, whose answers would go past the node.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ferrule_model::json::field;
use ferrule_model::{Attachment, Family, IfName, IpNetwork, family, host_veth_of};
use ferrule_netlink::nft::Element;
use serde_json::{Map, Value};

use crate::edge::config::{mistyped, only};
use crate::edge::error::Error;
use crate::table::{MAPS, OWN, SETS, STAND_IN};

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// On which of the node's addresses a port is the pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostIp {
    /// On all, of the families that the pod has.
    Every,
    /// On all of one family: `0.0.0.0` or `::`.
    EveryOf(Family),
    /// On this one.
    One(IpAddr),
}

/// One of `runtimeConfig.portMappings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// Its protocol.
    pub protocol: Protocol,
    /// On the node.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// Where on the node.
    pub host_ip: HostIp,
}

impl Protocol {
    /// That of IP.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn numbered(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Reads `runtimeConfig.portMappings`.
///
/// # Errors
/// Which field is wrong, and what to write.
pub fn read(value: &Value) -> Result<Vec<PortMapping>, Error> {
    let wrong = |field: String, reason: String| Error::Config {
        field: format!("runtimeConfig.portMappings{field}"),
        reason,
    };
    if value.is_null() {
        return Ok(Vec::new());
    }
    let list = value.as_array().ok_or_else(|| wrong(String::new(), "expected a list of mappings".into()))?;
    let mut mappings: Vec<PortMapping> = Vec::new();
    for (place, entry) in list.iter().enumerate() {
        let of = format!("runtimeConfig.portMappings[{place}]");
        let fields = entry.as_object().ok_or_else(|| mistyped(&of, "an object", entry))?;
        only(fields, &of, &["hostPort", "containerPort", "protocol", "hostIP"])?;
        let mapping = one(fields).map_err(|(field, reason)| wrong(format!("[{place}].{field}"), reason))?;
        let same: Vec<_> = mappings.iter().filter(|other| other.asks_for_what(&mapping)).collect();
        if let Some(other) = same.iter().find(|other| other.container_port != mapping.container_port) {
            let reason = format!(
                "{} is in the list twice, for the pod's ports {} and {}: remove one",
                mapping.name(),
                other.container_port,
                mapping.container_port
            );
            return Err(wrong(format!("[{place}].hostPort"), reason));
        }
        // The same port of all addresses and of those of one family is that of all.
        if same.iter().all(|other| other.host_ip != mapping.host_ip && mapping.host_ip == HostIp::Every) {
            mappings.retain(|other| !other.asks_for_what(&mapping));
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

fn one(entry: &Map<String, Value>) -> Result<PortMapping, (&'static str, String)> {
    let port = |name: &'static str| match field(entry, name).map(Value::as_u64) {
        Some(Some(port @ 1..=65535)) => Ok(u16::try_from(port).unwrap_or(u16::MAX)),
        _ => {
            let found = field(entry, name).map_or_else(|| "nothing".to_owned(), Value::to_string);
            Err((name, format!("{} is not a port: write a number from 1 to 65535", clipped(&found))))
        }
    };
    let text = |name: &'static str| match field(entry, name) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err((name, format!("{} is not a text", clipped(&other.to_string())))),
    };
    let protocol = match text("protocol")?.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => {
            let reason = format!("{:?} has no ports: write \"tcp\", \"udp\" or \"sctp\"", clipped(other));
            return Err(("protocol", reason));
        }
    };
    let host_ip = match text("hostIP")? {
        "" => HostIp::Every,
        // An IPv4 address in IPv6's spelling is the IPv4 address.
        text => match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) if address.is_unspecified() => HostIp::EveryOf(Family::of(address)),
            Ok(IpAddr::V6(address)) if address.is_loopback() => {
                let reason = "nothing gets from ::1 to a pod: write 127.0.0.1, or leave it out".to_owned();
                return Err(("hostIP", reason));
            }
            Ok(address) => HostIp::One(address),
            Err(_) => {
                let reason = format!(
                    "{:?} is not an address: write one of the node's, or leave it out",
                    clipped(text)
                );
                return Err(("hostIP", reason));
            }
        },
    };
    Ok(PortMapping {
        protocol,
        host_port: port("hostPort")?,
        container_port: port("containerPort")?,
        host_ip,
    })
}

fn clipped(text: &str) -> &str {
    crate::edge::config::clipped(text)
}

impl PortMapping {
    /// Whether both want the same port of the same addresses.
    fn asks_for_what(&self, other: &Self) -> bool {
        let key = |mapping: &Self| (mapping.protocol, mapping.host_port);
        let overlap = match (self.host_ip, other.host_ip) {
            (HostIp::One(a), HostIp::One(b)) => a == b,
            (HostIp::EveryOf(a), HostIp::EveryOf(b)) => a == b,
            // One address goes before all of them.
            (HostIp::One(_), _) | (_, HostIp::One(_)) => false,
            _ => true,
        };
        key(self) == key(other) && overlap
    }

    /// For a message.
    pub fn name(&self) -> String {
        named(
            self.protocol,
            self.host_port,
            match self.host_ip {
                HostIp::One(address) => Some(address),
                _ => None,
            },
        )
    }

    /// Whether it is on the addresses of this family.
    const fn is_on(&self, wanted: Family) -> bool {
        match self.host_ip {
            HostIp::Every => true,
            HostIp::EveryOf(family) => {
                matches!((family, wanted), (Family::V4, Family::V4) | (Family::V6, Family::V6))
            }
            HostIp::One(IpAddr::V4(_)) => matches!(wanted, Family::V4),
            HostIp::One(IpAddr::V6(_)) => matches!(wanted, Family::V6),
        }
    }

    /// Whether 127.0.0.1 is among its addresses.
    pub const fn is_on_loopback(&self) -> bool {
        match self.host_ip {
            HostIp::One(IpAddr::V4(address)) => address.is_loopback(),
            _ => self.is_on(Family::V4),
        }
    }
}

fn named(protocol: Protocol, port: u16, address: Option<IpAddr>) -> String {
    match address {
        Some(address) => format!("{protocol} {}", SocketAddr::new(address, port)),
        None => format!("{protocol} {port}"),
    }
}

/// The elements that grant `mappings` to the pod at `addresses`, which may be on a bridge with others.
///
/// # Errors
/// The pod has no address of the family that a mapping is for.
pub fn elements(
    mappings: &[PortMapping],
    addresses: &[IpNetwork],
    attachment: &Attachment,
    bridged: bool,
) -> Result<Vec<Element>, Error> {
    let owner = Owner::of(attachment).to_string();
    let mut elements = Vec::new();
    for (place, mapping) in mappings.iter().enumerate() {
        let mut addresses = addresses.iter().filter(|address| mapping.is_on(family(address))).peekable();
        if addresses.peek().is_none() {
            return Err(Error::Config {
                field: format!("runtimeConfig.portMappings[{place}].hostIP"),
                reason: "the pod has no address of this family: leave it out, or give the pool one".into(),
            });
        }
        elements.extend(addresses.map(|address| mapping.element(address.ip(), &owner)));
        elements.extend(mapping.on_loopback(&owner));
    }
    for address in addresses.iter().map(IpNetwork::ip) {
        let on_family = |mapping: &&PortMapping| mapping.is_on(Family::of(address));
        let mut mappings = mappings.iter().filter(on_family).peekable();
        if mappings.peek().is_some() {
            elements.push(pair(address, address, &owner));
            if bridged {
                let (set, mut key) = (if address.is_ipv4() { SETS[2] } else { SETS[3] }, Vec::new());
                append(&mut key, address);
                elements.push(Element { set, key, value: Vec::new(), comment: owner.clone() });
            }
        }
        if address.is_ipv4() && mappings.any(PortMapping::is_on_loopback) {
            elements.push(pair(STAND_IN.into(), address, &owner));
        }
    }
    // Those of one set travel together, and a port that is taken is found before what stands beside it.
    elements.sort_by_key(|element| MAPS.iter().chain(&SETS).position(|set| *set == element.set));
    Ok(elements)
}

/// The elements that say which addresses are the node's own.
pub fn own_elements(own: impl IntoIterator<Item = IpAddr>) -> Vec<Element> {
    let element = |address: IpAddr| {
        let (set, mut key) = (if address.is_ipv4() { OWN[0] } else { OWN[1] }, Vec::new());
        append(&mut key, address);
        Element { set, key, value: Vec::new(), comment: "the node".to_owned() }
    };
    // An address may be on two links.
    own.into_iter().map(element).collect::<BTreeSet<_>>().into_iter().collect()
}

impl PortMapping {
    fn element(&self, pod: IpAddr, owner: &str) -> Element {
        let (set, key) = self.key(if pod.is_ipv4() { [MAPS[0], MAPS[2]] } else { [MAPS[1], MAPS[3]] });
        let mut value = Vec::new();
        append(&mut value, pod);
        append_port(&mut value, self.container_port);
        Element { set, key, value, comment: owner.to_owned() }
    }

    /// That what comes from 127.0.0.1 to its key is translated.
    fn on_loopback(&self, owner: &str) -> Option<Element> {
        let (set, key) = self.key([SETS[4], SETS[5]]);
        self.is_on_loopback().then(|| Element { set, key, value: Vec::new(), comment: owner.to_owned() })
    }

    /// What it is found under, in the first of two maps or sets if it is on all addresses, else in the second.
    fn key(&self, [every, one]: [&'static str; 2]) -> (&'static str, Vec<u8>) {
        let mut key = Vec::new();
        let set = match self.host_ip {
            HostIp::One(address) => {
                append(&mut key, address);
                one
            }
            _ => every,
        };
        key.extend([self.protocol.number(), 0, 0, 0]);
        append_port(&mut key, self.host_port);
        (set, key)
    }
}

/// From `source` to `destination` the node puts its own address in the source's place.
fn pair(source: IpAddr, destination: IpAddr, owner: &str) -> Element {
    let mut key = Vec::new();
    append(&mut key, source);
    append(&mut key, destination);
    let set = if source.is_ipv4() { SETS[0] } else { SETS[1] };
    Element { set, key, value: Vec::new(), comment: owner.to_owned() }
}

fn append(field: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => field.extend(v4.octets()),
        IpAddr::V6(v6) => field.extend(v6.octets()),
    }
}

fn append_port(field: &mut Vec<u8>, port: u16) {
    field.extend(port.to_be_bytes());
    field.extend([0, 0]);
}

/// A mapping as the kernel holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Its protocol.
    pub protocol: Protocol,
    /// On the node.
    pub host_port: u16,
    /// On this address of the node alone.
    pub host_ip: Option<IpAddr>,
    /// In the pod.
    pub pod: SocketAddr,
}

impl Granted {
    /// Reads an element of one of [`MAPS`].
    pub fn of(element: &Element) -> Option<Self> {
        let length = element.value.len().checked_sub(4)?;
        let pod =
            SocketAddr::new(address(element.value.get(..length)?)?, port(element.value.get(length..)?)?);
        let (at, key) = element.key.split_at_checked(element.key.len().checked_sub(8)?)?;
        let host_ip = if at.is_empty() { None } else { Some(address(at)?) };
        let protocol = Protocol::numbered(*key.first()?)?;
        Some(Self { protocol, host_port: port(key.get(4..)?)?, host_ip, pod })
    }

    /// For a message.
    pub fn name(&self) -> String {
        named(self.protocol, self.host_port, self.host_ip)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
}

/// Whose an element is: the attachment's hash and its network, the comment that `nft list` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    hash: String,
    network: String,
}

impl Owner {
    /// A comment has room for 252 bytes.
    const NETWORK_MAX: usize = 200;

    /// Of what is this attachment's.
    pub fn of(attachment: &Attachment) -> Self {
        Self { hash: attachment.hash().to_string(), network: Self::network(&attachment.network) }
    }

    /// Of what has this comment.
    pub fn read(comment: &str) -> Option<Self> {
        let (hash, network) = comment.split_once(' ')?;
        Some(Self { hash: hash.to_owned(), network: network.to_owned() })
    }

    /// Whether it is an attachment of the network `name`. Names are ASCII.
    pub fn is_in(&self, name: &str) -> bool {
        self.network == Self::network(name)
    }

    /// The host's end of its veth pair.
    pub fn veth(&self) -> Option<IfName> {
        host_veth_of(&self.hash)
    }

    fn network(name: &str) -> String {
        name.chars().take(Self::NETWORK_MAX).collect()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.hash, self.network)
    }
}
