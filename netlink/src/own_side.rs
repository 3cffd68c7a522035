//! What any process may ask about the network namespace it is in, with any socket, even a unix one: which namespace it
//! is, which one a caller of a unix socket is in, and the addresses in it. It takes no privilege and no netlink.

#![expect(unsafe_code, reason = "getsockopt(SO_NETNS_COOKIE), ioctl(SIOCGIFCONF)")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{self, ifreq};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A network namespace, distinguished from every other one of this boot. The kernel never gives a number twice
/// (`gen_cookie_next`), in contrast to the inode number of the namespace's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceId(pub u64);

impl NamespaceId {
    /// The namespace that this thread is in.
    ///
    /// # Errors
    /// The kernel is older than 5.14 and does not tell.
    pub fn own() -> io::Result<Self> {
        Self::of(&any_socket()?)
    }

    /// The namespace that a socket belongs to. A connection that was accepted on a unix socket belongs to the namespace
    /// of the process which connected (`unix_stream_connect` in the kernel).
    ///
    /// # Errors
    /// The kernel is older than 5.14 and does not tell.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let mut cookie = 0_u64;
        let mut length = size_of_val(&cookie) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `cookie`; both live until the call returns.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        Errno::result(result)?;
        Ok(Self(cookie))
    }
}

/// The addresses of the links in this thread's network namespace, whether the links are up or not, each with the name
/// of its link. Loopback networks and link-local addresses are left out.
///
/// # Errors
/// The kernel does not tell.
pub fn own_addresses() -> io::Result<BTreeMap<IpAddr, String>> {
    let ipv4 = ipv4_addresses()?;
    let ipv6 = match fs::read_to_string("/proc/thread-self/net/if_inet6") {
        Ok(text) => text,
        // The kernel has no IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let all = ipv4.into_iter().chain(ipv6.lines().filter_map(ipv6_address));
    Ok(all.filter(|(address, _)| is_for_others(*address)).collect())
}

/// Whether a pod could have such an address.
const fn is_for_others(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

/// Address and link of a line of `/proc/net/if_inet6` (`if6_seq_show` in the kernel).
fn ipv6_address(line: &str) -> Option<(IpAddr, String)> {
    let mut words = line.split_whitespace();
    let bits = u128::from_str_radix(words.next()?, 16).ok()?;
    Some((Ipv6Addr::from_bits(bits).into(), words.next_back()?.to_owned()))
}

/// What `SIOCGIFCONF` tells: every IPv4 address of every link (`inet_gifconf` in the kernel).
fn ipv4_addresses() -> io::Result<Vec<(IpAddr, String)>> {
    let socket = any_socket()?;
    let mut room = 64;
    loop {
        let mut buffer = vec![[0_u8; size_of::<ifreq>()]; room];
        let mut request = Request {
            length: libc::c_int::try_from(room * size_of::<ifreq>()).map_err(io::Error::other)?,
            buffer: buffer.as_mut_ptr().cast(),
        };
        // SAFETY: `request` has the layout of `struct ifconf`. The kernel writes at most `length` bytes to the buffer,
        // which is that long, and then the length that it wrote. Both live until the call returns.
        let result =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFCONF as libc::Ioctl, &raw mut request) };
        Errno::result(result)?;
        let filled = usize::try_from(request.length).unwrap_or(0) / size_of::<ifreq>();
        // If the buffer is full, it may be too small: the kernel leaves out what does not fit.
        if filled < room {
            buffer.truncate(filled);
            return Ok(buffer.iter().map(ipv4_address).collect());
        }
        room *= 2;
    }
}

/// `struct ifconf`.
#[repr(C)]
struct Request {
    length: libc::c_int,
    buffer: *mut libc::c_char,
}

/// Address and link of a `struct ifreq` with a `struct sockaddr_in`. The link's name is in the label: `eth0:1` is on
/// `eth0`.
fn ipv4_address(entry: &[u8; size_of::<ifreq>()]) -> (IpAddr, String) {
    let (name, rest) = entry.split_at(libc::IFNAMSIZ);
    let name = name.split(|byte| matches!(byte, 0 | b':')).next().unwrap_or_default();
    // The address comes after family and port.
    let address = Ipv4Addr::new(rest[4], rest[5], rest[6], rest[7]);
    (address.into(), String::from_utf8_lossy(name).into_owned())
}

fn any_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}
