//! The CNI specification's vocabulary: its versions, its verbs, and the result of ADD in the shape each version has.
//!
//! Internally everything is the newest version's; an older one is a matter of leaving out and adding fields when
//! the text is written ([`AddResult::in_version`]). What a verb does lives in its own file.

use std::net::IpAddr;

use ferrule_model::{Mac, family};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// A version of the specification that the plugin speaks. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.4.0: CHECK, `prevResult` in DEL.
    V0_4_0,
    /// 1.0.0: no `version` in `ips`.
    V1_0_0,
    /// 1.1.0: STATUS, `mtu` of interfaces.
    V1_1_0,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 3] = [Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// In which the plugin answers when it does not know the caller's.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it stands in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of this name, if it is spoken.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

/// What a runtime can ask for: `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container to the network.
    Add,
    /// Detach it.
    Del,
    /// Is it attached as ADD said?
    Check,
    /// Could ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Verb {
    /// All.
    pub const ALL: [Self; 5] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Version];

    /// As it stands in `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The verb of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }

    /// The version of the specification that brought it, among those spoken.
    pub const fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Check | Self::Version => Version::V0_4_0,
            Self::Status => Version::V1_1_0,
        }
    }

    /// The variables beside `CNI_COMMAND` that it cannot do without (section 2, "Parameters").
    pub const fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Status | Self::Version => &[],
        }
    }
}

/// The result of ADD, and `prevResult` of CHECK (section 5, "Success"). Fields that only a later plugin of the chain
/// may have set are not kept: CHECK looks at what ADD made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// Which version's shape it has; absent in a `prevResult` of some runtimes.
    #[serde(rename = "cniVersion", default)]
    pub version: String,
    /// The links.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// The addresses.
    #[serde(default)]
    pub ips: Vec<Ip>,
    /// The routes in the container.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Name service, always empty: pods get it from elsewhere.
    #[serde(default)]
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name in its namespace.
    pub name: String,
    /// Ethernet address; other plugins' interfaces may have none.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Bytes; since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the container's namespace; empty for a link on the host.
    #[serde(default)]
    pub sandbox: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// `4` or `6`; up to 0.4.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Place of its link in `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// With prefix length.
    pub address: IpNetwork,
    /// The way out.
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
}

/// Name service. The object is required, its fields are not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {}

impl AddResult {
    /// The same in the shape that `version` has.
    #[must_use]
    pub fn in_version(mut self, version: Version) -> Self {
        version.as_str().clone_into(&mut self.version);
        if version < Version::V1_1_0 {
            for interface in &mut self.interfaces {
                interface.mtu = None;
            }
        }
        for ip in &mut self.ips {
            ip.version = (version < Version::V1_0_0).then(|| match family(&ip.address) {
                ferrule_model::Family::V4 => "4".to_owned(),
                ferrule_model::Family::V6 => "6".to_owned(),
            });
        }
        self
    }
}

/// What is no Ethernet address (an empty text, an InfiniBand address of another plugin's interface) is none.
fn lenient<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Mac>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.to_ascii_lowercase().parse().ok()))
}
