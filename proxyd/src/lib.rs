//! The daemon of Services: a packet to the address of a Kubernetes Service reaches one of the Service's endpoints.
//!
//! [`decide`] knows what Kubernetes means by a Service, and nothing of any data path. What it decides is a list of
//! [`decide::Frontend`]s; each data path turns them into what the kernel needs. [`nft`] is the data path in nftables, and
//! [`sync`] puts it into the kernel. [`source`] tells which Services there are.

pub mod decide;
pub mod nft;
#[cfg(test)]
mod samples;
pub mod source;
pub mod sync;
