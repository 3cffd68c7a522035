//! Tells an Ethernet segment which MAC has an address: by ARP (RFC 5227, section 3) and by unsolicited neighbour
//! advertisements (RFC 4861, section 7.2.6). A host that knew another MAC for that address forgets it at once, and a
//! bridge on the way learns where the new MAC is.

#![expect(unsafe_code, reason = "sendto(2) with a sockaddr_ll, which nix cannot make")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use ferrule_model::{IfIndex, Mac};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const BROADCAST: [u8; 6] = [0xff; 6];
/// The MAC of ff02::1 (RFC 2464, section 7).
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// `ETH_P_ARP`, `ETH_P_IPV6`.
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet, IPv4, the lengths of their addresses, and the code of a request. An announcement is a request.
const ARP_HEADER: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
const ICMPV6: u8 = 58;
/// The type of a neighbour advertisement, and the flag that makes it override what a neighbour knows.
const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;
/// The option with the sender's MAC, eight bytes long.
const TARGET_MAC: [u8; 2] = [2, 1];

/// Says on `link`, a link of the calling thread's namespace, that `mac` has these addresses.
///
/// # Errors
/// There is no such link, it is off, or this process may not send packets that it makes itself.
pub fn announce(link: IfIndex, mac: Mac, addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<()> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    bypass_queue(&socket)?;
    for address in addresses {
        let frame = match address {
            IpAddr::V4(address) => arp(mac, address),
            IpAddr::V6(address) => advertisement(mac, address),
        };
        send(&socket, link, &frame)?;
    }
    Ok(())
}

/// Lets frames bypass the queue. A link that has just got its carrier throws away queued frames until the kernel gives
/// it its queue, which takes a while (`linkwatch_do_dev`).
fn bypass_queue(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one `int`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

fn send(socket: &OwnedFd, link: IfIndex, frame: &[u8]) -> io::Result<()> {
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: link.0.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads the frame and the address, each of the given length. Both live until the call returns.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

fn arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let (mac, address) = (mac.octets(), address.octets());
    [&BROADCAST[..], &mac, &ARP, &ARP_HEADER, &mac, &address, &[0; 6], &address].concat()
}

fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    let (mac, address) = (mac.octets(), address.octets());
    let message = |checksum: [u8; 2]| {
        let head = [ADVERTISEMENT, 0, checksum[0], checksum[1], OVERRIDE, 0, 0, 0];
        [&head[..], &address, &TARGET_MAC, &mac].concat()
    };
    let unsigned = message([0; 2]);
    let length = unsigned.len() as u8;
    // RFC 8200, section 8.1: the sum also covers the addresses, the length and the next header.
    let pseudo = [&address[..], &all_nodes, &[0, 0, 0, length, 0, 0, 0, ICMPV6], &unsigned].concat();
    let hop_limit = u8::MAX;
    let header = [0x60, 0, 0, 0, 0, length, ICMPV6, hop_limit];
    let signed = message(checksum(&pseudo).to_be_bytes());
    [&ALL_NODES[..], &mac, &IPV6, &header, &address, &all_nodes, &signed].concat()
}

/// The checksum of RFC 1071, for an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_adds_up() {
        let frame = advertisement(Mac::new([2, 0, 0, 0, 0, 1]), "fd00::5".parse().unwrap());
        let message = &frame[14 + 40..];
        let pseudo =
            [&frame[14 + 8..14 + 40], &[0, 0, 0, message.len() as u8, 0, 0, 0, ICMPV6], message].concat();
        assert_eq!(checksum(&pseudo), 0, "RFC 1071: the sum over what carries its checksum");
        assert_eq!(frame.len(), 14 + 40 + 32);
    }

    #[test]
    fn an_arp_announcement_has_its_address_as_sender_and_as_target() {
        let frame = arp(Mac::new([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(frame.len(), 14 + 28);
        assert_eq!((&frame[28..32], &frame[38..42]), (&[10, 0, 0, 5][..], &[10, 0, 0, 5][..]));
    }
}
