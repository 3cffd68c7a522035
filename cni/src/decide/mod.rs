//! The decisions: what a pod needs of the kernel, worked out from its request and from the addresses it was granted.
//! Pure.
//!
//! [`pod`] does it for mode `routed`, [`bridge`] for mode `bridge`; [`grant`] says which addresses were given,
//! [`ports`] which elements of nftables' maps open a host port, [`shaping`] which token buckets limit the bandwidth,
//! and [`extras`] what is written down of both.
//!
//! Nothing here has an effect: no clock, no file, no socket, no process, no thread. Of the neighbours these modules may
//! import `edge` alone.

pub mod bridge;
pub mod extras;
pub mod grant;
pub mod pod;
pub mod ports;
pub mod shaping;
