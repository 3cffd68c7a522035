//! `[pods]`: what the node lets its pods do.

use serde::Deserialize;
use toml::Spanned;

use crate::document::{Checked, Document};
use crate::raw::Text;
use crate::settings::Config;
use crate::tunnel::Tunnel;

/// `[pods]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    /// What a pod's packets may have as their source.
    pub source_check: SourceCheck,
    /// Ports of the node that no pod gets as a host port, as `tcp 22`. The tunnels' ports are not among them.
    pub reserved_host_ports: Vec<String>,
    /// How many connections of one pod the node tracks, roughly; 0 for any number.
    pub connections: u32,
}

/// An eighth of the table of a node with 4 GiB of memory or more (`nf_conntrack_max` is 262,144 there).
const CONNECTIONS: u32 = 32_768;
/// The most connections that an operator can give to a pod.
const CONNECTIONS_MAX: u32 = 1 << 24;

impl Default for Pods {
    fn default() -> Self {
        // The ports of ssh and of kubelet's API.
        let reserved_host_ports = ["tcp 22", "tcp 10250"].map(str::to_owned).into();
        Self { source_check: SourceCheck::default(), reserved_host_ports, connections: CONNECTIONS }
    }
}

impl Config {
    /// All ports of the node that no pod gets as a host port, as `tcp 22`: those of `[pods]`, and those of the tunnels.
    pub fn reserved_host_ports(&self) -> Vec<String> {
        let routing = &self.routing;
        let tunnels = [(Tunnel::Vxlan, routing.vxlan.port), (Tunnel::Wireguard, routing.wireguard.port)];
        let tunnels = tunnels.into_iter().filter(|(tunnel, _)| routing.has(*tunnel));
        let mut ports = self.pods.reserved_host_ports.clone();
        ports.extend(tunnels.map(|(_, port)| format!("udp {port}")));
        ports
    }
}

/// What a pod's packets may have as their source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceCheck {
    /// A source that this node routes out of the very link by which the packet came.
    #[default]
    Strict,
    /// A source that this node routes out of the link of any of its pods.
    Loose,
    /// Any source.
    Off,
}

/// `[pods]` as it is spelled.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawPods {
    source_check: Option<Text>,
    reserved_host_ports: Option<Vec<Text>>,
    connections: Option<Spanned<i64>>,
}

pub(crate) fn pods(document: &Document<'_>, raw: &RawPods) -> Checked<Pods> {
    let mut pods = Pods::default();
    if let Some(text) = &raw.source_check {
        pods.source_check = match text.get_ref().as_str() {
            "strict" => SourceCheck::Strict,
            "loose" => SourceCheck::Loose,
            "off" => SourceCheck::Off,
            other => {
                let reason = format!("there is no source check \"{other}\"");
                let remedy = "write source_check = \"strict\", \"loose\" or \"off\"";
                return Err(document.fault(text, "pods.source_check", reason, remedy));
            }
        };
    }
    if let Some(number) = &raw.connections {
        let remedy = "write how many connections of one pod the node tracks, 0 for any number";
        pods.connections = document.number("pods.connections", number, 0..=CONNECTIONS_MAX, remedy)?;
    }
    if let Some(texts) = &raw.reserved_host_ports {
        pods.reserved_host_ports =
            texts.iter().map(|text| reserved(document, text)).collect::<Checked<Vec<_>>>()?;
    }
    Ok(pods)
}

/// A protocol and a port.
fn reserved(document: &Document<'_>, text: &Text) -> Checked<String> {
    let port = match text.get_ref().split_once(' ') {
        Some(("tcp" | "udp" | "sctp", port)) => port.parse().ok(),
        _ => None,
    };
    match port {
        Some(1_u16..) if !text.get_ref().contains('+') => Ok(text.get_ref().clone()),
        _ => {
            let reason = format!("\"{}\" is not a protocol and a port", text.get_ref());
            let remedy = "write tcp, udp or sctp, a space and a port, as \"tcp 22\"";
            Err(document.fault(text, "pods.reserved_host_ports", reason, remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_source_check_is_strict_unless_another_one_is_asked_for() {
        let of = |text: &str| Config::parse(text, Path::new("f")).map(|config| config.pods.source_check);
        assert_eq!(of("").ok(), Some(SourceCheck::Strict));
        for (text, expected) in
            [("strict", SourceCheck::Strict), ("loose", SourceCheck::Loose), ("off", SourceCheck::Off)]
        {
            assert_eq!(of(&format!("[pods]\nsource_check = \"{text}\"\n")).ok(), Some(expected));
        }
        let fault = of("[pods]\nsource_check = \"none\"\n").expect_err("no such check").to_string();
        assert!(fault.contains("f:2") && fault.contains("\"loose\" or \"off\""), "{fault}");
    }

    #[test]
    fn a_pod_has_a_share_of_the_connections_unless_it_may_have_any_number() {
        let of = |text: &str| Config::parse(text, Path::new("f")).map(|config| config.pods.connections);
        assert_eq!(of("").unwrap(), 32_768);
        assert_eq!(of("[pods]\nconnections = 0\n").unwrap(), 0);
        let fault = of("[pods]\nconnections = -1\n").expect_err("fewer than none").to_string();
        assert!(fault.contains("f:2") && fault.contains("0 for any number"), "{fault}");
    }

    #[test]
    fn the_ports_of_the_node_are_those_of_the_list_and_those_of_its_tunnels() {
        let of = |text: &str| Config::parse(text, Path::new("f")).map(|config| config.reserved_host_ports());
        assert_eq!(of("").unwrap(), ["tcp 22", "tcp 10250", "udp 8472"]);
        let text = "[pods]\nreserved_host_ports = [\"sctp 9\"]\n[routing]\nbackend = \"wireguard\"\n";
        assert_eq!(of(text).unwrap(), ["sctp 9", "udp 51820"]);
        let text = "[pods]\nreserved_host_ports = []\n[routing]\nbackend = \"native\"\n";
        assert_eq!(of(text).unwrap(), [""; 0]);
        for wrong in ["22", "tcp", "tcp 0", "tcp 65536", "TCP 22", "tcp  22", "tcp +22", "icmp 1"] {
            let fault =
                of(&format!("[pods]\nreserved_host_ports = [\"{wrong}\"]\n")).unwrap_err().to_string();
            assert!(fault.contains("f:2") && fault.contains(wrong), "{fault}");
        }
    }
}
