//! Compares what goes over the wire between a node of ours and one of flannel's, byte by byte, with what flannel
//! documents of its backend vxlan: its port, its number, the MACs of its annotations. On the wire the two nodes cannot
//! be told apart.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ferrule_model::IfName;
use ferrule_netlink::{Netlink, Tunnels};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::json;

use super::world::{Flanneld, World, mac, mac6};
use super::{api, flannels, ready};
use crate::lab::{Node, PATIENCE, within};

/// flannel's documentation: "On Linux, defaults to kernel default, currently 8472".
const PORT: u16 = 8472;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Whether a checksum holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Absent,
    Right,
    Wrong,
}

/// One packet of IPv4 or IPv6.
struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    /// Traffic class and hop limit; in IPv4 also flags and fragment offset; and whether the header's checksum holds.
    header: (u8, u8, u16, Check),
    protocol: u8,
    body: &'a [u8],
}

/// A packet of the tunnel, split into its parts.
#[derive(Debug)]
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    inner_macs: (String, String),
    shape: Shape,
}

/// Everything that must not differ between the two kinds of nodes.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    header: (u8, u8, u16, Check),
    udp: Check,
    /// Flags, reserved, number and reserved (RFC 7348, section 5).
    vxlan: [u8; 8],
    inner_type: u16,
    inner_header: (u8, u8, u16, Check),
    inner: Check,
    length: usize,
}

/// The sending node, the family of the inner packet, and its protocol.
type Kind = (u8, u16, u8);

fn number(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// The one's complement sum (RFC 1071). It is 0xffff over data that includes a right checksum.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn check(is_absent: bool, parts: &[&[u8]]) -> Check {
    match (is_absent, sum(parts)) {
        (true, _) => Check::Absent,
        (false, 0xffff) => Check::Right,
        (false, _) => Check::Wrong,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

impl<'a> Packet<'a> {
    fn of(kind: u16, bytes: &'a [u8]) -> Option<Self> {
        match kind {
            IPV4 => {
                let length = usize::from(bytes.first()? & 0xf) * 4;
                let address = |at: usize| {
                    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?).into())
                };
                let header = bytes.get(..length)?;
                Some(Self {
                    source: address(12)?,
                    destination: address(16)?,
                    header: (header[1], header[8], number(&header[6..]), check(false, &[header])),
                    protocol: header[9],
                    body: bytes.get(length..usize::from(number(&header[2..])))?,
                })
            }
            IPV6 => {
                let address = |at: usize| {
                    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?).into())
                };
                let header = bytes.get(..40)?;
                Some(Self {
                    source: address(8)?,
                    destination: address(24)?,
                    header: (header[0] << 4 | header[1] >> 4, header[7], 0, Check::Absent),
                    protocol: header[6],
                    body: bytes.get(40..40 + usize::from(number(&header[4..])))?,
                })
            }
            _ => None,
        }
    }

    /// Whether the checksum of the UDP, ICMP or ICMPv6 in it holds.
    fn body_check(&self) -> Check {
        let pseudo = [
            octets(self.source),
            octets(self.destination),
            (self.body.len() as u32).to_be_bytes().into(),
            vec![0, self.protocol],
        ]
        .concat();
        match self.protocol {
            1 => check(false, &[self.body]),
            17 => check(number(&self.body[6..]) == 0, &[&pseudo, self.body]),
            _ => check(false, &[&pseudo, self.body]),
        }
    }
}

fn mac_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A frame of the underlay, if it belongs to the tunnel and contains a packet of a pod.
fn outer(frame: &[u8]) -> Option<(Kind, Outer)> {
    let packet = Packet::of(number(frame.get(12..14)?), frame.get(14..)?)?;
    let udp = packet.body.get(..8).filter(|udp| packet.protocol == 17 && number(&udp[2..]) == PORT)?;
    let vxlan = packet.body.get(8..16)?.try_into().ok()?;
    let inner = packet.body.get(16..)?;
    let inner_type = number(inner.get(12..14)?);
    let pods =
        Packet::of(inner_type, inner.get(14..)?).filter(|pods| [1, 17, 58].contains(&pods.protocol))?;
    // Of ICMP only the requested echoes count: no answers, no errors.
    let is_pods = match pods.protocol {
        1 => *pods.body.first()? == 8,
        58 => *pods.body.first()? == 128,
        _ => true,
    };
    let from = *octets(packet.source).last()?;
    let shape = Shape {
        header: packet.header,
        udp: packet.body_check(),
        vxlan,
        inner_type,
        inner_header: pods.header,
        inner: pods.body_check(),
        length: frame.len(),
    };
    let outer = Outer {
        source: packet.source,
        destination: packet.destination,
        source_port: number(udp),
        inner_macs: (mac_of(&inner[6..12]), mac_of(&inner[..6])),
        shape,
    };
    is_pods.then_some(((from, inner_type, pods.protocol), outer))
}

/// All frames of a node's namespace, from now on.
fn capture(node: &Node) -> File {
    let open = || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
    node.inside(open).expect("a packet socket needs CAP_NET_RAW").into()
}

