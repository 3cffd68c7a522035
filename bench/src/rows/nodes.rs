//! Made-up clusters: their nodes file, the same as batches for iproute2, and the kernel's word that a route is there.

use std::{
    fmt::Write,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ferrule_model::{PROTOCOL, vtep_mac};
use ferrule_tests::{
    addressing,
    cluster::VXLAN_DEVICE,
    error::{Context, LabError, Result},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike},
};

/// The name of node `number`; 0 is the one measured.
pub(super) fn name(number: usize) -> String {
    format!("bench-{number}")
}

/// Its pods' networks without their lengths, 24 and 64; `generation` moves node 1 to other ones.
pub(super) fn pods(number: usize, generation: usize) -> [String; 2] {
    let number = if number == 1 && generation > 0 { 20_000 + generation } else { number };
    [format!("10.{}.{}.0", 64 + number / 256, number % 256), format!("fd00:10:{number:x}::")]
}

/// Its addresses.
pub(super) fn underlay(number: usize) -> [String; 2] {
    if number == 0 {
        let own = addressing::node(0, 1);
        return [own.v4.to_string(), own.v6.to_string()];
    }
    [format!("172.16.{}.{}", number / 256, number % 256), format!("2001:db8:1:1::{number:x}")]
}

fn text(nodes: usize, generation: usize) -> String {
    let mut text = String::new();
    for number in 0..nodes {
        let ([v4, v6], [pods4, pods6]) = (underlay(number), pods(number, generation));
        let _ = write!(
            text,
            "[[node]]\nname = \"{}\"\naddress = \"{v4}\"\naddress6 = \"{v6}\"\npod_cidrs = [\"{pods4}/24\", \"{pods6}/64\"]\n",
            name(number)
        );
    }
    text
}

/// Writes the nodes file.
pub(super) fn write(dir: &Path, nodes: usize, generation: usize) -> Result<()> {
    let (fresh, _) = prepare(dir, nodes, generation)?;
    replace(dir, &fresh)
}

/// Writes the file of a generation beside the real one; gives its path and the new network of node 1.
pub(super) fn prepare(dir: &Path, nodes: usize, generation: usize) -> Result<(PathBuf, Ipv4Addr)> {
    let fresh = dir.join("nodes.toml.new");
    fs::write(&fresh, text(nodes, generation)).context(|| fresh.display().to_string())?;
    let [address, _] = pods(1, generation);
    let address = address.parse().map_err(|error| LabError::parse(address, &error))?;
    Ok((fresh, address))
}

/// Puts a prepared file in its place.
pub(super) fn replace(dir: &Path, fresh: &Path) -> Result<()> {
    fs::rename(fresh, dir.join("nodes.toml")).context(|| fresh.display().to_string())
}

/// The device with its addresses, and the routes of the own networks, as lines for `ip -batch`.
pub(super) fn link_batch() -> String {
    let own = pods(0, 0);
    let mut ip = format!(
        "link add {VXLAN_DEVICE} address {} mtu 1450 up type vxlan id 1 dstport 8472 local {} dev eth0 nolearning\n\
         addr add {}/32 dev {VXLAN_DEVICE}\naddr add {}/128 dev {VXLAN_DEVICE} nodad\n",
        vtep_mac(&name(0)),
        underlay(0)[0],
        own[0],
        own[1]
    );
    // What is in this node's networks and nobody's is refused.
    for (pods, length) in own.iter().zip([24, 64]) {
        let _ = writeln!(ip, "route replace unreachable {pods}/{length} protocol {PROTOCOL}");
    }
    ip
}

/// What `ip -batch` and `bridge -batch` are given to make what `routed` makes of the nodes file.
pub(super) fn batches(dir: &Path, nodes: usize) -> Result<[PathBuf; 2]> {
    let mut ip = link_batch();
    let mut bridge = String::new();
    for number in 1..nodes {
        let (mac, [node, _], [pods4, pods6]) = (vtep_mac(&name(number)), underlay(number), pods(number, 0));
        let _ = writeln!(bridge, "fdb replace {mac} dev {VXLAN_DEVICE} dst {node} self permanent");
        for (id, pods, length) in [(2 * number, pods4, 24), (2 * number + 1, pods6, 64)] {
            let _ = write!(
                ip,
                "neigh replace {pods} lladdr {mac} dev {VXLAN_DEVICE} nud permanent\n\
                 nexthop replace id {id} via {pods} dev {VXLAN_DEVICE} onlink protocol {PROTOCOL}\n\
                 route replace {pods}/{length} nhid {id} protocol {PROTOCOL}\n"
            );
        }
    }
    let files = [(dir.join("ip.batch"), ip), (dir.join("bridge.batch"), bridge)];
    for (path, text) in &files {
        fs::write(path, text).context(|| path.display().to_string())?;
    }
    Ok(files.map(|(path, _)| path))
}

/// Hears of every IPv4 route that is made in the namespace it was opened in.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
}

/// `RTNLGRP_IPV4_ROUTE`, `RTM_NEWROUTE`, `RTA_DST`.
const GROUP: u32 = 7;
const NEWROUTE: u16 = 24;
const DESTINATION: u16 = 1;
const PATIENCE_S: i64 = 5;

impl Listener {
    /// In the calling thread's namespace.
    pub(super) fn open() -> Result<Listener> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(GROUP)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
            Ok::<_, std::io::Error>(socket)
        };
        Ok(Listener { socket: open().context(|| "a socket for route events")? })
    }

    /// Returns with the event of a new route to `network`.
    pub(super) fn wait_for_route(&self, network: Ipv4Addr) -> Result<()> {
        let attribute = [&8_u16.to_ne_bytes()[..], &DESTINATION.to_ne_bytes(), &network.octets()].concat();
        loop {
            let mut event = Vec::with_capacity(8192);
            self.socket.recv(&mut event, 0).context(|| format!("waiting for a route to {network}"))?;
            let is_new = event.get(4..6) == Some(&NEWROUTE.to_ne_bytes());
            if is_new && event.windows(attribute.len()).any(|window| window == attribute) {
                return Ok(());
            }
        }
    }
}
