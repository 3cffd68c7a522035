//! Services as a source tells of them.
//!
//! A field is here only if it changes where packets go. `publishNotReadyAddresses` and `trafficDistribution` are not:
//! whoever makes the EndpointSlices of a Service has already turned the one into the condition `ready`, and the other
//! into hints.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ferrule_model::IpNetwork;

use super::{Complaint, Protocol, ServiceName};

/// A Service. The names of fields are those of Kubernetes (`Service` of `v1`) where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Arc<ServiceName>,
    /// `metadata.creationTimestamp` in Unix seconds, 0 if it is not known. Of Services that claim the same address and
    /// port, the oldest has it.
    pub created_s: i64,
    /// `spec.type`
    pub service_type: ServiceType,
    /// What its labels say about who serves it.
    pub labels: Labels,
    /// `spec.clusterIPs`, at most one of each family. The list is empty if the Service is headless (`None`) or has no
    /// address yet. A family that has none here is not served, whatever other addresses the Service has.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.externalIPs`
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress`, those with an address
    pub ingress: Box<[Ingress]>,
    /// `spec.ports`. Each name and each pair of protocol and port occurs once.
    pub ports: Box<[ServicePort]>,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` if `spec.sessionAffinity` is `ClientIP`
    pub affinity: Option<NonZeroU32>,
    /// `spec.internalTrafficPolicy`
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`
    pub external_policy: TrafficPolicy,
    /// `spec.loadBalancerSourceRanges`, `None` if that is absent or empty. The list can be empty: then the Service has
    /// ranges, and none of them can be read.
    pub source_ranges: Option<Box<[IpNetwork]>>,
    /// `spec.healthCheckNodePort`
    pub health_check_node_port: Option<NonZeroU16>,
    /// What the source could not read of it, and left out.
    pub complaints: Box<[Complaint]>,
}

impl Service {
    /// How long a client stays with its endpoint if `sessionAffinity` is `ClientIP` and no time is given, in seconds
    /// (`DefaultClientIPServiceAffinitySeconds` of Kubernetes' API).
    pub const DEFAULT_AFFINITY_S: NonZeroU32 =
        NonZeroU32::new(10_800).expect("three hours are more than nothing");

    /// A Service of type `ClusterIP` without addresses and ports, with Kubernetes' defaults for everything else.
    pub fn new(name: ServiceName) -> Self {
        Self {
            name: Arc::new(name),
            created_s: 0,
            service_type: ServiceType::ClusterIp,
            labels: Labels::default(),
            cluster_ips: Box::default(),
            external_ips: Box::default(),
            ingress: Box::default(),
            ports: Box::default(),
            affinity: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            source_ranges: None,
            health_check_node_port: None,
            complaints: Box::default(),
        }
    }
}

/// The type of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// Reached by its addresses inside the cluster. External addresses are possible.
    ClusterIp,
    /// By ports of the nodes, too.
    NodePort,
    /// By addresses of a load balancer, too.
    LoadBalancer,
    /// An alias in the DNS. No packet is sent to it.
    ExternalName,
}

/// Which endpoints serve traffic of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// Those of all nodes.
    Cluster,
    /// Those of the node at which the packets arrive.
    Local,
}

/// The labels that take a Service or an EndpointSlice away from this proxy. The value of the label does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    /// `service.kubernetes.io/service-proxy-name`: another proxy serves it.
    pub proxy_name: bool,
    /// `service.kubernetes.io/headless`: nobody serves it.
    pub headless: bool,
}

impl Labels {
    /// Whether this proxy does not serve the object.
    pub const fn left_alone(self) -> bool {
        self.proxy_name || self.headless
    }
}

/// An address that a load balancer has for a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ingress {
    /// `ip`
    pub address: IpAddr,
    /// `ipMode`
    pub mode: IpMode,
}

/// How a load balancer hands packets to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IpMode {
    /// With its own address as their destination. This is the default.
    Vip,
    /// With an address of the node or of a pod as their destination. The nodes do not serve the load balancer's
    /// address, so that the cluster's own packets to it go by way of the load balancer, too.
    Proxy,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Its name, by which EndpointSlices say where it leads. It is empty if the Service's only port has no name.
    pub name: Arc<str>,
    /// `protocol`
    pub protocol: Protocol,
    /// `port`
    pub port: NonZeroU16,
    /// `nodePort`. A Service of type `LoadBalancer` has none with `allocateLoadBalancerNodePorts: false`.
    pub node_port: Option<NonZeroU16>,
}
