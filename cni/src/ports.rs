//! Host ports: what `runtimeConfig.portMappings` asks for, and the elements of nftables' maps that grant it. Pure; that
//! they get into the kernel and out again is `hostports`'.
//!
//! A packet to a port of the node meets the table's maps where destinations are translated, in `prerouting` from
//! outside and in `output` from the node itself: first under (address, protocol, port), then under (protocol, port), and
//! goes on to the pod. Its source stays as it is, with two exceptions, for which there are elements too: a pod that
//! reaches itself, whose answers would never come back here, and the node's own 127.0.0.1, which means another
//! machine in the pod. In mode `bridge` there is a third: a pod behind a bridge, whose answers would go past the node.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ferrule_model::{Attachment, Family, IfName, IpNetwork, family, host_veth_of};
use ferrule_netlink::netfilter::Element;
use serde_json::Value;

use crate::error::Error;

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "ferrule-hostports";

/// What creates the table, once a boot. A constant number of maps and rules, whatever number of pods there is.
///
/// `martians`: with `route_localnet` on, without which 127.0.0.1 does not get to the pod, the kernel would take packets
/// to and from the node's loopback addresses off the wire. Nothing translated has such an address there.
/// `output`: IPv6 has no `route_localnet`; left alone, a connection to `::1` is refused at once, and clients try 127.0.0.1.
pub const SKELETON: &str = "create table inet ferrule-hostports
table inet ferrule-hostports {
	map every4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
	map every6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
	map one4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	map one6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
	set masquerade4 { type ipv4_addr . ipv4_addr; }
	set masquerade6 { type ipv6_addr . ipv6_addr; }
	set bridged4 { type ipv4_addr; }
	set bridged6 { type ipv6_addr; }
	chain hostports {
		dnat ip to ip daddr . meta l4proto . th dport map @one4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6
		meta nfproto ipv4 dnat ip to meta l4proto . th dport map @every4
		meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @every6
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		fib daddr type local jump hostports
	}
	chain output {
		type nat hook output priority -100; policy accept;
		ip6 daddr != ::1 fib daddr type local jump hostports
		meta nfproto ipv4 fib daddr type local jump hostports
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		ct status dnat ip saddr . ip daddr @masquerade4 masquerade
		ct status dnat ip6 saddr . ip6 daddr @masquerade6 masquerade
		ct status dnat meta iifkind \"bridge\" meta oifkind \"bridge\" ip daddr @bridged4 masquerade
		ct status dnat meta iifkind \"bridge\" meta oifkind \"bridge\" ip6 daddr @bridged6 masquerade
	}
	chain martians {
		type filter hook prerouting priority -300; policy accept;
		iif != lo ip daddr 127.0.0.0/8 drop
		iif != lo ip saddr 127.0.0.0/8 drop
	}
}
";

/// The maps that lead to pods, and the sets of what is masqueraded.
pub const MAPS: [&str; 4] = ["every4", "every6", "one4", "one6"];
/// The sets beside them.
pub const SETS: [&str; 4] = ["masquerade4", "masquerade6", "bridged4", "bridged6"];

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
    const fn number(self) -> u8 {
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
        let mapping = one(entry).map_err(|(field, reason)| wrong(format!("[{place}].{field}"), reason))?;
        let same = mappings.iter().find(|other| other.asks_for_what(&mapping));
        match same {
            Some(other) if *other == mapping => {}
            Some(_) => {
                let reason =
                    format!("{} is in the list twice, for different ports: remove one", mapping.name());
                return Err(wrong(format!("[{place}].hostPort"), reason));
            }
            None => mappings.push(mapping),
        }
    }
    Ok(mappings)
}

fn one(entry: &Value) -> Result<PortMapping, (&'static str, String)> {
    let port = |field: &'static str| match entry.get(field).map(Value::as_u64) {
        Some(Some(port @ 1..=65535)) => Ok(u16::try_from(port).unwrap_or(u16::MAX)),
        _ => {
            let found = entry.get(field).map_or_else(|| "nothing".to_owned(), Value::to_string);
            Err((field, format!("{} is not a port: write a number from 1 to 65535", clipped(&found))))
        }
    };
    let text = |field: &'static str| match entry.get(field) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err((field, format!("{} is not a text", clipped(&other.to_string())))),
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
        text => match text.parse::<IpAddr>() {
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
    crate::config::clipped(text)
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
            elements.push(pair(Ipv4Addr::LOCALHOST.into(), address, &owner));
        }
    }
    Ok(elements)
}

impl PortMapping {
    fn element(&self, pod: IpAddr, owner: &str) -> Element {
        let (every, one) = if pod.is_ipv4() { (MAPS[0], MAPS[2]) } else { (MAPS[1], MAPS[3]) };
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
        let mut value = Vec::new();
        append(&mut value, pod);
        append_port(&mut value, self.container_port);
        Element { set, key, value, comment: owner.to_owned() }
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
