//! The nodes file of `source = "file"`: every node of the cluster, with one table for each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ferrule_model::{Mac, WgKey};
use ipnetwork::IpNetwork;
use toml::Spanned;

use crate::claims::Claims;
use crate::document::{Checked, Document};
use crate::error::ConfigError;
use crate::name::check_node_name;
use crate::raw::{RawEntry, RawNodes, Text};

/// The nodes of the cluster, in the order of the file. Each name, address, pod CIDR and MAC occurs only once.
///
/// ```
/// use std::path::Path;
/// use ferrule_config::NodesFile;
///
/// let text = r#"
/// [[node]]
/// name = "node1"
/// address = "192.0.2.1"
/// pod_cidrs = ["10.244.1.0/24"]
/// "#;
/// let file = NodesFile::parse(text, Path::new("nodes.toml"))?;
/// assert_eq!(file.nodes[0].name, "node1");
/// assert_eq!(file.nodes[0].vtep_mac, None);
/// # Ok::<(), ferrule_config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesFile {
    /// The nodes.
    pub nodes: Vec<NodeEntry>,
}

/// `[[node]]`: what the other nodes need to know about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// The node's name, by which a node finds itself in the file.
    pub name: String,
    /// The IPv4 address by which the other nodes reach it. At least one of the two addresses is there.
    pub address: Option<Ipv4Addr>,
    /// The IPv6 address by which the other nodes reach it.
    pub address6: Option<Ipv6Addr>,
    /// The networks of its pods. The list is empty for a known node that has none yet.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The MAC of its VXLAN device. If it is missing, it is derived from the name.
    pub vtep_mac: Option<Mac>,
    /// The public key of its WireGuard device, if one is needed.
    pub wireguard_key: Option<WgKey>,
}

impl NodesFile {
    /// Reads the nodes from the file's text. `file` is only a name for messages.
    ///
    /// # Errors
    /// If the text is not TOML, has an unknown key or an impossible value, or if two nodes claim the same thing.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        Self::read(text, file).map(|(nodes, _)| nodes)
    }

    /// The same. Also returns whether the text was in the plain form.
    pub(crate) fn read(text: &str, file: &Path) -> Result<(Self, bool), ConfigError> {
        match crate::regular::nodes(text) {
            Some(nodes) => Ok((Self { nodes }, true)),
            None => Ok((Self::read_any(text, file)?, false)),
        }
    }

    /// Reads the nodes from any TOML, with the places of its faults.
    pub(crate) fn read_any(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(file, text);
        let raw: RawNodes = document.toml()?;
        if raw.node.is_empty() {
            // A truncated file must not read as a cluster that has lost all its nodes.
            let remedy = "add a [[node]] table for every node of the cluster, this one included";
            return Err(document.fault_at(0..0, "node", "the file lists no node", remedy).into());
        }
        let nodes = raw.node.iter().map(|entry| node(&document, entry)).collect::<Checked<Vec<_>>>()?;
        once_each(&document, &raw.node, &nodes)?;
        Ok(Self { nodes })
    }
}

fn node(document: &Document<'_>, raw: &RawEntry) -> Checked<NodeEntry> {
    let name = raw.name.get_ref();
    if !check_node_name(name) {
        return Err(document.not_a_node_name("node.name", &raw.name));
    }
    if raw.address.is_none() && raw.address6.is_none() {
        let reason = format!("the node \"{name}\" has no address");
        return Err(document.fault(&raw.name, "node", reason, "add address = \"…\" or address6 = \"…\""));
    }
    Ok(NodeEntry {
        name: name.clone(),
        address: raw.address.as_ref().map(|text| document.ipv4("node.address", text)).transpose()?,
        address6: raw.address6.as_ref().map(|text| document.ipv6("node.address6", text)).transpose()?,
        pod_cidrs: document.networks("node.pod_cidrs", &raw.pod_cidrs)?,
        vtep_mac: raw.vtep_mac.as_ref().map(|text| vtep_mac(document, text)).transpose()?,
        wireguard_key: raw.wireguard_key.as_ref().map(|text| wireguard_key(document, text)).transpose()?,
    })
}

fn vtep_mac(document: &Document<'_>, text: &Text) -> Checked<Mac> {
    let key = "node.vtep_mac";
    let remedy =
        "write six pairs of hexadecimal digits, as 02:11:22:33:44:55, or remove it to have one derived";
    let mac: Mac = text.get_ref().parse().map_err(|_| {
        document.fault(text, key, format!("\"{}\" is not a MAC address", text.get_ref()), remedy)
    })?;
    if !is_of_one_device(mac) {
        return Err(document.fault(text, key, format!("{mac} cannot be the address of one device"), remedy));
    }
    Ok(mac)
}

/// Whether the kernel accepts the MAC for a device (`is_valid_ether_addr`).
pub(crate) fn is_of_one_device(mac: Mac) -> bool {
    !mac.is_multicast() && mac.octets() != [0; 6]
}

fn wireguard_key(document: &Document<'_>, text: &Text) -> Checked<WgKey> {
    let key = "node.wireguard_key";
    let remedy = "write what `routed wireguard-key` prints on that node";
    text.get_ref().parse().map_err(|_| {
        document.fault(text, key, format!("\"{}\" is not a public key of WireGuard", text.get_ref()), remedy)
    })
}

const OWN: &str = "every node has its own";

/// Checks that no two nodes claim the same name, address, MAC or pod address. O(n log n), because the file may list
/// thousands.
fn once_each(document: &Document<'_>, raw: &[RawEntry], nodes: &[NodeEntry]) -> Checked<()> {
    let mut names = Claims::new("node.name", OWN);
    let mut addresses = Claims::new("node.address", OWN);
    let mut macs = Claims::new("node.vtep_mac", OWN);
    let mut keys = Claims::new("node.wireguard_key", OWN);
    let mut places = Vec::new();
    for (raw, node) in raw.iter().zip(nodes) {
        names.claim(document, node.name.clone(), &raw.name)?;
        for (address, text) in
            [(node.address.map(IpAddr::V4), &raw.address), (node.address6.map(IpAddr::V6), &raw.address6)]
        {
            if let (Some(address), Some(text)) = (address, text) {
                addresses.claim(document, address, text)?;
            }
        }
        if let (Some(mac), Some(text)) = (node.vtep_mac, &raw.vtep_mac) {
            macs.claim(document, mac, text)?;
        }
        if let (Some(key), Some(text)) = (node.wireguard_key, &raw.wireguard_key) {
            keys.claim(document, key, text)?;
        }
        places.extend(node.pod_cidrs.iter().copied().zip(raw.pod_cidrs.iter().map(Spanned::span)));
    }
    document.disjoint("node.pod_cidrs", places)
}
