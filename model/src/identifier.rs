//! Names that people and runtimes choose for networks, containers and plugins. They are checked once, because they
//! become names of files, and parts of aliases, comments and messages.

use std::fmt;

/// A name that follows the specification's grammar (`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`) and is no longer than the name of
/// a file may be.
///
/// ```
/// use ferrule_model::{Identifier, IdentifierError};
///
/// let network = Identifier::new("cluster-net.1")?;
/// assert_eq!(network.as_str(), "cluster-net.1");
/// // It may become the name of a file, so it leads to no other directory.
/// assert_eq!(Identifier::new("../etc"), Err(IdentifierError::Grammar));
/// # Ok::<(), IdentifierError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier(String);

/// Why a text is not such a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// It has a character that is not allowed, or no character at all.
    #[error("letters, digits, `_`, `.`, `-`, beginning with a letter or a digit")]
    Grammar,
    /// It is longer than the name of a file may be.
    #[error("it has {0} bytes, and at most {max} are possible", max = Identifier::MAX_LEN)]
    TooLong(usize),
}

impl Identifier {
    /// `NAME_MAX` of `linux/limits.h`.
    pub const MAX_LEN: usize = 255;

    /// Checks `name`.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, IdentifierError> {
        let name = name.into();
        if !Self::is_spelt_well(&name) {
            return Err(IdentifierError::Grammar);
        }
        if name.len() > Self::MAX_LEN { Err(IdentifierError::TooLong(name.len())) } else { Ok(Self(name)) }
    }

    /// Whether the name follows the grammar. The length is not checked.
    pub fn is_spelt_well(name: &str) -> bool {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Identifier> for String {
    fn from(name: Identifier) -> Self {
        name.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_identifiers_is_the_specifications() {
        for good in ["a", "0", "A.b_c-d", "c0ffee"] {
            assert_eq!(Identifier::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "_a", "-a", "a b", "a/b", "ä", "a\n", "a\0", "a%d:"] {
            assert_eq!(Identifier::new(bad), Err(IdentifierError::Grammar), "{bad:?}");
        }
    }

    #[test]
    fn what_is_too_long_for_a_files_name_is_refused_with_the_figures() {
        assert!(Identifier::new("a".repeat(255)).is_ok());
        let error = Identifier::new("a".repeat(256)).unwrap_err();
        assert_eq!(error.to_string(), "it has 256 bytes, and at most 255 are possible");
    }
}
