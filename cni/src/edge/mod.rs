//! The edge: what the runtime says, read into types, and what it is answered, written from types.
//!
//! The specification's vocabulary lives here ([`spec`], [`result`], [`error`]), the network's configuration ([`config`]),
//! the wishes for one attachment ([`wanted`]) and the whole request ([`request`]). Every fault in the input is found
//! here, before anything is touched. Nothing here talks to the kernel or to `ipamd`, and nothing decides what a pod needs.

pub mod config;
pub mod error;
pub mod request;
pub mod result;
pub mod spec;
pub mod wanted;
