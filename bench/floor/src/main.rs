//! `ferrule-floor`: the netlink messages without which there is no ADD and no DEL, and nothing else: no JSON, no daemon, no
//! result. What it costs to start and end this program is the floor under the plugin.
//!
//! ```text
//! ferrule-floor add NETNS NAME ADDRESS    a veth pair NAME - eth0 into NETNS, ADDRESS (IPv4) on it, routes both ways
//! ferrule-floor del NAME                  the pair goes
//! ```
//!
//! The pair is born off and with one queue each way, and the host's end goes on last, because that is the quickest way we know.
//! ADD puts its messages together by hand and chooses the links' numbers itself, so that it has nothing to look up. DEL deletes
//! as the plugin does: the kernel's wait behind RTM_DELLINK has to be left to a child, and that lives in `ferrule-netlink`. It
//! starts as the plugin does, too, without what the standard library does before `main`.
#![no_main]

use std::error::Error;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use ferrule_model::IfName;
use ferrule_netlink::{Kernel, Netlink};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns};

type Fault = Box<dyn Error>;

/// The pod's gateway, as the plugin has it.
const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Numbers from here on are no link's: the kernel counts upwards from 1.
const FIRST_INDEX: u32 = 1 << 24;
/// From the number of the host's end to that of the pod's. The kernel takes a link for its own lower one, whose changes can wait,
/// if both numbers are the same (`linkwatch_urgent_event`).
const TO_PEER: u32 = 1 << 20;

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h, linux/veth.h
const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const NEWNEIGH: u16 = 28;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE_EXCL: u16 = 0x600;
const UP: u32 = 1;

ferrule_netlink::start!(floor);

fn floor() -> u8 {
    let done = verb();
    if let Err(fault) = &done {
        eprintln!("ferrule-floor: {fault}");
    }
    u8::from(done.is_err())
}

fn verb() -> Result<(), Fault> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("ferrule-floor add NETNS NAME ADDRESS | del NAME");
    match next()?.as_str() {
        "add" => add(&next()?, &next()?, next()?.parse()?),
        "del" => {
            let name = IfName::new(next()?)?;
            if Netlink::open()?.delete_link(&name)?.is_some() {
                Ok(())
            } else {
                Err(format!("no link {name}").into())
            }
        }
        verb => Err(format!("{verb} is no verb").into()),
    }
}

fn add(netns: &str, name: &str, address: Ipv4Addr) -> Result<(), Fault> {
    let netns = File::open(netns)?;
    let host = open()?;
    setns(&netns, CloneFlags::CLONE_NEWNET)?;
    let pod = open()?;
    let index = FIRST_INDEX + (u32::from(address) & 0xffff);
    let peer = index + TO_PEER;
    let address = address.octets();

    transact(&host, vec![veth(name, index, netns.as_raw_fd())])?;
    transact(
        &pod,
        vec![
            Message::new(NEWLINK, 0, &link(peer, UP)),
            on_link(&[2, 32, 0, 0], peer, NEWADDR).with(2, &address).with(1, &address),
            neighbour(peer, &GATEWAY, &HOST_MAC),
            // A default route through a gateway that is taken to be on the link: RTNH_F_ONLINK.
            route(0, 0, peer, 4).with(5, &GATEWAY),
            Message::new(NEWLINK, 0, &link(1, UP)),
        ],
    )?;
    transact(
        &host,
        vec![
            Message::new(NEWLINK, 0, &link(index, UP)),
            neighbour(index, &address, &POD_MAC),
            route(32, 253, index, 0).with(1, &address),
        ],
    )
}

