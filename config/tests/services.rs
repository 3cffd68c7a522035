//! The services file: what it says, and what is refused with which words.

use std::net::IpAddr;
use std::path::Path;

use ferrule_config::{
    EndpointEntry, ServiceEntry, ServiceKind, ServicesFile, TrafficDistribution, Transport, ZoneEntry,
};
use proptest::prelude::*;

fn parse(text: &str) -> ServicesFile {
    ServicesFile::parse(text, Path::new("services.toml")).expect("a good file")
}

fn fault(text: &str) -> String {
    ServicesFile::parse(text, Path::new("services.toml")).expect_err(text).to_string()
}

fn port(number: u16) -> std::num::NonZeroU16 {
    number.try_into().expect("a port")
}

/// A Service with these lines, and one port with those.
fn service(lines: &str, port_lines: &str) -> String {
    format!(
        "[[service]]\nname = \"a/b\"\ncluster_ips = [\"10.96.0.1\"]\n{lines}[[service.port]]\nport = 80\n{port_lines}"
    )
}

#[test]
fn the_least_that_is_needed() {
    let file = parse(&service("", ""));
    let ServiceEntry { namespace, name, kind, ports, endpoints, .. } = &file.services[0];
    assert_eq!((namespace.as_str(), name.as_str(), *kind), ("a", "b", ServiceKind::ClusterIp));
    assert_eq!(
        (ports[0].protocol, ports[0].port, ports[0].target_port),
        (Transport::Tcp, port(80), port(80))
    );
    assert_eq!((ports[0].name.as_str(), ports[0].node_port), ("", None));
    assert!(endpoints.is_empty());
}

#[test]
fn the_shipped_example_says_everything_that_can_be_said() {
    let file = parse(include_str!("../../conf/services.toml"));
    let [web, dns] = &file.services[..] else { panic!("{file:?}") };
    assert_eq!(web.kind, ServiceKind::LoadBalancer);
    assert!(web.is_external_local && !web.is_internal_local);
    assert_eq!(web.health_check_node_port, Some(port(32000)));
    assert_eq!(web.ports[0].node_port, Some(port(30080)));
    assert_eq!(web.endpoints[1].target_ports, [("http".to_owned(), port(9090))]);
    assert!(!web.endpoints[2].is_ready);
    assert_eq!(dns.session_affinity_s, Some(10_800));
    assert_eq!(dns.traffic_distribution, Some(TrafficDistribution::PreferSameZone));
    assert_eq!(dns.ports[0].protocol, Transport::Udp);
    assert_eq!(
        dns.endpoints[0],
        EndpointEntry {
            address: "10.244.1.53".parse::<IpAddr>().unwrap(),
            node: Some("node-a".to_owned()),
            is_ready: true,
            is_terminating: true,
            target_ports: vec![],
        }
    );
    assert_eq!(file.zones[1], ZoneEntry { node: "node-b".to_owned(), zone: "zone-2".to_owned() });
}

#[test]
fn no_services_have_to_be_meant() {
    assert_eq!(parse("service = []\n"), ServicesFile::default());
    let expected = "services.toml:1:1: service: the file lists no Service; add a [[service]] table for every Service, \
                    or write service = [] if there is none";
    assert_eq!(fault(""), expected);
}

#[test]
fn unknown_and_missing_keys_are_named_with_their_line() {
    assert!(
        fault(&service("cluster_ip = 1\n", ""))
            .starts_with("services.toml:4:1: service.cluster_ip: unknown key")
    );
    assert!(
        fault(&service("", "nodeport = 1\n"))
            .contains("services.toml:6:1: service.port.nodeport: unknown key")
    );
    let endpoint = "[[service.endpoint]]\naddress = \"10.244.1.1\"\nzone = \"z\"\n";
    assert!(
        fault(&service("", endpoint)).starts_with("services.toml:8:1: service.endpoint.zone: unknown key")
    );
    assert!(fault("[[service]]\nname = \"a/b\"\n").contains("`cluster_ips` is missing; add the key"));
    assert!(fault("[[service]]\nname = \"a/b\"\ncluster_ips = [\"10.0.0.1\"]\n").starts_with(
        "services.toml:2:8: service.port: the Service \"a/b\" has no port; add a [[service.port]] table"
    ));
}

