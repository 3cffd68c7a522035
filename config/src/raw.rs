//! `ferrule.toml` and the nodes file as they are spelled: every accepted key, but nothing about the meaning.
//!
//! A key is here only if a program uses it. Values keep their place in the text (`Spanned`), so that `settings` and
//! `nodes` can say which line is wrong.

use serde::Deserialize;
use toml::Spanned;

use crate::pods::RawPods;
use crate::service_settings::RawServiceSettings;

/// A text and its place.
pub(crate) type Text = Spanned<String>;

/// The whole of `ferrule.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawConfig {
    pub(crate) node: RawNode,
    pub(crate) cluster: RawCluster,
    pub(crate) ipam: RawIpam,
    pub(crate) pods: RawPods,
    pub(crate) routing: RawRouting,
    pub(crate) services: RawServiceSettings,
    pub(crate) metrics: RawMetrics,
    pub(crate) kubernetes: RawAccess,
}

/// `[node]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawNode {
    pub(crate) name: Option<Text>,
    pub(crate) interface: Option<Text>,
    pub(crate) address: Option<Text>,
    pub(crate) address6: Option<Text>,
    pub(crate) public_address: Option<Text>,
    pub(crate) public_address6: Option<Text>,
}

/// `[cluster]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawCluster {
    pub(crate) pod_cidrs: Vec<Text>,
    pub(crate) non_masquerade_cidrs: Vec<Text>,
    pub(crate) service_cidrs: Vec<Text>,
}

/// `[ipam]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawIpam {
    pub(crate) cooldown_s: Option<Spanned<i64>>,
    pub(crate) reclaim_after_s: Option<Spanned<i64>>,
    pub(crate) state_dir: Option<Text>,
    pub(crate) pool: Vec<RawPool>,
}

/// `[[ipam.pool]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPool {
    pub(crate) name: Text,
    pub(crate) subnets: Option<Spanned<Vec<Text>>>,
    pub(crate) subnet_env: Option<Text>,
    #[serde(default)]
    pub(crate) ranges: Vec<Text>,
    #[serde(default)]
    pub(crate) reserved: Vec<Text>,
    #[serde(default)]
    pub(crate) gateways: Vec<Text>,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawMetrics {
    pub(crate) ipamd: Option<Text>,
    pub(crate) routed: Option<Text>,
    pub(crate) proxyd: Option<Text>,
}

/// `[routing]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawRouting {
    pub(crate) backend: Option<Text>,
    pub(crate) accept: Option<Text>,
    pub(crate) source: Option<Text>,
    pub(crate) mtu: Option<Spanned<i64>>,
    pub(crate) masquerade: Option<bool>,
    pub(crate) accept_forward: bool,
    pub(crate) file: RawFile,
    pub(crate) kubernetes: RawKubernetes,
    pub(crate) etcd: RawEtcd,
    pub(crate) vxlan: RawVxlan,
    pub(crate) wireguard: RawWireguard,
    pub(crate) flannel: RawFlannel,
}

/// `[routing.file]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawFile {
    pub(crate) path: Option<Text>,
}

/// `[kubernetes]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawAccess {
    pub(crate) kubeconfig: Option<Text>,
    pub(crate) server: Option<Spanned<RawServers>>,
}

/// One address, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "invalid type: expected a URL or a list of URLs")]
pub(crate) enum RawServers {
    One(String),
    Many(Vec<String>),
}

/// `[routing.kubernetes]`, the place of the kubeconfig before there was `[kubernetes]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawKubernetes {
    pub(crate) kubeconfig: Option<Text>,
}

/// `[routing.etcd]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawEtcd {
    pub(crate) endpoints: Vec<Text>,
    pub(crate) prefix: Option<Text>,
    pub(crate) ca: Option<Text>,
    pub(crate) cert: Option<Text>,
    pub(crate) key: Option<Text>,
    pub(crate) credentials: Option<Text>,
    pub(crate) lease_s: Option<Spanned<i64>>,
}

/// `[routing.vxlan]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawVxlan {
    pub(crate) device: Option<Text>,
    pub(crate) device6: Option<Text>,
    pub(crate) vni: Option<Spanned<i64>>,
    pub(crate) port: Option<Spanned<i64>>,
    pub(crate) gbp: Option<bool>,
    pub(crate) checksum_offload: Option<bool>,
    pub(crate) also_from: Vec<Text>,
}

/// `[routing.wireguard]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawWireguard {
    pub(crate) device: Option<Text>,
    pub(crate) port: Option<Spanned<i64>>,
    pub(crate) keepalive_s: Option<Spanned<i64>>,
    pub(crate) key_file: Option<Text>,
}

/// `[routing.flannel]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawFlannel {
    pub(crate) annotations: Option<Spanned<bool>>,
    pub(crate) subnet_env: Option<Text>,
}

/// The whole of the nodes file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawNodes {
    pub(crate) node: Vec<RawEntry>,
}

/// `[[node]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawEntry {
    pub(crate) name: Text,
    pub(crate) address: Option<Text>,
    pub(crate) address6: Option<Text>,
    #[serde(default)]
    pub(crate) pod_cidrs: Vec<Text>,
    pub(crate) vtep_mac: Option<Text>,
    pub(crate) wireguard_key: Option<Text>,
}
