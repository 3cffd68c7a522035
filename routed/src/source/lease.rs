//! A subnet lease as flannel spells it: in etcd the name that its key ends with and the JSON of its value, on Kubernetes
//! annotations of the node. Pure.
//!
//! `…/subnets/10.5.34.0-24` or, with both families, `…/subnets/10.5.34.0-24&fd00:5:34::-64`; its value is
//! `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"…"}}`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_config::{Backend, Routing};
use ferrule_model::{IpNetwork, Ipv4Network, Ipv6Network, Mac, vtep_mac};
use serde::{Deserialize, Serialize};

use crate::nodes::Node;

/// The networks of one node's pods, one a family at most and one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnets {
    /// In IPv4.
    pub(super) v4: Option<Ipv4Network>,
    /// In IPv6.
    pub(super) v6: Option<Ipv6Network>,
}

/// What flannel writes where a lease has no IPv4 subnet.
const NO_V4: &str = "0.0.0.0-0";

impl Subnets {
    /// Out of the last part of a key; `None` if it is no subnet's.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (v4, v6) = match name.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (name, None),
        };
        let v4 = if v4 == NO_V4 { None } else { Some(as_v4(network(v4)?)?) };
        let v6 = match v6 {
            Some(v6) => Some(as_v6(network(v6)?)?),
            None => None,
        };
        let subnets = Self { v4, v6 };
        (subnets.v4.is_some() || subnets.v6.is_some()).then_some(subnets)
    }

    /// Out of a node's pod CIDRs; `None` if they are others than one a family.
    pub(super) fn of(cidrs: &[IpNetwork]) -> Option<Self> {
        let mut subnets = Self { v4: None, v6: None };
        for cidr in cidrs {
            let is_first = match cidr {
                IpNetwork::V4(network) => subnets.v4.replace(*network).is_none(),
                IpNetwork::V6(network) => subnets.v6.replace(*network).is_none(),
            };
            if !is_first {
                return None;
            }
        }
        (!cidrs.is_empty()).then_some(subnets)
    }

    /// The last part of the key.
    pub(super) fn name(&self) -> String {
        match self.v6 {
            Some(v6) => format!("{}&{}-{}", self.name_v4(), v6.ip(), v6.prefix()),
            None => self.name_v4(),
        }
    }

    fn name_v4(&self) -> String {
        self.v4.map_or_else(|| NO_V4.into(), |v4| format!("{}-{}", v4.ip(), v4.prefix()))
    }

    /// What the names begin with that nobody else may have: with IPv4, whatever stands beside it.
    pub(super) fn first(&self) -> String {
        if self.v4.is_some() { self.name_v4() } else { self.name() }
    }

    /// As pod CIDRs.
    pub(super) fn cidrs(&self) -> Vec<IpNetwork> {
        self.v4.map(IpNetwork::V4).into_iter().chain(self.v6.map(IpNetwork::V6)).collect()
    }

    /// Some address is in both.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        self.v4.zip(other.v4).is_some_and(|(one, other)| one.overlaps(other))
            || self.v6.zip(other.v6).is_some_and(|(one, other)| one.overlaps(other))
    }
}

fn network(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.rsplit_once('-')?;
    let network = IpNetwork::new(address.parse().ok()?, prefix.parse().ok()?).ok()?;
    let ip = network.ip();
    let is_odd = network.prefix() == 0 || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    (!is_odd && ip == network.network()).then_some(network)
}

fn as_v4(network: IpNetwork) -> Option<Ipv4Network> {
    match network {
        IpNetwork::V4(network) => Some(network),
        IpNetwork::V6(_) => None,
    }
}

fn as_v6(network: IpNetwork) -> Option<Ipv6Network> {
    match network {
        IpNetwork::V6(network) => Some(network),
        IpNetwork::V4(_) => None,
    }
}

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

/// Of `BackendType` `vxlan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Data {
    #[serde(rename = "VNI", default)]
    vni: u32,
    #[serde(rename = "VtepMAC", default)]
    vtep_mac: String,
}

fn unspecified() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

/// The MACs of a node's VXLAN devices; with one device the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Macs {
    /// Of the device for IPv4, or for both families.
    pub(super) v4: Mac,
    /// Of that for IPv6 alone.
    pub(super) v6: Mac,
}

/// What the kernel takes for a device (`is_valid_ether_addr`).
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

impl Public {
    /// Both are the same node: by IPv4, and by IPv6 where one has no other.
    pub(super) fn is_same_node(&self, other: &Self) -> bool {
        match (self.v4, other.v4) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.v6.is_some() && self.v6 == other.v6,
            _ => false,
        }
    }
}

