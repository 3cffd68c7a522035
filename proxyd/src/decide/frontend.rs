//! What a data path has to do for a Service: the one value that all data paths take.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ferrule_model::{Family, IpNetwork};

/// The name of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a Service, as messages call it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The Service.
    pub service: ServiceName,
    /// The name of the port. A Service with one port need not give it a name.
    pub port: String,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port.as_str() {
            "" => self.service.fmt(f),
            port => write!(f, "{}:{port}", self.service),
        }
    }
}

/// A transport protocol of Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// Its number in the IP header (IANA, "Protocol Numbers").
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// Where packets for a Service arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// At this address, on every node.
    Address(IpAddr),
    /// At the node's own addresses of this family that serve node ports.
    Node(Family),
}

impl Place {
    /// The family of the packets.
    pub const fn family(self) -> Family {
        match self {
            Self::Address(IpAddr::V4(_)) => Family::V4,
            Self::Address(IpAddr::V6(_)) => Family::V6,
            Self::Node(family) => family,
        }
    }
}

/// What a data path finds a frontend by. Each has at most one frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The destination of the packets.
    pub place: Place,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the destination.
    pub port: NonZeroU16,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, protocol, port } = self;
        match place {
            Place::Address(IpAddr::V4(address)) => write!(f, "{address}:{port}/{}", protocol.as_str()),
            Place::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{port}/{}", protocol.as_str()),
            Place::Node(family) => write!(f, "the {family} node port {port}/{}", protocol.as_str()),
        }
    }
}

/// By which of a Service's addresses a frontend is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The address inside the cluster (`spec.clusterIPs`).
    ClusterIp,
    /// A port of the node (`spec.ports[].nodePort`).
    NodePort,
    /// An address that somebody leads to the nodes (`spec.externalIPs`).
    ExternalIp,
    /// An address of a load balancer (`status.loadBalancer.ingress[].ip`).
    LoadBalancer,
}

/// Where packets are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The address of the endpoint; of the same family as its frontend.
    pub address: IpAddr,
    /// Its port.
    pub port: NonZeroU16,
    /// Whether the endpoint is on this node.
    pub is_local: bool,
}

/// What happens with packets of one kind of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backends {
    /// They go to one of these. There is at least one; they are sorted, and none is there twice.
    To(Arc<[Backend]>),
    /// They are refused at once: the Service has no endpoint anywhere.
    Refuse,
    /// They are dropped: the Service has endpoints, but the policy Local finds none on this node.
    Drop,
}

/// One place where a Service is reached, and what happens with the packets that arrive there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// Where it is.
    pub key: Key,
    /// Whose it is, for messages.
    pub port: PortName,
    /// By which of the Service's addresses it is reached.
    pub kind: Kind,
    /// For clients outside the cluster.
    pub from_outside: Backends,
    /// For this node itself and its pods. It differs from `from_outside` only with the external traffic policy Local,
    /// where they are served by endpoints of other nodes, too.
    pub from_inside: Backends,
    /// Whether endpoints see the addresses of clients outside the cluster: the external traffic policy is Local.
    pub keeps_client: bool,
    /// How many seconds a client stays with its endpoint (`sessionAffinity: ClientIP`), if it stays at all.
    pub affinity: Option<NonZeroU32>,
    /// The networks whose clients may use it (`spec.loadBalancerSourceRanges`), if not all may. An empty list lets
    /// nobody in.
    pub sources: Option<Vec<IpNetwork>>,
}
