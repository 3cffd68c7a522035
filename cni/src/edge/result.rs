//! The result of ADD (section 5, "Success"), read and written in the shape of each version.
//!
//! Inside the plugin a result has the shape of the newest version. For an older version, fields are added or left out
//! when the text is written ([`AddResult::in_version`]). Up to version 0.2.0 the text has another structure
//! ([`Output::Old`]).

use std::net::IpAddr;

use ferrule_model::json::{field, in_words, named};
use ferrule_model::{Family, family};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::edge::spec::Version;

/// All fields that a result has in any version.
const NAMES: [&str; 28] = [
    "cniVersion",
    "interfaces",
    "ips",
    "routes",
    "dns",
    "name",
    "mac",
    "mtu",
    "sandbox",
    "socketPath",
    "pciID",
    "version",
    "interface",
    "address",
    "gateway",
    "dst",
    "gw",
    "advmss",
    "priority",
    "table",
    "scope",
    "nameservers",
    "domain",
    "search",
    "options",
    "ip4",
    "ip6",
    "ip",
];

/// What ADD answers, and what comes back as `prevResult`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// The version whose shape it has. Some runtimes leave it out of `prevResult`.
    #[serde(rename = "cniVersion", default)]
    pub version: String,
    /// The links. An IPAM plugin's result has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The addresses.
    #[serde(default)]
    pub ips: Vec<Ip>,
    /// The routes in the container.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Name service.
    #[serde(default)]
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name in its namespace.
    #[serde(default)]
    pub name: String,
    /// Hardware address. Links of other plugins may have none, or one that is not an Ethernet address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU in bytes. Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the container's namespace. It is empty for a link on the host.
    #[serde(default)]
    pub sandbox: String,
    /// Only links of other plugins have it. Since 1.1.0.
    #[serde(rename = "socketPath", default, skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// Only links of other plugins have it. Since 1.1.0.
    #[serde(rename = "pciID", default, skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// `4` or `6`. Only in versions 0.3.0 to 0.4.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The place of its link in `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address with its prefix length.
    pub address: IpNetwork,
    /// The gateway to everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNetwork,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Largest packet in bytes. This field and the following ones exist since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Largest TCP segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

/// Name service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The domain that is added to short names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains in which short names are looked up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A result in the shape in which it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Output {
    /// The shape from 0.3.0 on.
    New(AddResult),
    /// The shape up to 0.2.0.
    Old(OldResult),
}

/// A result up to 0.2.0. It has only the first address of each family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldResult {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip4: Option<OldIp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<OldIp>,
    #[serde(default)]
    dns: Dns,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OldIp {
    ip: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

impl AddResult {
    /// Reads a result of any version, as Go does.
    ///
    /// # Errors
    /// The value is not a result. The error says why, in words for people.
    pub fn read(value: &Value) -> Result<Self, String> {
        let mut value = value.clone();
        named(&mut value, &NAMES);
        let told = |error: serde_json::Error| in_words(&error.to_string(), "an object");
        let is_old = |fields| field(fields, "ip4").is_some() || field(fields, "ip6").is_some();
        let mut result = if value.as_object().is_some_and(is_old) {
            let OldResult { version, ip4, ip6, dns } = serde_json::from_value(value).map_err(told)?;
            let mut result = Self { version, dns, ..Self::default() };
            for OldIp { ip, gateway, routes } in ip4.into_iter().chain(ip6) {
                result.ips.push(Ip { version: None, interface: None, address: ip, gateway });
                result.routes.extend(routes);
            }
            result
        } else {
            serde_json::from_value(value).map_err(told)?
        };
        // The reference library leaves out a 0 in fields that are not pointers in its types, so 0 means absent here
        // too.
        let is_set = |number: &u32| *number != 0;
        for interface in &mut result.interfaces {
            interface.mtu = interface.mtu.filter(is_set);
        }
        for route in &mut result.routes {
            route.mtu = route.mtu.filter(is_set);
            route.advmss = route.advmss.filter(is_set);
            route.priority = route.priority.filter(is_set);
        }
        Ok(result)
    }

    /// The same result in the shape of `version`.
    #[must_use]
    pub fn in_version(mut self, version: Version) -> Output {
        version.as_str().clone_into(&mut self.version);
        if version < Version::V1_1_0 {
            for interface in &mut self.interfaces {
                (interface.mtu, interface.socket_path, interface.pci_id) = (None, None, None);
            }
            for route in &mut self.routes {
                *route = Route::plain(route.dst, route.gw);
            }
        }
        for ip in &mut self.ips {
            ip.version = (version < Version::V1_0_0).then(|| match family(&ip.address) {
                Family::V4 => "4".to_owned(),
                Family::V6 => "6".to_owned(),
            });
        }
        if version < Version::V0_3_0 { Output::Old(self.old()) } else { Output::New(self) }
    }

    fn old(self) -> OldResult {
        let first = |wanted| {
            let ip = self.ips.iter().find(|ip| family(&ip.address) == wanted)?;
            let routes = self.routes.iter().filter(|route| family(&route.dst) == wanted);
            Some(OldIp { ip: ip.address, gateway: ip.gateway, routes: routes.cloned().collect() })
        };
        let (ip4, ip6) = (first(Family::V4), first(Family::V6));
        OldResult { version: self.version, ip4, ip6, dns: self.dns }
    }

    /// This result after that of an earlier plugin in the list. What the earlier plugin made comes first.
    #[must_use]
    pub fn after(mut self, previous: Self) -> Self {
        let offset = previous.interfaces.len();
        for place in self.ips.iter_mut().filter_map(|ip| ip.interface.as_mut()) {
            *place += offset;
        }
        let dns = if self.dns == Dns::default() { previous.dns } else { self.dns };
        Self {
            version: self.version,
            interfaces: [previous.interfaces, self.interfaces].concat(),
            ips: [previous.ips, self.ips].concat(),
            routes: [previous.routes, self.routes].concat(),
            dns,
        }
    }
}

impl Route {
    /// A route with only a destination and a next hop.
    pub const fn plain(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}
