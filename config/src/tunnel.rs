//! The tunnels between the nodes, as `[routing]` and its tables describe them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ferrule_model::{IfName, IpNetwork, WIREGUARD_DEVICE};

use crate::document::{Checked, Document};
use crate::raw::{RawRouting, RawVxlan, RawWireguard, Text};
use crate::settings::{Backend, Routing, absolute};

/// A way between the nodes that has a device of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// A VXLAN device.
    Vxlan,
    /// A WireGuard device.
    Wireguard,
}

impl Routing {
    /// Whether this node has the device of `tunnel`.
    pub fn has(&self, tunnel: Tunnel) -> bool {
        let sends = match self.backend {
            Backend::Vxlan | Backend::Auto => Some(Tunnel::Vxlan),
            Backend::Wireguard => Some(Tunnel::Wireguard),
            Backend::Native => None,
        };
        sends == Some(tunnel) || self.accept == Some(tunnel)
    }
}

/// `[routing.vxlan]`; the same on every node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The name of the device that `routed` makes.
    pub device: IfName,
    /// The name of a second device, which is for IPv6 pods alone and sends IPv6 packets. Without it, the first is for
    /// both families.
    pub device6: Option<IfName>,
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// Whether packets carry their group policy mark (the GBP extension).
    pub gbp: bool,
    /// Whether the device leaves checksums to the hardware below it. Without it, that is switched off for kernels that
    /// do it wrongly, and otherwise left as it is.
    pub checksum_offload: Option<bool>,
    /// Networks of hosts that may send to the port though no node has their addresses, as behind a NAT that sends by
    /// another address than it is reached by.
    pub also_from: Vec<IpNetwork>,
}

impl Default for Vxlan {
    fn default() -> Self {
        // The name is a constant that the tests construct, so this cannot fail.
        let device = IfName::new("ferrule.1").expect("a link can be called so");
        Self {
            device,
            device6: None,
            vni: 1,
            port: 8472,
            gbp: false,
            checksum_offload: None,
            also_from: Vec::new(),
        }
    }
}

/// `[routing.wireguard]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wireguard {
    /// The name of the device that `routed` makes.
    pub device: IfName,
    /// The UDP port; the same on every node of a cluster.
    pub port: u16,
    /// How often a packet is sent to every other node if there is nothing else to send, in seconds; 0 for never.
    pub keepalive_s: u16,
    /// The path of this node's private key; absolute.
    pub key_file: PathBuf,
}

impl Default for Wireguard {
    fn default() -> Self {
        // The name is a constant that the tests construct, so this cannot fail.
        let device = IfName::new(WIREGUARD_DEVICE).expect("a link can be called so");
        Self { device, port: 51820, keepalive_s: 0, key_file: "/var/lib/ferrule/wireguard.key".into() }
    }
}

/// `routing.accept`
pub(crate) fn accept(document: &Document<'_>, text: &Text) -> Checked<Tunnel> {
    match text.get_ref().as_str() {
        "vxlan" => Ok(Tunnel::Vxlan),
        "wireguard" => Ok(Tunnel::Wireguard),
        other => {
            let reason = format!("\"{other}\" is no tunnel that packets can be taken from");
            let remedy =
                "write accept = \"vxlan\" or \"wireguard\", or remove it: what comes plainly is always taken";
            Err(document.fault(text, "routing.accept", reason, remedy))
        }
    }
}

/// `[routing.vxlan]`
pub(crate) fn vxlan(document: &Document<'_>, raw: &RawVxlan) -> Checked<Vxlan> {
    let mut vxlan = Vxlan::default();
    vxlan.gbp = raw.gbp.unwrap_or(vxlan.gbp);
    vxlan.checksum_offload = raw.checksum_offload;
    vxlan.also_from = also_from(document, &raw.also_from)?;
    if let Some(text) = &raw.device {
        vxlan.device = device(document, "routing.vxlan.device", "ferrule.1", text)?;
    }
    if let Some(text) = &raw.device6 {
        let key = "routing.vxlan.device6";
        let name = device(document, key, "none", text)?;
        if name == vxlan.device {
            let remedy = "use two names, as flannel.1 and flannel-v6.1, or remove device6";
            return Err(document.fault(text, key, "it is the name of device, too", remedy));
        }
        vxlan.device6 = Some(name);
    }
    if let Some(vni) = &raw.vni {
        let remedy = "write the same number on every node, by default 1";
        vxlan.vni = document.number("routing.vxlan.vni", vni, 1..=0x00ff_ffff, remedy)?;
    }
    if let Some(port) = &raw.port {
        let remedy = "write the same UDP port on every node, by default 8472";
        let number = document.number("routing.vxlan.port", port, 1..=u16::MAX.into(), remedy)?;
        vxlan.port = u16::try_from(number).unwrap_or(vxlan.port);
    }
    Ok(vxlan)
}

