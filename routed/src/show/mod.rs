//! What can be seen of the daemon from outside.
//!
//! The worker writes how things stand into the [`outlook`] after each pass. The [`window`] shows it: `routed.sock`,
//! `/metrics` and health. [`tell`] is the other side of the socket: `routed status` and `routed nodes`.
//!
//! Nothing can be changed through this room. It imports [`crate::decide`], and of the other rooms only names and states
//! that it shows.

pub mod outlook;
pub mod tell;
pub mod window;
