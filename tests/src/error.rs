//! What can go wrong in the lab, in the words a person reads. Not the promises of the programs under test: a broken promise
//! is [`LabError::Promise`], with what was expected and what was seen.

use std::{fmt, io, time::Duration};

/// The lab's one error type.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A system call or a file operation of the lab itself.
    #[error("{what}: {source}")]
    Io {
        /// What the lab was doing.
        what: String,
        /// What the system answered.
        source: io::Error,
    },
    /// A tool the lab runs (`ip`, `bridge`, `nft`) failed.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote, standard error first.
        output: String,
    },
    /// Something did not hold that the lab is there to prove.
    #[error("expected {expected}; saw {saw}")]
    Promise {
        /// What should have been.
        expected: String,
        /// What was.
        saw: String,
    },
    /// A condition did not come true in time.
    #[error("expected {expected} within {} ms; saw {saw}", within.as_millis())]
    Late {
        /// The condition.
        expected: String,
        /// The time it had.
        within: Duration,
        /// The last thing seen.
        saw: String,
    },
    /// A file or an answer could not be read.
    #[error("{what}: {reason}")]
    Parse {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The lab's result.
pub type Result<T> = std::result::Result<T, LabError>;

impl LabError {
    /// A promise that did not hold.
    pub fn promise(expected: impl Into<String>, saw: impl Into<String>) -> LabError {
        LabError::Promise { expected: expected.into(), saw: saw.into() }
    }

    /// Something that could not be parsed.
    pub fn parse(what: impl Into<String>, reason: &(impl fmt::Display + ?Sized)) -> LabError {
        LabError::Parse { what: what.into(), reason: reason.to_string() }
    }
}

/// Says what was being done when the system answered with an error.
pub trait Context<T> {
    /// Wraps the error with `what`, which is computed only when there is one.
    fn context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|error| LabError::Io { what: what().into(), source: error.into() })
    }
}
