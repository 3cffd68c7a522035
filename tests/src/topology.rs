//! The machines of the lab and the wires between them. Lives here: nodes, the fabric (switches and router in one namespace) and
//! the host outside. Knows nothing of Ferrule.
//!
//! ```text
//!   node1 ─┐                  ┌─ node2        native: one segment, all nodes on it
//!   node3 ─┴ seg1 ─ router ─ seg2 ┴ node4     vxlan, auto: two segments, nodes in turn on one and the other
//!                     │
//!                  outside                    has a route back to the nodes, none to any pod
//! ```

use std::{fmt::Write, fs};

use crate::{
    addressing::{self, Backend, Pair},
    command::{feed, run},
    error::{Context, Result},
    space::Space,
};

/// A node's place: its namespaces and its address on the underlay.
#[derive(Debug)]
pub struct Machine {
    /// Counts from 1.
    pub number: usize,
    /// Network and mount namespace; the underlay's link in it is `eth0`.
    pub space: Space,
    /// Its addresses on the underlay.
    pub underlay: Pair,
}

/// A built network.
#[derive(Debug)]
pub struct Topology {
    /// What its shape was chosen for.
    pub backend: Backend,
    /// Bridges `seg1`, `seg2` and the router between them.
    pub fabric: Space,
    /// The host outside the cluster.
    pub outside: Space,
    /// The nodes.
    pub machines: Vec<Machine>,
}

impl Topology {
    /// Builds the network: when this returns, every node reaches every other and the host outside.
    pub fn build(backend: Backend, nodes: usize) -> Result<Topology> {
        let fabric = Space::network("fabric")?;
        let outside = Space::network("outside")?;
        let machines = (1..=nodes)
            .map(|number| {
                let segment = segment(backend, number);
                let space = Space::node(&format!("node{number}"))?;
                Ok(Machine { number, space, underlay: addressing::node(segment, number) })
            })
            .collect::<Result<Vec<_>>>()?;
        let topology = Topology { backend, fabric, outside, machines };
        topology.wire_up()?;
        Ok(topology)
    }

    fn wire_up(&self) -> Result<()> {
        set_sysctls(&self.fabric, &["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"], "1")?;
        // A link-local address that is still being probed cannot solicit neighbours: the router would lose the first packets.
        set_sysctls(&self.fabric, &["net/ipv6/conf/default/accept_dad"], "0")?;
        feed(&self.fabric, "ip -batch -", &self.fabric_batch())?;
        for machine in &self.machines {
            let gateway = addressing::gateway(segment(self.backend, machine.number));
            attach(&machine.space, machine.underlay, gateway)?;
        }
        attach(&self.outside, addressing::outside(), addressing::outside_gateway())
    }

    /// The fabric's side of every wire. The other ends are born in their own namespaces.
    fn fabric_batch(&self) -> String {
        let mut batch = String::from("link set lo up\n");
        for index in 0..self.backend.segments() {
            let name = format!("seg{}", index + 1);
            // No snooping: a bridge that has just come up would not pass neighbour solicitations on.
            let _ = writeln!(batch, "link add {name} type bridge stp_state 0 mcast_snooping 0");
            address(&mut batch, &name, addressing::gateway(index));
            let _ = writeln!(batch, "link set {name} up");
        }
        for machine in &self.machines {
            let port = format!("port{}", machine.number);
            let segment = segment(self.backend, machine.number) + 1;
            wire(&mut batch, &port, &machine.space);
            let _ = writeln!(batch, "link set {port} master seg{segment} up");
        }
        wire(&mut batch, "outside", &self.outside);
        address(&mut batch, "outside", addressing::outside_gateway());
        let _ = writeln!(batch, "link set outside up");
        batch
    }
}

/// The last of so many nodes whose packets from the first one carry a tunnel's header, if the backend makes any.
pub fn last_tunnelled(backend: Backend, nodes: usize) -> Option<usize> {
    let is_across = |number: &usize| segment(backend, *number) != segment(backend, 1);
    match backend {
        Backend::Native => None,
        Backend::Vxlan => Some(nodes),
        Backend::Auto => (1..=nodes).rev().find(is_across),
    }
}

/// Which segment a node is on, from 0: they take turns.
fn segment(backend: Backend, number: usize) -> usize {
    (number - 1) % backend.segments()
}

fn wire(batch: &mut String, port: &str, other: &Space) {
    let _ = writeln!(batch, "link add {port} type veth peer name eth0 netns {}", other.net_path().display());
}

/// Both addresses of a link. No duplicate address detection: the lab gave the addresses itself, and does not wait for it.
fn address(batch: &mut String, link: &str, pair: Pair) {
    let _ = writeln!(batch, "addr add {}/24 dev {link}\naddr add {}/64 dev {link} nodad", pair.v4, pair.v6);
}

/// A host's side of its wire: `eth0` with the address and default routes through the gateway.
fn attach(space: &Space, pair: Pair, gateway: Pair) -> Result<()> {
    // Only of this link: what the programs under test make must live with the kernel's defaults.
    set_sysctls(space, &["net/ipv6/conf/eth0/accept_dad", "net/ipv6/conf/eth0/accept_ra"], "0")?;
    let mut batch = String::from("link set lo up\n");
    address(&mut batch, "eth0", pair);
    let _ = writeln!(batch, "link set eth0 up");
    let _ = writeln!(batch, "route add default via {}\nroute add default via {}", gateway.v4, gateway.v6);
    feed(space, "ip -batch -", &batch).map(drop)
}

fn set_sysctls(space: &Space, names: &[&str], value: &str) -> Result<()> {
    space.enter(|| {
        names.iter().try_for_each(|name| {
            fs::write(format!("/proc/sys/{name}"), value)
                .context(|| format!("setting {name} in {}", space.name()))
        })
    })?
}

impl Machine {
    /// Every address the node has, as text without the prefix length: those its packets may carry.
    pub fn addresses(&self) -> Result<Vec<String>> {
        let text = run(&self.space, "ip -o address show")?;
        let of_line = |line: &str| Some(line.split_whitespace().nth(3)?.split('/').next()?.to_owned());
        Ok(text.lines().filter_map(of_line).collect())
    }
}