fn open() -> Result<Socket, Fault> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends all in one datagram and waits for the acknowledgement of the last.
fn transact(socket: &Socket, messages: Vec<Message>) -> Result<(), Fault> {
    let count = messages.len();
    let mut datagram = Vec::with_capacity(1024);
    for (number, message) in messages.into_iter().enumerate() {
        let flags = if number + 1 == count { REQUEST | ACK } else { REQUEST };
        message.append_to(&mut datagram, flags, number as u32);
    }
    socket.send(&datagram, 0)?;
    loop {
        let mut answer = Vec::with_capacity(4096);
        socket.recv(&mut answer, 0)?;
        let word =
            |at: usize| answer.get(at..at + 4).and_then(|word| word.try_into().ok()).map(i32::from_ne_bytes);
        match (word(8), word(16)) {
            (Some(sequence), Some(0)) if sequence as usize + 1 == count => return Ok(()),
            (Some(_), Some(0)) => {}
            (Some(sequence), Some(code)) => {
                let errno = std::io::Error::from_raw_os_error(-code);
                return Err(format!("message {sequence} of {count}: {errno}").into());
            }
            _ => return Err("an answer cut short".into()),
        }
    }
}

/// A request without its netlink header.
struct Message {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        Self { kind, flags, payload: header.to_vec() }
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.payload, kind, value);
        self
    }

    fn append_to(self, datagram: &mut Vec<u8>, flags: u16, sequence: u32) {
        datagram.extend((16 + self.payload.len() as u32).to_ne_bytes());
        datagram.extend(self.kind.to_ne_bytes());
        datagram.extend((self.flags | flags).to_ne_bytes());
        datagram.extend(sequence.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend(self.payload);
    }
}

fn attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    buffer.extend((4 + value.len() as u16).to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.extend(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32) -> Vec<u8> {
    [0, index, flags, flags].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// IFLA_LINKINFO { IFLA_INFO_KIND, IFLA_INFO_DATA { VETH_INFO_PEER { IFLA_NET_NS_FD, .. } } }.
fn veth(name: &str, index: u32, netns: i32) -> Message {
    let mut peer = link(index + TO_PEER, 0);
    attribute(&mut peer, 3, b"eth0\0");
    attribute(&mut peer, 1, &POD_MAC);
    attribute(&mut peer, 28, &netns.to_ne_bytes());
    one_queue(&mut peer);
    let mut data = Vec::new();
    attribute(&mut data, 1, &peer);
    let mut info = Vec::new();
    attribute(&mut info, 1, b"veth");
    attribute(&mut info, 2, &data);
    let name = [name.as_bytes(), b"\0"].concat();
    let mut host = link(index, 0);
    one_queue(&mut host);
    Message::new(NEWLINK, CREATE_EXCL, &host).with(3, &name).with(1, &HOST_MAC).with(18, &info)
}

/// IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES: an end is made with one for each processor otherwise.
fn one_queue(link: &mut Vec<u8>) {
    for direction in [31, 32] {
        attribute(link, direction, &1_u32.to_ne_bytes());
    }
}

/// `struct ifaddrmsg`: four bytes and the link's number.
fn on_link(header: &[u8; 4], index: u32, kind: u16) -> Message {
    Message::new(kind, CREATE_EXCL, &[header.as_slice(), &index.to_ne_bytes()].concat())
}

/// `struct ndmsg` with NUD_PERMANENT (0x80), NDA_DST, NDA_LLADDR.
fn neighbour(index: u32, address: &[u8], mac: &[u8]) -> Message {
    on_link(&[2, 0, 0, 0], index, NEWNEIGH).extended(&[0x80, 0, 0, 0]).with(1, address).with(2, mac)
}

/// `struct rtmsg` of a unicast route in the main table with protocol 70 (Ferrule's), RTA_OIF.
fn route(prefix: u8, scope: u8, index: u32, flags: u32) -> Message {
    let mut header = vec![2, prefix, 0, 0, 254, 70, scope, 1];
    header.extend(flags.to_ne_bytes());
    Message::new(NEWROUTE, CREATE_EXCL, &header).with(4, &index.to_ne_bytes())
}

impl Message {
    fn extended(mut self, bytes: &[u8]) -> Self {
        self.payload.extend(bytes);
        self
    }
}
