//! The services file of `proxyd`: Services with their endpoints, for use without a cluster.
//!
//! It has the names and the rules of Kubernetes. What Kubernetes' API server would refuse is refused here, with the
//! line. Which endpoint serves whom is decided by `proxyd`.

mod check;
mod raw;

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::Path;

use ipnetwork::IpNetwork;

use crate::document::Document;
use crate::error::ConfigError;

/// The Services, in the order of the file.
///
/// ```
/// use std::path::Path;
/// use ferrule_config::ServicesFile;
///
/// let text = r#"
/// [[service]]
/// name = "default/web"
/// cluster_ips = ["10.96.0.10"]
///
/// [[service.port]]
/// port = 80
/// target_port = 8080
///
/// [[service.endpoint]]
/// address = "10.244.1.5"
/// node = "node-a"
/// "#;
/// let file = ServicesFile::parse(text, Path::new("services.toml"))?;
/// assert_eq!(file.services[0].name, "web");
/// assert_eq!(file.services[0].ports[0].target_port.get(), 8080);
/// # Ok::<(), ferrule_config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesFile {
    /// The Services. Each name, cluster IP and node port occurs only once.
    pub services: Vec<ServiceEntry>,
    /// The zones of nodes. Each node occurs only once.
    pub zones: Vec<ZoneEntry>,
}

/// `[[node]]`: where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneEntry {
    /// The node.
    pub node: String,
    /// Its zone.
    pub zone: String,
}

/// `[[service]]`: one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
    /// Its type.
    pub kind: ServiceKind,
    /// Its addresses inside the cluster, one or two, of different families.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses that somebody leads to the nodes.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of its load balancer. They arrive at the nodes as the destination of packets.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Whose packets the load balancer's addresses take; everybody's if the list is empty.
    pub source_ranges: Vec<IpNetwork>,
    /// Whether `internal_traffic_policy` is `Local`.
    pub is_internal_local: bool,
    /// Whether `external_traffic_policy` is `Local`.
    pub is_external_local: bool,
    /// For how many seconds a client stays with its endpoint, if it does.
    pub session_affinity_s: Option<u32>,
    /// Where the load balancer asks the node for endpoints.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Whether endpoints are served that are not ready.
    pub publish_not_ready_addresses: bool,
    /// Which endpoints are preferred, if any are.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Its ports, at least one.
    pub ports: Vec<PortEntry>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointEntry>,
}

/// `type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// The default.
    ClusterIp,
    /// With ports of the nodes.
    NodePort,
    /// With addresses of a load balancer.
    LoadBalancer,
}

/// `protocol`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// The default.
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// `traffic_distribution`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// Endpoints of the client's zone come first.
    PreferSameZone,
    /// Endpoints of the client's node come first, then those of its zone.
    PreferSameNode,
}

/// `[[service.port]]`: one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// Its name. It may be empty if it is the Service's only port.
    pub name: String,
    /// Its protocol.
    pub protocol: Transport,
    /// Its number at the Service's addresses.
    pub port: NonZeroU16,
    /// Its number at the endpoints that say nothing else.
    pub target_port: NonZeroU16,
    /// Its number at the nodes' own addresses, if it has one.
    pub node_port: Option<NonZeroU16>,
}

/// `[[service.endpoint]]`: one endpoint of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    /// Its address.
    pub address: IpAddr,
    /// The node that it is on, if that matters.
    pub node: Option<String>,
    /// Whether it takes connections.
    pub is_ready: bool,
    /// Whether it is about to end.
    pub is_terminating: bool,
    /// The ports that have another number at this endpoint, by the names of the Service's ports.
    pub target_ports: Vec<(String, NonZeroU16)>,
}

impl ServicesFile {
    /// Reads the Services from the file's text. `file` is only a name for messages.
    ///
    /// # Errors
    /// If the text is not TOML, has an unknown key or an impossible value, or if two Services claim the same thing.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(file, text);
        let raw: raw::RawServices = document.toml()?;
        let Some(services) = raw.service else {
            // A truncated file must not read as a cluster that has lost all its Services.
            let remedy = "add a [[service]] table for every Service, or write service = [] if there is none";
            return Err(document.fault_at(0..0, "service", "the file lists no Service", remedy).into());
        };
        Ok(Self {
            services: check::services(&document, &services)?,
            zones: check::zones(&document, &raw.node)?,
        })
    }
}
