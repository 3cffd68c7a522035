//! What can be seen of the daemon from outside.
//!
//! The worker writes the state of things into the [`outlook`] after each pass. The [`window`] shows it: `routed.sock`,
//! `/metrics` and health. [`tell`] is the other side of the socket: `routed status` and `routed nodes`.
//!
//! [`status`] is the same in a few words, for the service manager and its watchdog.
//!
//! Nothing can be changed through this room. It imports [`crate::decide`], and of [`crate::source`] the name of the
//! place that the nodes come from.

pub mod outlook;
pub mod status;
pub mod tell;
pub mod window;
