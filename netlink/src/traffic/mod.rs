//! Bandwidth of a link: how fast it may send, and where what it receives is sent on so that that can be limited too.
//!
//! The kernel shapes what a link sends. What it receives is redirected to an intermediate functional block, a device
//! that sends it back to where it came from, at its own pace. [`Traffic`] is the seam: [`Netlink`](crate::Netlink) on
//! the real kernel, [`FakeKernel`](crate::fake::FakeKernel) on maps.

mod message;
mod real;

use ferrule_model::{IfIndex, IfName, Link};

use crate::Error;

/// A token bucket filter at the root of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may go at once. Less than a packet has, and it does not go at all.
    pub burst: u32,
}

/// Longest time that a packet waits for its turn, in microseconds; what would wait longer is dropped. The reference
/// bandwidth plugin's.
const LATENCY_MICROS: u64 = 25_000;

impl Tbf {
    /// The highest rate whose queue can be told to the kernel in 32 bits together with a burst.
    pub const RATE_MAX: u64 = u32::MAX as u64 / 2 / LATENCY_MICROS * 1_000_000;
    /// The largest burst for the same reason.
    pub const BURST_MAX: u32 = u32::MAX / 2;

    /// Bytes of queue and burst together: what the kernel calls the limit.
    fn limit(self) -> u32 {
        let queue = u128::from(self.rate) * u128::from(LATENCY_MICROS) / 1_000_000;
        u32::try_from(queue + u128::from(self.burst)).unwrap_or(u32::MAX)
    }

    fn from_limit(rate: u64, limit: u32) -> Self {
        let queue = Self { rate, burst: 0 }.limit();
        Self { rate, burst: limit.saturating_sub(queue) }
    }
}

/// Bandwidth in one network namespace.
pub trait Traffic {
    /// Makes an intermediate functional block, switched on, and gives it an alias; one of this name that is there already
    /// is as good.
    ///
    /// # Errors
    /// The kernel has no such device (`EOPNOTSUPP`), or another link has the name.
    fn add_ifb(&mut self, name: &IfName, mtu: u32, alias: &str) -> Result<Link, Error>;

    /// Gives a link another alias.
    ///
    /// # Errors
    /// `ENODEV` if there is no such link.
    fn set_alias(&mut self, name: &IfName, alias: &str) -> Result<(), Error>;

    /// Limits what `link` sends.
    ///
    /// # Errors
    /// `ENOENT` if the kernel has no token bucket filter, `ENODEV` if there is no such link.
    fn limit(&mut self, link: IfIndex, tbf: Tbf) -> Result<(), Error>;

    /// Redirects what `from` receives to be sent by `to`.
    ///
    /// # Errors
    /// `ENOENT` if the kernel lacks a part of it, `ENODEV` if there is no such link.
    fn redirect(&mut self, from: IfIndex, to: IfIndex) -> Result<(), Error>;

    /// Ends the limit of what `link` sends; without one nothing is done.
    ///
    /// # Errors
    /// `ENODEV` if there is no such link.
    fn unlimit(&mut self, link: IfIndex) -> Result<(), Error>;

    /// Ends the redirection of what `from` receives; without one nothing is done.
    ///
    /// # Errors
    /// `ENODEV` if there is no such link.
    fn keep(&mut self, from: IfIndex) -> Result<(), Error>;

    /// The limit of what `link` sends, if there is one.
    ///
    /// # Errors
    /// The socket failed.
    fn limit_of(&mut self, link: IfIndex) -> Result<Option<Tbf>, Error>;

    /// Where what `link` receives is redirected to, if it is.
    ///
    /// # Errors
    /// The socket failed.
    fn redirect_of(&mut self, link: IfIndex) -> Result<Option<IfIndex>, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_tells_the_burst() {
        for tbf in [
            Tbf { rate: 125_000, burst: 1500 },
            Tbf { rate: 1, burst: 1 },
            Tbf { rate: Tbf::RATE_MAX, burst: Tbf::BURST_MAX },
        ] {
            assert_eq!(Tbf::from_limit(tbf.rate, tbf.limit()), tbf);
        }
    }
}
