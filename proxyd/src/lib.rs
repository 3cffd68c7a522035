//! The daemon of Services: a packet to the address of a Kubernetes Service reaches one of the Service's endpoints.
//!
//! [`decide`] knows what Kubernetes means by a Service, and nothing of any data path. What it decides is a list of
//! [`decide::Frontend`]s; each data path turns them into what the kernel needs. [`nft`] is the data path in nftables, and
//! [`sync`] puts it into the kernel. [`source`] tells which Services there are.
//!
//! At the top, [`run`] connects them, and `services` has all that is known. [`plan`] tells where packets would go. [`cli`] is
//! the command line, and `pages` what can be seen over HTTP.

pub mod cli;
pub mod decide;
pub mod nft;
pub mod pages;
pub mod plan;
pub mod run;
#[cfg(test)]
mod samples;
pub mod services;
pub mod source;
pub mod sync;

/// What the daemon is called.
pub const PROGRAM: &str = "proxyd";
