//! Events without echoes: a filter in the kernel keeps the changes of one of our sockets from another one.
//!
//! Most of what a routing daemon hears while it works is its own work, and each such message would wake it up.

#![expect(unsafe_code, reason = "setsockopt(SO_ATTACH_FILTER)")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{self, sock_filter};

/// The number by which the kernel knows a netlink socket. The events of changes that the socket asked for contain it
/// (`nlmsg_pid`). Events of FDB entries contain 0, whoever asked (`vxlan_fdb_notify`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub(crate) u32);

/// The place of `nlmsg_pid` in `struct nlmsghdr`.
const PID: u32 = 12;

/// Lets `socket` hear only of changes that `port` did not ask for.
pub(crate) fn without(socket: BorrowedFd<'_>, port: Port) -> io::Result<()> {
    // The filter loads a number in network byte order, but the field is in the machine's.
    let number = u32::from_be_bytes(port.0.to_ne_bytes());
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, PID),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel reads one `sock_fprog` of the given size, and the steps that it points to. Both live until the
    // call returns, and the kernel keeps only a copy (`sk_attach_filter`).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
