//! `services.json`: which addresses of Services this node serves now, for whoever announces addresses to routers.

use std::net::IpAddr;
use std::path::Path;

use ferrule_model::json::in_words;
use serde::{Deserialize, Serialize};

use crate::document::{Checked, Document};
use crate::error::ConfigError;
use crate::name::check_node_name;

/// The version of the layout that is written and read here.
const VERSION: u32 = 1;

/// The addresses of Services that this node serves at this moment. `proxyd` tells them by a file in the runtime
/// directory.
///
/// An address is here only while the kernel leads its packets to an endpoint, and while no other node would do better:
/// of an address with the policy `Local` that means an endpoint on this node. So whoever announces the addresses of
/// this file draws no packet to a node that would drop it.
///
/// `proxyd` replaces the whole file by a rename. A reader ignores keys that it does not know, because the programs are
/// upgraded one after the other, and refuses another version.
///
/// ```
/// use std::path::Path;
/// use ferrule_config::{ServedAddress, ServedFile, ServedKind};
///
/// let address = ServedAddress {
///     address: "192.0.2.80".parse().expect("an address"),
///     kind: ServedKind::LoadBalancer,
///     has_local_endpoints: true,
///     services: vec!["default/web".into()],
/// };
/// let file = ServedFile::new("node-a".into(), vec![address]);
/// assert_eq!(ServedFile::parse(&file.to_json(), Path::new("services.json"))?, file);
/// # Ok::<(), ferrule_config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedFile {
    version: u32,
    /// The node's name.
    pub node: String,
    /// The addresses, sorted. Each occurs once.
    pub addresses: Vec<ServedAddress>,
}

/// One address that this node serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedAddress {
    /// The address.
    pub address: IpAddr,
    /// What it is to the Services.
    pub kind: ServedKind,
    /// Whether an endpoint on this node serves it, alone or beside others.
    pub has_local_endpoints: bool,
    /// The Services, as `NAMESPACE/NAME`, sorted. Several may share the address of a load balancer.
    pub services: Vec<String>,
}

/// What an address is to a Service. Of several the first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ServedKind {
    /// `clusterIPs`
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// `loadBalancer.ingress`
    LoadBalancer,
    /// `externalIPs`
    #[serde(rename = "ExternalIP")]
    ExternalIp,
}

impl ServedFile {
    /// A file of the present version.
    #[must_use]
    pub fn new(node: String, addresses: Vec<ServedAddress>) -> Self {
        Self { version: VERSION, node, addresses }
    }

    /// Reads the file from its text. `file` is only a name for messages.
    ///
    /// # Errors
    /// If the text is not JSON of this shape, is of another version, or has an impossible value.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(file, text);
        let served: Self = serde_json::from_str(text).map_err(|error| {
            let reason = in_words(&error.to_string(), "an object");
            document.fault_at_line((error.line(), error.column()), reason, REMEDY)
        })?;
        served.check(&document)?;
        Ok(served)
    }

    /// The file's text, ending in a newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        // The type holds strings, numbers, truths and lists only, so JSON can hold all of it.
        let mut text = serde_json::to_string(self).expect("a file of addresses is plain JSON");
        text.push('\n');
        text
    }

    fn check(&self, document: &Document<'_>) -> Checked<()> {
        let refuse = |key: &str, reason: String| Err(document.fault_at(0..0, key, reason, REMEDY));
        if self.version != VERSION {
            return refuse("version", format!("{} is not {VERSION}", self.version));
        }
        if !check_node_name(&self.node) {
            return refuse("node", format!("\"{}\" cannot be a node's name", self.node));
        }
        match self.addresses.windows(2).find(|pair| pair[0].address >= pair[1].address) {
            Some(pair) => {
                refuse("addresses", format!("{} and {} are not sorted", pair[0].address, pair[1].address))
            }
            None => Ok(()),
        }
    }
}

const REMEDY: &str =
    "proxyd writes this file: restart a proxyd of the same version, and do not edit it by hand";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = r#"{"version":1,"node":"node-a","addresses":[]}"#;

    #[test]
    fn a_later_proxyd_may_write_more_keys() {
        let text = EMPTY.replace("{\"version", "{\"more\":[1],\"version");
        assert!(ServedFile::parse(&text, Path::new("services.json")).is_ok());
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        let refuse =
            |text: &str| ServedFile::parse(text, Path::new("services.json")).unwrap_err().to_string();
        assert!(refuse(&EMPTY.replace(":1,", ":2,")).starts_with("services.json:1:1: version: 2 is not 1; "));
        assert!(
            refuse(&EMPTY.replace("node-a", "no de")).contains("node: \"no de\" cannot be a node's name")
        );
        let one = r#"{"address":"192.0.2.1","kind":"ExternalIP","has_local_endpoints":false,"services":[]}"#;
        let twice = EMPTY.replace("[]", &format!("[{one},{one}]"));
        assert!(refuse(&twice).contains("addresses: 192.0.2.1 and 192.0.2.1 are not sorted"));
        let found = refuse("{\n  \"version\": \"1\"}");
        assert!(found.starts_with("services.json:2:16: expected a whole number from 0"), "{found}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(addresses in any::<std::collections::BTreeSet<IpAddr>>(), is_local in any::<bool>()) {
            let served = |address| ServedAddress {
                address,
                kind: ServedKind::ClusterIp,
                has_local_endpoints: is_local,
                services: vec!["default/web".into()],
            };
            let file = ServedFile::new("node-a".into(), addresses.into_iter().map(served).collect());
            prop_assert_eq!(ServedFile::parse(&file.to_json(), Path::new("services.json")).unwrap(), file);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = ServedFile::parse(&text, Path::new("services.json"));
        }
    }
}
