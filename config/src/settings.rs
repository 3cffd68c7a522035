//! `ferrule.toml` as the programs use it: typed, checked, and completed with defaults.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use toml::Spanned;

use crate::DEFAULT_NODES;
use crate::document::{Checked, Document};
use crate::error::ConfigError;
use crate::etcd::{Etcd, etcd};
use crate::interface::{Interface, interface};
use crate::kubernetes::{Kubernetes, kubernetes};
use crate::name::check_node_name;
use crate::node_file::{MTU_MAX, MTU_MIN};
use crate::overlap::contains;
use crate::pods::{Pods, pods};
use crate::ranges::ranges;
use crate::raw::{
    RawCluster, RawConfig, RawFlannel, RawIpam, RawMetrics, RawNode, RawPool, RawRouting, Text,
};
use crate::service_settings::{Services, services};
use crate::tunnel::{Tunnel, Vxlan, Wireguard, accept, apart, vxlan, wireguard};

/// How long a released address rests if `cooldown_s` is not set. It is longer than ARP and conntrack entries of short
/// connections remember the pod that had the address.
const COOLDOWN_S: u32 = 30;

/// A day. A longer time is a mistake of units.
const COOLDOWN_S_MAX: u32 = 86_400;

/// How long a pod's namespace and link have to be gone before its lease is taken back, if `reclaim_after_s` is not set.
/// It is longer than a runtime takes to follow up on what it has removed.
const RECLAIM_AFTER_S: u32 = 60;

