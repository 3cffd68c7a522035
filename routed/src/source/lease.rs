//! What a subnet lease says, in flannel's spelling. In etcd it is the JSON of its value, on Kubernetes it is in
//! annotations of the node. Pure.
//!
//! In etcd it is
//!
//! `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"…"}}`.
//!
//! For WireGuard the data is `{"PublicKey":"…"}`. A node that accepts packets from a second tunnel says both. A reader
//! takes what it needs, and ignores the rest.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_config::{Backend, Routing, Tunnel};
use ferrule_model::json::{in_words, named};
use ferrule_model::{IpNetwork, Mac, WgKey, vtep_mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::subnets::Subnets;
use crate::decide::nodes::{Node, vtep_mac6};

/// The value of a lease. The order of the fields is flannel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Value {
    #[serde(rename = "PublicIP", default = "unspecified")]
    public_ip: Ipv4Addr,
    #[serde(rename = "PublicIPv6", default)]
    public_ipv6: Option<Ipv6Addr>,
    #[serde(default)]
    backend_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend_data: Option<Data>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend_v6_data: Option<Data>,
}

/// What the other nodes have to know of the node's end of a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Data {
    #[serde(rename = "VNI", default, skip_serializing_if = "Option::is_none")]
    vni: Option<u32>,
    #[serde(rename = "VtepMAC", default, skip_serializing_if = "Option::is_none")]
    vtep_mac: Option<String>,
    #[serde(rename = "PublicKey", default, skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    /// The UDP port of WireGuard, as newer versions of flannel tell it. 0 or nothing means the reader's own port.
    #[serde(rename = "Port", default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// The fields of a lease.
const NAMES: [&str; 9] = [
    "PublicIP",
    "PublicIPv6",
    "BackendType",
    "BackendData",
    "BackendV6Data",
    "VNI",
    "VtepMAC",
    "PublicKey",
    "Port",
];

/// Reads flannel's JSON as flannel does.
fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let told = |error: serde_json::Error| in_words(&error.to_string(), "an object");
    let mut value = serde_json::from_slice(text).map_err(told)?;
    named(&mut value, &NAMES);
    serde_json::from_value(value).map_err(told)
}

fn unspecified() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

/// The MACs of a node's VXLAN devices. If there is one device, the first MAC counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Macs {
    /// Of the device for IPv4, or for both families.
    pub(super) v4: Mac,
    /// Of the device for IPv6 alone.
    pub(super) v6: Mac,
}

/// The MACs that are known, as far as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownMacs {
    /// Of the device for IPv4, or for both families.
    pub v4: Option<Mac>,
    /// Of the device for IPv6 alone.
    pub v6: Option<Mac>,
}

impl KnownMacs {
    /// Fixes both MACs from now on: the known ones, else those that were `told`, else those that follow from the node's
    /// name.
    pub(super) fn settle(&mut self, told: Self, name: &str) -> Macs {
        Macs {
            v4: *self.v4.get_or_insert_with(|| told.v4.unwrap_or_else(|| vtep_mac(name))),
            v6: *self.v6.get_or_insert_with(|| told.v6.unwrap_or_else(|| vtep_mac6(name))),
        }
    }

    /// The MACs that are known.
    pub(super) fn all(self) -> impl Iterator<Item = Mac> {
        [self.v4, self.v6].into_iter().flatten()
    }
}

/// Whether the kernel accepts the MAC for a device (`is_valid_ether_addr`).
fn can_be(mac: &Mac) -> bool {
    !mac.is_multicast() && mac.octets() != [0; 6]
}

/// The addresses by which the other nodes reach this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Public {
    /// In IPv4.
    pub(super) v4: Option<Ipv4Addr>,
    /// In IPv6.
    pub(super) v6: Option<Ipv6Addr>,
}

impl fmt::Display for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4} and {v6}"),
            (Some(v4), None) => v4.fmt(f),
            (None, Some(v6)) => v6.fmt(f),
            (None, None) => f.write_str("no address"),
        }
    }
}

impl Public {
    /// The addresses that `[node]` of the configuration gives. If an operator has chosen the link, the others are to
    /// use its addresses.
    pub(super) fn configured(node: &ferrule_config::Node) -> Self {
        let public = Self { v4: node.public_address, v6: node.public_address6 };
        match node.interface {
            Some(_) => public.or(Self { v4: node.address, v6: node.address6 }),
            None => public,
        }
    }

