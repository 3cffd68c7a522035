//! Where the nodes of the cluster come from. A source tells complete snapshots; which nodes changed between two of them
//! is worked out in [`crate::nodes`].
//!
//! A source never fails: one that cannot tell anything says so in the log and is silent, and what is in the kernel stays.

mod file;

pub use file::FileSource;

use std::future::Future;

use crate::nodes::Node;

/// What a source tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// All nodes there are.
    Snapshot(Vec<Node>),
}

/// A source of nodes.
pub trait Source {
    /// Waits for the next news. Cancel safe.
    fn next(&mut self) -> impl Future<Output = NodeEvent>;
}
