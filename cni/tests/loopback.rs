//! The node's loopback addresses and the pods, on the real kernel: a host port is reached by them, and nothing of the
//! node's behind them is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use ferrule_model::{Attachment, IfName, host_veth_name};
use ferrule_netlink::netns::Netns;
use ferrule_netlink::{Kernel, sysctl};
use serde_json::json;

use crate::support::lab::{
    DEADLINE, Lab, NODE, addresses, asking, at, command, ip, output, seen, serve, with_lab,
};
use crate::support::machine::Machine;
use crate::support::{attachment, result, warned};

/// How long nothing has to come for it not to come.
const SILENCE: Duration = Duration::from_millis(300);

/// A pod with every right inside its namespace tries all ways to the node's loopback address: its own kernel's, and
/// frames of its own, with tags that the kernel takes off too. The table is no guard that could be taken away: with it
/// and without it.
#[test]
fn no_pod_reaches_the_nodes_loopback_addresses_whoever_flushes_what() {
    for mode in ["routed", "bridge"] {
        with_lab(|lab| {
            let mut fields = asking(&json!([{ "hostPort": 8080, "containerPort": 80 }]));
            fields["mode"] = mode.into();
            let first = addresses(&result(&lab.bench.verb_with("ADD", &[], &fields)))[0];
            lab.machine.add_pod("second");
            let path = lab.machine.path("second");
            let variables = [("CNI_CONTAINERID", "decaf"), ("CNI_NETNS", path.as_str())];
            let added = result(&lab.bench.verb_with("ADD", &variables, &json!({ "mode": mode })));
            let second = addresses(&added)[0];
            let ways = |container_id: &str| -> IfName {
                let attachment = Attachment { container_id: container_id.into(), ..attachment() };
                let bridged = mode == "bridge";
                if bridged { IfName::new("ferrule0").unwrap() } else { host_veth_name(&attachment) }
            };
            let node = Loopback::new();
            let (one, two) = (Intruder::new(lab, "pod", first), Intruder::new(lab, "second", second));
            let [way, other_way] = ["c0ffee", "decaf"].map(ways);
            let quiet = |node: &Loopback, when: &str, intruders: &[(&Intruder<'_>, &IfName)]| {
                for (intruder, way) in intruders {
                    intruder.tries(lab, way, node);
                }
                assert_eq!(node.heard(SILENCE), None, "{mode}, {when}");
            };
            quiet(&node, "as added", &[(&one, &way), (&two, &other_way)]);
            command("nft flush ruleset");
            quiet(&node, "without the table", &[(&one, &way), (&two, &other_way)]);
            fields["runtimeConfig"]["portMappings"][0]["hostPort"] = 8081.into();
            result(&lab.bench.verb_with("ADD", &[], &fields));
            command("nft flush ruleset");
            result(&lab.del("c0ffee"));
            quiet(&node, "after the port is gone", &[(&two, &other_way)]);
            // The test sees what comes through where something does.
            sysctl::set(&format!("net/ipv4/conf/{other_way}/route_localnet"), "1").unwrap();
            two.tries(lab, &other_way, &node);
            assert!(node.heard(DEADLINE).is_some(), "{mode}: nothing would have come through anyway");
        });
    }
}

/// A process on the node that listens on 127.0.0.1 alone.
struct Loopback {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Loopback {
    fn new() -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        Self { udp, tcp }
    }

    /// Who got through within this time.
    fn heard(&self, within: Duration) -> Option<SocketAddr> {
        self.udp.set_read_timeout(Some(within)).unwrap();
        match self.udp.recv_from(&mut [0; 64]) {
            Ok((_, from)) => Some(from),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                self.tcp.accept().ok().map(|(_, from)| from)
            }
        }
    }
}

/// A pod whose kernel was told to send 127.0.0.0/8 out.
struct Intruder<'a> {
    name: &'a str,
    address: IpAddr,
}

impl<'a> Intruder<'a> {
    fn new(lab: &Lab<'_>, name: &'a str, address: IpAddr) -> Self {
        let pod = lab.pod(name);
        pod.run(|| {
            for place in ["all", "eth0"] {
                sysctl::set(&format!("net/ipv4/conf/{place}/route_localnet"), "1").unwrap();
            }
            command("ip route del local 127.0.0.0/8 dev lo table local");
            command("ip route del local 127.0.0.1 dev lo table local");
            let default = output("ip -4 route show default");
            let gateway = default.split(' ').nth(2).unwrap();
            command(&format!("ip route add 127.0.0.0/8 via {gateway} dev eth0 onlink"));
        })
        .unwrap();
        Self { name, address }
    }

