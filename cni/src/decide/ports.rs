//! The elements of nftables' maps that give a pod its host ports. Pure: `act::hostports` puts them into the kernel and
//! removes them.
//!
//! A packet to a port of the node meets the maps of the `table`, and goes on to the pod. It keeps its source, with
//! three exceptions, for which there are elements too. A pod that reaches itself would answer itself directly, so the
//! answers would never come back through the node. A packet from the node's own 127.0.0.1 would have a source that
//! means another machine in the pod. And in mode `bridge`, the answers of a pod to another pod on the bridge would go
//! past the node.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ferrule_model::table::{MAPS, OWN, OWN_COMMENT, SETS, STAND_IN};
use ferrule_model::{Attachment, Element, Family, IpNetwork, Owner, family};

use crate::edge::error::Error;
use crate::edge::mappings::{HostIp, PortMapping, Protocol, named};

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
        elements.extend(addresses.map(|address| element(mapping, address.ip(), &owner)));
        elements.extend(on_loopback(mapping, &owner));
    }
    for address in addresses.iter().map(IpNetwork::ip) {
        let on_family = |mapping: &&PortMapping| mapping.is_on(Family::of(address));
        let mut mappings = mappings.iter().filter(on_family).peekable();
        if mappings.peek().is_some() {
            elements.push(pair(address, address, &owner));
            if bridged {
                let (set, mut key) = (if address.is_ipv4() { SETS[2] } else { SETS[3] }, Vec::new());
                append(&mut key, address);
                elements.push(Element::of_set(set, key, owner.clone()));
            }
        }
        if address.is_ipv4() && mappings.any(PortMapping::is_on_loopback) {
            elements.push(pair(STAND_IN.into(), address, &owner));
        }
    }
    // The elements of one set go to the kernel together. A port that is taken is found before the sets that go with it
    // are tried.
    elements.sort_by_key(|element| MAPS.iter().chain(&SETS).position(|set| *set == element.set));
    Ok(elements)
}

/// The elements that say which addresses are the node's own.
pub fn own_elements(own: impl IntoIterator<Item = IpAddr>) -> Vec<Element> {
    let element = |address: IpAddr| {
        let (set, mut key) = (if address.is_ipv4() { OWN[0] } else { OWN[1] }, Vec::new());
        append(&mut key, address);
        Element::of_set(set, key, OWN_COMMENT.to_owned())
    };
    // Two links may have the same address.
    own.into_iter().map(element).collect::<BTreeSet<_>>().into_iter().collect()
}

fn element(mapping: &PortMapping, pod: IpAddr, owner: &str) -> Element {
    let (set, key) = key_of(mapping, if pod.is_ipv4() { [MAPS[0], MAPS[2]] } else { [MAPS[1], MAPS[3]] });
    let mut value = Vec::new();
    append(&mut value, pod);
    append_port(&mut value, mapping.container_port);
    Element::of_map(set, key, value.into(), owner.to_owned())
}

/// The element that lets packets from 127.0.0.1 to the mapping's port be translated.
fn on_loopback(mapping: &PortMapping, owner: &str) -> Option<Element> {
    let (set, key) = key_of(mapping, [SETS[4], SETS[5]]);
    mapping.is_on_loopback().then(|| Element::of_set(set, key, owner.to_owned()))
}

/// The key of a mapping, and the map or set in which it stands: the first of the two if the mapping is on all
/// addresses, else the second.
fn key_of(mapping: &PortMapping, [every, one]: [&'static str; 2]) -> (&'static str, Vec<u8>) {
    let mut key = Vec::new();
    let set = match mapping.host_ip {
        HostIp::One(address) => {
            append(&mut key, address);
            one
        }
        _ => every,
    };
    key.extend([mapping.protocol.number(), 0, 0, 0]);
    append_port(&mut key, mapping.host_port);
    (set, key)
}

/// The element for packets from `source` to `destination`, in which the node replaces the source by its own address.
fn pair(source: IpAddr, destination: IpAddr, owner: &str) -> Element {
    let mut key = Vec::new();
    append(&mut key, source);
    append(&mut key, destination);
    let set = if source.is_ipv4() { SETS[0] } else { SETS[1] };
    Element::of_set(set, key, owner.to_owned())
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
    /// The port on the node.
    pub host_port: u16,
    /// The only address of the node on which it is; `None` means all.
    pub host_ip: Option<IpAddr>,
    /// The port in the pod.
    pub pod: SocketAddr,
}

impl Granted {
    /// Reads an element of one of [`MAPS`].
    pub fn of(element: &Element) -> Option<Self> {
        let value = element.value.data();
        let (pod, pod_port) = value.split_at_checked(value.len().checked_sub(4)?)?;
        let pod = SocketAddr::new(address(pod)?, port(pod_port)?);
        let (at, key) = element.key.split_at_checked(element.key.len().checked_sub(8)?)?;
        let host_ip = if at.is_empty() { None } else { Some(address(at)?) };
        let protocol = Protocol::numbered(*key.first()?)?;
        Some(Self { protocol, host_port: port(key.get(4..)?)?, host_ip, pod })
    }

    /// The mapping in words, for a message.
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
