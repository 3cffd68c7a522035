//! What Services and EndpointSlices have in common for whoever follows them. Pure.

use std::borrow::Borrow;
use std::hash::Hash;

use ferrule_cluster::kind::{Kind, ObjectName};

use crate::decide::{News, Shared};

/// What is told of an object of some kind.
pub(super) trait Followed: Sized + Send + 'static {
    /// The kind of object.
    type Kind: Kind;
    /// Its name as it is kept.
    type Name: Borrow<Self::Key> + Clone + Eq + Hash + Send;
    /// Its name as it is looked for.
    type Key: Eq + Hash;

    /// The name of the kind.
    const KIND: &'static str;

    /// What matters of an object; `None` if it is nobody's.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn read(name: &ObjectName, object: Self::Kind) -> Result<Option<Self>, String>;

    /// Has texts that many objects have in common kept once.
    fn share(&mut self, texts: &mut Shared<str>);

    /// The name of this one.
    fn name(&self) -> Self::Name;

    /// The name by which an object is looked for.
    fn key(name: &ObjectName) -> Self::Key;

    /// These are all.
    fn all(all: Vec<Self>) -> News;

    /// This one came or changed.
    fn put(self) -> News;

    /// This one is gone.
    fn gone(name: &Self::Key) -> News;
}
