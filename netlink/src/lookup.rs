//! How a packet would leave this namespace.

use std::net::IpAddr;

use ferrule_model::IfIndex;

/// The answer of `ip route get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The link by which the packet leaves.
    pub link: IfIndex,
    /// Next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Source address that the kernel would choose.
    pub source: Option<IpAddr>,
}
