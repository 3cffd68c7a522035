//! Errors for a person.

use std::error::Error;

/// An error and all its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_each() {
        let cause = std::io::Error::other("refused");
        assert_eq!(chain(&std::io::Error::other(cause)), "refused");
    }
}