    fn tries(&self, lab: &Lab<'_>, way: &IfName, node: &Loopback) {
        let mac = lab.machine.host().link(way).unwrap().unwrap().mac.unwrap();
        let (udp, tcp) = (node.udp.local_addr().unwrap(), node.tcp.local_addr().unwrap());
        let frames = format!(
            "import socket, struct\n\
             def ipv4(source):\n\
             \x20   data = struct.pack('>HHHH', 4000, {}, 9, 0) + b'x'\n\
             \x20   head = struct.pack('>BBHHHBBH4s4s', 69, 0, 20 + len(data), 1, 0, 64, 17, 0,\n\
             \x20       socket.inet_aton(source), socket.inet_aton('127.0.0.1'))\n\
             \x20   total = sum(struct.unpack('>10H', head))\n\
             \x20   total = (total & 0xffff) + (total >> 16)\n\
             \x20   return head[:10] + struct.pack('>H', 0xffff & ~(total + (total >> 16))) + head[12:] + data\n\
             s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
             s.bind(('eth0', 0))\n\
             to = bytes.fromhex('{}') + bytes.fromhex('020000000009')\n\
             for source in ['{}', '127.0.0.1']:\n\
             \x20   for tags in ['', '81000000', '8100000081000000', '88a8000081000000']:\n\
             \x20       s.send(to + bytes.fromhex(tags + '0800') + ipv4(source))\n",
            udp.port(),
            mac.to_string().replace(':', ""),
            self.address,
        );
        let sent = lab.pod(self.name).run(|| {
            UdpSocket::bind((self.address, 0)).unwrap().send_to(b"x", udp).unwrap();
            let _ = TcpStream::connect_timeout(&tcp, SILENCE);
            Command::new("python3").args(["-c", &frames]).status()
        });
        let sent = sent.unwrap().expect("python3 is needed: install the package python3");
        assert!(sent.success());
    }
}

/// The node's own connections over its loopback addresses: those to a host port reach the pod, by every one of them;
/// those that merely have its number at their other end stay whole.
#[test]
fn from_the_nodes_loopback_addresses_a_port_is_reached_and_nothing_else_is_changed() {
    with_lab(|lab| {
        let mappings = json!([
            { "hostPort": 40_000, "containerPort": 80 },
            { "hostPort": 8080, "containerPort": 80, "hostIP": "127.0.0.5" },
            { "hostPort": 5353, "containerPort": 53, "protocol": "udp" }
        ]);
        // A connection of the node's own, with the port's number at the server's end, begun before the pod came; the
        // kernel tracks connections since there is a host port.
        lab.machine.add_pod("second");
        result(&lab.add("second", "decaf", &json!([{ "hostPort": 9, "containerPort": 9 }])));
        let server = TcpListener::bind("127.0.0.1:40000").unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let mut served = server.accept().unwrap().0;
        served.set_read_timeout(Some(DEADLINE)).unwrap();
        let (_, warning) = warned(&lab.add("pod", "c0ffee", &mappings));
        assert!(warning.contains("listens on tcp 127.0.0.1:40000"), "{warning}");
        serve(&lab.pod("pod"), 80);
        let host = Netns::current().unwrap();
        for place in ["127.0.0.1", "127.1.2.3"] {
            assert_eq!(seen(&host, at(place, 40_000)).unwrap(), ip(NODE[0]), "{place}");
        }
        assert_eq!(seen(&host, at("127.0.0.5", 8080)).unwrap(), ip(NODE[0]));
        let refused = seen(&host, at("127.0.0.1", 8080)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

        let echo = lab.pod("pod").run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
        echo.set_read_timeout(Some(DEADLINE)).unwrap();
        for from in ["127.0.0.1:0", "127.0.0.7:0", "0.0.0.0:0"] {
            let client = UdpSocket::bind(from).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            for round in 0..3_u8 {
                client.send_to(&[round; 4000], at("127.0.0.1", 5353)).unwrap();
                let mut buffer = [0; 5000];
                let (length, peer) = echo.recv_from(&mut buffer).unwrap();
                assert_eq!(peer.ip(), ip(NODE[0]));
                echo.send_to(&buffer[..length], peer).unwrap();
                assert_eq!(client.recv_from(&mut buffer).unwrap(), (4000, at("127.0.0.1", 5353)), "{from}");
            }
        }

        client.write_all(b"whole").unwrap();
        served.read_exact(&mut [0; 5]).unwrap();
        drop((served, client, server));

        // The port's number at the client's end, which `std` does not let one choose.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = format!(
            "import socket\n\
             s = socket.socket()\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
             s.bind(('127.0.0.1', 40000))\n\
             s.connect(('127.0.0.1', {}))\n\
             assert s.recv(1) == b'x'\n",
            server.local_addr().unwrap().port()
        );
        let mut client = Command::new("python3").args(["-c", &script]).spawn().unwrap();
        let (mut stream, from) = server.accept().unwrap();
        assert_eq!(from, at("127.0.0.1", 40_000));
        stream.write_all(b"x").unwrap();
        assert!(client.wait().unwrap().success());
    });
}

/// Wherever Kubernetes runs, netfilter is shown a bridge's packets before the bridge is.
#[test]
fn on_a_bridge_that_netfilter_sees_a_port_is_reached_from_loopback_too() {
    with_lab(|lab| {
        sysctl::set("net/bridge/bridge-nf-call-iptables", "1").expect("modprobe br_netfilter");
        let mut fields = asking(&json!([{ "hostPort": 8080, "containerPort": 80 }]));
        fields["mode"] = "bridge".into();
        result(&lab.bench.verb_with("ADD", &[], &fields));
        serve(&lab.pod("pod"), 80);
        seen(&Netns::current().unwrap(), at("127.0.0.1", 8080)).unwrap();
        seen(&lab.client, at(NODE[0], 8080)).unwrap();
    });
}
