//! The edge: what the runtime says, read into types, and what it is answered, written from types.
//!
//! The specification's vocabulary lives here ([`spec`], [`result`], [`error`]), the network's configuration
//! ([`config`], with host ports in [`mappings`] and limits in [`bandwidth`]), the wishes for one attachment
//! ([`wanted`]), and the whole request ([`request`]). `fields` has what all readers of JSON share. Every fault in the
//! input is found here, before anything is touched.
//!
//! Nothing here decides what a pod needs, talks to the kernel or asks for addresses. These modules import no neighbour.

pub mod bandwidth;
pub mod config;
pub mod error;
pub(crate) mod fields;
pub mod mappings;
pub mod request;
pub mod result;
pub mod spec;
pub mod wanted;
