//! The plugin's tests, in one program: linking dozens took longer than running them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, in its helpers too, and says how"
)]

#[path = "../../tests/all_named.rs"]
mod all_named;
#[path = "../../tests/wait.rs"]
mod wait;

mod add;
mod bandwidth;
mod bridge;
mod chain;
mod chained;
mod check;
mod combined;
mod del;
mod delegation;
mod extras;
mod gc;
mod golden;
mod hostports;
mod inputs;
mod loopback;
mod names;
mod packets;
mod races;
mod renamed;
mod restarts;
mod rights;
mod runtimes;
mod start;
mod support;
