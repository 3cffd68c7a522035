//! What all readers of JSON fields share: the errors that name a field, and the refusal of unknown fields.

use ferrule_model::json::{is_name, is_unset};
use serde_json::{Map, Value};

use crate::edge::error::Error;

/// Refuses fields of a capability's argument that are not in `names`, because the pod would lack what they ask for.
pub(crate) fn only(fields: &Map<String, Value>, of: &str, names: &[&str]) -> Result<(), Error> {
    let is_known = |key: &str| names.iter().any(|name| is_name(key, name));
    match fields.iter().find(|(key, value)| !is_known(key) && !is_unset(value)) {
        None => Ok(()),
        Some((key, _)) => {
            let reason = format!("the plugin knows no such field here: {} are", names.join(", "));
            Err(wrong(&format!("{of}.{}", clipped(key)), reason))
        }
    }
}

/// Finds a field that is not in `names`.
pub(crate) fn unknown<'a>(fields: &'a Map<String, Value>, names: &[&str]) -> Option<&'a String> {
    fields.keys().find(|key| !names.iter().any(|name| is_name(key, name)))
}

/// The beginning of a text that somebody else wrote, for a message.
pub(crate) fn clipped(text: &str) -> &str {
    const MAX: usize = 100;
    text.char_indices().nth(MAX).map_or(text, |(end, _)| &text[..end])
}

/// The error for a field that is wrong.
pub(crate) fn wrong(field: &str, reason: impl Into<String>) -> Error {
    Error::Config { field: field.to_owned(), reason: reason.into() }
}

/// The error for a field whose value has another type than expected.
pub(crate) fn mistyped(field: &str, expected: &str, found: &Value) -> Error {
    wrong(field, format!("expected {expected}, found {}", kind(found)))
}

/// The type of a value, in words.
pub(crate) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