/// The whole of `ferrule.toml`. [`Config::default`] is the meaning of an empty file.
///
/// ```
/// use std::{path::Path, time::Duration};
/// use ferrule_config::Config;
///
/// let file = Path::new("ferrule.toml");
/// let config = Config::parse("[ipam]\ncooldown_s = 60\n", file)?;
/// assert_eq!(config.ipam.cooldown, Duration::from_secs(60));
/// // What the file does not say has its default.
/// assert_eq!(config.routing, Config::default().routing);
///
/// // A fault tells its place, the key and the remedy. The unit is part of the key.
/// let error = Config::parse("[ipam]\ncooldown = 60\n", file).unwrap_err().to_string();
/// assert!(error.starts_with("ferrule.toml:2:1: "), "{error}");
/// assert!(error.contains("cooldown_s"), "{error}");
/// # Ok::<(), ferrule_config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[ipam]`
    pub ipam: Ipam,
    /// `[pods]`
    pub pods: Pods,
    /// `[routing]`
    pub routing: Routing,
    /// `[services]`
    pub services: Services,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[kubernetes]`
    pub kubernetes: Kubernetes,
}

/// `[metrics]`: where figures and health are served over HTTP. They are not served where it is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Of `ipamd`.
    pub ipamd: Option<SocketAddr>,
    /// Of `routed`.
    pub routed: Option<SocketAddr>,
    /// Of `proxyd`.
    pub proxyd: Option<SocketAddr>,
}

/// `[node]`: what this node is, if it cannot or should not be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The node's name. [`crate::node_name`] says what counts without it.
    pub name: Option<String>,
    /// The link by which the other nodes reach this one, if it is not to be found out by an address.
    pub interface: Option<Interface>,
    /// This node's own IPv4 address towards the other nodes. Without it, the address in the list of nodes counts.
    pub address: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address6: Option<Ipv6Addr>,
    /// The IPv4 address by which the other nodes reach it, if the machine itself does not have that address, because it
    /// is a NAT's.
    pub public_address: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub public_address6: Option<Ipv6Addr>,
}

/// `[cluster]`: what all nodes of the cluster have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The networks of all pods. Traffic to them keeps the pod's address. Without it, the pod CIDRs of the known nodes
    /// count.
    pub pod_cidrs: Vec<IpNetwork>,
    /// More networks towards which a pod keeps its own address.
    pub non_masquerade_cidrs: Vec<IpNetwork>,
    /// The networks of Services. A node whose pods would have addresses in them is left out.
    pub service_cidrs: Vec<IpNetwork>,
}

/// `[ipam]`: how addresses are given out on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    /// How long a released address rests before it is given out again.
    pub cooldown: Duration,
    /// How long the namespace and the link of a pod have to be gone before its lease is taken back.
    pub reclaim_after: Duration,
    /// The directory of the leases; absolute. Without it, the runtime directory.
    pub state_dir: Option<PathBuf>,
    /// `[[ipam.pool]]`. If there is a pool, the CIDRs in `node.json` are not used for addresses.
    pub pools: Vec<Pool>,
}

impl Default for Ipam {
    fn default() -> Self {
        Self {
            cooldown: Duration::from_secs(COOLDOWN_S.into()),
            reclaim_after: Duration::from_secs(RECLAIM_AFTER_S.into()),
            state_dir: None,
            pools: Vec::new(),
        }
    }
}

/// `[[ipam.pool]]`: networks from which pods of this node get their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name in the plugin's configuration and in messages.
    pub name: String,
    /// The networks: at least one, and none overlaps another one of any pool. The list is empty if `subnet_env` has
    /// them.
    pub subnets: Vec<IpNetwork>,
    /// The file of flannel that has the networks; absolute.
    pub subnet_env: Option<PathBuf>,
    /// First and last address of the parts that are given out. A subnet in which no part begins is given out whole.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Addresses and networks inside the subnets that are never given out, including the gateways.
    pub reserved: Vec<IpNetwork>,
}

/// `[routing]`: how packets get from node to node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// How packets travel.
    pub backend: Backend,
    /// A further tunnel from which packets are accepted, but into which none are sent. It serves while nodes move from
    /// one backend to another.
    pub accept: Option<Tunnel>,
    /// Where the list of nodes comes from.
    pub source: Source,
    /// The MTU of the pods in bytes. Without it, the underlay device's MTU without the encapsulation counts.
    pub mtu: Option<u32>,
    /// Whether traffic that leaves the cluster takes the node's address.
    pub masquerade: bool,
    /// Whether iptables is made to let this node's pods through if it drops forwarded packets.
    pub accept_forward: bool,
    /// `[routing.file]`
    pub file: FileSource,
    /// `[routing.etcd]`
    pub etcd: Etcd,
    /// `[routing.vxlan]`
    pub vxlan: Vxlan,
    /// `[routing.wireguard]`
    pub wireguard: Wireguard,
    /// `[routing.flannel]`
    pub flannel: Flannel,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            accept: None,
            source: Source::default(),
            mtu: None,
            masquerade: true,
            accept_forward: false,
            file: FileSource::default(),
            etcd: Etcd::default(),
            vxlan: Vxlan::default(),
            wireguard: Wireguard::default(),
            flannel: Flannel::default(),
        }
    }
}

/// How packets travel between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// In UDP, over any network that connects the nodes.
    #[default]
    Vxlan,
    /// Unchanged, by routes over the segment that all nodes share.
    Native,
    /// Unchanged to nodes on this node's segment, in UDP to the others.
    Auto,
    /// In UDP, encrypted and authenticated.
    Wireguard,
}

/// Where the list of nodes comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// A file on this node, which is watched.
    #[default]
    File,
    /// The nodes of a Kubernetes cluster, from its API server.
    Kubernetes,
    /// Subnet leases in etcd. This node takes one of them.
    Etcd,
}

/// `[routing.file]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSource {
    /// The nodes file ([`crate::NodesFile`]); absolute.
    pub path: PathBuf,
}

impl Default for FileSource {
    fn default() -> Self {
        Self { path: DEFAULT_NODES.into() }
    }
}

/// `[routing.flannel]`: what a node needs if it shares its network with flannel's nodes, beside flannel's names of
/// devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flannel {
    /// Whether flannel's annotations are read from node objects, and written to this node's.
    pub annotations: bool,
    /// The path at which `subnet.env` is written for flannel's plugin; absolute.
    pub subnet_env: Option<PathBuf>,
}

