//! `node.json`: what `routed` knows about this node, for `ipamd` and, where a pod asks for host ports, for the plugin.

use std::path::Path;

use ferrule_model::json::in_words;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::document::{Checked, Document};
use crate::error::ConfigError;
use crate::name::check_node_name;

/// The least MTU of a pod with IPv6. IPv6 demands it of every link (RFC 8200, section 5).
pub const MTU_MIN: u32 = 1280;

/// The least MTU of a pod that has IPv4 only. Every IPv4 link carries it (RFC 791).
pub const IPV4_MTU_MIN: u32 = 68;

/// The greatest MTU of a pod: the length of the longest IP packet.
pub const MTU_MAX: u32 = 65535;

/// The node as `routed` found it. `ipamd` gets it by a file in the runtime directory.
///
/// `routed` replaces the whole file by a rename each time something in it changes, and `ipamd` watches the file. A
/// reader ignores keys that it does not know, because the two daemons are upgraded one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// The node's name.
    pub node: String,
    /// The networks from which this node's pods get their addresses. IPv4 comes before IPv6 by custom, not by rule.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The networks of all pods of the cluster.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// The MTU of a pod's interface in bytes: the underlay's, less the encapsulation.
    pub mtu: u32,
    /// Ports of the node that the plugin gives to no pod, as `tcp 22`.
    #[serde(default)]
    pub reserved_host_ports: Vec<String>,
}

impl NodeFile {
    /// Reads the node file from its text. `file` is only a name for messages.
    ///
    /// # Errors
    /// If the text is not JSON of this shape, or has an impossible value.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(file, text);
        let node: Self = serde_json::from_str(text).map_err(|error| {
            let reason = in_words(&error.to_string(), "an object");
            document.fault_at_line((error.line(), error.column()), reason, REMEDY)
        })?;
        node.check(&document)?;
        Ok(node)
    }

    /// The file's text, ending in a newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        // The type holds strings, numbers and lists only, so JSON can hold all of it.
        let mut text = serde_json::to_string_pretty(self).expect("a node file is plain JSON");
        text.push('\n');
        text
    }

    fn check(&self, document: &Document<'_>) -> Checked<()> {
        if !check_node_name(&self.node) {
            return Err(refused(document, "node", format!("\"{}\" cannot be a node's name", self.node)));
        }
        let least = if self.pod_cidrs.iter().any(IpNetwork::is_ipv6) { MTU_MIN } else { IPV4_MTU_MIN };
        if !(least..=MTU_MAX).contains(&self.mtu) {
            let reason = format!("{} is not between {least} and {MTU_MAX}", self.mtu);
            return Err(refused(document, "mtu", reason));
        }
        for (key, networks) in [("pod_cidrs", &self.pod_cidrs), ("cluster_cidrs", &self.cluster_cidrs)] {
            if let Some(network) = networks.iter().find(|network| network.ip() != network.network()) {
                return Err(refused(document, key, format!("\"{network}\" has bits set behind the prefix")));
            }
        }
        let places = self.pod_cidrs.iter().map(|network| (*network, ())).collect();
        match crate::overlap::first_overlap(places) {
            Some((one, other)) => {
                Err(refused(document, "pod_cidrs", format!("{} overlaps {}", one.0, other.0)))
            }
            None => Ok(()),
        }
    }
}

fn refused(document: &Document<'_>, key: &str, reason: String) -> Box<crate::Fault> {
    document.fault_at(0..0, key, reason, REMEDY)
}

const REMEDY: &str = "routed writes this file: restart routed, and do not edit it by hand";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(mtu: u32, cidr: &str) -> String {
        format!(r#"{{"node":"node-a","pod_cidrs":["{cidr}"],"cluster_cidrs":["10.244.0.0/16"],"mtu":{mtu}}}"#)
    }

    #[test]
    fn a_later_routed_may_write_more_keys() {
        let with_more = text(1450, "10.244.1.0/24").replace("{\"node", "{\"more\":[1],\"node");
        let node = NodeFile::parse(&with_more, Path::new("node.json")).unwrap();
        assert_eq!(node.mtu, 1450);
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        let refuse = |text: &str| NodeFile::parse(text, Path::new("node.json")).unwrap_err().to_string();
        let mtu = |mtu, cidr| refuse(&text(mtu, cidr));
        assert!(mtu(67, "10.244.1.0/24").starts_with("node.json:1:1: mtu: 67 is not between 68 and"));
        assert!(
            mtu(1279, "fd00::/64").starts_with("node.json:1:1: mtu: 1279 is not between 1280 and"),
            "IPv6"
        );
        assert!(refuse(&text(1450, "10.244.1.1/24")).contains("pod_cidrs: \"10.244.1.1/24\" has bits set"));
        assert!(refuse(&text(1450, "10.244.1.0/24\",\"10.244.1.8/29")).contains("10.244.1.0/24 overlaps"));
        assert!(
            refuse("{\n  \"node\": 1}").starts_with("node.json:2:11: expected a text, found the number 1")
        );
        assert!(refuse(&text(1450, "10.244.1.0/24").replace("node-a", "no de")).contains("node: \"no de\""));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            node in "[a-z0-9][a-z0-9.-]{0,20}",
            third in any::<u8>(),
            low in any::<u64>(),
            mtu in MTU_MIN..=MTU_MAX,
        ) {
            let v4 = IpNetwork::new([10, 244, third, 0].into(), 24).unwrap();
            let v6 = IpNetwork::new((0xfd_u128 << 120 | u128::from(low) << 64).to_be_bytes().into(), 64).unwrap();
            let file = NodeFile { node, pod_cidrs: vec![v4, v6], cluster_cidrs: vec![v4], mtu, reserved_host_ports: vec!["tcp 22".into()] };
            prop_assert_eq!(NodeFile::parse(&file.to_json(), Path::new("node.json")).unwrap(), file);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = NodeFile::parse(&text, Path::new("node.json"));
        }
    }
}
