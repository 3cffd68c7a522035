//! What may be given only once in a file.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::Range;

use toml::Spanned;

use crate::document::{Checked, Document};

/// Where each value was given first. It keeps places instead of lines, because the line is needed only for a fault.
pub(crate) struct Claims<T> {
    key: &'static str,
    remedy: &'static str,
    first: HashMap<T, Range<usize>>,
}

impl<T: Eq + Hash> Claims<T> {
    /// `key` is the dotted key of the values, for messages, and `remedy` says what to do about a second one.
    pub(crate) fn new(key: &'static str, remedy: &'static str) -> Self {
        Self { key, remedy, first: HashMap::new() }
    }

    /// Notes that `value` is given as `text`.
    ///
    /// # Errors
    /// If it was given before.
    pub(crate) fn claim<S: Display>(
        &mut self,
        document: &Document<'_>,
        value: T,
        text: &Spanned<S>,
    ) -> Checked<()> {
        let Some(earlier) = self.first.insert(value, text.span()) else {
            return Ok(());
        };
        let reason = format!("\"{}\" is already given in line {}", text.get_ref(), document.line(&earlier));
        Err(document.fault(text, self.key, reason, self.remedy))
    }
}
