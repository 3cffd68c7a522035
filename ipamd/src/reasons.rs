//! Errors as one line for people.

use std::error::Error;

/// An error with all its reasons. Errors that name their source already are not repeated.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use std::io;

    #[test]
    fn every_reason_is_named_once() {
        let full = io::Error::other("no space left");
        assert_eq!(chain(&StoreError::Write(Box::new(full))), "the store cannot be written: no space left");
        let missing = ferrule_config::Config::load(Some("/nonexistent".as_ref())).unwrap_err();
        assert_eq!(chain(&missing).matches("No such file").count(), 1);
    }
}