/// One packet of every kind, as it is on the wire.
fn heard(capture: &mut File, count: usize) -> BTreeMap<Kind, Outer> {
    let (mut all, end) = (BTreeMap::new(), Instant::now() + PATIENCE);
    let mut buffer = [0; 2048];
    while all.len() < count && Instant::now() < end {
        match capture.read(&mut buffer) {
            Ok(length) => all.extend(outer(&buffer[..length])),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    all
}

/// The devices of a node, without what differs from node to node.
fn devices(node: &Node, number: u8, macs: &[String; 2]) -> Vec<String> {
    let text = node.ip("-o -d link show type vxlan");
    let plain = |line: &str| {
        let (_, line) = line.split_once(": ").unwrap();
        let line = macs.iter().fold(line.to_owned(), |line, mac| line.replace(mac, "MAC"));
        let line = line.replace(&format!("local 192.0.2.{number}"), "local ADDRESS");
        line.replace(&format!("local 2001:db8::{number}"), "local ADDRESS")
    };
    let mut lines: Vec<_> = text.lines().map(plain).collect();
    lines.sort();
    lines
}

#[test]
fn on_the_wire_and_in_the_kernel_a_node_of_ours_is_as_flannels() {
    let world = World::new();
    let [first, second] = &world.nodes;
    // The kernel does what a card would do, before the frames are seen.
    let eth0 = IfName::new("eth0").unwrap();
    for node in &world.nodes {
        Netlink::open_in(node.netns()).unwrap().set_tx_checksum(&eth0, false).unwrap();
    }
    let server = api(&world, 1, [super::node(1), flannels(2)]);
    let daemon = ready(first);
    let annotation = |key: &str| {
        let all = &server.node("n1")["metadata"]["annotations"];
        all[format!("flannel.alpha.coreos.com/{key}")].as_str().map(str::to_owned)
    };
    assert!(within(PATIENCE, || annotation("backend-data").is_some()).is_some(), "{}", daemon.log());
    let mac_told = |key: &str| {
        let data: serde_json::Value = serde_json::from_str(&annotation(key).unwrap()).unwrap();
        assert_eq!(data["VNI"], json!(1));
        data["VtepMAC"].as_str().unwrap().to_owned()
    };
    let ours = [mac_told("backend-data"), mac_told("backend-v6-data")];
    let flanneld = Flanneld::of(2);
    flanneld.set_up(second, &[]);
    flanneld.add_v4(second, "10.244.1.0", &(ours[0].clone(), annotation("public-ip").unwrap()));
    flanneld.add_v6(second, "fd00:10:244:1::", &(ours[1].clone(), annotation("public-ipv6").unwrap()));
    assert!(within(PATIENCE, || world.all_reach_each_other()).is_some(), "{}", daemon.log());

    // Both kernels have the same devices, addresses and entries, apart from the names of the nodes.
    let theirs = [mac(2), mac6(2)];
    assert_eq!(devices(first, 1, &ours), devices(second, 2, &theirs), "{}", daemon.log());
    assert!(first.ip("-o addr show dev flannel.1").contains("inet 10.244.1.0/32"));
    assert!(first.ip("-o addr show dev flannel-v6.1").contains("inet6 fd00:10:244:1::/128"));
    let neighbour = format!("10.244.2.0 lladdr {} PERMANENT", theirs[0]);
    assert!(first.ip("neigh show dev flannel.1 nud permanent").contains(&neighbour));
    for (device, mac, address) in
        [("flannel.1", &theirs[0], "192.0.2.2"), ("flannel-v6.1", &theirs[1], "2001:db8::2")]
    {
        let entry = format!("{mac} dst {address} self permanent");
        assert!(first.run("bridge", &format!("fdb show dev {device}")).contains(&entry), "{entry}");
    }

    let mut capture = capture(second);
    assert!(world.all_reach_each_other());
    world.all_send_each_other(b"an odd number of bytes.");
    let heard = heard(&mut capture, 8);
    assert_eq!(heard.len(), 8, "{:?}", heard.keys());
    for (family, protocol) in [(IPV4, 1), (IPV4, 17), (IPV6, 58), (IPV6, 17)] {
        let (from_us, from_them) = (&heard[&(1, family, protocol)], &heard[&(2, family, protocol)]);
        assert_eq!(from_us.shape, from_them.shape, "{family:#x} {protocol}");
        // Flags: the number is valid, and there is no group policy.
        assert_eq!(from_us.shape.vxlan, [0x08, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!((from_us.shape.udp, from_us.shape.inner), (Check::Right, Check::Right));
        let at = usize::from(family == IPV6);
        let addresses: [[IpAddr; 2]; 2] = [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]]
            .map(|pair| pair.map(|ip| ip.parse().unwrap()));
        assert_eq!([from_us.source, from_us.destination], addresses[at]);
        assert_eq!([from_them.destination, from_them.source], addresses[at]);
        assert_eq!(from_us.inner_macs, (ours[at].clone(), theirs[at].clone()));
        assert_eq!(from_them.inner_macs, (theirs[at].clone(), ours[at].clone()));
        // The source port distinguishes the flows (RFC 7348, section 5). It is in the kernel's range.
        assert!((32768..61000).contains(&from_us.source_port), "{}", from_us.source_port);
    }
}
