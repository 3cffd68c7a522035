//! Our WireGuard device ([`device`]) and this node's key ([`key`]). What there should be is worked out in
//! [`crate::decide::wireguard`].

pub mod device;
pub mod key;

/// The time in seconds since 1970. A clock that was set back makes sessions look alive until it reaches the old time
/// again. For so long an endpoint that someone changed stays.
#[expect(clippy::disallowed_types, reason = "the kernel tells of handshakes by this clock and no other")]
pub fn epoch_s() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
