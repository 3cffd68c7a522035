//! What 45,000 Services with two endpoints each cost.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxyd::decide::{
    Endpoint, EndpointSlice, News, NodeFacts, Rules, Service, ServiceName, SliceName, Table,
};

use crate::objects::{here, service, slice, there};

const SERVICES: u32 = 45_000;
/// How many kilobytes they may take.
const MOST_KB: usize = 48_000;

/// A name of a length as it is common.
fn name(number: u32) -> Arc<ServiceName> {
    let namespace = format!("team-{}", number % 200);
    Arc::new(ServiceName { namespace, name: format!("service-{number:05}-backend") })
}

fn address(first: u32, number: u32) -> IpAddr {
    Ipv4Addr::from_bits(first << 24 | number).into()
}

fn numbered(number: u32) -> Service {
    Service { name: name(number), cluster_ips: [address(10, number)].into(), ..service() }
}

/// The slice of a Service, with `endpoints` endpoints of its own.
fn slice_of(number: u32, endpoints: u32) -> EndpointSlice {
    let service = name(number);
    let endpoint = |index: u32| {
        let node = Some(Arc::from(format!("node-{}", (number + index) % 500)));
        Endpoint { address: address(20 + index, number), node, ..there("10.244.2.1") }
    };
    let own = SliceName {
        namespace: Arc::from(service.namespace.as_str()),
        name: Arc::from(format!("{}-x7k2p", service.name)),
    };
    EndpointSlice {
        name: own,
        service,
        endpoints: (0..endpoints).map(endpoint).collect(),
        ..slice("", vec![])
    }
}

fn full(services: u32) -> Table {
    let mut table = Table::new(Rules::default(), NodeFacts::named("node-0"));
    for number in 0..services {
        table.take(News::PutService(numbered(number)));
        table.take(News::PutSlice(slice_of(number, 2)));
    }
    table
}

/// The memory of this process that is in use, in kilobytes (`proc_pid_status(5)`). Each test has a process of its own.
fn resident_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn many_services_fit_in_memory() {
    let before = resident_kb();
    let table = full(SERVICES);
    let taken = resident_kb() - before;
    println!("{SERVICES} Services with {} endpoints take {taken} kB", 2 * SERVICES);
    assert_eq!(table.services().count(), SERVICES as usize);
    assert!(taken < MOST_KB, "{taken} kB");
}

/// The time of 1,000 changes of Services, endpoints and the frontends that come of it.
fn changes(table: &mut Table) -> Duration {
    let start = Instant::now();
    for round in 0..500 {
        for number in [3, 7] {
            let mut changed = numbered(number);
            changed.created_s = round;
            for news in [News::PutService(changed), News::PutSlice(slice_of(number, 1 + round as u32 % 2))] {
                let affected = table.take(news);
                assert!(affected.len() <= 1);
                for name in affected {
                    assert_eq!(table.served(&name).frontends.len(), 1);
                }
            }
        }
    }
    start.elapsed()
}

#[test]
fn a_change_costs_as_much_among_many_services_as_among_few() {
    let (mut few, mut many) = (full(10), full(SERVICES));
    // The least of several rounds is the one that nothing else disturbed.
    let least = |table: &mut Table| (0..5).map(|_| changes(table)).min().unwrap();
    let (few, many) = (least(&mut few), least(&mut many));
    println!("1,000 changes take {few:?} among 10 Services and {many:?} among {SERVICES}");
    // The tables of more Services miss the caches more often; a cost in proportion would be 4,500 times as much.
    assert!(many < few * 20, "{many:?} among many, {few:?} among few");
}

/// One Service with very many endpoints: what each change of a slice costs.
#[test]
fn one_service_with_five_thousand_endpoints() {
    let mut table = full(10);
    for number in 0..50 {
        let endpoints = (0..100_u32)
            .map(|index| Endpoint { address: address(30, 100 * number + index), ..here("10.0.0.1") });
        let mut slice = slice_of(1, 0);
        slice.name.name = Arc::from(format!("big-{number}"));
        slice.endpoints = endpoints.collect();
        table.take(News::PutSlice(slice));
    }
    let start = Instant::now();
    let served = table.served(&name(1));
    println!("a Service with 5,002 endpoints is worked out in {:?}", start.elapsed());
    let proxyd::decide::Backends::To(all) = &served.frontends[0].from_outside else { panic!("{served:?}") };
    assert_eq!(all.len(), 5_002);
}