/// Networks of hosts, or everybody: `0.0.0.0/0` and `::/0`.
fn also_from(document: &Document<'_>, texts: &[Text]) -> Checked<Vec<IpNetwork>> {
    let everybody = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let everybody: Vec<_> = everybody.into_iter().filter_map(|any| IpNetwork::new(any, 0).ok()).collect();
    let mut networks = Vec::with_capacity(texts.len());
    let mut places = Vec::with_capacity(texts.len());
    for text in texts {
        let any = text.get_ref().parse().ok().filter(|network| everybody.contains(network));
        let network = any.map_or_else(|| document.network("routing.vxlan.also_from", text), Ok)?;
        networks.push(network);
        places.push((network, text.span()));
    }
    document.disjoint("routing.vxlan.also_from", places)?;
    Ok(networks)
}

/// `[routing.wireguard]`
pub(crate) fn wireguard(document: &Document<'_>, raw: &RawWireguard) -> Checked<Wireguard> {
    let mut wireguard = Wireguard::default();
    if let Some(text) = &raw.device {
        wireguard.device = device(document, "routing.wireguard.device", WIREGUARD_DEVICE, text)?;
    }
    if let Some(port) = &raw.port {
        let remedy = "write the same UDP port on every node, by default 51820";
        let number = document.number("routing.wireguard.port", port, 1..=u16::MAX.into(), remedy)?;
        wireguard.port = u16::try_from(number).unwrap_or(wireguard.port);
    }
    if let Some(seconds) = &raw.keepalive_s {
        let remedy =
            "write the seconds between two packets, 25 where addresses are translated, or 0 for none";
        let number =
            document.number("routing.wireguard.keepalive_s", seconds, 0..=u16::MAX.into(), remedy)?;
        wireguard.keepalive_s = u16::try_from(number).unwrap_or(wireguard.keepalive_s);
    }
    if let Some(text) = &raw.key_file {
        wireguard.key_file = absolute(document, "routing.wireguard.key_file", text)?;
    }
    Ok(wireguard)
}

/// A name that the kernel accepts for a link and that no pod's link can have.
fn device(document: &Document<'_>, key: &str, default: &str, text: &Text) -> Checked<IfName> {
    let remedy = format!("use another name of at most 15 bytes, by default {default}");
    let name = IfName::new(text.get_ref())
        .map_err(|error| document.fault(text, key, error.to_string(), remedy.clone()))?;
    let taken = match name.as_str() {
        "lo" => "`lo` is every node's loopback device".to_owned(),
        _ if name.is_of_pods() => format!("`{name}` is of the form that pods' links have"),
        _ => return Ok(name),
    };
    Err(document.fault(text, key, taken, remedy))
}

/// Checks that no two tunnels have the same device.
pub(crate) fn apart(document: &Document<'_>, raw: &RawRouting, routing: &Routing) -> Checked<()> {
    let Routing { vxlan, wireguard, .. } = routing;
    let places = [
        (&raw.wireguard.device, "routing.wireguard.device", [Some(&vxlan.device), vxlan.device6.as_ref()]),
        (&raw.vxlan.device, "routing.vxlan.device", [Some(&wireguard.device), None]),
        (&raw.vxlan.device6, "routing.vxlan.device6", [Some(&wireguard.device), None]),
    ];
    for (text, key, others) in places {
        let Some(text) = text else { continue };
        if others.into_iter().flatten().any(|other| other.as_str() == text.get_ref()) {
            let remedy = "use two names, as ferrule.1 and ferrule-wg";
            return Err(document.fault(
                text,
                key,
                "it is the name of the other tunnel's device, too",
                remedy,
            ));
        }
    }
    Ok(())
}
