//! The kernel's netlink interfaces, sysctls, nftables and namespaces, and the only crate with `unsafe`.
//!
//! Other crates may read some of the kernel's files themselves: `ipamd`, which needs no privilege, looks in `/proc` and
//! `/sys` for the pods' links and namespaces.
//!
//! [`Kernel`] is what the programs see. [`Netlink`] carries it out on the real kernel, [`fake::FakeKernel`] on maps,
//! and one contract suite holds the two to the same behaviour. Beside it there are:
//!
//! - bridges ([`Bridges`]), tunnels ([`Tunnels`]) and bandwidth ([`traffic`]);
//! - network namespaces ([`netns`]) and sysctls ([`sysctl`]);
//! - nftables and tracked connections ([`nft`]), and iptables ([`iptables`]);
//! - what to tell about a missing right ([`rights`]);
//! - the own side's namespace and addresses, asked without any privilege ([`NamespaceId`], [`own_addresses`]);
//! - with the feature `monitor`, the kernel's events (`events`).
//!
//! This crate does not decide what there should be. [`start`] is here because it is unsafe.

mod advertised;
mod announce;
mod attributes;
mod bridge;
mod decode;
mod delete;
mod encode;
mod error;
mod ethtool;
#[cfg(feature = "monitor")]
pub mod events;
pub mod fake;
#[cfg(test)]
mod fixtures;
mod foreign;
pub mod forwarding;
mod generic;
pub mod iptables;
mod kernel;
mod link;
mod listed;
mod listeners;
mod local;
mod lookup;
#[cfg(feature = "monitor")]
pub mod monitor;
pub mod netns;
pub mod nft;
mod own;
mod own_side;
mod peers;
mod places;
mod real;
mod renamed;
pub mod rights;
mod socket;
pub mod start;
pub mod sysctl;
#[cfg(feature = "monitor")]
mod table_watch;
pub mod traffic;
mod tunnels;
pub mod wake;
mod wireguard;

pub use advertised::advertised;
pub use announce::announce;
pub use bridge::Bridges;
pub use error::Error;
pub use ferrule_model::Refusal;
pub use foreign::Routes;
pub use kernel::Kernel;
pub use listed::Listed;
pub use listeners::listeners;
pub use lookup::Path;
pub use own::Port;
pub use own_side::{NamespaceId, own_addresses};
pub use peers::Peers;
pub use places::{FAR, Place, Places, nodes_own};
pub use real::Netlink;
pub use renamed::Renamed;
#[cfg(feature = "monitor")]
pub use table_watch::TableWatch;
pub use tunnels::{Tunnels, kernel_release};