/// Checks that these lines of the Service and of its port are refused at this place with these words.
fn refused(cases: &[(&str, &str, &str)]) {
    for (lines, port_lines, says) in cases {
        let fault = fault(&service(lines, port_lines));
        assert!(fault.starts_with(&format!("services.toml:{says}")), "{fault}\ninstead of {says}");
    }
}

#[test]
fn values_of_a_service_that_cannot_be_are_refused_at_their_place() {
    refused(&[
        (
            "type = \"ExternalName\"\n",
            "",
            "4:8: service.type: \"ExternalName\" is not known here; write \"ClusterIP\" or \"NodePort\" or \"LoadBalancer\"",
        ),
        (
            "external_ips = [\"127.0.0.1\"]\n",
            "",
            "4:17: service.external_ips: 127.0.0.1 is not an address of a single host; write it as",
        ),
        (
            "external_ips = [\"::ffff:1.2.3.4\"]\n",
            "",
            "4:17: service.external_ips: ::ffff:1.2.3.4 is not an address of a single host",
        ),
        ("external_ips = [\"x\"]\n", "", "4:17: service.external_ips: \"x\" is not an IP address"),
        (
            "external_ips = [\"1.1.1.1\", \"1.1.1.1\"]\n",
            "",
            "4:28: service.external_ips: \"1.1.1.1\" is already given in line 4; give every address once",
        ),
        ("session_affinity_s = 0\n", "", "4:22: service.session_affinity_s: 0 is not between 1 and 86400"),
        (
            "internal_traffic_policy = \"local\"\n",
            "",
            "4:27: service.internal_traffic_policy: \"local\" is not known here; write \"Cluster\" or \"Local\"",
        ),
        (
            "traffic_distribution = \"Near\"\n",
            "",
            "4:24: service.traffic_distribution: \"Near\" is not known here",
        ),
        (
            "external_traffic_policy = \"Local\"\n",
            "",
            "4:27: service.external_traffic_policy: the Service has no address for clients outside",
        ),
        (
            "load_balancer_ips = [\"192.0.2.1\"]\n",
            "",
            "4:22: service.load_balancer_ips: the Service \"a/b\" is of another type; write type = \"LoadBalancer\"",
        ),
        (
            "load_balancer_source_ranges = [\"0.0.0.0/0\"]\n",
            "",
            "4:32: service.load_balancer_source_ranges: the Service \"a/b\" is of another type",
        ),
        (
            "type = \"LoadBalancer\"\nload_balancer_source_ranges = [\"192.0.2.1/24\"]\n",
            "",
            "5:32: service.load_balancer_source_ranges: \"192.0.2.1/24\" has bits set behind the prefix",
        ),
        (
            "type = \"LoadBalancer\"\nhealth_check_node_port = 1\n",
            "",
            "5:26: service.health_check_node_port: no load balancer asks for it",
        ),
    ]);
}

#[test]
fn values_of_ports_and_endpoints_that_cannot_be_are_refused_at_their_place() {
    refused(&[
        ("", "node_port = 30000\n", "6:13: service.port.node_port: the Service \"a/b\" is of another type"),
        (
            "",
            "protocol = \"tcp\"\n",
            "6:12: service.port.protocol: \"tcp\" is not known here; write \"TCP\" or \"UDP\" or \"SCTP\"",
        ),
        (
            "",
            "target_port = 65536\n",
            "6:15: service.port.target_port: 65536 is not between 1 and 65535; write the number of a port",
        ),
        (
            "",
            "[[service.port]]\nport = 80\nname = \"x\"\n",
            "5:8: service.port.name: a port of a Service with several ports has no name",
        ),
        (
            "",
            "name = \"x\"\n[[service.port]]\nport = 80\nname = \"y\"\n",
            "8:8: service.port.port: \"80\" is already given in line 5",
        ),
        (
            "",
            "name = \"x\"\n[[service.port]]\nport = 81\nname = \"x\"\n",
            "9:8: service.port.name: \"x\" is already given in line 6",
        ),
        (
            "",
            "[[service.endpoint]]\naddress = \"10.1.1.1\"\nnode = \"no de\"\n",
            "8:8: service.endpoint.node: \"no de\" cannot be a node's name",
        ),
        (
            "",
            "[[service.endpoint]]\naddress = \"10.1.1.1\"\ntarget_ports = { x = 1 }\n",
            "8:18: service.endpoint.target_ports: the Service has no port with the name \"x\"",
        ),
        (
            "",
            "[[service.endpoint]]\naddress = \"10.1.1.1\"\n[[service.endpoint]]\naddress = \"10.1.1.1\"\n",
            "9:11: service.endpoint.address: \"10.1.1.1\" is already given in line 7",
        ),
    ]);
}

