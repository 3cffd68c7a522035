//! From any state of the cluster to any other, by events in any order: the result is that of a table built anew, and
//! the reference model agrees with where each packet goes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ferrule_model::{Family, IpNetwork};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proxyd::decide::{
    Conditions, Endpoint, EndpointSlice, Hints, Ingress, IpMode, Key, Labels, News, NodeFacts, Place,
    Protocol, Rules, Served, Service, ServiceName, ServicePort, ServiceType, SliceName, SlicePort, Table,
    TrafficPolicy,
};

use crate::objects::{HERE, ip, number};
use crate::reference::{Cluster, Packet, carried_out, fate};

/// The names of the Services. There are few of everything, so that things clash.
const SERVICES: [&str; 4] = ["a/one", "a/two", "b/one", "b/two"];
const ADDRESSES: [&str; 6] =
    ["10.96.0.1", "10.96.0.2", "203.0.113.1", "fd00:96::1", "fd00:96::2", "2001:db8::1"];
const ENDPOINTS: [&str; 6] =
    ["10.244.1.1", "10.244.1.2", "10.244.2.1", "fd00:244:1::1", "fd00:244:1::2", "fd00:244:2::1"];
const RANGES: [&str; 4] = ["192.0.2.0/28", "198.51.100.0/24", "2001:db8:9::/48", "0.0.0.0/0"];
const CLIENTS: [&str; 6] =
    ["192.0.2.1", "192.0.2.99", "198.51.100.1", "10.96.0.2", "2001:db8:9::9", "2001:db8:8::8"];
const PORTS: [&str; 2] = ["http", "dns"];
const NUMBERS: [u16; 3] = [53, 80, 30053];

fn service_name() -> impl Strategy<Value = Arc<ServiceName>> {
    select(&SERVICES[..]).prop_map(|text| Arc::new(crate::objects::name(text)))
}

fn addresses(most: usize) -> impl Strategy<Value = Box<[IpAddr]>> {
    subsequence(&ADDRESSES[..], 0..=most).prop_map(|texts| crate::objects::ips(&texts))
}

fn labels() -> impl Strategy<Value = Labels> {
    let label = || prop::bool::weighted(0.05);
    (label(), label()).prop_map(|(proxy_name, headless)| Labels { proxy_name, headless })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![6 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn port_number() -> impl Strategy<Value = NonZeroU16> {
    select(&NUMBERS[..]).prop_map(number)
}

fn text(from: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(from).prop_map(Arc::from)
}

/// Ports as the API server accepts them: no name, no port and no node port twice.
fn service_ports() -> impl Strategy<Value = Box<[ServicePort]>> {
    let port = |name: &'static str| {
        (protocol(), port_number(), option::of(port_number())).prop_map(move |(protocol, port, node_port)| {
            ServicePort { name: Arc::from(name), protocol, port, node_port }
        })
    };
    (subsequence(&PORTS[..], 1..=PORTS.len())).prop_flat_map(move |names| {
        names.into_iter().map(port).collect::<Vec<_>>().prop_map(|mut ports| {
            let apart = |one: &ServicePort, other: &ServicePort| {
                one.protocol != other.protocol
                    || (one.port != other.port
                        && (one.node_port != other.node_port || one.node_port.is_none()))
            };
            if ports.len() == 2 && !apart(&ports[0], &ports[1]) {
                ports.pop();
            }
            ports.into()
        })
    })
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

fn service_type() -> impl Strategy<Value = ServiceType> {
    prop_oneof![
        3 => Just(ServiceType::ClusterIp),
        3 => Just(ServiceType::NodePort),
        6 => Just(ServiceType::LoadBalancer),
        1 => Just(ServiceType::ExternalName),
    ]
}

fn ingress() -> impl Strategy<Value = Box<[Ingress]>> {
    let mode = prop_oneof![4 => Just(IpMode::Vip), 1 => Just(IpMode::Proxy)];
    vec((select(&ADDRESSES[..]), mode), 0..3).prop_map(|all| {
        all.into_iter().map(|(address, mode)| Ingress { address: ip(address), mode }).collect()
    })
}

fn ranges() -> impl Strategy<Value = Option<Box<[IpNetwork]>>> {
    let some = subsequence(&RANGES[..], 0..=2);
    option::weighted(0.3, some.prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect()))
}

fn service() -> impl Strategy<Value = Service> {
    let addresses = (cluster_ips(), addresses(2), ingress(), ranges());
    let words = (service_type(), labels(), policy(), policy());
    let rest = (0_i64..3, service_ports(), option::of(1_u32..100), option::of(port_number()));
    (service_name(), addresses, words, rest).prop_map(|(name, addresses, words, rest)| Service {
        name,
        created_s: rest.0,
        service_type: words.0,
        labels: words.1,
        cluster_ips: addresses.0,
        external_ips: if words.0 == ServiceType::ClusterIp
            && words.3 == TrafficPolicy::Local
            && addresses.1.is_empty()
        {
            // The API server keeps the policy Local away from a Service without external addresses.
            [ip(ADDRESSES[2])].into()
        } else {
            addresses.1
        },
        ingress: addresses.2,
        ports: rest.1,
        affinity: rest.2.and_then(NonZeroU32::new),
        internal_policy: words.2,
        external_policy: words.3,
        source_ranges: addresses.3,
        health_check_node_port: rest.3,
        complaints: Box::default(),
    })
}

/// At most one of each family.
fn cluster_ips() -> impl Strategy<Value = Box<[IpAddr]>> {
    let one = |from: &'static [&'static str]| option::weighted(0.8, select(from));
    (one(&ADDRESSES[..2]), one(&ADDRESSES[3..5]))
        .prop_map(|(v4, v6)| v4.into_iter().chain(v6).map(ip).collect())
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let condition = || option::of(any::<bool>());
    (condition(), condition(), condition())
        .prop_map(|(ready, serving, terminating)| Conditions::of(ready, serving, terminating))
}

