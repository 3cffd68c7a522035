//! The cluster's network from flannel's configuration (`…/config`), and the subnets into which it is cut. Pure.

use std::net::IpAddr;

use crate::source::subnets::Subnets;
use ferrule_config::{Backend, Routing};
use ferrule_model::json::{in_words, named};
use ferrule_model::{Family, IpNetwork};
use serde::Deserialize;

/// The subnets that nodes may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    /// In IPv4.
    pub(super) v4: Option<Pool>,
    /// In IPv6.
    pub(super) v6: Option<Pool>,
}

/// A row of subnets of the same length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    /// The network that they are in.
    pub(super) network: IpNetwork,
    /// The length of their prefixes.
    prefix_len: u8,
    /// The first address of the first subnet.
    first: u128,
    /// The number of subnets.
    pub(super) count: u128,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Raw {
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    network: Option<String>,
    subnet_len: u8,
    subnet_min: Option<String>,
    subnet_max: Option<String>,
    #[serde(rename = "IPv6Network")]
    ipv6_network: Option<String>,
    #[serde(rename = "IPv6SubnetLen")]
    ipv6_subnet_len: u8,
    #[serde(rename = "IPv6SubnetMin")]
    ipv6_subnet_min: Option<String>,
    #[serde(rename = "IPv6SubnetMax")]
    ipv6_subnet_max: Option<String>,
    backend: Option<RawBackend>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawBackend {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "VNI")]
    vni: Option<u32>,
    port: Option<u16>,
    listen_port: Option<u16>,
    #[serde(rename = "PSK")]
    psk: String,
}

/// The fields of the configuration and of its backend.
const NAMES: [&str; 16] = [
    "EnableIPv4",
    "EnableIPv6",
    "Network",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "IPv6Network",
    "IPv6SubnetLen",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "Backend",
    "Type",
    "VNI",
    "Port",
    "ListenPort",
    "PSK",
];

impl Default for Raw {
    fn default() -> Self {
        Self {
            enable_ipv4: true,
            enable_ipv6: false,
            network: None,
            subnet_len: 0,
            subnet_min: None,
            subnet_max: None,
            ipv6_network: None,
            ipv6_subnet_len: 0,
            ipv6_subnet_min: None,
            ipv6_subnet_max: None,
            backend: None,
        }
    }
}

impl Network {
    /// Reads the network from its JSON.
    ///
    /// # Errors
    /// What is wrong with it, or does not fit this node's own configuration, and what to do.
    pub(super) fn parse(text: &[u8], routing: &Routing) -> Result<Self, String> {
        let told = |error: serde_json::Error| {
            format!("it cannot be read: {}", in_words(&error.to_string(), "an object"))
        };
        let mut value = serde_json::from_slice(text).map_err(told)?;
        named(&mut value, &NAMES);
        let raw: Raw = serde_json::from_value(value).map_err(told)?;
        if let Some(backend) = &raw.backend {
            check(backend, routing)?;
        }
        let v4 = raw.enable_ipv4.then(|| {
            let bounds = (raw.subnet_min.as_deref(), raw.subnet_max.as_deref());
            pool(Family::V4, raw.network.as_deref(), raw.subnet_len, bounds)
        });
        let v6 = raw.enable_ipv6.then(|| {
            let bounds = (raw.ipv6_subnet_min.as_deref(), raw.ipv6_subnet_max.as_deref());
            pool(Family::V6, raw.ipv6_network.as_deref(), raw.ipv6_subnet_len, bounds)
        });
        let network = Self { v4: v4.transpose()?, v6: v6.transpose()? };
        if network.v4.is_none() && network.v6.is_none() {
            return Err("both EnableIPv4 and EnableIPv6 are off; leave one on".into());
        }
        Ok(network)
    }

    /// Whether these are subnets of this network.
    pub(super) fn has(&self, subnets: &Subnets) -> bool {
        let fits = |pool: &Option<Pool>, subnet: Option<IpNetwork>| match (pool, subnet) {
            (Some(pool), Some(subnet)) => pool.index_of(&subnet).is_some(),
            (None, None) => true,
            _ => false,
        };
        fits(&self.v4, subnets.v4.map(IpNetwork::V4)) && fits(&self.v6, subnets.v6.map(IpNetwork::V6))
    }

    /// The networks, in words for a person.
    pub(super) fn words(&self) -> String {
        let pools = self.v4.iter().chain(&self.v6);
        pools.map(|pool| pool.network.to_string()).collect::<Vec<_>>().join(" and ")
    }
}

/// Checks that the backend is the one of this node.
fn check(backend: &RawBackend, routing: &Routing) -> Result<(), String> {
    let ours = match routing.backend {
        Backend::Vxlan | Backend::Auto => "vxlan",
        Backend::Native => "host-gw",
        Backend::Wireguard => "wireguard",
    };
    if backend.kind != ours {
        return Err(format!(
            "its backend is \"{}\", and this node's [routing] backend is what flannel calls \"{ours}\"; make them the \
             same: vxlan is vxlan, or auto with DirectRouting, host-gw is native, and wireguard is wireguard",
            backend.kind
        ));
    }
    match routing.backend {
        Backend::Vxlan | Backend::Auto => check_vxlan(backend, routing),
        Backend::Wireguard => check_wireguard(backend, routing),
        Backend::Native => Ok(()),
    }
}

