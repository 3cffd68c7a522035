//! Packets to what is not served.

use std::io::ErrorKind;
use std::time::Instant;

use crate::lab::{Lab, SILENCE, Service};

#[test]
fn without_endpoints_a_connection_is_refused_at_once() {
    let lab = Lab::new();
    let service =
        Service::new(1).with("type = \"NodePort\"\nexternal_ips = [\"203.0.113.1\"]").node_port(30_080);
    lab.configure("external_cidrs = [\"203.0.113.0/24\"]\n");
    let _daemon = lab.start(&[service]);
    let places = [
        "10.96.0.1:80",
        "[fd00:10:96::1]:80",
        "203.0.113.1:80",
        "192.0.2.1:30080",
        "[2001:db8::1]:30080",
        // A port that the Service does not have.
        "10.96.0.1:81",
        "[fd00:10:96::1]:81",
    ];
    for space in [&lab.pods[0], &lab.node, &lab.outside] {
        for to in places {
            let begun = Instant::now();
            assert_eq!(space.tcp(to), Err(ErrorKind::ConnectionRefused), "{} to {to}", space.name);
            // The node's own packet is already refused as it is sent.
            let refused = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
            assert!(space.udp(to).is_err_and(|error| refused.contains(&error)), "{} to {to}", space.name);
            assert!(begun.elapsed() < SILENCE, "{} to {to}", space.name);
        }
    }
}

#[test]
fn an_address_of_the_service_network_that_nobody_has_is_dropped_and_a_ping_is_answered() {
    let lab = Lab::new();
    let _daemon = lab.start(&[Service::new(1).with_pod(1)]);
    for space in [&lab.pods[0], &lab.node] {
        for to in ["10.96.0.77:80", "[fd00:10:96::77]:80"] {
            assert_eq!(space.tcp(to), Err(ErrorKind::TimedOut), "{} to {to}", space.name);
        }
    }
    // The address is no machine's: the answer says so.
    for (program, to) in [("ping", "10.96.0.1"), ("ping", "fd00:10:96::1")] {
        let output = lab.pods[0].command(program, &format!("-c 1 -W 2 {to}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("ort unreachable") || text.contains("Unreachable"), "{text}");
    }
}
