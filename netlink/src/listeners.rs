//! Finds the sockets of the calling thread's namespace that wait for packets to a port (`linux/inet_diag.h`).

use std::net::{IpAddr, SocketAddr};

use ferrule_model::Family;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::libc;

use crate::Error;
use crate::socket::{Part, Request, Socket};

/// `SOCK_DIAG_BY_FAMILY`, and the length of `struct inet_diag_req_v2`.
const BY_FAMILY: u16 = 20;
const REQUEST_LEN: usize = 56;
/// The place of the wanted states in that struct.
const STATES_AT: usize = 4;
/// `TCP_CLOSE` is the state of a UDP socket that is not connected, `TCP_LISTEN` that of a TCP socket that accepts
/// connections.
const CLOSE: u32 = 1 << 7;
const LISTEN: u32 = 1 << 10;
/// The places of the socket's own port and address in `struct inet_diag_msg`.
const PORT_AT: usize = 4;
const ADDRESS_AT: usize = 8;

/// The addresses and ports on which processes listen. `protocol` is that of IP: TCP or UDP.
///
/// # Errors
/// The kernel cannot tell, or the socket failed.
pub fn listeners(protocol: u8) -> Result<Vec<SocketAddr>, Error> {
    let states = if i32::from(protocol) == libc::IPPROTO_TCP { LISTEN } else { CLOSE };
    let mut socket = Socket::of(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for (family, number) in [(Family::V4, libc::AF_INET), (Family::V6, libc::AF_INET6)] {
        let mut payload = vec![0; REQUEST_LEN];
        payload[0] = number as u8;
        payload[1] = protocol;
        payload[STATES_AT..STATES_AT + 4].copy_from_slice(&states.to_ne_bytes());
        let request = Request { kind: BY_FAMILY, flags: 0, payload };
        found.extend(socket.dump_as(&request, |part| listener(part, family))?);
    }
    Ok(found)
}

fn listener(part: Part<'_>, family: Family) -> Option<SocketAddr> {
    let port = part.payload.get(PORT_AT..PORT_AT + 2)?.try_into().ok().map(u16::from_be_bytes)?;
    let address = part.payload.get(ADDRESS_AT..)?;
    let address = match family {
        Family::V4 => address.first_chunk::<4>().copied().map(IpAddr::from)?,
        Family::V6 => address.first_chunk::<16>().copied().map(IpAddr::from)?,
    };
    Some(SocketAddr::new(address.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn who_listens_is_told_and_who_does_not_is_not() {
        crate::netns::make()
            .unwrap()
            .run(|| {
                assert!(
                    std::process::Command::new("ip")
                        .args(["link", "set", "lo", "up"])
                        .status()
                        .unwrap()
                        .success()
                );
                let tcp = ["127.0.0.1:0", "[::]:0"].map(|at| TcpListener::bind(at).unwrap());
                let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
                let connected = TcpStream::connect(tcp[0].local_addr().unwrap()).unwrap();
                let mut found = listeners(6).unwrap();
                found.sort_unstable();
                let expected = tcp.map(|listener| listener.local_addr().unwrap());
                assert_eq!(found, expected);
                assert_eq!(listeners(17).unwrap(), [udp.local_addr().unwrap()]);
                drop(connected);
            })
            .unwrap();
    }
}
