//! Errors for people: the message of an error, and the causes behind it.

use std::error::Error;

/// The causes behind an error, each in its own words. A cause that an earlier message names already is left out.
///
/// ```
/// let cause = std::io::Error::other("the disk is full");
/// // An `io::Error` around another error has the same message, which is not told twice.
/// let error = std::io::Error::other(cause);
/// assert_eq!(ferrule_model::causes(&error), Vec::<String>::new());
/// ```
#[must_use]
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !said.contains(&words) {
            said.push_str(&words);
            causes.push(words);
        }
        next = cause.source();
    }
    causes
}

/// An error with its causes in one line, separated by colons.
///
/// ```
/// use std::io;
/// use ferrule_model::chain;
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("the store cannot be written")]
/// struct StoreError(#[source] io::Error);
///
/// let error = StoreError(io::Error::other("no space left"));
/// assert_eq!(chain(&error), "the store cannot be written: no space left");
/// ```
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    for cause in causes(error) {
        line.push_str(": ");
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    enum Fault {
        #[error("the store cannot be written")]
        Silent(#[source] io::Error),
        #[error("cannot open the store: {0}; make room")]
        Telling(#[source] io::Error),
        #[error("no pod gets an address")]
        Outer(#[source] Box<Fault>),
    }

    fn full() -> io::Error {
        io::Error::other("no space left")
    }

    #[test]
    fn each_cause_is_told_once() {
        for (fault, line) in [
            (Fault::Silent(full()), "the store cannot be written: no space left"),
            (Fault::Telling(full()), "cannot open the store: no space left; make room"),
            (
                Fault::Outer(Box::new(Fault::Silent(full()))),
                "no pod gets an address: the store cannot be written: no space left",
            ),
        ] {
            assert_eq!(chain(&fault), line);
        }
        let wrapped = io::Error::other(io::Error::other("refused"));
        assert_eq!(chain(&wrapped), "refused");
    }
}
