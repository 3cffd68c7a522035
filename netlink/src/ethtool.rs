//! The setting of a device that `ethtool` changes: whether it leaves the checksums of what it sends to the hardware.

#![expect(unsafe_code, reason = "ioctl(2) with a structure")]

use std::os::fd::{AsRawFd, RawFd};

use ferrule_model::IfName;
use nix::errno::Errno;
use nix::libc;

/// `SIOCETHTOOL`.
const ETHTOOL: libc::Ioctl = 0x8946;
/// `ETHTOOL_GTXCSUM`.
const GET: u32 = 0x16;
/// `ETHTOOL_STXCSUM`: switches all of `NETIF_F_CSUM_MASK`, including `tx-checksum-ip-generic`. It is older than the
/// names of features, so every kernel has it.
const SET: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// `struct ifreq` with `ifr_data`.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut Value,
    /// The union's longest member, `ifr_map`, is longer than a pointer.
    rest: [u8; 16],
}

/// Whether the device of this name offloads. It is looked for in the network namespace of `socket`, which may be of any
/// family.
pub(crate) fn tx_checksum(socket: &impl AsRawFd, link: &IfName) -> Result<bool, Errno> {
    call(socket.as_raw_fd(), link, GET, 0).map(|data| data != 0)
}

/// Switches the setting.
pub(crate) fn set_tx_checksum(socket: &impl AsRawFd, link: &IfName, on: bool) -> Result<(), Errno> {
    call(socket.as_raw_fd(), link, SET, on.into()).map(drop)
}

fn call(socket: RawFd, link: &IfName, cmd: u32, data: u32) -> Result<u32, Errno> {
    let mut value = Value { cmd, data };
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: &raw mut value, rest: [0; 16] };
    // A valid name of a link leaves room for the NUL behind it.
    for (place, byte) in request.name.iter_mut().zip(link.as_str().bytes()) {
        *place = byte;
    }
    // SAFETY: `request` has the layout and at least the size of `struct ifreq`. It and the value that it points to live
    // until the call returns. Both commands read and write a `struct ethtool_value` there and nothing else.
    let result = unsafe { libc::ioctl(socket, ETHTOOL, &raw mut request) };
    Errno::result(result).map(|_| value.data)
}