    /// These addresses; for a family without one, that of `other`.
    pub(super) fn or(self, other: Self) -> Self {
        Self { v4: self.v4.or(other.v4), v6: self.v6.or(other.v6) }
    }

    /// Whether both are the same node: by IPv4, or by IPv6 if neither has an IPv4 address.
    pub(super) fn is_same_node(&self, other: &Self) -> bool {
        match (self.v4, other.v4) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.v6.is_some() && self.v6 == other.v6,
            _ => false,
        }
    }
}

/// The common beginning of the names of flannel's annotations of a node object.
pub(super) const ANNOTATIONS: &str = "flannel.alpha.coreos.com/";

/// flannel's annotations of a node object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) manager: Option<String>,
    pub(super) backend_type: Option<String>,
    pub(super) backend_data: Option<String>,
    pub(super) backend_v6_data: Option<String>,
    pub(super) public_ip: Option<String>,
    pub(super) public_ipv6: Option<String>,
}

impl Annotations {
    /// The lease that the annotations describe.
    ///
    /// # Errors
    /// Why they describe none.
    pub(super) fn value(&self) -> Result<Value, String> {
        let wrong =
            |key: &str, text: &str| format!("its annotation {ANNOTATIONS}{key} \"{text}\" cannot be read");
        if self.manager.as_deref() != Some("true") {
            return Err(format!(
                "its annotation {ANNOTATIONS}kube-subnet-manager is not \"true\": neither flanneld nor routed with \
                 [routing.flannel] annotations has come up on it yet"
            ));
        }
        let data = |key: &str, text: &Option<String>| match text.as_deref() {
            // flannel writes this for a backend without data.
            None | Some("null" | "") => Ok(None),
            Some(text) => read(text.as_bytes()).map(Some).map_err(|_| wrong(key, text)),
        };
        let address = |key: &str, text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => text.parse::<IpAddr>().map(Some).map_err(|_| wrong(key, text)),
        };
        let public_ip = match address("public-ip", &self.public_ip)? {
            Some(IpAddr::V4(address)) => address,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let public_ipv6 = match address("public-ipv6", &self.public_ipv6)? {
            Some(IpAddr::V6(address)) => Some(address),
            _ => None,
        };
        Ok(Value {
            public_ip,
            public_ipv6,
            backend_type: self.backend_type.clone().unwrap_or_default(),
            backend_data: data("backend-data", &self.backend_data)?,
            backend_v6_data: data("backend-v6-data", &self.backend_v6_data)?,
        })
    }

    /// The annotations as names and values, as the object has them.
    pub(super) fn entries(&self) -> impl Iterator<Item = (String, &str)> {
        let all = [
            ("kube-subnet-manager", &self.manager),
            ("backend-type", &self.backend_type),
            ("backend-data", &self.backend_data),
            ("backend-v6-data", &self.backend_v6_data),
            ("public-ip", &self.public_ip),
            ("public-ipv6", &self.public_ipv6),
        ];
        all.into_iter().filter_map(|(key, value)| Some((format!("{ANNOTATIONS}{key}"), value.as_deref()?)))
    }
}

impl From<&Value> for Annotations {
    /// The annotations as flannel writes them.
    fn from(value: &Value) -> Self {
        let public = value.public();
        // The type holds strings and numbers only, so JSON can hold all of it.
        let data = |data: &Option<Data>| serde_json::to_string(data).unwrap_or_default();
        Self {
            manager: Some("true".into()),
            backend_type: Some(value.backend_type.clone()),
            backend_data: public.v4.map(|_| data(&value.backend_data)),
            backend_v6_data: public.v6.map(|_| data(&value.backend_v6_data)),
            public_ip: public.v4.map(|address| address.to_string()),
            public_ipv6: public.v6.map(|address| address.to_string()),
        }
    }
}

