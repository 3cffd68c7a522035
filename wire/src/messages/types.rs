//! The interface's types. `Attachment` is not among them: it belongs to the model, because names in the kernel are
//! derived from it.

use ferrule_model::Attachment;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The pod behind an attachment. It is only for people who read leases and logs, and nothing is decided by it. It is
/// written as `NAMESPACE/NAME`, or as the name alone where there are no namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace of the pod in the cluster. Empty outside of a cluster.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Unique identifier. Empty if the runtime did not give it.
    #[serde(default)]
    pub uid: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Addresses given to one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The attachment that has the lease. It is the lease's key.
    pub attachment: Attachment,
    /// Single addresses (/32, /128), IPv4 first. There is one for each family that the pool has.
    pub addresses: Vec<IpNetwork>,
    /// Name of the pool they come from.
    pub pool: String,
    /// The pod, if the caller named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Path of the pod's network namespace, if the caller gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// When it was given, in milliseconds of `CLOCK_BOOTTIME`.
    pub given_at_boottime_ms: u64,
}

/// All addresses from the first to the last, including both. If the two are of different families, the range is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AddressRange {
    /// The lowest.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of a prefix.
    #[must_use]
    pub const fn of(prefix: &IpNetwork) -> Self {
        match prefix {
            IpNetwork::V4(_) => Self::Ipv4,
            IpNetwork::V6(_) => Self::Ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// Counts of one family of one pool: `size = in_use + resting + reserved + free`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Name of the pool.
    pub name: String,
    /// The family these counts are of.
    pub family: Family,
    /// Subnets of this family.
    pub subnets: Vec<IpNetwork>,
    /// Addresses in leases.
    pub in_use: u64,
    /// Released addresses that wait out the cooldown.
    pub resting: u64,
    /// Addresses that are never given (decimal).
    pub reserved: String,
    /// All addresses of the subnets (decimal; an IPv6 subnet exceeds every JSON integer).
    pub size: String,
    /// What can be given now without taking a resting address (decimal).
    pub free: String,
    /// Addresses in leases of this pool that the pool no longer gives.
    pub draining: u64,
}

/// An address that was released and waits out the cooldown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// The address.
    pub address: String,
    /// The pool that will give it again.
    pub pool: String,
    /// When it was released, in milliseconds of `CLOCK_BOOTTIME`.
    pub released_at_boottime_ms: u64,
    /// Milliseconds from now until it has rested.
    pub left_ms: u64,
    /// Who had it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// The pod that had it, if the runtime named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}
