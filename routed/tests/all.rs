//! routed's tests, in one program: to link a dozen programs took longer than to run them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, in its helpers too, and says how"
)]

#[path = "../../tests/all_named.rs"]
mod all_named;

mod changes;
mod daemon;
mod etcd;
mod flannel;
mod fleet;
mod guard;
mod keep;
mod kubernetes;
mod lab;
mod masquerade;
mod moving;
mod plan;
mod policy;
mod real;
mod refusals;
mod repair;
mod scale;
mod shadow;
mod states;
mod unit;
mod uplink;
mod vxlan;
mod windows;
mod world;