fn hints() -> impl Strategy<Value = Option<Arc<Hints>>> {
    let zones = vec(text(&["zone-1", "zone-2"]), 0..3);
    let nodes = vec(text(&[HERE, "node-b"]), 0..2);
    let hints = (zones, nodes).prop_map(|(zones, nodes)| Hints { zones: zones.into(), nodes: nodes.into() });
    option::weighted(0.8, hints.prop_map(Arc::new))
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let node = option::of(text(&[HERE, "node-b"]));
    (select(&ENDPOINTS[..]), conditions(), node, hints()).prop_map(|(address, conditions, node, hints)| {
        Endpoint { address: ip(address), conditions, node, hints }
    })
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let port = (text(&PORTS), protocol(), port_number()).prop_map(|(name, protocol, port)| SlicePort {
        name,
        protocol,
        port,
    });
    let parts = (vec(port, 0..5), vec(endpoint(), 0..6));
    (service_name(), text(&["s1", "s2", "s3", "s4", "s5"]), labels(), family, parts).prop_map(
        |(service, name, labels, family, (ports, endpoints))| EndpointSlice {
            name: SliceName { namespace: Arc::from(service.namespace.as_str()), name },
            service,
            labels,
            family,
            ports: ports.into(),
            endpoints: endpoints.into(),
            complaints: Box::default(),
        },
    )
}

fn node() -> impl Strategy<Value = NodeFacts> {
    let addresses = subsequence(&["198.51.100.1", "2001:db8:9::9"][..], 0..=2);
    (option::of(text(&["zone-1", "zone-2"])), addresses, any::<bool>()).prop_map(
        |(zone, addresses, is_deleting)| NodeFacts {
            zone,
            addresses: crate::objects::ips(&addresses),
            is_deleting,
            ..NodeFacts::named(HERE)
        },
    )
}

fn news() -> impl Strategy<Value = News> {
    let slice_name = slice().prop_map(|slice| slice.name);
    prop_oneof![
        6 => service().prop_map(News::PutService),
        2 => service_name().prop_map(|name| News::DeleteService((*name).clone())),
        8 => slice().prop_map(News::PutSlice),
        2 => slice_name.prop_map(News::DeleteSlice),
        1 => vec(service(), 0..4).prop_map(News::Services),
        1 => vec(slice(), 0..5).prop_map(News::Slices),
        1 => node().prop_map(News::Node),
    ]
}

/// Lists of much, so that there is something to change, and changes.
pub(crate) fn history() -> impl Strategy<Value = Vec<News>> {
    let lists = (vec(service(), 3..10), vec(slice(), 8..24));
    (lists, vec(news(), 0..25)).prop_map(|((services, slices), news)| {
        [vec![News::Services(services), News::Slices(slices)], news].concat()
    })
}

pub(crate) fn rules() -> Rules {
    Rules {
        external_cidrs: ["203.0.113.0/24", "2001:db8::/32", "10.96.0.0/16"]
            .map(|text| text.parse().unwrap())
            .into(),
    }
}

/// What is true after some news, kept in the plainest way.
#[derive(Debug, Clone)]
pub(crate) struct Truth {
    services: BTreeMap<ServiceName, Service>,
    slices: BTreeMap<SliceName, EndpointSlice>,
    node: NodeFacts,
}

