//! Bandwidth on the real kernel, measured with iperf3.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use ferrule_model::ifb_name;
use ferrule_netlink::Kernel;
use ferrule_netlink::netns::Netns;
use serde_json::{Value, json};

use crate::support::lab::{CLIENT, addresses, ip, with_lab};
use crate::support::machine::Machine;
use crate::support::{attachment, result};

/// Bits a second that arrive at `to` in so many seconds, sent from `from` by TCP as fast as it can.
fn throughput(from: &Netns, to: &Netns, address: IpAddr, seconds: u32) -> f64 {
    let address = address.to_string();
    let iperf3 = |netns: &Netns, args: &[&str]| -> Child {
        let mut command = Command::new("iperf3");
        command.args(args).stdout(Stdio::piped());
        netns.run(|| command.spawn().expect("iperf3 is needed: install the package iperf3")).unwrap()
    };
    let mut server = iperf3(to, &["--server", "--one-off", "--forceflush", "--bind", &address]);
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
    // It says so once it listens.
    assert!(
        said.any(|line| line.unwrap().starts_with("Server listening")),
        "iperf3 does not listen on {address}"
    );
    // From the first byte, because what waits in a buffer when a measurement begins would be too much in it; the burst
    // is little beside it.
    let args = ["--client", &address, "--time", &seconds.to_string(), "--json"];
    let output = iperf3(from, &args).wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{}", told["error"]);
    // Its own summary would come into a pipe that nobody reads.
    said.for_each(drop);
    server.wait().unwrap();
    told["end"]["sum_received"]["bits_per_second"].as_f64().unwrap()
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
                ("to the pod", throughput(&lab.client, &pod, address, 3), ingress),
                ("from the pod", throughput(&pod, &lab.client, ip(client), 3), egress),
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
        let found = throughput(&lab.client, &pod, addresses(&free)[0], 3);
        assert!(found > 2.0 * f64::from(ingress), "without a limit: {found:.0} bit/s");
    });
}

/// As kubelet asks for it through containerd: with each rate a burst of 2^31-1 or 2^32-1 bits, which nobody chose.
#[test]
fn a_burst_that_nobody_chose_does_not_undo_the_limit_in_the_first_second() {
    with_lab(|lab| {
        for limit in [2_000_000, 20_000_000, 200_000_000] {
            let limits = json!({ "capabilities": { "bandwidth": true }, "runtimeConfig": { "bandwidth": {
                "ingressRate": limit, "ingressBurst": i32::MAX, "egressRate": limit, "egressBurst": u32::MAX
            } } });
            let added = result(&lab.bench.verb_with("ADD", &[], &limits));
            let pod = lab.pod("pod");
            for (direction, found) in [
                ("to the pod", throughput(&lab.client, &pod, addresses(&added)[0], 1)),
                ("from the pod", throughput(&pod, &lab.client, ip(CLIENT[0]), 1)),
            ] {
                println!("{direction}: {:.2} of {:.1} Mbit/s", found / 1e6, f64::from(limit) / 1e6);
                let ratio = found / f64::from(limit);
                assert!((0.75..=1.05).contains(&ratio), "{direction}: {found:.0} bit/s of {limit}");
            }
            result(&lab.bench.verb("DEL"));
        }
    });
}