impl Config {
    /// Reads the configuration from its text. `file` is only a name for messages.
    ///
    /// # Errors
    /// If the text is not TOML, has a key that no program uses, or has an impossible value.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(file, text);
        let raw: RawConfig = document.toml()?;
        let routing = routing(&document, &raw.routing)?;
        apart(&document, &raw.routing, &routing)?;
        has_local(&document, &raw.node, routing.source)?;
        Ok(Self {
            node: node(&document, &raw.node)?,
            cluster: cluster(&document, &raw.cluster)?,
            ipam: ipam(&document, &raw.ipam)?,
            pods: pods(&document, &raw.pods)?,
            routing,
            services: services(&document, &raw.services)?,
            metrics: metrics(&document, &raw.metrics)?,
            kubernetes: kubernetes(&document, &raw.kubernetes, &raw.routing.kubernetes)?,
        })
    }
}

fn metrics(document: &Document<'_>, raw: &RawMetrics) -> Checked<Metrics> {
    let address = |key: &str, text: &Text| {
        let address = text.get_ref().parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        let reason = format!("\"{}\" is not an address with a port", text.get_ref());
        let remedy = "write it as 127.0.0.1:9478, or [::]:9478 for every address of the node";
        address.ok_or_else(|| document.fault(text, key, reason, remedy))
    };
    Ok(Metrics {
        ipamd: raw.ipamd.as_ref().map(|text| address("metrics.ipamd", text)).transpose()?,
        routed: raw.routed.as_ref().map(|text| address("metrics.routed", text)).transpose()?,
        proxyd: raw.proxyd.as_ref().map(|text| address("metrics.proxyd", text)).transpose()?,
    })
}

fn node(document: &Document<'_>, raw: &RawNode) -> Checked<Node> {
    if let Some(name) = raw.name.as_ref().filter(|name| !check_node_name(name.get_ref())) {
        let reason = format!("\"{}\" cannot be a node's name", name.get_ref());
        let remedy = "use 1 to 253 letters, digits, '-', '.' and '_', beginning with a letter or a digit";
        return Err(document.fault(name, "node.name", reason, remedy));
    }
    Ok(Node {
        name: raw.name.as_ref().map(|name| name.get_ref().clone()),
        interface: raw
            .interface
            .as_ref()
            .map(|text| interface(document, "node.interface", text))
            .transpose()?,
        address: raw.address.as_ref().map(|text| document.ipv4("node.address", text)).transpose()?,
        address6: raw.address6.as_ref().map(|text| document.ipv6("node.address6", text)).transpose()?,
        public_address: raw
            .public_address
            .as_ref()
            .map(|text| document.ipv4("node.public_address", text))
            .transpose()?,
        public_address6: raw
            .public_address6
            .as_ref()
            .map(|text| document.ipv6("node.public_address6", text))
            .transpose()?,
    })
}

/// The nodes file gives a node's public address. Then nothing else tells which address the machine has.
fn has_local(document: &Document<'_>, raw: &RawNode, source: Source) -> Checked<()> {
    let pairs = [
        ("node.public_address", &raw.public_address, &raw.address),
        ("node.public_address6", &raw.public_address6, &raw.address6),
    ];
    for (key, public, local) in pairs {
        if let (Some(public), None, None, Source::File) = (public, local, &raw.interface, source) {
            let reason = "with a nodes file it is not known which address the machine itself has";
            let local = key.replace("node.public_", "");
            let remedy = format!("set {local} too, to that address, or interface, to the link that has it");
            return Err(document.fault(public, key, reason, remedy));
        }
    }
    Ok(())
}

fn cluster(document: &Document<'_>, raw: &RawCluster) -> Checked<Cluster> {
    Ok(Cluster {
        pod_cidrs: document.networks("cluster.pod_cidrs", &raw.pod_cidrs)?,
        non_masquerade_cidrs: document.networks("cluster.non_masquerade_cidrs", &raw.non_masquerade_cidrs)?,
        service_cidrs: document.networks("cluster.service_cidrs", &raw.service_cidrs)?,
    })
}

