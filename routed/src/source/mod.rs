//! Where the nodes of the cluster come from. A source tells a complete snapshot first, and whenever it is not sure what it
//! has missed; in between it may tell changes. What really is another than before is worked out in [`crate::nodes`].
//!
//! A source never fails: one that cannot tell anything says so in the log and is silent, and what is in the kernel stays.

mod file;

pub use file::FileSource;

use std::future::Future;

use crate::nodes::{Node, NodeUpdate};

/// What a source tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// All nodes there are.
    Snapshot(Vec<Node>),
    /// What is new of some of them.
    Changes(Vec<NodeUpdate>),
}

/// A source of nodes.
pub trait Source {
    /// Waits for the next news. Cancel safe. The first is a snapshot.
    fn next(&mut self) -> impl Future<Output = NodeEvent>;
}
