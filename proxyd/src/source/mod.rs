//! Tells which Services there are. A source tells [`crate::decide::News`] in batches; whoever takes them in takes in a
//! whole batch before it acts on any of it. `entries` is pure.

mod entries;
mod file;
pub mod kubernetes;

pub use entries::news;
pub use file::FileSource;
pub use kubernetes::KubernetesSource;
