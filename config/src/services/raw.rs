//! The services file as it is spelled: every accepted key, but nothing about the meaning.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::raw::Text;

/// A whole number and its place.
pub(super) type Number = Spanned<i64>;

/// The whole of the services file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServices {
    pub(super) service: Option<Vec<RawService>>,
    pub(super) node: Vec<RawNode>,
}

/// `[[node]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) name: Text,
    pub(super) zone: Text,
}

/// `[[service]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    pub(super) name: Text,
    #[serde(rename = "type")]
    pub(super) kind: Option<Text>,
    pub(super) cluster_ips: Vec<Text>,
    #[serde(default)]
    pub(super) external_ips: Vec<Text>,
    #[serde(default)]
    pub(super) load_balancer_ips: Vec<Text>,
    #[serde(default)]
    pub(super) load_balancer_source_ranges: Vec<Text>,
    pub(super) internal_traffic_policy: Option<Text>,
    pub(super) external_traffic_policy: Option<Text>,
    pub(super) session_affinity_s: Option<Number>,
    pub(super) health_check_node_port: Option<Number>,
    #[serde(default)]
    pub(super) publish_not_ready_addresses: bool,
    pub(super) traffic_distribution: Option<Text>,
    #[serde(default)]
    pub(super) port: Vec<RawPort>,
    #[serde(default)]
    pub(super) endpoint: Vec<RawEndpoint>,
}

/// `[[service.port]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPort {
    pub(super) name: Option<Text>,
    pub(super) protocol: Option<Text>,
    pub(super) port: Number,
    pub(super) target_port: Option<Number>,
    pub(super) node_port: Option<Number>,
}

/// `[[service.endpoint]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEndpoint {
    pub(super) address: Text,
    pub(super) node: Option<Text>,
    #[serde(default = "yes")]
    pub(super) ready: bool,
    #[serde(default)]
    pub(super) terminating: bool,
    #[serde(default)]
    pub(super) target_ports: BTreeMap<Text, Number>,
}

const fn yes() -> bool {
    true
}
