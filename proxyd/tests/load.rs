//! 45,000 Services in the real kernel. `cargo nextest run -p proxyd --run-ignored only load` prints how long it takes.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use ferrule_netlink::netns;
use ferrule_netlink::nft::NetfilterSocket;
use proxyd::decide::{Backend, Backends, Frontend, Key, Kind, Place, PortName, Protocol, ServiceName};
use proxyd::nft::Shape;
use proxyd::sync::{DataPath, Wanted};

const SERVICES: u32 = 45_000;

/// A Service with two endpoints, at an address of its own. `shift` chooses the endpoints.
fn service(number: u32, shift: u32) -> Wanted {
    let port = |port| NonZeroU16::new(port).unwrap();
    let address = |first: u8, number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        IpAddr::from([first, a, b, c])
    };
    let backend = |number| Backend { address: address(11, number), port: port(8080), is_local: false };
    let to = Backends::To([backend(2 * number + shift), backend(2 * number + shift + 1)].into());
    let name = ServiceName { namespace: "default".into(), name: format!("service-{number}") };
    let frontend = Frontend {
        key: Key { place: Place::Address(address(10, number)), protocol: Protocol::Tcp, port: port(80) },
        port: PortName { service: name.clone(), port: String::new() },
        kind: Kind::ClusterIp,
        from_outside: to.clone(),
        from_inside: to,
        keeps_client: false,
        affinity: None,
        sources: None,
    };
    (Arc::new(name), vec![frontend])
}

#[test]
#[ignore = "it measures, and takes several seconds"]
fn services_are_loaded_changed_and_found_again() {
    let measure = || {
        let open = || DataPath::new(NetfilterSocket::open().unwrap(), Shape::default());
        let all: Vec<_> = (0..SERVICES).map(|number| service(number, 0)).collect();
        let mut path = open();
        let begun = Instant::now();
        let report = path.start(all.clone(), begun).unwrap();
        println!("{SERVICES} Services: {} elements in {:?}", report.elements, begun.elapsed());
        assert_eq!(report.elements, 4 * SERVICES as usize, "cluster IP, verdict, two endpoints");
        let begun = Instant::now();
        let report = path.change(vec![service(7, 1)], begun).unwrap();
        println!("one change: {} elements in {:?}", report.elements, begun.elapsed());
        assert_eq!((report.elements, report.transactions), (2, 1));
        let mut path = open();
        let mut now = all;
        now[7] = service(7, 1);
        let begun = Instant::now();
        let report = path.start(now, begun).unwrap();
        println!("a restart with all in place: {:?}", begun.elapsed());
        assert_eq!(report.elements, 0);
    };
    netns::make().unwrap().run(measure).unwrap();
}
