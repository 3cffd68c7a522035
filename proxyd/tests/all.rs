//! proxyd's tests, in one program.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, in its helpers too, and says how"
)]
#[path = "../../tests/all_named.rs"]
mod all_named;

mod cases;
mod kubernetes;
mod lab;
mod load;
mod objects;
mod packets;
mod path;
mod reference;
mod rights;
mod scale;
mod states;