impl Value {
    /// The lease that this node writes. `key` is its own, if it has one. The lease tells of every tunnel that the node
    /// accepts packets from.
    pub(super) fn of(public: Public, routing: &Routing, macs: Macs, key: Option<WgKey>) -> Self {
        let key = key.filter(|_| routing.has(Tunnel::Wireguard)).map(|key| key.to_string());
        let data = |mac: Option<Mac>| {
            let mac = mac.filter(|_| routing.has(Tunnel::Vxlan));
            let (vni, vtep_mac) = (mac.map(|_| routing.vxlan.vni), mac.map(|mac| mac.to_string()));
            let data = Data { vni, vtep_mac, public_key: key.clone(), port: None };
            (data != Data::default()).then_some(data)
        };
        // With one device for both families, the outer packets are IPv4 if there is IPv4.
        let is_apart = routing.vxlan.device6.is_some();
        let mac6 = if is_apart { Some(macs.v6) } else { Some(macs.v4).filter(|_| public.v4.is_none()) };
        let backend_type = match routing.backend {
            Backend::Vxlan | Backend::Auto => "vxlan",
            Backend::Native => "host-gw",
            Backend::Wireguard => "wireguard",
        };
        Self {
            public_ip: public.v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            public_ipv6: public.v6,
            backend_type: backend_type.into(),
            backend_data: public.v4.and_then(|_| data(Some(macs.v4))),
            backend_v6_data: public.v6.and_then(|_| data(mac6)),
        }
    }

