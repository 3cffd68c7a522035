//! What the API server says: watch events, pages of a list and its faults. Pure.
//!
//! Only what a [`Kind`] names is read from an object. If an object has other types there, its name is still read, so
//! that only that object is missing.

use std::time::Duration;

use serde::Deserialize;

use crate::fault::Fault;
use crate::kind::{Identity, Kind, Metadata};

/// An object as it was seen.
#[derive(Debug, PartialEq, Eq)]
pub struct Item<K> {
    /// Its name and its version.
    pub identity: Identity,
    /// What is read of it, without name and version, or why it cannot be read.
    pub object: Result<K, String>,
}

/// One line of a watch.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<K> {
    /// An object exists, with this content.
    Put(Item<K>),
    /// The object of this name is gone, as of this version.
    Gone(Identity),
    /// Nothing happened up to this version.
    Bookmark {
        /// The version.
        version: String,
        /// All objects of the streamed list have been told.
        initial_end: bool,
    },
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page<K> {
    /// The objects on it.
    pub(crate) items: Vec<Item<K>>,
    /// The list's version.
    pub(crate) version: String,
    /// Where the next page begins; empty for the last one.
    pub(crate) next: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum Event<O> {
    Added(O),
    Modified(O),
    Deleted(Named),
    Bookmark(Marker),
    Error(Status),
}

/// What the server says of a fault.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// The HTTP status.
    pub(crate) code: u16,
    /// The reason in one word.
    pub(crate) reason: String,
    /// The reason in a sentence.
    pub(crate) message: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u32>,
}

impl Status {
    /// Sets for how long to hold back, unless the body says so itself.
    pub(crate) fn wait(&mut self, seconds: u32) {
        self.details.get_or_insert_default().retry_after_seconds.get_or_insert(seconds);
    }
}

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

/// The object of a bookmark.
#[derive(Deserialize)]
struct Marker {
    metadata: Metadata<MarkerAnnotations>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MarkerAnnotations {
    /// It ends a streamed list.
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_end: Option<String>,
}

#[derive(Deserialize)]
struct List<O> {
    metadata: ListMetadata,
    items: Option<Vec<O>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Reads one line of a watch.
///
/// # Errors
/// A fault that the server tells in the line, or [`Fault::Malformed`] if the line is no watch event. An event about an
/// object that cannot be read is no error.
pub fn event<K: Kind>(line: &[u8]) -> Result<Told<K>, Fault> {
    match serde_json::from_slice::<Event<K>>(line) {
        Ok(event) => told(event, item),
        // The object has values of other types than its kind. Only its name is read.
        Err(error) => {
            let event: Event<Named> = serde_json::from_slice(line).map_err(|_| malformed(&error))?;
            told(event, |named| unreadable(named, &error))
        }
    }
}

fn told<O, K>(event: Event<O>, read: impl FnOnce(O) -> Item<K>) -> Result<Told<K>, Fault> {
    match event {
        Event::Added(object) | Event::Modified(object) => Ok(Told::Put(read(object))),
        Event::Deleted(mut named) => Ok(Told::Gone(named.metadata.take_identity())),
        Event::Bookmark(marker) => Ok(bookmark(marker)),
        Event::Error(status) => Err(refusal(status)),
    }
}

fn malformed(error: &serde_json::Error) -> Fault {
    Fault::Malformed(error.to_string())
}

fn item<K: Kind>(mut object: K) -> Item<K> {
    Item { identity: object.take_identity(), object: Ok(object) }
}

fn unreadable<K>(mut named: Named, error: &serde_json::Error) -> Item<K> {
    let object = Err(format!("its object cannot be read: {error}"));
    Item { identity: named.metadata.take_identity(), object }
}

fn bookmark<K>(Marker { metadata }: Marker) -> Told<K> {
    let end = metadata.annotations.and_then(|annotations| annotations.initial_end);
    Told::Bookmark { version: metadata.resource_version, initial_end: end.as_deref() == Some("true") }
}

/// The fault that a status of the server means, in a watch or as the body of an answer.
pub(crate) fn refusal(status: Status) -> Fault {
    let message = if status.message.is_empty() { status.reason.clone() } else { status.message };
    let wait = status.details.and_then(|details| details.retry_after_seconds);
    let retry_after = wait.map(|seconds| Duration::from_secs(seconds.into()));
    match (status.code, status.reason.as_str()) {
        (410, _) | (_, "Expired" | "Gone") => Fault::Expired(message),
        (401, _) => Fault::Unauthorized(message),
        (code, _) => Fault::Refused { code, message, retry_after },
    }
}

/// Reads a page of a list.
///
/// # Errors
/// [`Fault::Malformed`] if it is no such page.
pub(crate) fn page<K: Kind>(text: &[u8]) -> Result<Page<K>, Fault> {
    let (metadata, items) = match serde_json::from_slice::<List<K>>(text) {
        Ok(list) => (list.metadata, list.items.unwrap_or_default().into_iter().map(item).collect()),
        // One object is not as it should be. Only then is each object read separately.
        Err(error) => {
            let list: List<serde_json::Value> =
                serde_json::from_slice(text).map_err(|_| malformed(&error))?;
            (list.metadata, one_by_one(list.items.unwrap_or_default())?)
        }
    };
    Ok(Page { items, version: metadata.resource_version, next: metadata.next.unwrap_or_default() })
}

fn one_by_one<K: Kind>(items: Vec<serde_json::Value>) -> Result<Vec<Item<K>>, Fault> {
    let read = |value: serde_json::Value| match K::deserialize(&value) {
        Ok(object) => Ok(item(object)),
        Err(error) => {
            let named = Named::deserialize(value).map_err(|_| malformed(&error))?;
            Ok(unreadable(named, &error))
        }
    };
    items.into_iter().map(read).collect()
}