fn ipam(document: &Document<'_>, raw: &RawIpam) -> Checked<Ipam> {
    let mut ipam = Ipam::default();
    if let Some(seconds) = &raw.cooldown_s {
        let remedy = "write the seconds that a released address rests, 0 for none";
        let seconds = document.number("ipam.cooldown_s", seconds, 0..=COOLDOWN_S_MAX, remedy)?;
        ipam.cooldown = Duration::from_secs(seconds.into());
    }
    if let Some(seconds) = &raw.reclaim_after_s {
        let remedy =
            "write the seconds that namespace and link of a pod are gone before its address is taken back";
        let seconds = document.number("ipam.reclaim_after_s", seconds, 1..=COOLDOWN_S_MAX, remedy)?;
        ipam.reclaim_after = Duration::from_secs(seconds.into());
    }
    if let Some(text) = &raw.state_dir {
        ipam.state_dir = Some(absolute(document, "ipam.state_dir", text)?);
    }
    let mut names = HashMap::new();
    let mut places = Vec::new();
    for raw in &raw.pool {
        let name = raw.name.get_ref();
        if let Some(line) = names.insert(name, document.line(&raw.name.span())) {
            let reason = format!("\"{name}\" is already the name of the pool of line {line}");
            return Err(document.fault(
                &raw.name,
                "ipam.pool.name",
                reason,
                "give each pool a name of its own",
            ));
        }
        let pool = pool(document, raw)?;
        let spans = raw.subnets.iter().flat_map(|subnets| subnets.get_ref()).map(Spanned::span);
        places.extend(pool.subnets.iter().copied().zip(spans));
        ipam.pools.push(pool);
    }
    document.disjoint("ipam.pool.subnets", places)?;
    Ok(ipam)
}

fn pool(document: &Document<'_>, raw: &RawPool) -> Checked<Pool> {
    let name = raw.name.get_ref();
    if !check_node_name(name) {
        let reason = format!("\"{name}\" cannot be a pool's name");
        let remedy = "use letters, digits, '-', '.' and '_', beginning with a letter or a digit";
        return Err(document.fault(&raw.name, "ipam.pool.name", reason, remedy));
    }
    let (subnets, subnet_env) = networks_of_pool(document, raw)?;
    let mut reserved = Vec::with_capacity(raw.reserved.len() + raw.gateways.len());
    let named = raw.reserved.iter().map(|text| ("ipam.pool.reserved", text));
    for (key, text) in named.chain(raw.gateways.iter().map(|text| ("ipam.pool.gateways", text))) {
        let network = reserved_network(document, key, text)?;
        if subnet_env.is_none() && !subnets.iter().any(|subnet| contains(subnet, &network)) {
            let reason = format!("{network} is in none of the pool's subnets");
            let remedy = "remove it, or correct the subnets";
            return Err(document.fault(text, key, reason, remedy));
        }
        reserved.push(network);
    }
    let ranges = ranges(document, &raw.ranges, subnet_env.is_none().then_some(subnets.as_slice()))?;
    Ok(Pool { name: name.clone(), subnets, subnet_env, ranges, reserved })
}

/// The networks of a pool, from `subnets` or from `subnet_env`; exactly one of them is set.
fn networks_of_pool(document: &Document<'_>, raw: &RawPool) -> Checked<(Vec<IpNetwork>, Option<PathBuf>)> {
    let name = raw.name.get_ref();
    let remedy = "write at least one, as subnets = [\"10.244.1.0/24\"], or remove the pool";
    let (networks, key) = match (&raw.subnets, &raw.subnet_env) {
        (Some(_), Some(file)) => {
            let reason = format!("the pool \"{name}\" has subnets as well");
            let remedy = "write either subnets or subnet_env; another pool can have the other";
            return Err(document.fault(file, "ipam.pool.subnet_env", reason, remedy));
        }
        (None, Some(file)) => {
            return Ok((Vec::new(), Some(absolute(document, "ipam.pool.subnet_env", file)?)));
        }
        (None, None) => {
            let reason = format!("the pool \"{name}\" has neither subnets nor subnet_env");
            return Err(document.fault(&raw.name, "ipam.pool.subnets", reason, remedy));
        }
        (Some(networks), None) => (networks, "ipam.pool.subnets"),
    };
    let subnets = document.networks(key, networks.get_ref())?;
    if subnets.is_empty() {
        let reason = format!("the pool \"{name}\" has no subnet");
        return Err(document.fault(networks, key, reason, remedy));
    }
    Ok((subnets, None))
}