/// What flannel's annotations of a node object are called, after their common beginning.
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
    /// The lease that they make.
    ///
    /// # Errors
    /// Why they make none.
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
            // flannel writes this for what has no data.
            None | Some("null" | "") => Ok(None),
            Some(text) => serde_json::from_str(text).map(Some).map_err(|_| wrong(key, text)),
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

    /// As the object has them: names and values.
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
    /// As flannel writes them.
    fn from(value: &Value) -> Self {
        let public = value.public();
        // Strings and numbers: there is nothing in the type that JSON cannot hold.
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
    /// What this node writes.
    pub(super) fn of(public: Public, routing: &Routing, macs: Macs) -> Self {
        let is_tunnel = routing.backend != Backend::Native;
        let data = |mac: Mac| Data { vni: routing.vxlan.vni, vtep_mac: mac.to_string() };
        // With one device for all, the outer packets are IPv4 where there is IPv4.
        let is_apart = routing.vxlan.device6.is_some();
        let v4 = public.v4.map(|_| data(macs.v4));
        let v6 = public.v6.filter(|_| is_apart || v4.is_none());
        let v6 = v6.map(|_| data(if is_apart { macs.v6 } else { macs.v4 }));
        Self {
            public_ip: public.v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            public_ipv6: public.v6,
            backend_type: if is_tunnel { "vxlan" } else { "host-gw" }.into(),
            backend_data: v4.filter(|_| is_tunnel),
            backend_v6_data: v6.filter(|_| is_tunnel),
        }
    }

    /// Out of its JSON.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| format!("its value cannot be read: {error}"))
    }

    /// Its JSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        // Strings and numbers: there is nothing in the type that JSON cannot hold.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whose it is.
    pub(super) fn public(&self) -> Public {
        Public {
            v4: Some(self.public_ip).filter(|ip| !ip.is_unspecified()),
            v6: self.public_ipv6.filter(|ip| !ip.is_unspecified()),
        }
    }

    /// The MACs of the node's VXLAN devices, of IPv4 and of IPv6, those that are named and can be one.
    pub(super) fn macs(&self) -> (Option<Mac>, Option<Mac>) {
        let mac =
            |data: &Option<Data>| data.as_ref().and_then(|data| data.vtep_mac.parse().ok()).filter(can_be);
        (mac(&self.backend_data), mac(&self.backend_v6_data))
    }

    /// The MACs that the routes to the pods of the node called `name` need.
    fn needed(&self, name: &str, pods: &[IpNetwork], routing: &Routing) -> Result<Macs, String> {
        let vni_is_ours =
            |data: &Option<Data>| data.as_ref().is_none_or(|data| data.vni == routing.vxlan.vni);
        for data in [&self.backend_data, &self.backend_v6_data] {
            if let Some(data) = data.as_ref().filter(|_| !vni_is_ours(data)) {
                return Err(format!(
                    "its VNI is {}, and [routing.vxlan] vni is {}",
                    data.vni, routing.vxlan.vni
                ));
            }
        }
        let (v4, v6) = self.macs();
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
        if !matches!(self.backend_type.as_str(), "vxlan" | "host-gw") {
            return Err(format!("its backend \"{}\" is neither vxlan nor host-gw", self.backend_type));
        }
        let macs = match routing.backend {
            Backend::Native | Backend::Wireguard => Macs { v4: vtep_mac(&name), v6: vtep_mac(&name) },
            Backend::Vxlan | Backend::Auto => self.needed(&name, &pod_cidrs, routing)?,
        };
        let (vtep_mac, vtep_mac6) = (macs.v4, macs.v6);
        Ok(Node { name, v4: public.v4, v6: public.v6, pod_cidrs, vtep_mac, vtep_mac6, wireguard_key: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnets(name: &str) -> Subnets {
        Subnets::parse(name).unwrap()
    }

    #[test]
    fn keys_are_flannels() {
        for name in ["10.5.34.0-24", "10.5.34.0-24&fd00:5:34::-64", "0.0.0.0-0&fd00:5:34::-64"] {
            assert_eq!(subnets(name).name(), name);
        }
        assert_eq!(subnets("10.5.34.0-24&fd00:5:34::-64").first(), "10.5.34.0-24");
        assert_eq!(subnets("0.0.0.0-0&fd00::-64").first(), "0.0.0.0-0&fd00::-64");
        let odd = [
            "",
            "10.5.34.0",
            "10.5.34.1-24",
            "0.0.0.0-0",
            "10.5.34.0-33",
            "10.5.34.0-24&10.6.0.0-24",
            "a-24",
            "fd00::-64",
            "10.5.34.0-24&fd00::1-64",
            "10.5.34.0-24&",
            "224.0.0.0-24",
        ];
        for name in odd {
            assert_eq!(Subnets::parse(name), None, "{name}");
        }
    }

    /// As in flannel's documentation and its `LeaseAttrs`.
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
        let ours = Value::of(node_public(&node), &Routing::default(), macs(&node));
        assert_eq!(ours, value);
        let native = Routing { backend: Backend::Native, ..Routing::default() };
        let text = r#"{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"host-gw"}"#;
        let public = Public { v6: Some("2001:db8::7".parse().unwrap()), ..value.public() };
        assert_eq!(String::from_utf8(Value::of(public, &native, macs(&node)).to_json()).unwrap(), text);
    }

    /// As flannel's dual stack has it: two devices, two MACs.
    #[test]
    fn with_a_device_for_ipv6_both_macs_are_named_and_needed() {
        let mut routing = Routing::default();
        routing.vxlan.device6 = Some(ferrule_model::IfName::new("flannel-v6.1").unwrap());
        let text = r#"{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"},"BackendV6Data":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4f"}}"#;
        let value = Value::parse(text.as_bytes()).unwrap();
        let both = subnets("10.5.34.0-24&fd00:5:34::-64");
        let node = value.node(&both, &routing).unwrap();
        assert_eq!(node.vtep_mac6.to_string(), "82:4b:b6:2f:54:4f");
        assert_eq!(
            String::from_utf8(Value::of(node_public(&node), &routing, macs(&node)).to_json()).unwrap(),
            text
        );
        let without = Value { backend_v6_data: None, ..value };
        assert!(without.node(&both, &routing).unwrap_err().contains("no VtepMAC for IPv6"));
        assert!(without.node(&subnets("10.5.34.0-24"), &routing).is_ok());
    }

    /// As flannel's documentation and its kube subnet manager have them.
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
        let written = Annotations::from(&Value::of(node_public(&node), &routing, macs(&node)));
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
        fn no_key_and_no_value_panics(name in ".{0,40}", value in any::<Vec<u8>>()) {
            let _ = Subnets::parse(&name);
            let _ = Value::parse(&value);
        }
    }
}
