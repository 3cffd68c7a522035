//! Bandwidth of a link: how fast it may send, and where its incoming packets are redirected to, so that these can be
//! limited too.
//!
//! The kernel shapes what a link sends. What the link receives is redirected to an intermediate functional block. That
//! is a device which sends the packets back to where they came from, at its own pace. [`Traffic`] is the seam:
//! [`Netlink`](crate::Netlink) on the real kernel, [`FakeKernel`](crate::fake::FakeKernel) on maps.

mod message;
mod real;

use ferrule_model::{Bucket, IfIndex, IfName, Link};

use crate::Error;

/// Bandwidth in one network namespace.
pub trait Traffic {
    /// Makes an intermediate functional block, switched on, and gives it an alias. If one of this name exists, that one
    /// is used.
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
    fn limit(&mut self, link: IfIndex, tbf: Bucket) -> Result<(), Error>;

    /// Redirects what `from` receives: `to` sends it.
    ///
    /// # Errors
    /// `ENOENT` if the kernel lacks a part that this needs, `ENODEV` if there is no such link.
    fn redirect(&mut self, from: IfIndex, to: IfIndex) -> Result<(), Error>;

    /// Ends the limit of what `link` sends. If there is none, nothing is done.
    ///
    /// # Errors
    /// `ENODEV` if there is no such link.
    fn unlimit(&mut self, link: IfIndex) -> Result<(), Error>;

    /// Ends the redirection of what `from` receives. If there is none, nothing is done.
    ///
    /// # Errors
    /// `ENODEV` if there is no such link.
    fn keep(&mut self, from: IfIndex) -> Result<(), Error>;

    /// The limit of what `link` sends, if there is one.
    ///
    /// # Errors
    /// The socket failed.
    fn limit_of(&mut self, link: IfIndex) -> Result<Option<Bucket>, Error>;

    /// The link to which what `link` receives is redirected, if it is.
    ///
    /// # Errors
    /// The socket failed.
    fn redirect_of(&mut self, link: IfIndex) -> Result<Option<IfIndex>, Error>;
}
