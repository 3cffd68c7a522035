//! A node with another machine at its uplink, on the real kernel, and servers in pods that tell who came.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use ferrule_cni::Answer;
use ferrule_model::{
    Address, AddressKey, IfIndex, IfName, LinkChange, Mac, Op, Route, RouteKey, VethSpec, Via,
};
use ferrule_netlink::netns::Netns;
use ferrule_netlink::{Kernel, sysctl};
use serde_json::{Value, json};

use super::Bench;
use super::machine::{Machine, RealMachine};

/// Longest wait for something to come through.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// The node's addresses towards outside, and the addresses of who is there.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const CLIENT: [&str; 2] = ["192.0.2.9", "2001:db8::9"];

pub(crate) fn up() -> LinkChange {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

pub(crate) fn put<K: Kernel>(kernel: &mut K, ops: &[Op]) {
    for (op, result) in ops.iter().zip(kernel.apply(ops).unwrap()) {
        result.unwrap_or_else(|refusal| panic!("{op}: {refusal}"));
    }
}

/// A node that forwards, with another machine at its uplink.
pub(crate) struct Lab<'a> {
    pub(crate) bench: Bench<'a, RealMachine>,
    pub(crate) client: Netns,
    pub(crate) machine: &'a RealMachine,
}

pub(crate) fn with_lab(test: impl FnOnce(&Lab<'_>)) {
    RealMachine::with(|machine| {
        sysctl::set("net/ipv4/ip_forward", "1").unwrap();
        sysctl::set("net/ipv6/conf/all/forwarding", "1").unwrap();
        let bench = Bench::new(machine);
        machine.add_pod("client");
        let client = machine.netns(machine.path("client").as_ref()).unwrap();
        let node = machine.host().create_veth(&uplink(), &client).unwrap();
        let address = |link, text: &str| {
            let length = if text.contains(':') { 64 } else { 24 };
            let prefix = format!("{text}/{length}").parse().unwrap();
            Op::PutAddress(AddressKey { link, prefix }, Address { nodad: true })
        };
        let lo = Op::SetLink(IfIndex(1), up());
        let ops: Vec<_> = NODE
            .map(|text| address(node.index, text))
            .into_iter()
            .chain([lo.clone(), Op::SetLink(node.index, up())])
            .collect();
        put(&mut machine.host(), &ops);
        let there = node.peer.unwrap();
        let mut ops = vec![lo, Op::SetLink(there, up())];
        ops.extend(CLIENT.map(|text| address(there, text)));
        for (to, via) in [("10.244.0.0/16", NODE[0]), ("fd00:10:244::/48", NODE[1])] {
            let via = Via::Gateway { address: via.parse().unwrap(), link: there, onlink: false };
            ops.push(Op::PutRoute(RouteKey::main(to.parse().unwrap()), Route::ours(via)));
        }
        put(&mut machine.inside("client"), &ops);
        test(&Lab { bench, client, machine });
    });
}

/// The node's uplink, and who is at its other end.
pub(crate) fn uplink() -> VethSpec {
    VethSpec {
        host_name: IfName::new("uplink").unwrap(),
        host_mac: Mac::local([2, 0, 0, 0, 1, 1]),
        alias: None,
        pod_name: IfName::new("up0").unwrap(),
        pod_mac: Mac::local([2, 0, 0, 0, 1, 2]),
    }
}

impl Lab<'_> {
    pub(crate) fn pod(&self, name: &str) -> Netns {
        self.machine.netns(self.machine.path(name).as_ref()).unwrap()
    }

    /// ADD of the pod `name` with these mappings.
    pub(crate) fn add(&self, name: &str, container_id: &str, mappings: &Value) -> Answer {
        let path = self.machine.path(name);
        let variables = [("CNI_CONTAINERID", container_id), ("CNI_NETNS", &path)];
        self.bench.verb_with("ADD", &variables, &asking(mappings))
    }

    pub(crate) fn del(&self, container_id: &str) -> Answer {
        self.bench.verb_with("DEL", &[("CNI_CONTAINERID", container_id)], &json!({}))
    }
}

pub(crate) fn asking(mappings: &Value) -> Value {
    json!({ "capabilities": { "portMappings": true }, "runtimeConfig": { "portMappings": mappings } })
}

pub(crate) fn addresses(added: &Value) -> Vec<IpAddr> {
    let ips = added["ips"].as_array().unwrap();
    let networks = ips.iter().map(|ip| ip["address"].as_str().unwrap().parse::<ferrule_model::IpNetwork>());
    networks.map(|network| network.unwrap().ip()).collect()
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// A server in the pod that answers each connection with the address it came from.
pub(crate) fn serve(pod: &Netns, port: u16) {
    for any in ["0.0.0.0", "::"] {
        let listener = pod.run(|| {
            let listener = TcpListener::bind(at(any, port));
            // The one for IPv6 serves both families.
            if any == "::" { listener.ok() } else { None }
        });
        let Some(listener) = listener.unwrap() else { continue };
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let mut connection = connection;
                let peer = connection.peer_addr().unwrap().ip().to_canonical();
                let _ = connection.write_all(peer.to_string().as_bytes());
            }
        });
    }
}

/// Whom the pod sees when `from` connects.
pub(crate) fn seen(from: &Netns, to: SocketAddr) -> Result<IpAddr, std::io::Error> {
    from.run(|| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
                Ok(mut stream) => {
                    let mut text = String::new();
                    stream.read_to_string(&mut text)?;
                    return Ok(text.parse().unwrap());
                }
                // A link is not yet ready.
                Err(error) if error.kind() != ErrorKind::ConnectionRefused && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    })
    .unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What a program prints, which has to succeed.
pub(crate) fn output(line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn command(line: &str) {
    output(line);
}
