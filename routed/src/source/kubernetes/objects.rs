//! What matters here of a Node object. Pure.
//!
//! Only what is used is read from an object. A value that cannot be used makes that one node unusable, with a reason;
//! the others go on.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_cluster::Item;
use ferrule_cluster::kind::{Identity, Kind, Metadata, Resource};
use ferrule_config::check_node_name;
use ferrule_model::{IpNetwork, Mac, WgKey, vtep_mac};
use serde::Deserialize;

use crate::decide::nodes::{Node, vtep_mac6};
use crate::decide::roll::Rank;
use crate::source::lease::{self as flannel, Public};

/// The annotation that gives a node's VXLAN device another MAC than the one that is derived from its name.
pub const VTEP_MAC: &str = "ferrule.io/vtep-mac";

/// The annotation with the public key of a node's WireGuard device. The node's own `routed` writes it.
pub const WIREGUARD_KEY: &str = "ferrule.io/wireguard-key";

/// The annotation with the addresses by which the others reach a node that does not have them itself: one for each
/// family, separated by a comma. The node's own `routed` writes it, as `[node] public_address` says.
pub const PUBLIC_ADDRESS: &str = "ferrule.io/public-address";

/// A node object as it was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its name.
    pub(super) name: String,
    /// The node in it, or why there is none.
    pub(super) entry: Entry,
    /// Whether it is ready, and when it was created.
    pub(super) rank: Rank,
    /// Whether its condition NetworkUnavailable exists and is False.
    pub(super) network_is_available: bool,
    /// The WireGuard key that it bears.
    pub(super) wireguard_key: Option<WgKey>,
    /// The addresses in [`PUBLIC_ADDRESS`].
    pub(super) public: Public,
    /// The addresses in flannel's annotations that an operator sets. They come before all others.
    pub(super) overwrite: Public,
    /// What flannel says of it.
    pub(super) flannel: Box<flannel::Annotations>,
}

/// The node in an object, or why there is none.
pub(super) type Entry = Result<Node, String>;

/// Where the API has nodes.
pub(super) const NODES: Resource = Resource { group: "", version: "v1", plural: "nodes" };

/// A Node object: the fields that are read of it.
#[derive(Debug, Deserialize)]
pub(super) struct Object {
    metadata: Metadata<Annotations>,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    status: Option<NodeStatus>,
}

impl Kind for Object {
    const RESOURCE: Resource = NODES;

