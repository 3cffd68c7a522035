//! ipamd's tests, in one program: linking a dozen took longer than running them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, in its helpers too, and says how"
)]

#[path = "../../tests/all_named.rs"]
mod all_named;

mod activation;
mod clock;
mod common;
mod crash;
mod daemon;
mod damage;
mod flannel;
mod held;
mod leaks;
mod load;
mod moving;
mod server;
mod windows;
mod writer;
