//! The decisions: what a pod needs of the kernel, worked out from its request and from the addresses it was granted. Pure.
//!
//! [`pod`] does it for mode `routed`, [`bridge`] for mode `bridge`; [`grant`] says what an addressing plugin gave, [`ports`]
//! which elements of nftables' maps open a host port. Nothing here has an effect: no clock, no file, no socket, no process.
//! Of the neighbours these modules may import `edge` alone.

pub mod bridge;
pub mod grant;
pub mod pod;
pub mod ports;
