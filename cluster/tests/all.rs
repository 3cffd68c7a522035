//! The client's tests, in one program.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails, in its helpers too, and says how"
)]

#[path = "../../tests/all_named.rs"]
mod all_named;

mod faults;
mod follower;
mod kinds;
mod servers;