fn check_wireguard(backend: &RawBackend, routing: &Routing) -> Result<(), String> {
    // flannel assumes this port, too, if none is given.
    let (port, own) = (backend.listen_port.unwrap_or(51820), routing.wireguard.port);
    if port != own {
        return Err(format!(
            "its port is {port}, and this node's is {own}; set [routing.wireguard] port = {port}"
        ));
    }
    if !backend.psk.is_empty() {
        return Err("it has a PSK, which this version does not know; remove it from the configuration".into());
    }
    Ok(())
}

fn check_vxlan(backend: &RawBackend, routing: &Routing) -> Result<(), String> {
    // flannel assumes the VNI 1 if none is given, and the kernel the port 8472.
    let (vni, port) = (backend.vni.unwrap_or(1), backend.port.filter(|port| *port != 0).unwrap_or(8472));
    if vni != routing.vxlan.vni {
        let own = routing.vxlan.vni;
        return Err(format!("its VNI is {vni}, and this node's is {own}; set [routing.vxlan] vni = {vni}"));
    }
    if port != routing.vxlan.port {
        let own = routing.vxlan.port;
        return Err(format!(
            "its port is {port}, and this node's is {own}; set [routing.vxlan] port = {port}"
        ));
    }
    Ok(())
}

/// Reads a pool. The rules are those of flannel's `CheckNetworkConfig`.
fn pool(
    family: Family,
    network: Option<&str>,
    length: u8,
    (min, max): (Option<&str>, Option<&str>),
) -> Result<Pool, String> {
    // The key, the length of an address, and the usual and the greatest length of a subnet's prefix.
    let (key, bits, usual, longest) = match family {
        Family::V4 => ("Network", 32, 24, 30),
        Family::V6 => ("IPv6Network", 128, 64, 126),
    };
    let text = network.ok_or_else(|| format!("it has no {key}"))?;
    let network: Option<IpNetwork> = text.parse().ok().filter(|network| {
        ferrule_model::family(network) == family && network.prefix() > 0 && text.contains('/')
    });
    let network = network.ok_or_else(|| format!("its {key} \"{text}\" is not a network of {family}"))?;
    let prefix_len = match length {
        0 if network.prefix() + 2 <= usual => usual,
        0 => network.prefix() + 2,
        given => given,
    };
    // There are at least four subnets: the first one is not given out.
    if prefix_len > longest || prefix_len < network.prefix() + 2 {
        let least = network.prefix() + 2;
        return Err(format!(
            "its {key} {network} cannot be cut into subnets of /{prefix_len}: /{least} to /{longest} can be"
        ));
    }
    let size = 1_u128 << (bits - prefix_len);
    let begin = number(network.network());
    let end = begin + ((1_u128 << (bits - network.prefix())) - 1);
    let bound = |text: Option<&str>, default: u128| match text.filter(|text| !text.is_empty()) {
        None => Ok(default),
        Some(text) => {
            let address =
                text.parse::<IpAddr>().ok().filter(|address| network.contains(*address)).map(number);
            address.filter(|address| address % size == 0).ok_or_else(|| {
                format!("its first or last subnet \"{text}\" is not the first address of a /{prefix_len} in {network}")
            })
        }
    };
    let first = bound(min, begin + size)?;
    let last = bound(max, end - (size - 1))?;
    if last < first {
        return Err(format!("its last subnet of {network} lies before its first"));
    }
    let network = IpNetwork::new(network.network(), network.prefix()).map_err(|error| error.to_string())?;
    Ok(Pool { network, prefix_len, first, count: (last - first) / size + 1 })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl Pool {
    fn size(&self) -> u128 {
        let bits = if self.network.is_ipv4() { 32 } else { 128 };
        1 << (bits - self.prefix_len)
    }

    /// The subnet of this number, counted from 0; `None` if the number is past the last one.
    pub(super) fn subnet(&self, index: u128) -> Option<IpNetwork> {
        let begin = (index < self.count).then(|| self.first + index * self.size())?;
        let address = match self.network {
            IpNetwork::V4(_) => IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(begin).ok()?)),
            IpNetwork::V6(_) => IpAddr::from(std::net::Ipv6Addr::from(begin)),
        };
        IpNetwork::new(address, self.prefix_len).ok()
    }

    /// The number of a subnet, if it is one of these.
    pub(super) fn index_of(&self, subnet: &IpNetwork) -> Option<u128> {
        let index = number(subnet.ip()).checked_sub(self.first)? / self.size();
        (self.subnet(index)? == *subnet).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Network, String> {
        Network::parse(text.as_bytes(), &Routing::default())
    }

    fn ends(pool: &Pool) -> (String, String, u128) {
        let text = |index| pool.subnet(index).unwrap().to_string();
        (text(0), text(pool.count - 1), pool.count)
    }

    #[test]
    fn a_network_is_cut_as_flannel_cuts_it() {
        let v4 = |text: &str| ends(&parse(text).unwrap().v4.unwrap());
        assert_eq!(v4(r#"{"Network":"10.5.0.0/16"}"#), ("10.5.1.0/24".into(), "10.5.255.0/24".into(), 255));
        assert_eq!(v4(r#"{"Network":"10.5.0.0/23"}"#), ("10.5.0.128/25".into(), "10.5.1.128/25".into(), 3));
        let whole = r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0",
                        "Backend":{"Type":"vxlan","VNI":1,"Port":0}}"#;
        assert_eq!(v4(whole), ("10.10.0.0/20".into(), "10.99.0.0/20".into(), 1425));
        let both =
            parse(r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/56"}"#).unwrap();
        assert_eq!(ends(&both.v6.unwrap()), ("fd00:5:0:1::/64".into(), "fd00:5:0:ff::/64".into(), 255));
        let v6 = parse(r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/8"}"#).unwrap();
        assert_eq!((v6.v4, v6.v6.unwrap().count), (None, (1 << 56) - 1));
    }

    #[test]
    fn names_are_matched_as_go_matches_them_and_null_is_nothing() {
        let plain = parse(r#"{"Network":"10.5.0.0/16","SubnetLen":26,"Backend":{"Type":"vxlan","VNI":1}}"#);
        let other = r#"{"enableIPv4":null,"network":"10.5.0.0/16","subnetLen":26,"SubnetMin":"","backend":{"type":"vxlan","vni":1,"port":null}}"#;
        assert_eq!(parse(other), plain);
        assert!(plain.is_ok());
        let why = parse(r#"{"Network":"10.5.0.0/16","SubnetLen":"26"}"#).unwrap_err();
        assert!(why.contains("expected a whole number from 0 to 255, found the text \"26\""), "{why}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        let why = |text: &str| parse(text).unwrap_err();
        assert!(why("x").contains("cannot be read"));
        assert!(why("{}").contains("no Network"));
        assert!(why(r#"{"Network":"fd00::/48"}"#).contains("\"fd00::/48\" is not a network of IPv4"));
        assert!(why(r#"{"Network":"10.5.0.0/24","SubnetLen":25}"#).contains("/26 to /30 can be"));
        assert!(why(r#"{"Network":"10.5.0.0/30"}"#).contains("cannot be cut"));
        assert!(why(r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.1"}"#).contains("\"10.5.0.1\""));
        assert!(
            why(r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}"#)
                .contains("before")
        );
        assert!(why(r#"{"EnableIPv4":false}"#).contains("leave one on"));
        let backend = |text: &str| why(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{text}}}"#));
        assert!(backend(r#"{"Type":"udp"}"#).contains("backend is \"udp\""));
        assert!(backend(r#"{"Type":"vxlan","VNI":7}"#).contains("set [routing.vxlan] vni = 7"));
        assert!(backend(r#"{"Type":"vxlan","Port":4789}"#).contains("set [routing.vxlan] port = 4789"));
    }

    #[test]
    fn a_network_of_wireguard_has_this_nodes_port_and_no_preshared_key() {
        let routing = Routing { backend: Backend::Wireguard, ..Routing::default() };
        let check = |text: &str| {
            let text = format!(r#"{{"Network":"10.5.0.0/16","Backend":{text}}}"#);
            Network::parse(text.as_bytes(), &routing).map(drop)
        };
        for right in
            [r#"{"Type":"wireguard"}"#, r#"{"Type":"wireguard","ListenPort":51820,"PSK":"","Mode":"auto"}"#]
        {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        let why = |text: &str| check(text).unwrap_err();
        assert!(why(r#"{"Type":"vxlan"}"#).contains("what flannel calls \"wireguard\""));
        assert!(why(r#"{"Type":"wireguard","ListenPort":1}"#).contains("set [routing.wireguard] port = 1"));
        assert!(why(r#"{"Type":"wireguard","PSK":"x"}"#).contains("remove it"));
    }

    #[test]
    fn subnets_are_known_again() {
        let network =
            parse(r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/56"}"#).unwrap();
        let has = |name: &str| network.has(&Subnets::parse(name).unwrap());
        assert!(has("10.5.7.0-24&fd00:5:0:9::-64"));
        for other in [
            "10.5.7.0-24",
            "10.5.0.0-24&fd00:5:0:9::-64",
            "10.5.7.0-25&fd00:5:0:9::-64",
            "10.6.7.0-24&fd00:5:0:9::-64",
            "10.5.7.0-24&fd00:6::-64",
        ] {
            assert!(!has(other), "{other}");
        }
    }
}
