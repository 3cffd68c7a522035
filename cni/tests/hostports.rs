//! Host ports on the real kernel: packets from everywhere, the source that the pod sees, and what is left behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use ferrule_model::table::{MAPS, SETS, TABLE};
use ferrule_model::{Attachment, host_veth_name};
use ferrule_netlink::Kernel;
use ferrule_netlink::netns::Netns;
use ferrule_netlink::nft::{Netfilter, NetfilterSocket};
use serde_json::{Value, json};

use crate::support::lab::{
    CLIENT, DEADLINE, NODE, addresses, asking, at, command, ip, seen, serve, with_lab,
};
use crate::support::machine::Machine;
use crate::support::{attachment, failure, result, warned};

/// All elements of the table that are some pod's.
fn elements() -> usize {
    let mut netfilter = NetfilterSocket::open().unwrap();
    MAPS.iter().chain(&SETS).map(|set| netfilter.elements(TABLE, set).map_or(0, |found| found.len())).sum()
}

#[test]
fn a_port_is_reached_from_everywhere_and_the_pod_sees_who_comes() {
    with_lab(|lab| {
        let mappings = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
        let added = result(&lab.add("pod", "c0ffee", &mappings));
        let pod = lab.pod("pod");
        serve(&pod, 80);
        let host = Netns::current().unwrap();
        lab.machine.add_pod("second");
        let second = addresses(&result(&lab.add("second", "decaf", &json!([]))));
        let second_pod = lab.pod("second");

        for (n, address) in addresses(&added).into_iter().enumerate() {
            let node = at(NODE[n], 8080);
            assert_eq!(seen(&lab.client, node).unwrap(), ip(CLIENT[n]), "from outside");
            assert_eq!(seen(&host, node).unwrap(), ip(NODE[n]), "from the node");
            assert_eq!(seen(&second_pod, node).unwrap(), second[n], "from another pod");
            let itself = seen(&pod, node).unwrap();
            assert_ne!(itself, address, "to itself: by the node, so that the answer comes back");
            assert_eq!(
                seen(&lab.client, SocketAddr::new(address, 80)).unwrap(),
                ip(CLIENT[n]),
                "past the node"
            );
        }
        assert_eq!(seen(&host, at("127.0.0.1", 8080)).unwrap(), ip(NODE[0]), "from 127.0.0.1");
        let refused = seen(&host, at("::1", 8080)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "from ::1, at once");

        let check = |runtime: &Value| {
            let mut fields = asking(runtime);
            fields["prevResult"] = added.clone();
            lab.bench.verb_with("CHECK", &[], &fields)
        };
        result(&check(&mappings));
        let (code, text) = failure(&check(&json!([{ "hostPort": 8081, "containerPort": 80 }])));
        assert_eq!(code, 103);
        assert!(text.contains("host port tcp 8081: expected to 10.244.1.1:80, found none"), "{text}");

        result(&lab.del("c0ffee"));
        assert_eq!(elements(), 0);
        for node in NODE {
            assert_eq!(seen(&host, at(node, 8080)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn a_port_on_one_address_is_on_no_other() {
    with_lab(|lab| {
        let mappings = json!([
            { "hostPort": 8080, "containerPort": 80, "hostIP": NODE[0] },
            { "hostPort": 8081, "containerPort": 80, "hostIP": "127.0.0.1" },
            { "hostPort": 8082, "containerPort": 80, "hostIP": NODE[1] },
            { "hostPort": 8083, "containerPort": 80, "hostIP": "0.0.0.0" },
            { "hostPort": 8084, "containerPort": 80, "hostIP": "::" }
        ]);
        result(&lab.add("pod", "c0ffee", &mappings));
        serve(&lab.pod("pod"), 80);
        let host = Netns::current().unwrap();
        let places = [NODE[0], "127.0.0.1", NODE[1]];
        for (port, open) in [
            (8080, [true, false, false]),
            (8081, [false, true, false]),
            (8082, [false, false, true]),
            (8083, [true, true, false]),
            (8084, [false, false, true]),
        ] {
            for (place, open) in places.into_iter().zip(open) {
                assert_eq!(seen(&host, at(place, port)).is_ok(), open, "{place} {port}");
            }
        }
    });
}

/// A part of the table that somebody took away is made again with the next pod, and nobody loses a port by that.
#[test]
fn what_is_missing_of_the_table_is_made_again_and_the_elements_stay() {
    with_lab(|lab| {
        let mapping = |port: u16| json!([{ "hostPort": port, "containerPort": 80 }]);
        result(&lab.add("pod", "c0ffee", &mapping(8080)));
        lab.machine.add_pod("second");
        serve(&lab.pod("pod"), 80);
        let host = Netns::current().unwrap();
        for line in [
            format!("nft flush chain inet {TABLE} loopback_out"),
            format!("nft delete set inet {TABLE} loopback_every"),
            format!("nft delete chain inet {TABLE} prerouting"),
        ] {
            command(&line);
        }
        result(&lab.add("second", "decaf", &mapping(8081)));
        serve(&lab.pod("second"), 80);
        for port in [8080, 8081] {
            for node in NODE {
                seen(&lab.client, at(node, port)).unwrap();
            }
        }
        seen(&host, at("127.0.0.1", 8081)).unwrap();
        // Attached again, the first one has the rest too.
        result(&lab.add("pod", "c0ffee", &mapping(8080)));
        seen(&host, at("127.0.0.1", 8080)).unwrap();
        command(&format!("nft flush chain inet {TABLE} every"));
        command(&format!("nft delete map inet {TABLE} every4"));
        result(&lab.del("c0ffee"));
        result(&lab.del("decaf"));
        assert_eq!(elements(), 0);
    });
}

/// What lies on the node for others: the address of a Service, as IPVS has them, here on `lo`. What comes for that is
/// the Service's, whatever port a pod has; a port that is asked for on that very address is the pod's.
#[test]
fn a_port_is_on_the_nodes_own_addresses_and_not_on_those_of_services() {
    const SERVICE: [&str; 2] = ["10.96.0.10", "2001:db8:96::a"];
    with_lab(|lab| {
        for (address, length, node) in [(SERVICE[0], 32, NODE[0]), (SERVICE[1], 128, NODE[1])] {
            command(&format!("ip addr add {address}/{length} dev lo"));
            let to_service = format!("ip route add {address}/{length} via {node}");
            lab.client.run(|| command(&to_service)).unwrap();
        }
        for address in SERVICE {
            let listener = TcpListener::bind(at(address, 8080)).unwrap();
            std::thread::spawn(move || {
                listener.incoming().flatten().for_each(|mut stream| stream.write_all(b"service").unwrap());
            });
        }
        result(&lab.add("pod", "c0ffee", &json!([{ "hostPort": 8080, "containerPort": 80 }])));
        serve(&lab.pod("pod"), 80);
        lab.machine.add_pod("second");
        let named = json!([{ "hostPort": 8080, "containerPort": 80, "hostIP": SERVICE[0] }]);
        let (second, host) = (lab.pod("second"), Netns::current().unwrap());
        result(&lab.add("second", "decaf", &json!([])));
        for address in SERVICE {
            for from in [&lab.client, &second, &host] {
                let mut connection = from.run(|| TcpStream::connect(at(address, 8080)).unwrap()).unwrap();
                let mut answer = String::new();
                connection.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, "service", "{address}");
            }
        }
        for node in NODE {
            for from in [&lab.client, &second, &host] {
                seen(from, at(node, 8080)).unwrap();
            }
        }
        let (_, warning) = warned(&lab.add("second", "decaf", &named));
        assert!(warning.contains(&format!("listens on tcp {}:8080", SERVICE[0])), "{warning}");
        serve(&second, 80);
        assert_eq!(seen(&lab.client, at(SERVICE[0], 8080)).unwrap(), ip(CLIENT[0]));
    });
}

/// An address that comes to the node later is reached from outside at once, and by everybody from the next pod on; so
/// is one on `lo` from which the node speaks, as where its routes are learned by BGP.
#[test]
fn an_address_that_comes_later_and_one_that_the_node_speaks_from_are_the_nodes() {
    with_lab(|lab| {
        let mapping = |port: u16| json!([{ "hostPort": port, "containerPort": 80 }]);
        command("ip addr add 198.51.100.1/32 dev lo");
        command(&format!("ip route add default via {} src 198.51.100.1", CLIENT[0]));
        lab.client.run(|| command(&format!("ip route add 198.51.100.1 via {}", NODE[0]))).unwrap();
        result(&lab.add("pod", "c0ffee", &mapping(8080)));
        serve(&lab.pod("pod"), 80);
        let host = Netns::current().unwrap();
        for from in [&lab.client, &host] {
            seen(from, at("198.51.100.1", 8080)).unwrap();
        }
        command("ip addr add 192.0.2.77/32 dev uplink");
        seen(&lab.client, at("192.0.2.77", 8080)).unwrap();
        lab.machine.add_pod("second");
        result(&lab.add("second", "decaf", &mapping(8081)));
        seen(&lab.pod("second"), at("192.0.2.77", 8080)).unwrap();
    });
}

/// As many as a pod of a games server or a media gateway asks for. Not all of a transaction fits into what a socket may
/// send, nor all refusals into what it may receive.
#[test]
fn a_thousand_ports_are_opened_at_once_and_closed_at_once() {
    with_lab(|lab| {
        let mapping = |port| json!({ "hostPort": port, "containerPort": 80 });
        let mappings = json!((20_000..21_000).map(mapping).collect::<Vec<_>>());
        result(&lab.add("pod", "c0ffee", &mappings));
        serve(&lab.pod("pod"), 80);
        let open = || {
            for (node, port) in [(NODE[0], 20_000), (NODE[1], 20_503), ("127.0.0.1", 20_999)] {
                seen(&Netns::current().unwrap(), at(node, port)).unwrap();
            }
        };
        open();
        // The same again, where all are there, and where none is but the table.
        let all = elements();
        result(&lab.add("pod", "c0ffee", &mappings));
        assert_eq!(elements(), all);
        command(&format!("nft flush map inet {TABLE} every6"));
        result(&lab.add("pod", "c0ffee", &mappings));
        assert_eq!(elements(), all);
        lab.machine.add_pod("second");
        let (code, text) = failure(&lab.add("second", "decaf", &mappings));
        assert_eq!((code, text.contains("host port tcp 20000 is taken")), (104, true), "{text}");
        open();
        result(&lab.del("c0ffee"));
        assert_eq!(elements(), 0);
    });
}

#[test]
fn udp_connections_follow_the_pod() {
    with_lab(|lab| {
        let mappings = json!([{ "hostPort": 5353, "containerPort": 53, "protocol": "UDP" }]);
        let node = at(NODE[0], 5353);
        // One socket throughout: the kernel tracks one connection.
        let client = lab.client.run(|| UdpSocket::bind((ip(CLIENT[0]), 0)).unwrap()).unwrap();
        client.send_to(b"before the pod", node).unwrap();
        let server = |name: &str| {
            let socket = lab.pod(name).run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            socket
        };
        let arrives = |server: &UdpSocket| {
            let (deadline, mut buffer) = (Instant::now() + DEADLINE, [0; 64]);
            while Instant::now() < deadline {
                client.send_to(b"x", node).unwrap();
                if let Ok((_, from)) = server.recv_from(&mut buffer) {
                    server.send_to(b"y", from).unwrap();
                    return Some(from.ip());
                }
            }
            None
        };
        result(&lab.add("pod", "c0ffee", &mappings));
        assert_eq!(
            arrives(&server("pod")),
            Some(ip(CLIENT[0])),
            "what came before the pod does not stay with the node"
        );
        result(&lab.del("c0ffee"));
        lab.machine.add_pod("second");
        result(&lab.add("second", "decaf", &mappings));
        assert_eq!(arrives(&server("second")), Some(ip(CLIENT[0])), "nor with the pod before");
        // Its runtime does not come back to delete it.
        let decaf = Attachment { container_id: "decaf".into(), ..attachment() };
        lab.machine.host().delete_link(&host_veth_name(&decaf)).unwrap();
        lab.machine.add_pod("third");
        result(&lab.add("third", "facade", &mappings));
        assert_eq!(arrives(&server("third")), Some(ip(CLIENT[0])), "nor with one that died");
        result(&lab.del("facade"));
        let process = UdpSocket::bind("0.0.0.0:5353").unwrap();
        process.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(arrives(&process), Some(ip(CLIENT[0])));
        lab.machine.add_pod("fourth");
        let (_, warning) = warned(&lab.add("fourth", "beef", &mappings));
        assert!(warning.contains("a process of the node listens on udp 0.0.0.0:5353"), "{warning}");
        assert_eq!(warning.matches('\n').count(), 1, "{warning}");
        assert_eq!(arrives(&server("fourth")), Some(ip(CLIENT[0])), "nor with a process that answered");
    });
}

/// The kernel translates SCTP whether or not it can speak it: a raw packet is enough to see that.
#[test]
fn sctp_is_translated() {
    with_lab(|lab| {
        let mappings = json!([{ "hostPort": 9999, "containerPort": 99, "protocol": "SCTP" }]);
        let added = result(&lab.add("pod", "c0ffee", &mappings));
        let script = format!(
            "import socket, struct\n\
             def crc(data):\n\
             \x20   c = 0xffffffff\n\
             \x20   for b in data:\n\
             \x20       c ^= b\n\
             \x20       for _ in range(8): c = (c >> 1) ^ (0x82f63b78 if c & 1 else 0)\n\
             \x20   return c ^ 0xffffffff\n\
             init = struct.pack('>BBHIIHHI', 1, 0, 20, 1, 65535, 1, 1, 1)\n\
             head = struct.pack('>HHI', 4000, 9999, 0)\n\
             packet = head + struct.pack('<I', crc(head + bytes(4) + init)) + init\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)\n\
             s.sendto(packet, ('{}', 0))\n",
            NODE[0]
        );
        let receiver = "import socket\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)\n\
             s.settimeout(10)\n\
             print('ready', flush=True)\n\
             p = s.recv(2000)\n\
             print(socket.inet_ntoa(p[12:16]), int.from_bytes(p[22:24], 'big'), flush=True)\n";
        let python = |netns: &Netns, script: &str| {
            netns
                .run(|| {
                    Command::new("python3")
                        .args(["-c", script])
                        .stdout(std::process::Stdio::piped())
                        .spawn()
                        .expect("python3 is needed: install the package python3")
                })
                .unwrap()
        };
        let mut receiving = python(&lab.pod("pod"), receiver);
        let mut output = std::io::BufReader::new(receiving.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        // The first may come before the link is ready.
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && receiving.try_wait().unwrap().is_none() {
            assert!(python(&lab.client, &script).wait().unwrap().success());
        }
        line.clear();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, format!("{} 99\n", CLIENT[0]), "{added}");
    });
}

#[test]
fn on_a_bridge_the_pod_next_door_and_the_pod_itself_come_through_too() {
    with_lab(|lab| {
        let mappings = json!([{ "hostPort": 8080, "containerPort": 80 }]);
        let mut fields = asking(&mappings);
        fields["mode"] = "bridge".into();
        let added = result(&lab.bench.verb_with("ADD", &[], &fields));
        lab.machine.add_pod("second");
        let path = lab.machine.path("second");
        let variables = [("CNI_CONTAINERID", "decaf"), ("CNI_NETNS", path.as_str())];
        result(&lab.bench.verb_with("ADD", &variables, &json!({ "mode": "bridge" })));
        let (pod, second, host) = (lab.pod("pod"), lab.pod("second"), Netns::current().unwrap());
        serve(&pod, 80);
        for n in 0..addresses(&added).len() {
            let node = at(NODE[n], 8080);
            assert_eq!(seen(&lab.client, node).unwrap(), ip(CLIENT[n]), "from outside");
            assert_eq!(seen(&host, node).unwrap(), ip(NODE[n]), "from the node");
            seen(&second, node).unwrap();
            seen(&pod, node).unwrap();
        }
        seen(&host, at("127.0.0.1", 8080)).unwrap();
        fields["prevResult"] = added;
        result(&lab.bench.verb_with("CHECK", &[], &fields));
        result(&lab.del("c0ffee"));
        assert_eq!(elements(), 0);
    });
}
