//! The changes of elements that one transaction makes.

use ferrule_model::Element;

/// A change of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Adds an element whose key is not there yet.
    Add(&'a Element),
    /// Deletes the element of this key.
    Delete(&'a Element),
    /// Deletes all elements of this set.
    Clear(&'static str),
}

impl Change<'_> {
    /// Whether both do the same to elements of the same set.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Add(a), Self::Add(b)) | (Self::Delete(a), Self::Delete(b)) => a.set == b.set,
            _ => false,
        }
    }
}