    /// Reads a lease from its JSON.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        read(text).map_err(|reason| format!("its value cannot be read: {reason}"))
    }

    /// Its JSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        // The type holds strings and numbers only, so JSON can hold all of it.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The addresses of the node that has it.
    pub(super) fn public(&self) -> Public {
        Public {
            v4: Some(self.public_ip).filter(|ip| !ip.is_unspecified()),
            v6: self.public_ipv6.filter(|ip| !ip.is_unspecified()),
        }
    }

    /// The MACs of the node's VXLAN devices, for IPv4 and for IPv6. Those that no device can have are left out.
    pub(super) fn macs(&self) -> KnownMacs {
        let mac = |data: &Option<Data>| data.as_ref()?.vtep_mac.as_ref()?.parse().ok().filter(can_be);
        KnownMacs { v4: mac(&self.backend_data), v6: mac(&self.backend_v6_data) }
    }

    /// The public key of the node's WireGuard device, if the lease tells a valid one.
    pub(super) fn public_key(&self) -> Option<WgKey> {
        self.data().find_map(|data| data.public_key.as_ref()?.parse().ok())
    }

    fn data(&self) -> impl Iterator<Item = &Data> {
        [&self.backend_data, &self.backend_v6_data].into_iter().flatten()
    }

    /// The public key of the node's WireGuard device. flannel's nodes, too, have one key for both families. `None` if
    /// it is not told yet.
    ///
    /// # Errors
    /// Why the node cannot be a peer.
    fn key(&self, routing: &Routing) -> Result<Option<WgKey>, String> {
        let own = routing.wireguard.port;
        if let Some(port) = self.data().find_map(|data| data.port.filter(|port| ![0, own].contains(port))) {
            return Err(format!("its WireGuard port is {port}, and [routing.wireguard] port is {own}"));
        }
        let Some(text) = self.data().find_map(|data| data.public_key.as_ref()) else { return Ok(None) };
        let wrong = |_| format!("its PublicKey \"{text}\" is not a public key of WireGuard");
        text.parse().map(Some).map_err(wrong)
    }

    /// The MACs that the routes to the pods of the node called `name` need.
    fn needed(&self, name: &str, pods: &[IpNetwork], routing: &Routing) -> Result<Macs, String> {
        let (own, of_vxlan) = (routing.vxlan.vni, self.data().filter(|data| data.vtep_mac.is_some()));
        if let Some(vni) = of_vxlan.map(|data| data.vni.unwrap_or(0)).find(|vni| *vni != own) {
            return Err(format!("its VNI is {vni}, and [routing.vxlan] vni is {own}"));
        }
        let KnownMacs { v4, v6 } = self.macs();
        if routing.vxlan.device6.is_none() {
            let mac = v4.or(v6).ok_or("it names no VtepMAC, which a tunnel to it needs")?;
            return Ok(Macs { v4: mac, v6: mac });
        }
        let missing = |is_needed: bool, mac: Option<Mac>, family: &str| match mac {
            None if is_needed => Err(format!("it names no VtepMAC for {family}, which a tunnel to it needs")),
            mac => Ok(mac.unwrap_or_else(|| vtep_mac(name))),
        };
        Ok(Macs {
            v4: missing(pods.iter().any(IpNetwork::is_ipv4), v4, "IPv4")?,
            v6: missing(pods.iter().any(IpNetwork::is_ipv6), v6, "IPv6")?,
        })
    }

    /// The node that has these subnets.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub(super) fn node(&self, subnets: &Subnets, routing: &Routing) -> Result<Node, String> {
        self.node_called(subnets.name(), subnets.cidrs(), routing)
    }

    /// The node of this name and with these pods.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub(super) fn node_called(
        &self,
        name: String,
        pod_cidrs: Vec<IpNetwork>,
        routing: &Routing,
    ) -> Result<Node, String> {
        let public = self.public();
        let is_host = |ip: IpAddr| !(ip.is_loopback() || ip.is_multicast());
        let mut addresses = public.v4.map(IpAddr::V4).into_iter().chain(public.v6.map(IpAddr::V6)).peekable();
        if addresses.peek().is_none() || !addresses.all(is_host) {
            return Err("its PublicIP is not an address by which other nodes can reach it".into());
        }
        if !matches!(self.backend_type.as_str(), "vxlan" | "host-gw" | "wireguard") {
            return Err(format!("its backend \"{}\" is not vxlan, host-gw or wireguard", self.backend_type));
        }
        let macs = match routing.backend {
            Backend::Native | Backend::Wireguard => Macs { v4: vtep_mac(&name), v6: vtep_mac(&name) },
            Backend::Vxlan | Backend::Auto => self.needed(&name, &pod_cidrs, routing)?,
        };
        let (vtep_mac, vtep_mac6) = (macs.v4, macs.v6);
        let wireguard_key = match self.key(routing) {
            Err(why) if routing.backend == Backend::Wireguard => return Err(why),
            // No packets are sent to this node by WireGuard.
            key => key.ok().flatten(),
        };
        let (v4, v6, further) = (public.v4, public.v6, Vec::new());
        Ok(Node { name, v4, v6, pod_cidrs, vtep_mac, vtep_mac6, wireguard_key, further })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnets(name: &str) -> Subnets {
        Subnets::parse(name).unwrap()
    }

    /// A lease as in flannel's documentation and its `LeaseAttrs`.
    #[test]
    fn values_are_flannels() {
        let text = r#"{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}}"#;
        let value = Value::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(value.to_json()).unwrap(), text);
        let node = value.node(&subnets("10.5.34.0-24"), &Routing::default()).unwrap();
        assert_eq!(
            (node.v4, node.vtep_mac.to_string().as_str()),
            (Some([192, 0, 2, 7].into()), "82:4b:b6:2f:54:4e")
        );
        let ours = Value::of(node_public(&node), &Routing::default(), macs(&node), Some(KEY));
        assert_eq!(ours, value, "a key is not told where no such device is");
        let native = Routing { backend: Backend::Native, ..Routing::default() };
        let text = r#"{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"host-gw"}"#;
        let public = Public { v6: Some("2001:db8::7".parse().unwrap()), ..value.public() };
        assert_eq!(json(&Value::of(public, &native, macs(&node), None)), text);
    }

    const KEY: WgKey = WgKey([7; 32]);
    const BASE64: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

    fn json(value: &Value) -> String {
        String::from_utf8(value.to_json()).unwrap()
    }

    /// A lease as flannel's `wireguard` backend writes it, with the key once for each family.
    #[test]
    fn a_key_is_told_as_flannel_tells_it_and_of_two_tunnels_both_ends() {
        let name = subnets("10.5.34.0-24&fd00:5:34::-64");
        let public = Public { v4: Some([192, 0, 2, 7].into()), v6: Some("2001:db8::7".parse().unwrap()) };
        let macs = Macs { v4: vtep_mac("n7"), v6: vtep_mac("n7") };
        let of = |backend, accept| Routing { backend, accept, ..Routing::default() };
        let (both, old) = (of(Backend::Wireguard, None), of(Backend::Vxlan, Some(Tunnel::Wireguard)));
        let value = Value::of(public, &both, macs, Some(KEY));
        let data = format!("{{\"PublicKey\":\"{BASE64}\"}}");
        let text = format!(
            "{{\"PublicIP\":\"192.0.2.7\",\"PublicIPv6\":\"2001:db8::7\",\"BackendType\":\"wireguard\",\
             \"BackendData\":{data},\"BackendV6Data\":{data}}}"
        );
        assert_eq!(json(&value), text);
        assert_eq!(value.node(&name, &both).unwrap().wireguard_key, Some(KEY));
        assert!(value.node(&name, &old).unwrap_err().contains("no VtepMAC"), "it takes nothing of VXLAN");
        // While the nodes move away from VXLAN, each side reads what it needs.
        for (backend, accept) in [
            (Backend::Vxlan, Tunnel::Wireguard),
            (Backend::Wireguard, Tunnel::Vxlan),
            (Backend::Native, Tunnel::Vxlan),
        ] {
            let value = Value::of(public, &of(backend, Some(accept)), macs, Some(KEY));
            let node = value.node(&name, &Routing::default()).unwrap();
            assert_eq!(node.vtep_mac, macs.v4);
            let is_told = backend != Backend::Native;
            assert_eq!(value.node(&name, &both).unwrap().wireguard_key, is_told.then_some(KEY));
        }
    }

    #[test]
    fn a_peer_that_cannot_be_one_says_why_and_matters_to_nobody_else() {
        let both = Routing { backend: Backend::Wireguard, ..Routing::default() };
        let of = |data: &str, routing: &Routing| {
            let text =
                format!(r#"{{"PublicIP":"192.0.2.7","BackendType":"wireguard","BackendData":{data}}}"#);
            Value::parse(text.as_bytes()).unwrap().node(&subnets("10.5.34.0-24"), routing)
        };
        let key = |rest: &str| format!(r#"{{"PublicKey":"{BASE64}"{rest}}}"#);
        for told in [key(""), key(r#","Port":0"#), key(r#","Port":51820"#)] {
            assert_eq!(of(&told, &both).unwrap().wireguard_key, Some(KEY), "{told}");
        }
        let odd =
            [(key(r#","Port":51821"#), "port is 51821"), (r#"{"PublicKey":"x"}"#.into(), "\"x\" is not a")];
        for (told, why) in odd {
            assert!(of(&told, &both).unwrap_err().contains(why), "{told}");
            let native = Routing { backend: Backend::Native, ..Routing::default() };
            assert_eq!(of(&told, &native).unwrap().wireguard_key, None);
        }
        assert_eq!(
            of("{}", &both).unwrap().wireguard_key,
            None,
            "not known yet: named with the others of that kind"
        );
    }

    /// A lease as flannel's dual stack writes it: two devices, two MACs.
    #[test]
    fn with_a_device_for_ipv6_both_macs_are_named_and_needed() {
        let mut routing = Routing::default();
        routing.vxlan.device6 = Some(ferrule_model::IfName::new("flannel-v6.1").unwrap());
        let text = r#"{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"},"BackendV6Data":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4f"}}"#;
        let value = Value::parse(text.as_bytes()).unwrap();
        let both = subnets("10.5.34.0-24&fd00:5:34::-64");
        let node = value.node(&both, &routing).unwrap();
        assert_eq!(node.vtep_mac6.to_string(), "82:4b:b6:2f:54:4f");
        assert_eq!(json(&Value::of(node_public(&node), &routing, macs(&node), None)), text);
        let without = Value { backend_v6_data: None, ..value };
        assert!(without.node(&both, &routing).unwrap_err().contains("no VtepMAC for IPv6"));
        assert!(without.node(&subnets("10.5.34.0-24"), &routing).is_ok());
    }

    #[test]
    fn names_are_matched_as_go_matches_them_and_null_is_nothing() {
        let plain = r#"{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}}"#;
        let other = r#"{"publicIP":"192.0.2.7","PUBLICIPV6":null,"backendType":"vxlan","backenddata":{"vni":1,"vtepmac":"82:4b:b6:2f:54:4e","Port":null},"BackendV6Data":null}"#;
        assert_eq!(Value::parse(other.as_bytes()), Value::parse(plain.as_bytes()));
        assert!(Value::parse(plain.as_bytes()).is_ok());
        let nothing = Value::parse(br#"{"PublicIP":null,"BackendType":null}"#).unwrap();
        assert_eq!((nothing.public(), nothing.backend_type.as_str()), (Public::default(), ""));
        let why = Value::parse(br#"{"BackendData":{"VNI":"1"}}"#).unwrap_err();
        assert!(why.contains("expected a whole number from 0 to 4294967295, found the text \"1\""), "{why}");
    }

    /// Annotations as in flannel's documentation and its kube subnet manager.
    #[test]
    fn annotations_are_flannels() {
        let some = |text: &str| Some(text.to_owned());
        let annotations = Annotations {
            manager: some("true"),
            backend_type: some("vxlan"),
            backend_data: some(r#"{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}"#),
            backend_v6_data: some(r#"{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4f"}"#),
            public_ip: some("192.0.2.7"),
            public_ipv6: some("2001:db8::7"),
        };
        let mut routing = Routing::default();
        routing.vxlan.device6 = Some(ferrule_model::IfName::new("flannel-v6.1").unwrap());
        let value = annotations.value().unwrap();
        let pods = vec!["10.244.7.0/24".parse().unwrap(), "fd00:7::/64".parse().unwrap()];
        let node = value.node_called("n7".into(), pods, &routing).unwrap();
        assert_eq!((node.v4, node.v6.is_some()), (Some([192, 0, 2, 7].into()), true));
        assert_eq!(node.vtep_mac6.to_string(), "82:4b:b6:2f:54:4f");
        let written = Annotations::from(&Value::of(node_public(&node), &routing, macs(&node), None));
        assert_eq!(written, annotations);
        let names: Vec<_> = written.entries().map(|(name, _)| name).collect();
        assert_eq!(names[2], "flannel.alpha.coreos.com/backend-data");

        assert!(Annotations::default().value().unwrap_err().contains("neither flanneld nor routed"));
        let odd = Annotations { public_ip: some("x"), ..annotations.clone() };
        assert!(odd.value().unwrap_err().contains("public-ip \"x\" cannot be read"));
        let odd = Annotations { backend_data: some("["), ..annotations.clone() };
        assert!(odd.value().unwrap_err().contains("backend-data"));
        let plain = Annotations { backend_data: some("null"), backend_type: some("host-gw"), ..annotations };
        assert!(plain.value().unwrap().node_called("n7".into(), Vec::new(), &routing).is_ok());
    }

    fn macs(node: &Node) -> Macs {
        Macs { v4: node.vtep_mac, v6: node.vtep_mac6 }
    }

    fn node_public(node: &Node) -> Public {
        Public { v4: node.v4, v6: node.v6 }
    }

    #[test]
    fn what_cannot_be_reached_says_why() {
        let why = |text: &str| {
            let value = Value::parse(text.as_bytes());
            value.and_then(|value| value.node(&subnets("10.5.34.0-24"), &Routing::default())).unwrap_err()
        };
        assert!(why("[").contains("cannot be read"));
        assert!(why("{}").contains("PublicIP"));
        assert!(why(r#"{"PublicIP":"127.0.0.1"}"#).contains("PublicIP"));
        let with = |rest: &str| why(&format!("{{\"PublicIP\":\"192.0.2.7\",{rest}}}"));
        assert!(with(r#""BackendType":"udp""#).contains("backend \"udp\""));
        assert!(with(r#""BackendType":"host-gw""#).contains("no VtepMAC"));
        assert!(
            with(r#""BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}"#)
                .contains("no VtepMAC")
        );
        assert!(
            with(r#""BackendType":"vxlan","BackendData":{"VNI":2,"VtepMAC":"02:00:5e:00:00:01"}"#)
                .contains("VNI is 2")
        );
    }

    #[test]
    fn a_node_is_told_by_its_address() {
        let public = |v4: Option<u8>, v6: Option<u8>| Public {
            v4: v4.map(|last| Ipv4Addr::new(192, 0, 2, last)),
            v6: v6.map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())),
        };
        assert!(public(Some(1), None).is_same_node(&public(Some(1), Some(2))));
        assert!(!public(Some(1), Some(2)).is_same_node(&public(Some(3), Some(2))));
        assert!(public(None, Some(2)).is_same_node(&public(None, Some(2))));
        assert!(!public(None, None).is_same_node(&public(None, None)));
    }

    proptest! {
        #[test]
        fn no_value_panics(value in any::<Vec<u8>>()) {
            let _ = Value::parse(&value);
        }
    }
}
