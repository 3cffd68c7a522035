//! The client of the Kubernetes API server, for every daemon that has one. It knows nothing of any kind of objects: a
//! program says what it reads of an object ([`kind::Kind`]) and what it does with it ([`Listener`]).
//!
//! - [`Access`] has the credentials and the addresses of the API servers. All watches of a daemon share one. It also
//!   writes the status of an object.
//! - [`Watcher`] is the task that lists and watches. It falls back to pages, resumes, backs off, and never ends.
//! - [`Fault`] says what can go wrong, and what a person can do about it. Each fault is told once.
//!
//! An object that cannot be read costs that object alone. A server that is away changes nothing: a [`Listener`] is told
//! what there is, and is never told that something is gone only because nobody answers.

mod access;
mod api;
mod fault;
mod feed;
pub mod kind;
mod objects;
mod time;
mod watcher;

pub use access::Access;
pub use fault::Fault;
pub use objects::{Item, Told, event};
pub use watcher::{Deaf, Listener, Selector, Watcher};