    fn take_identity(&mut self) -> Identity {
        self.metadata.take_identity()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    /// [`VTEP_MAC`]
    #[serde(rename = "ferrule.io/vtep-mac")]
    vtep_mac: Option<String>,
    /// [`WIREGUARD_KEY`]
    #[serde(rename = "ferrule.io/wireguard-key")]
    wireguard_key: Option<String>,
    /// [`PUBLIC_ADDRESS`]
    #[serde(rename = "ferrule.io/public-address")]
    public_address: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/public-ip-overwrite")]
    overwrite: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/public-ipv6-overwrite")]
    overwrite6: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/kube-subnet-manager")]
    manager: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/backend-type")]
    backend_type: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/backend-data")]
    backend_data: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/backend-v6-data")]
    backend_v6_data: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/public-ip")]
    public_ip: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/public-ipv6")]
    public_ipv6: Option<String>,
}

impl From<Annotations> for flannel::Annotations {
    fn from(all: Annotations) -> Self {
        let Annotations {
            manager, backend_type, backend_data, backend_v6_data, public_ip, public_ipv6, ..
        } = all;
        Self { manager, backend_type, backend_data, backend_v6_data, public_ip, public_ipv6 }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<Address>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl From<Item<Object>> for Seen {
    fn from(Item { identity, object }: Item<Object>) -> Self {
        let name = identity.name.name;
        match object {
            Ok(object) => seen(name, object),
            Err(reason) => unreadable(name, reason),
        }
    }
}

fn unreadable(name: String, reason: String) -> Seen {
    Seen {
        name,
        entry: Err(reason),
        rank: Rank { ready: false, born: 0 },
        network_is_available: false,
        wireguard_key: None,
        public: Public::default(),
        overwrite: Public::default(),
        flannel: Box::default(),
    }
}

fn seen(name: String, object: Object) -> Seen {
    let status = object.status.unwrap_or_default();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let says =
        |kind: &str, status: &str| conditions.iter().any(|one| one.kind == kind && one.status == status);
    let (network_is_available, ready) = (says("NetworkUnavailable", "False"), says("Ready", "True"));
    let born = object.metadata.created_s().unwrap_or(0);
    let addresses = status.addresses.unwrap_or_default();
    let annotations = object.metadata.annotations.unwrap_or_default();
    let wireguard_key = annotations.wireguard_key.as_deref().and_then(|text| text.parse().ok());
    let spec = object.spec.unwrap_or_default();
    let entry = node(&name, &spec, &addresses, &annotations);
    let public = public_of(PUBLIC_ADDRESS, annotations.public_address.as_deref());
    let overwrite = overwrite_of(&annotations);
    let wrong = public.as_ref().err().or(overwrite.as_ref().err()).cloned();
    let entry = wrong.map_or(entry, Err);
    let (public, overwrite) = (public.unwrap_or_default(), overwrite.unwrap_or_default());
    Seen {
        name,
        entry,
        rank: Rank { ready, born },
        network_is_available,
        wireguard_key,
        public,
        overwrite,
        flannel: Box::new(annotations.into()),
    }
}

fn node(name: &str, spec: &Spec, addresses: &[Address], annotations: &Annotations) -> Entry {
    if !check_node_name(name) {
        return Err("it cannot be a node's name".into());
    }
    let (v4, v6) = internal(addresses);
    if v4.is_none() && v6.is_none() {
        return Err(
            "it has no address of type InternalIP yet by which others can reach it (status.addresses; \
                    the kubelet reports it)"
                .into(),
        );
    }
    Ok(Node {
        name: name.to_owned(),
        v4,
        v6,
        pod_cidrs: pod_cidrs(spec)?,
        vtep_mac: mac_of(name, annotations.vtep_mac.as_deref())?,
        wireguard_key: key_of(annotations.wireguard_key.as_deref())?,
        vtep_mac6: vtep_mac6(name),
        further: machine(addresses),
    })
}

/// The addresses of the machine, and those of a NAT before it.
fn machine(addresses: &[Address]) -> Vec<IpAddr> {
    let of_machine = |address: &&Address| matches!(address.kind.as_str(), "InternalIP" | "ExternalIP");
    let parsed = addresses.iter().filter(of_machine).filter_map(|address| address.address.parse().ok());
    let is_host = |address: &IpAddr| match address {
        IpAddr::V4(ip) => is_host_v4(*ip),
        IpAddr::V6(ip) => is_host_v6(*ip),
    };
    parsed.filter(is_host).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The first internal address of each family.
fn internal(addresses: &[Address]) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let (mut v4, mut v6) = (None, None);
    for address in addresses.iter().filter(|address| address.kind == "InternalIP") {
        match address.address.parse() {
            Ok(IpAddr::V4(ip)) if v4.is_none() && is_host_v4(ip) => v4 = Some(ip),
            Ok(IpAddr::V6(ip)) if v6.is_none() && is_host_v6(ip) => v6 = Some(ip),
            _ => {}
        }
    }
    (v4, v6)
}

fn is_host_v4(ip: Ipv4Addr) -> bool {
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast())
}

fn is_host_v6(ip: Ipv6Addr) -> bool {
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local())
}

fn pod_cidrs(spec: &Spec) -> Result<Vec<IpNetwork>, String> {
    let list = spec.pod_cidrs.as_deref().filter(|list| !list.is_empty());
    let texts = list.or(spec.pod_cidr.as_ref().map(std::slice::from_ref)).unwrap_or_default();
    let texts = texts.iter().filter(|text| !text.is_empty());
    let cidrs = texts.map(|text| pod_cidr(text)).collect::<Result<Vec<_>, _>>()?;
    if cidrs.is_empty() {
        return Err("it has no pod CIDR yet (spec.podCIDRs; kube-controller-manager gives them with \
                    --allocate-node-cidrs)"
            .into());
    }
    Ok(cidrs)
}

fn pod_cidr(text: &str) -> Result<IpNetwork, String> {
    let refused = || format!("its pod CIDR \"{text}\" is not a network that pods can live in");
    let (true, Ok(network)) = (text.contains('/'), text.parse::<IpNetwork>()) else {
        return Err(refused());
    };
    let ip = network.network();
    let odd = network.prefix() == 0 || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    // The bits behind the prefix carry no meaning, and the kernel accepts a network only without them.
    if odd { Err(refused()) } else { IpNetwork::new(ip, network.prefix()).map_err(|_| refused()) }
}

/// The addresses in an annotation, one for each family.
fn public_of(name: &str, annotation: Option<&str>) -> Result<Public, String> {
    let mut public = Public::default();
    for text in annotation.unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(IpAddr::V4(ip)) if public.v4.is_none() && is_host_v4(ip) => public.v4 = Some(ip),
            Ok(IpAddr::V6(ip)) if public.v6.is_none() && is_host_v6(ip) => public.v6 = Some(ip),
            _ => {
                return Err(format!(
                    "its annotation {name} \"{text}\" is not an address by which others can reach it, one a family"
                ));
            }
        }
    }
    Ok(public)
}