#[test]
fn addresses_inside_the_cluster_are_one_or_two() {
    let with =
        |ips: &str| format!("[[service]]\nname = \"a/b\"\ncluster_ips = {ips}\n[[service.port]]\nport = 1\n");
    assert_eq!(parse(&with("[\"fd00::1\", \"10.0.0.1\"]")).services[0].cluster_ips.len(), 2);
    for (ips, says) in [
        ("[]", "services.toml:2:8: service.cluster_ips: the Service \"a/b\" has no address"),
        (
            "[\"10.0.0.1\", \"10.0.0.2\"]",
            "services.toml:3:28: service.cluster_ips: 10.0.0.2 is a second address of IPv4",
        ),
        (
            "[\"fd00::1\", \"10.0.0.1\", \"10.0.0.2\"]",
            "services.toml:3:39: service.cluster_ips: \"10.0.0.2\" is a third address",
        ),
    ] {
        let fault = fault(&with(ips));
        assert!(fault.starts_with(says), "{fault}");
    }
}

#[test]
fn names_are_those_of_kubernetes() {
    let with = |name: &str| {
        format!("[[service]]\nname = \"{name}\"\ncluster_ips = [\"10.0.0.1\"]\n[[service.port]]\nport = 1\n")
    };
    assert_eq!(parse(&with("kube-system/dns-2")).services[0].namespace, "kube-system");
    for name in ["web", "a/", "/b", "a/b/c", "A/b", "a/-b", "a/b-", "a/b_c", &format!("a/{}", "b".repeat(64))]
    {
        let fault = fault(&with(name));
        assert!(fault.contains("cannot be a Service's name; write it as NAMESPACE/NAME"), "{fault}");
    }
}

#[test]
fn two_services_cannot_have_the_same() {
    let of = |name: &str, ip: &str, port: u16| {
        format!(
            "[[service]]\nname = \"a/{name}\"\ntype = \"NodePort\"\ncluster_ips = [\"{ip}\"]\n\
             [[service.port]]\nport = 80\nnode_port = {port}\n"
        )
    };
    let first = of("one", "10.0.0.1", 30000);
    for (second, says) in [
        (
            of("one", "10.0.0.2", 30001),
            "services.toml:9:8: service.name: \"a/one\" is already given in line 2",
        ),
        (
            of("two", "10.0.0.1", 30001),
            "services.toml:11:16: service.cluster_ips: \"10.0.0.1\" is already given in line 4",
        ),
        (
            of("two", "10.0.0.2", 30000),
            "services.toml:14:13: service.port.node_port: \"30000\" is already given in line 7",
        ),
    ] {
        let fault = fault(&format!("{first}{second}"));
        assert!(fault.starts_with(says), "{fault}");
    }
    let twice = "service = []\n[[node]]\nname = \"a\"\nzone = \"z\"\n[[node]]\nname = \"a\"\nzone = \"y\"\n";
    assert!(fault(twice).starts_with("services.toml:6:8: node.name: \"a\" is already given in line 3"));
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), cut in 0_usize..3000) {
        let _ = ServicesFile::parse(&text, Path::new("services.toml"));
        let shipped = include_str!("../../conf/services.toml");
        let mut cut = cut.min(shipped.len());
        while !shipped.is_char_boundary(cut) {
            cut -= 1;
        }
        let _ = ServicesFile::parse(&shipped[..cut], Path::new("services.toml"));
    }
}
