//! What routing needs of the host beside routes: sysctls, the masquerade table, the way through a host firewall, and
//! `node.json` for `ipamd`.
//!
//! [`Host`] knows all of it, and which parts are to be kept. [`masquerade`] and [`forward`] make the text of the rules
//! and are pure. [`rules`] compares the table with the kernel, and [`sysctl`] sets the kernel's parameters. [`thread`]
//! is the thread on which this is done, because nft and iptables are slow and no route should wait for them.
//!
//! Not here: routes and devices ([`crate::pass`]), and the host ports of the pods ([`crate::keep`]). This room imports
//! [`crate::decide`], and of [`crate::show`] the state that it tells.

pub mod forward;
pub mod masquerade;
pub mod rules;
mod side;
pub mod sysctl;
pub mod thread;

pub use side::{CleanError, Host, Outcome};