impl Truth {
    pub(crate) fn new() -> Self {
        Self { services: BTreeMap::new(), slices: BTreeMap::new(), node: NodeFacts::named(HERE) }
    }

    pub(crate) fn take(&mut self, news: News) {
        let put = |service: Service| ((*service.name).clone(), service);
        let put_slice = |slice: EndpointSlice| (slice.name.clone(), slice);
        match news {
            News::Services(all) => self.services = all.into_iter().map(put).collect(),
            News::PutService(service) => self.services.extend([put(service)]),
            News::DeleteService(name) => drop(self.services.remove(&name)),
            News::Slices(all) => self.slices = all.into_iter().map(put_slice).collect(),
            News::PutSlice(slice) => self.slices.extend([put_slice(slice)]),
            News::DeleteSlice(name) => drop(self.slices.remove(&name)),
            News::Node(node) => self.node = node,
        }
    }

    /// The news that lead from nothing to here.
    fn news(&self) -> [News; 3] {
        [
            News::Services(self.services.values().cloned().collect()),
            News::Slices(self.slices.values().cloned().collect()),
            News::Node(self.node.clone()),
        ]
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster {
            rules: rules(),
            node: self.node.clone(),
            services: self.services.values().cloned().collect(),
            slices: self.slices.values().cloned().collect(),
        }
    }
}

type All = BTreeMap<Arc<ServiceName>, Served>;

/// A table, and what a data path knows that goes by its word alone about what each piece of news affects.
struct Followed {
    table: Table,
    known: All,
}

impl Followed {
    fn new() -> Self {
        Self { table: Table::new(rules(), NodeFacts::named(HERE)), known: All::new() }
    }

    fn take(&mut self, news: News) {
        for name in self.table.take(news) {
            let served = self.table.served(&name);
            if served == Served::default() {
                self.known.remove(&name);
            } else {
                self.known.insert(name, served);
            }
        }
    }

    fn from_nothing(truth: &Truth) -> Self {
        let mut fresh = Self::new();
        truth.news().into_iter().for_each(|news| fresh.take(news));
        fresh
    }
}

/// Every packet that could tell two states apart.
pub(crate) fn packets() -> impl Iterator<Item = Packet> {
    let addresses = ADDRESSES.iter().map(|address| Place::Address(ip(address)));
    let places: Vec<_> = addresses.chain(Family::BOTH.map(Place::Node)).collect();
    let keys = places.into_iter().flat_map(|place| {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter();
        protocols.flat_map(move |protocol| NUMBERS.map(|port| Key { place, protocol, port: number(port) }))
    });
    keys.flat_map(|to| {
        let clients = CLIENTS.iter().map(|client| ip(client));
        let clients = clients.filter(move |client| Family::of(*client) == to.place.family());
        clients.flat_map(move |from| [true, false].map(|is_inside| Packet { to, from, is_inside }))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_to_any_state_by_events_in_any_order(all in history()) {
        let (mut truth, mut followed) = (Truth::new(), Followed::new());
        for news in all {
            truth.take(news.clone());
            followed.take(news);
        }
        let fresh = Followed::from_nothing(&truth);
        prop_assert_eq!(&followed.known, &fresh.known);
        for name in SERVICES {
            let name = crate::objects::name(name);
            prop_assert_eq!(followed.table.served(&name), fresh.table.served(&name));
        }
    }

    #[test]
    fn every_packet_goes_where_the_reference_model_says(all in history()) {
        let (mut truth, mut followed) = (Truth::new(), Followed::new());
        for news in all {
            truth.take(news.clone());
            followed.take(news);
        }
        let cluster = truth.cluster();
        for packet in packets() {
            let (expected, got) = (fate(&cluster, &packet), carried_out(followed.known.values(), &packet));
            prop_assert_eq!(expected, got, "{:?} in {:#?}", packet, &cluster);
        }
    }
}

/// The generators lead to every fate, often enough that an error in any would be seen.
#[test]
fn the_states_above_have_packets_of_every_fate() {
    use crate::reference::Fate;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut counts = [0_usize; 6];
    for _ in 0..100 {
        let mut truth = Truth::new();
        for news in history().new_tree(&mut runner).unwrap().current() {
            truth.take(news);
        }
        let cluster = truth.cluster();
        for packet in packets() {
            counts[match fate(&cluster, &packet) {
                Fate::Untouched => 0,
                Fate::Refused => 1,
                Fate::Dropped => 2,
                Fate::Sent { keeps_client: true, .. } => 3,
                Fate::Sent { to, .. } if to.len() > 1 => 4,
                Fate::Sent { .. } => 5,
            }] += 1;
        }
    }
    println!("untouched, refused, dropped, sent (client kept, to several, to one): {counts:?}");
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}
