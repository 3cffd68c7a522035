//! What tunnels between nodes need of a kernel. It is not part of [`Kernel`], because nothing else needs it.

use ferrule_model::{IfIndex, IfName, WireguardState};
use nix::errno::Errno;

use crate::{Error, Kernel, Netlink, Refusal, ethtool};

/// A kernel with tunnels.
pub trait Tunnels: Kernel {
    /// Whether a device leaves the checksums of what it sends to the hardware.
    ///
    /// # Errors
    /// `ENODEV` if there is no such link.
    fn tx_checksum(&mut self, link: &IfName) -> Result<bool, Error>;

    /// Switches whether a device leaves the checksums of what it sends to the hardware.
    ///
    /// # Errors
    /// `ENODEV` if there is no such link, `EOPNOTSUPP` if it cannot be changed.
    fn set_tx_checksum(&mut self, link: &IfName, on: bool) -> Result<(), Error>;

    /// All about a WireGuard device; `None` if the link is none, or is gone. WireGuard tells of no changes, so a caller
    /// has to ask.
    ///
    /// # Errors
    /// The socket failed.
    fn wireguard(&mut self, link: IfIndex) -> Result<Option<WireguardState>, Error>;
}

/// The version of the running kernel, as in `6.12.48+deb13-amd64`.
pub fn kernel_release() -> String {
    let uname = nix::sys::utsname::uname();
    uname.map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default()
}

impl Tunnels for Netlink {
    fn tx_checksum(&mut self, link: &IfName) -> Result<bool, Error> {
        ethtool::tx_checksum(self.socket(), link).map_err(|errno| refused("show-features", link, errno))
    }

    fn set_tx_checksum(&mut self, link: &IfName, on: bool) -> Result<(), Error> {
        ethtool::set_tx_checksum(self.socket(), link, on).map_err(|errno| refused("features", link, errno))
    }

    fn wireguard(&mut self, link: IfIndex) -> Result<Option<WireguardState>, Error> {
        self.wireguard_state(link)
    }
}

fn refused(what: &str, link: &IfName, errno: Errno) -> Error {
    Error::Refused { request: format!("ethtool --{what} {link}"), refusal: Refusal::from(errno) }
}
