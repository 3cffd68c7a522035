//! `runtimeConfig.portMappings`: reads and checks which ports of the node the pod is to have.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ferrule_model::Family;
use ferrule_model::json::field;
use serde_json::{Map, Value};

use crate::edge::error::Error;
use crate::edge::fields::{clipped, mistyped, only};

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

/// The addresses of the node on which the pod gets a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostIp {
    /// All addresses of the families that the pod has.
    Every,
    /// All addresses of one family: `0.0.0.0` or `::`.
    EveryOf(Family),
    /// Only this address.
    One(IpAddr),
}

/// One of `runtimeConfig.portMappings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the node.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// The addresses on the node.
    pub host_ip: HostIp,
}

impl Protocol {
    /// The protocol's number in IP.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol that has this number.
    pub fn numbered(number: u8) -> Option<Self> {
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
/// A field is wrong. The error names it, and says what to write.
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
        // If a port is asked for on all addresses and also on those of one family, the mapping for all addresses is
        // enough.
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
        // An IPv4 address that is written as an IPv6 address is taken as the IPv4 address.
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

impl PortMapping {
    /// Whether both ask for the same port on the same addresses.
    fn asks_for_what(&self, other: &Self) -> bool {
        let key = |mapping: &Self| (mapping.protocol, mapping.host_port);
        let overlap = match (self.host_ip, other.host_ip) {
            (HostIp::One(a), HostIp::One(b)) => a == b,
            (HostIp::EveryOf(a), HostIp::EveryOf(b)) => a == b,
            // A mapping for one address takes precedence over one for all addresses, so the two do not clash.
            (HostIp::One(_), _) | (_, HostIp::One(_)) => false,
            _ => true,
        };
        key(self) == key(other) && overlap
    }

    /// The mapping in words, for a message.
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
    pub const fn is_on(&self, wanted: Family) -> bool {
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

/// A port in words: `tcp 80`, or with an address `tcp 192.0.2.1:80`.
pub fn named(protocol: Protocol, port: u16, address: Option<IpAddr>) -> String {
    match address {
        Some(address) => format!("{protocol} {}", SocketAddr::new(address, port)),
        None => format!("{protocol} {port}"),
    }
}