fn overwrite_of(annotations: &Annotations) -> Result<Public, String> {
    let of = |key: &str, text: &Option<String>| {
        public_of(&format!("{}{key}", flannel::ANNOTATIONS), text.as_deref())
    };
    let v4 = of("public-ip-overwrite", &annotations.overwrite)?;
    Ok(v4.or(of("public-ipv6-overwrite", &annotations.overwrite6)?))
}

fn key_of(annotation: Option<&str>) -> Result<Option<WgKey>, String> {
    let key = annotation.map(str::parse).transpose();
    let text = annotation.unwrap_or_default();
    key.map_err(|_| format!("its annotation {WIREGUARD_KEY} \"{text}\" is not a public key of WireGuard"))
}

fn mac_of(name: &str, annotation: Option<&str>) -> Result<Mac, String> {
    let Some(text) = annotation else {
        return Ok(vtep_mac(name));
    };
    let mac = text.parse::<Mac>().ok().filter(|mac| !mac.is_multicast() && mac.octets() != [0; 6]);
    mac.ok_or_else(|| format!("its annotation {VTEP_MAC} \"{text}\" is not the MAC address of one device"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_cluster::{Told, event};

    #[test]
    fn a_node_may_be_heard_from_every_address_of_its_machine() {
        let text = r#"{"type":"ADDED","object":{"metadata":{"name":"n2"},"spec":{"podCIDRs":["10.244.2.0/24"]},
            "status":{"addresses":[{"type":"ExternalIP","address":"203.0.113.2"},
            {"type":"InternalIP","address":"192.0.2.2"},{"type":"InternalIP","address":"2001:db8::2"},
            {"type":"InternalIP","address":"198.51.100.2"},{"type":"InternalIP","address":"127.0.0.1"},
            {"type":"Hostname","address":"n2"}]}}}"#;
        let Ok(Told::Put(item)) = event::<Object>(text.as_bytes()) else { panic!("{text}") };
        let node = Seen::from(item).entry.unwrap();
        assert_eq!((node.v4, node.v6), ("192.0.2.2".parse().ok(), "2001:db8::2".parse().ok()));
        let senders: Vec<_> = node.senders().iter().map(ToString::to_string).collect();
        assert_eq!(senders, ["192.0.2.2", "198.51.100.2", "203.0.113.2", "2001:db8::2"]);
    }
}
