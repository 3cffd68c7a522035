//! `ferrule-bench`.
fn main() {}