/// An address or a network.
fn reserved_network(document: &Document<'_>, key: &str, text: &Text) -> Checked<IpNetwork> {
    match text.get_ref().parse::<IpAddr>() {
        Ok(address) => Ok(IpNetwork::from(address)),
        Err(_) if key == "ipam.pool.gateways" => {
            let reason = format!("\"{}\" is not an address", text.get_ref());
            Err(document.fault(text, key, reason, "write single addresses, as 10.244.1.1"))
        }
        Err(_) => document.network(key, text),
    }
}

fn routing(document: &Document<'_>, raw: &RawRouting) -> Checked<Routing> {
    let defaults = Routing::default();
    let mtu = raw.mtu.as_ref().map(|mtu| {
        let remedy =
            "remove it to have it found from the underlay device, or write the MTU of the pods in bytes";
        document.number("routing.mtu", mtu, MTU_MIN..=MTU_MAX, remedy)
    });
    let source = raw.source.as_ref().map_or(Ok(defaults.source), |text| source(document, text))?;
    Ok(Routing {
        backend: raw.backend.as_ref().map_or(Ok(defaults.backend), |text| backend(document, text))?,
        accept: raw.accept.as_ref().map(|text| accept(document, text)).transpose()?,
        source,
        mtu: mtu.transpose()?,
        masquerade: raw.masquerade.unwrap_or(defaults.masquerade),
        accept_forward: raw.accept_forward,
        file: match &raw.file.path {
            Some(text) => FileSource { path: absolute(document, "routing.file.path", text)? },
            None => defaults.file,
        },
        etcd: etcd(document, &raw.etcd, raw.source.as_ref())?,
        vxlan: vxlan(document, &raw.vxlan)?,
        wireguard: wireguard(document, &raw.wireguard)?,
        flannel: flannel(document, &raw.flannel, source)?,
    })
}

fn flannel(document: &Document<'_>, raw: &RawFlannel, source: Source) -> Checked<Flannel> {
    let is_wanted = |flag: &&Spanned<bool>| *flag.get_ref();
    let annotations = raw.annotations.as_ref().filter(is_wanted);
    if let Some(flag) = annotations.filter(|_| source != Source::Kubernetes) {
        let reason = "annotations are those of Kubernetes' node objects";
        let remedy = "write source = \"kubernetes\" into [routing], or remove it: in etcd, flannel's leases are read anyway";
        return Err(document.fault(flag, "routing.flannel.annotations", reason, remedy));
    }
    let subnet_env = raw.subnet_env.as_ref();
    let subnet_env = subnet_env.map(|text| absolute(document, "routing.flannel.subnet_env", text));
    Ok(Flannel { annotations: annotations.is_some(), subnet_env: subnet_env.transpose()? })
}

fn backend(document: &Document<'_>, text: &Text) -> Checked<Backend> {
    match text.get_ref().as_str() {
        "vxlan" => Ok(Backend::Vxlan),
        "native" => Ok(Backend::Native),
        "auto" => Ok(Backend::Auto),
        "wireguard" => Ok(Backend::Wireguard),
        other => {
            let reason = format!("this version has no backend \"{other}\"");
            let remedy = "write backend = \"vxlan\", \"native\", \"auto\" or \"wireguard\"";
            Err(document.fault(text, "routing.backend", reason, remedy))
        }
    }
}

fn source(document: &Document<'_>, text: &Text) -> Checked<Source> {
    match text.get_ref().as_str() {
        "file" => Ok(Source::File),
        "kubernetes" => Ok(Source::Kubernetes),
        "etcd" => Ok(Source::Etcd),
        other => {
            let reason = format!("this version has no source \"{other}\"");
            let remedy = "write source = \"file\" and list the nodes in the file of [routing.file] path, or source = \
                          \"kubernetes\" or source = \"etcd\"";
            Err(document.fault(text, "routing.source", reason, remedy))
        }
    }
}

pub(crate) fn absolute(document: &Document<'_>, key: &str, text: &Text) -> Checked<PathBuf> {
    let path = PathBuf::from(text.get_ref());
    if path.is_absolute() && path.file_name().is_some() && !text.get_ref().contains('\0') {
        return Ok(path);
    }
    let reason = format!("\"{}\" is not the absolute path of a file", text.get_ref());
    Err(document.fault(text, key, reason, format!("write the whole path, as {DEFAULT_NODES}")))
}
