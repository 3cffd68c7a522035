//! The routing daemon: it brings the other nodes' pod networks into this node's kernel, and keeps them there.
//!
//! A walk through its rooms. A [`source`] tells a snapshot of the nodes, and later the changes. [`decide`] works out
//! what has really changed, what there should be in the kernel, and the steps to it. The worker's thread makes a
//! [`pass`]: it reads the kernel, takes those steps, and says what came of them. For a change of nodes it walks over
//! the affected objects alone, and reads nothing. Later events of the kernel are compared with what the pass left; a
//! disagreement starts a pass that reads. [`host`] keeps the rest of the host right on a thread of its own: sysctls,
//! the masquerade table, the way through a host firewall, `node.json`. [`keep`] keeps what the plugin made for the
//! pods, on another thread. [`show`] is what can be seen from outside.
//!
//! At the top, [`run`] connects the rooms, `feed` begins the source, and `node_table` takes what the source tells.
//! [`plan`] makes the same pass and only tells what it would do. [`cli`] is the command line, and `again` is what
//! SIGHUP does.
//!
//! Pure: all of [`decide`], `masquerade` and `forward` of [`host`], `watch` and `repair` of [`keep`]. Each room's own
//! documentation says which of the others it imports.

mod again;
pub mod cli;
pub mod decide;
mod feed;
pub mod host;
pub mod keep;
mod node_table;
pub mod pass;
pub mod plan;
pub mod run;
pub mod show;
pub mod source;

/// The socket and its lock are named after this.
pub const PROGRAM: &str = "routed";
