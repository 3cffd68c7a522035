//! Bandwidth on the real kernel, measured with bytes that arrive.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ferrule_model::ifb_name;
use ferrule_netlink::Kernel;
use ferrule_netlink::netns::Netns;
use serde_json::json;

use support::lab::{CLIENT, addresses, at, with_lab};
use support::machine::Machine;
use support::{attachment, result};

/// How long is measured, after the burst is spent.
const MEASURED: Duration = Duration::from_secs(2);
const BURST_SPENT: Duration = Duration::from_millis(500);

/// Bits a second that arrive at `to`, sent from `from` as fast as it can.
fn throughput(from: &Netns, to: &Netns, address: SocketAddr) -> f64 {
    let listener = to.run(|| TcpListener::bind(address).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sender = from.run(|| TcpStream::connect(address).unwrap()).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    let sending = std::thread::spawn(move || {
        let piece = [0; 65_536];
        // Until the receiver has enough and closes.
        while sender.write_all(&piece).is_ok() {}
    });
    let mut buffer = vec![0; 1 << 20];
    let begin = Instant::now();
    while begin.elapsed() < BURST_SPENT {
        assert_ne!(receiver.read(&mut buffer).unwrap(), 0);
    }
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < MEASURED {
        bytes += receiver.read(&mut buffer).unwrap();
    }
    let seconds = begin.elapsed().as_secs_f64();
    drop(receiver);
    sending.join().unwrap();
    8.0 * bytes as f64 / seconds
}

#[test]
fn what_arrives_is_what_was_asked_for_in_both_directions() {
    with_lab(|lab| {
        let (ingress, egress) = (40_000_000, 24_000_000);
        let limits = json!({ "capabilities": { "bandwidth": true }, "runtimeConfig": { "bandwidth": {
            "ingressRate": ingress, "ingressBurst": 1_000_000, "egressRate": egress, "egressBurst": 1_000_000
        } } });
        let added = result(&lab.bench.verb_with("ADD", &[], &limits));
        let pod = lab.pod("pod");
        for (address, client) in addresses(&added).into_iter().zip(CLIENT) {
            let directions = [
                ("to the pod", throughput(&lab.client, &pod, SocketAddr::new(address, 0)), ingress),
                ("from the pod", throughput(&pod, &lab.client, at(client, 0)), egress),
            ];
            for (direction, found, limit) in directions {
                println!("{direction} {address}: {:.1} of {:.1} Mbit/s", found / 1e6, f64::from(limit) / 1e6);
                let ratio = found / f64::from(limit);
                assert!((0.75..=1.05).contains(&ratio), "{direction} {address}: {found:.0} bit/s of {limit}");
            }
        }
        result(&lab.bench.verb("DEL"));
        assert_eq!(lab.machine.host().link(&ifb_name(&attachment())).unwrap(), None);

        let free = result(&lab.bench.verb("ADD"));
        let to = SocketAddr::new(addresses(&free)[0], 0);
        let found = throughput(&lab.client, &pod, to);
        assert!(found > 2.0 * f64::from(ingress), "without a limit: {found:.0} bit/s");
    });
}
