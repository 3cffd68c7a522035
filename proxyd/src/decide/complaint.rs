//! What of an object is left out, and why.

use std::net::IpAddr;

use ferrule_model::Family;
use thiserror::Error;

use super::{Key, ServiceName};

/// One part of a Service or of an EndpointSlice that is left out, with the reason and the remedy. Everything else of
/// the object counts. Whoever logs it says which Service it is about, and says it once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Complaint {
    /// A value that cannot be read.
    #[error("{field}: \"{value}\" is not {expected}, and is left out; correct it")]
    Unreadable {
        /// The path of the field, as `spec.externalIPs`.
        field: &'static str,
        /// The value.
        value: Box<str>,
        /// What should be there, with its article.
        expected: &'static str,
    },
    /// An address of an EndpointSlice that is not of the slice's family.
    #[error(
        "the endpoint {address} is left out, because its EndpointSlice has addresses of {family}; correct addressType"
    )]
    WrongFamily {
        /// The address.
        address: IpAddr,
        /// The family of the slice.
        family: Family,
    },
    /// An address to which no packet can be sent from elsewhere.
    #[error("{0} is left out, because it is no address that others can reach; give another one")]
    NotServable(IpAddr),
    /// An external address of a family in which the Service has no address of its own.
    #[error(
        "the external address {0} is not served, because the Service has no cluster IP of that family; \
         see ipFamilies and ipFamilyPolicy"
    )]
    NoSuchFamily(IpAddr),
    /// An external address that nobody allowed.
    #[error(
        "the external address {0} is not served, because no network of [services] external_cidrs holds it; \
         add one if whoever may write Services may take that address (CVE-2020-8554)"
    )]
    NotAllowed(IpAddr),
    /// An address and port that an older Service has.
    #[error("{key} is not served, because {holder} has it; give one of the two another address or port")]
    Taken {
        /// The address, protocol and port.
        key: Key,
        /// Who has them.
        holder: ServiceName,
    },
    /// Only ranges of the other family restrict the clients.
    #[error(
        "spec.loadBalancerSourceRanges has no range of {0}, so no client of that family is let in; \
         add one if some are to be"
    )]
    NobodyAllowed(Family),
    /// The policy asks for a health check, but there is no port for it.
    #[error(
        "externalTrafficPolicy is Local, but there is no healthCheckNodePort; the load balancer cannot ask this node"
    )]
    NoHealthCheckPort,
}
