//! What 45,000 Services with two endpoints each cost.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrule_config::Kubernetes;
use ferrule_fake_api::{ApiServer, node};
use proxyd::decide::{
    Endpoint, EndpointSlice, News, NodeFacts, Rules, Service, ServiceName, SliceName, Table,
};
use proxyd::source::KubernetesSource;

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

/// The memory of this process that is in use, in kilobytes. Each test has a process of its own.
fn resident_kb() -> usize {
    status_kb("VmRSS:")
}

/// A figure of `proc_pid_status(5)`, in kilobytes.
fn status_kb(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn many_services_fit_in_memory() {
    // Pages of the program itself do not count: how many are read in depends on what else it can do.
    let anonymous_kb = || status_kb("RssAnon:");
    let before = anonymous_kb();
    let table = full(SERVICES);
    let taken = anonymous_kb() - before;
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

/// Objects of a cluster as the API server tells them, with what nobody reads.
fn crowd(plural: &str, number: u32) -> Option<String> {
    if number >= SERVICES {
        return None;
    }
    let (name, junk) = (name(number), "f:spec f:ports f:selector ".repeat(10));
    let metadata = format!(
        "\"namespace\":\"{}\",\"resourceVersion\":\"{}\",\"creationTimestamp\":\"2026-01-01T00:00:00Z\",\
         \"uid\":\"0b8b1d2c-6c1f-4d2a-9f3e-{number:012x}\",\"managedFields\":[{{\"manager\":\"{junk}\"}}]",
        name.namespace,
        1000 + number
    );
    match plural {
        "services" => Some(format!(
            "{{\"metadata\":{{\"name\":\"{}\",\"labels\":{{\"app\":\"x\"}},{metadata}}},\"spec\":{{\"type\":\"ClusterIP\",\
             \"clusterIP\":\"{ip}\",\"clusterIPs\":[\"{ip}\"],\"selector\":{{\"app\":\"x\"}},\"sessionAffinity\":\"None\",\
             \"ports\":[{{\"name\":\"http\",\"protocol\":\"TCP\",\"port\":80,\"targetPort\":8080}}]}},\
             \"status\":{{\"loadBalancer\":{{}}}}}}",
            name.name,
            ip = address(10, number)
        )),
        "endpointslices" => {
            let endpoint = |index: u32| {
                format!(
                    "{{\"addresses\":[\"{}\"],\"conditions\":{{\"ready\":true,\"serving\":true,\"terminating\":false}},\
                     \"nodeName\":\"node-{}\",\"targetRef\":{{\"kind\":\"Pod\",\"name\":\"pod-{number}-{index}\"}}}}",
                    address(20 + index, number),
                    (number + index) % 500
                )
            };
            Some(format!(
                "{{\"metadata\":{{\"name\":\"{0}-x7k2p\",\"labels\":{{\"kubernetes.io/service-name\":\"{0}\"}},{metadata}}},\
                 \"addressType\":\"IPv4\",\"endpoints\":[{1},{2}],\
                 \"ports\":[{{\"name\":\"http\",\"protocol\":\"TCP\",\"port\":8080}}]}}",
                name.name,
                endpoint(0),
                endpoint(1)
            ))
        }
        _ => None,
    }
}

/// How many kilobytes the whole process may take at any time, while it reads a cluster of that size.
const MOST_IN_ALL_KB: usize = 80_000;

#[test]
fn a_large_cluster_is_read_twice_in_the_memory_of_one() {
    let directory = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(status.expect("install iproute2").success());
    let server = ApiServer::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), directory.path());
    server.put(node(1));
    server.crowd(crowd);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = Kubernetes { kubeconfig: Some(server.kubeconfig()), servers: Vec::new() };
        let before = resident_kb();
        let mut source = KubernetesSource::new(&settings, "n1");
        let mut table = Table::new(Rules::default(), NodeFacts::named("n1"));
        for news in source.next().await {
            table.take(news);
        }
        assert_eq!(table.services().count(), SERVICES as usize);
        let first = status_kb("VmHWM:");
        // Everything is listed again, and one Service more is the last one to be told.
        server.put(node(2));
        server.forget();
        server.cut();
        let more =
            r#"{"kind":"Service","metadata":{"namespace":"a","name":"b"},"spec":{"clusterIP":"10.200.0.1"}}"#;
        server.put(serde_json::from_str(more).unwrap());
        let count = |server: &ApiServer| {
            let is_list = |one: &&ferrule_fake_api::http::Request| one.query("sendInitialEvents").is_some();
            server.requests().iter().filter(is_list).count()
        };
        let mut puts = 0;
        while puts < 2 * SERVICES + 1 {
            for news in source.next().await {
                puts += u32::from(matches!(news, News::PutService(_) | News::PutSlice(_)));
                assert!(!matches!(news, News::DeleteService(_) | News::DeleteSlice(_)), "{news:?}");
                table.take(news);
            }
        }
        assert!(count(&server) >= 6, "three lists, and three again");
        assert_eq!(table.services().count(), SERVICES as usize + 1);
        let again = status_kb("VmHWM:");
        println!("{before} kB at first, at most {first} kB in the first list, {again} kB in the second");
        assert!(again < MOST_IN_ALL_KB, "{again} kB");
    });
}
