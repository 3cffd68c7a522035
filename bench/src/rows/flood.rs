//! The floor under a start of `routed`: the netlink messages of a made-up cluster's objects, put together before the clock starts,
//! sent by one thread and acknowledged once a batch. Nothing is read, worked out or compared.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ferrule_model::{PROTOCOL, vtep_mac};
use ferrule_tests::{
    cluster::VXLAN_DEVICE,
    command::run_here,
    error::{Context, LabError, Result},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::nodes::{link_batch, name, pods, underlay};

/// Messages of one send.
const A_SEND: usize = 200;

// linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h, linux/nexthop.h
const NEWROUTE: u16 = 24;
const NEWNEIGH: u16 = 28;
const NEWNEXTHOP: u16 = 104;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE_EXCL: u16 = 0x600;
const ONLINK: u32 = 4;
const PERMANENT: u8 = 0x80;
const SELF: u8 = 2;
const BRIDGE: u8 = 7;
const UNICAST: u8 = 1;
const MAIN: u8 = 254;

/// Makes the objects of so many nodes in the calling thread's namespace: the time of their messages in seconds.
pub(super) fn send(nodes: usize) -> Result<f64> {
    for line in link_batch().lines() {
        run_here(&format!("ip {line}"))?;
    }
    let listed = run_here(&format!("ip -o link show {VXLAN_DEVICE}"))?;
    let index = listed.split(':').next().and_then(|number| number.parse::<u32>().ok());
    let index = index.ok_or_else(|| LabError::promise("the device's number", &listed))?;
    let batches = batches(nodes, index)?;
    let socket = open().context(|| "a socket for route netlink")?;
    let start = Instant::now();
    for (datagram, last) in &batches {
        transact(&socket, datagram, *last)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn open() -> std::io::Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Every datagram with the number of its last message, which asks for the acknowledgement.
fn batches(nodes: usize, link: u32) -> Result<Vec<(Vec<u8>, u32)>> {
    let (mut entries, mut neighbours, mut hops, mut routes) = (vec![], vec![], vec![], vec![]);
    for number in 1..nodes {
        let mac = vtep_mac(&name(number)).octets();
        let [node, _] = underlay(number);
        let node: Ipv4Addr = node.parse().map_err(|error| LabError::parse(node, &error))?;
        let fdb = Message::neighbour(BRIDGE, link, SELF);
        entries.push(fdb.with(2, &mac).with(1, &node.octets()));
        for (id, (family, length, address)) in (2 * number as u32..).zip(networks(number)?) {
            neighbours.push(Message::neighbour(family, link, 0).with(1, &address).with(2, &mac));
            let [o0, o1, o2, o3] = ONLINK.to_ne_bytes();
            let hop = Message::new(NEWNEXTHOP, &[family, 0, PROTOCOL, 0, o0, o1, o2, o3]);
            let (id, link) = (id.to_ne_bytes(), link.to_ne_bytes());
            hops.push(hop.with(1, &id).with(5, &link).with(6, &address));
            let route =
                Message::new(NEWROUTE, &[family, length, 0, 0, MAIN, PROTOCOL, 0, UNICAST, 0, 0, 0, 0]);
            routes.push(route.with(1, &address).with(30, &id));
        }
    }
    let kinds = [entries, neighbours, hops, routes];
    Ok(kinds.iter().flat_map(|kind| kind.chunks(A_SEND)).map(datagram).collect())
}

/// The pods' networks of a node: family, prefix length, address.
fn networks(number: usize) -> Result<[(u8, u8, Vec<u8>); 2]> {
    let [v4, v6] = pods(number, 0);
    let v4: Ipv4Addr = v4.parse().map_err(|error| LabError::parse(v4, &error))?;
    let v6: Ipv6Addr = v6.parse().map_err(|error| LabError::parse(v6, &error))?;
    Ok([(2, 24, v4.octets().to_vec()), (10, 64, v6.octets().to_vec())])
}

fn datagram(messages: &[Message]) -> (Vec<u8>, u32) {
    let mut datagram = Vec::new();
    for (number, Message { kind, payload }) in messages.iter().enumerate() {
        let flags = if number + 1 == messages.len() { ACK } else { 0 };
        datagram.extend((16 + payload.len() as u32).to_ne_bytes());
        datagram.extend(kind.to_ne_bytes());
        datagram.extend((REQUEST | CREATE_EXCL | flags).to_ne_bytes());
        datagram.extend((number as u32).to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend(payload);
    }
    (datagram, messages.len() as u32 - 1)
}

/// Sends one and waits for the acknowledgement of its last message. A refusal of any comes first.
fn transact(socket: &Socket, datagram: &[u8], last: u32) -> Result<()> {
    socket.send(datagram, 0).context(|| "sending messages")?;
    let mut answer = Vec::with_capacity(8192);
    socket.recv(&mut answer, 0).context(|| "an acknowledgement")?;
    let word = |at: usize| answer.get(at..at + 4).and_then(|word| word.try_into().ok());
    match (word(8).map(u32::from_ne_bytes), word(16).map(i32::from_ne_bytes)) {
        (Some(number), Some(0)) if number == last => Ok(()),
        (number, code) => {
            let saw = format!("{code:?} to message {number:?}");
            Err(LabError::promise(format!("a yes to message {last}"), saw))
        }
    }
}

/// A request without its netlink header.
struct Message {
    kind: u16,
    payload: Vec<u8>,
}

impl Message {
    fn new(kind: u16, header: &[u8]) -> Self {
        Self { kind, payload: header.to_vec() }
    }

    /// `struct ndmsg` of something permanent.
    fn neighbour(family: u8, link: u32, flags: u8) -> Self {
        let [l0, l1, l2, l3] = link.to_ne_bytes();
        Self::new(NEWNEIGH, &[family, 0, 0, 0, l0, l1, l2, l3, PERMANENT, 0, flags, 0])
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let payload = &mut self.payload;
        payload.extend((4 + value.len() as u16).to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(value);
        payload.resize(payload.len().next_multiple_of(4), 0);
        self
    }
}
