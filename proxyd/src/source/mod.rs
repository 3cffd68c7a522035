//! Tells which Services there are. A source tells [`crate::decide::News`] in batches; whoever takes them in takes in a
//! whole batch before it acts on any of it. `entries` is pure.

mod entries;
mod file;
pub mod kubernetes;

pub use entries::news;
pub use file::FileSource;
pub use kubernetes::KubernetesSource;

use crate::decide::News;

/// The source that the configuration names.
#[derive(Debug)]
pub enum Source {
    /// The services file.
    File(Box<FileSource>),
    /// The API server.
    Kubernetes(KubernetesSource),
}

impl Source {
    /// The next batch. Cancel safe.
    pub async fn next(&mut self) -> Vec<News> {
        match self {
            Self::File(file) => file.next().await.into(),
            Self::Kubernetes(cluster) => cluster.next().await,
        }
    }

    /// Reads a file again, even if nobody told of a change. A watch of the API server needs no such hint.
    pub const fn look_again(&mut self) {
        if let Self::File(file) = self {
            file.look_again();
        }
    }
}
