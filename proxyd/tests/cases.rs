//! What Kubernetes promises about Services, one test for each promise that is decided here and not in a data path.

use std::num::NonZeroU32;
use std::sync::Arc;

use ferrule_model::Family;
use proxyd::decide::{
    Announced, Complaint, Conditions, Endpoint, EndpointSlice, Ingress, IpMode, Kind, Labels, News,
    NodeFacts, Protocol, Rules, Served, Service, ServicePort, ServiceType, Table,
};

use crate::objects::{
    HERE, VIP, at, at_node, both, complaints, ending, frontend, goes, here, hinted, ip, ips, leads,
    local_inside, local_outside, name, number, port, service, slice, table, table_with, there, unready, web,
    with_balancer, with_node_port, words,
};

/// What one Service and its slices come to.
fn served(service: Service, slices: Vec<EndpointSlice>) -> Served {
    web(&table(vec![service], slices))
}

/// What one Service with these endpoints comes to.
fn with(service: Service, endpoints: Vec<Endpoint>) -> Served {
    served(service, vec![slice("web-1", endpoints)])
}

// Endpoints come and go.

#[test]
fn a_service_follows_its_endpoints() {
    let mut table = table(vec![service()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.1.1:8080");
    table.take(News::PutSlice(slice("web-1", vec![here("10.244.1.1"), there("10.244.2.1")])));
    assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.1.1:8080 10.244.2.1:8080");
    table.take(News::PutSlice(slice("web-1", vec![])));
    assert_eq!(goes(&web(&table), at(VIP, 80)), "refused");
}

#[test]
fn several_ports_lead_to_several_target_ports() {
    let ports = [port("a", Protocol::Tcp, 80), port("b", Protocol::Tcp, 81)];
    let leads = [leads("a", Protocol::Tcp, 100), leads("b", Protocol::Tcp, 101)];
    let slices = [("one", leads[0].clone(), "10.244.1.1"), ("two", leads[1].clone(), "10.244.1.2")]
        .map(|(name, to, address)| EndpointSlice { ports: [to].into(), ..slice(name, vec![here(address)]) });
    let served = served(Service { ports: ports.into(), ..service() }, slices.into());
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.1.1:100");
    assert_eq!(goes(&served, at(VIP, 81)), "10.244.1.2:101");
}

#[test]
fn ports_of_a_living_service_come_and_go() {
    let mut table = table(vec![service()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    let more = [port("http", Protocol::Tcp, 80), port("more", Protocol::Tcp, 443)];
    table.take(News::PutService(Service { ports: more.into(), ..service() }));
    assert_eq!(goes(&web(&table), at(VIP, 443)), "refused", "no slice says where it leads");
    table.take(News::PutService(Service { ports: [port("http", Protocol::Tcp, 8000)].into(), ..service() }));
    let served = web(&table);
    assert_eq!(goes(&served, at(VIP, 8000)), "10.244.1.1:8080");
    assert_eq!(served.frontends.len(), 1);
}

#[test]
fn a_deleted_service_is_gone_and_others_stay() {
    let other = Service {
        cluster_ips: ips(&["10.96.0.11"]),
        ..Service { name: Arc::new(name("default/other")), ..service() }
    };
    let mut table = table(vec![service(), other], vec![slice("web-1", vec![here("10.244.1.1")])]);
    let affected = table.take(News::DeleteService(name("default/web")));
    assert_eq!(affected.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/web"]);
    assert_eq!(web(&table), Served::default());
    assert_eq!(goes(&table.served(&name("default/other")), at("10.96.0.11", 80)), "refused");
    table.take(News::PutService(service()));
    assert_eq!(
        goes(&web(&table), at(VIP, 80)),
        "10.244.1.1:8080",
        "it came back, and its slice was still there"
    );
}

#[test]
fn a_service_recreated_under_the_same_address_takes_it_over_in_either_order() {
    let old = service();
    let new = Service { name: Arc::new(name("default/new")), created_s: 10, ..service() };
    let events = [News::DeleteService(name("default/web")), News::PutService(new)];
    let reversed = [events[1].clone(), events[0].clone()];
    for events in [events, reversed] {
        let mut table = table(vec![old.clone()], vec![]);
        let affected: Vec<_> = events.into_iter().flat_map(|event| table.take(event)).collect();
        assert!(affected.iter().any(|service| service.name == "new"), "{affected:?}");
        assert_eq!(goes(&table.served(&name("default/new")), at(VIP, 80)), "refused");
        assert_eq!(web(&table), Served::default());
    }
}

#[test]
fn node_ports_go_with_their_service() {
    let mut table = table(vec![with_node_port()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    assert_eq!(goes(&web(&table), at_node(30080)), "10.244.1.1:8080");
    table.take(News::PutService(service()));
    assert!(web(&table).frontends.iter().all(|frontend| frontend.kind == Kind::ClusterIp));
}

#[test]
fn one_number_serves_tcp_udp_and_sctp_apart() {
    let ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| ServicePort {
        node_port: Some(number(30053)),
        ..port(protocol.as_str(), protocol, 53)
    });
    let leads = [
        leads("TCP", Protocol::Tcp, 1053),
        leads("UDP", Protocol::Udp, 2053),
        leads("SCTP", Protocol::Sctp, 3053),
    ];
    let slice = EndpointSlice { ports: leads.into(), ..slice("web-1", vec![here("10.244.1.1")]) };
    let served = served(Service { ports: ports.into(), ..with_node_port() }, vec![slice]);
    for (protocol, to) in [(Protocol::Tcp, 1053), (Protocol::Udp, 2053), (Protocol::Sctp, 3053)] {
        for key in [at(VIP, 53), at_node(30053)] {
            let key = proxyd::decide::Key { protocol, ..key };
            assert_eq!(goes(&served, key), format!("10.244.1.1:{to}"));
        }
    }
}

#[test]
fn a_port_of_a_slice_counts_only_with_the_services_protocol() {
    let slice = EndpointSlice {
        ports: [leads("http", Protocol::Udp, 8080)].into(),
        ..slice("web-1", vec![here("10.244.1.1")])
    };
    assert_eq!(goes(&served(service(), vec![slice]), at(VIP, 80)), "refused");
}

#[test]
fn an_external_name_has_no_address_and_can_become_a_service_and_back() {
    let alias = Service { service_type: ServiceType::ExternalName, ..service() };
    let mut table = table(vec![alias.clone()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    assert_eq!(web(&table), Served::default());
    table.take(News::PutService(with_node_port()));
    assert_eq!(web(&table).frontends.len(), 2);
    table.take(News::PutService(alias));
    assert_eq!(web(&table), Served::default());
}

#[test]
fn services_with_one_selector_have_the_same_endpoints() {
    let other =
        Service { cluster_ips: ips(&["10.96.0.11"]), name: Arc::new(name("default/other")), ..service() };
    let its =
        EndpointSlice { service: Arc::clone(&other.name), ..slice("other-1", vec![here("10.244.1.1")]) };
    let table = table(vec![service(), other], vec![slice("web-1", vec![here("10.244.1.1")]), its]);
    assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.1.1:8080");
    assert_eq!(goes(&table.served(&name("default/other")), at("10.96.0.11", 80)), "10.244.1.1:8080");
}

// Readiness.

#[test]
fn absent_conditions_mean_ready() {
    assert_eq!(
        Conditions::of(None, None, None),
        Conditions { ready: true, serving: true, terminating: false }
    );
}

#[test]
fn what_is_not_ready_is_not_served() {
    let endpoints = vec![unready(here("10.244.1.1")), there("10.244.2.1")];
    assert_eq!(goes(&with(service(), endpoints), at(VIP, 80)), "10.244.2.1:8080");
    assert_eq!(goes(&with(service(), vec![unready(here("10.244.1.1"))]), at(VIP, 80)), "refused");
}

/// Whoever makes the slices sets the condition `ready` then.
#[test]
fn published_endpoints_are_served_though_they_are_not_ready_or_terminate() {
    let published = |address| {
        let conditions = Conditions::of(Some(true), Some(false), Some(true));
        Endpoint { conditions, ..here(address) }
    };
    assert_eq!(goes(&with(service(), vec![published("10.244.1.1")]), at(VIP, 80)), "10.244.1.1:8080");
}

#[test]
fn without_endpoints_every_kind_of_address_refuses() {
    let all = Service { external_ips: ips(&["203.0.113.250"]), ..with_balancer() };
    for service in [all.clone(), local_outside(all.clone()), local_inside(all)] {
        for endpoints in [vec![], vec![unready(here("10.244.1.1"))]] {
            let served = with(service.clone(), endpoints);
            for key in [at(VIP, 80), at_node(30080), at("192.0.2.80", 80), at("203.0.113.250", 80)] {
                assert_eq!(goes(&served, key), "refused");
            }
        }
    }
}

#[test]
fn with_the_internal_policy_cluster_terminating_endpoints_serve_when_none_is_ready() {
    let endpoints =
        vec![ending(here("10.244.1.1")), ending(there("10.244.2.1")), unready(there("10.244.2.2"))];
    let served = with(service(), endpoints.clone());
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.1.1:8080 10.244.2.1:8080");
    let with_ready = [endpoints, vec![there("10.244.2.3")]].concat();
    assert_eq!(goes(&with(service(), with_ready), at(VIP, 80)), "10.244.2.3:8080");
}

#[test]
fn with_the_internal_policy_local_terminating_endpoints_serve_when_no_local_one_is_ready() {
    let endpoints = vec![ending(here("10.244.1.1")), there("10.244.2.1")];
    assert_eq!(goes(&with(local_inside(service()), endpoints), at(VIP, 80)), "10.244.1.1:8080");
}

#[test]
fn with_the_external_policy_cluster_terminating_endpoints_serve_when_none_is_ready() {
    let served = with(with_node_port(), vec![ending(there("10.244.2.1"))]);
    assert_eq!(goes(&served, at_node(30080)), "10.244.2.1:8080");
}

#[test]
fn with_the_external_policy_local_terminating_endpoints_are_decided_apart() {
    let served = with(local_outside(with_balancer()), vec![ending(here("10.244.1.1")), there("10.244.2.1")]);
    for key in [at_node(30080), at("192.0.2.80", 80)] {
        let expected = ("10.244.1.1:8080".to_owned(), "10.244.2.1:8080".to_owned());
        assert_eq!(both(&served, key), expected);
    }
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.2.1:8080");
}

// Traffic policies.

#[test]
fn the_internal_policy_local_serves_from_this_node_alone() {
    let served = with(local_inside(service()), vec![here("10.244.1.1"), there("10.244.2.1")]);
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.1.1:8080");
}

#[test]
fn the_internal_policy_local_drops_without_an_endpoint_here() {
    let served = with(local_inside(with_node_port()), vec![there("10.244.2.1")]);
    assert_eq!(goes(&served, at(VIP, 80)), "dropped");
    assert_eq!(goes(&served, at_node(30080)), "10.244.2.1:8080", "the internal policy is not for node ports");
}

#[test]
fn the_external_policy_local_keeps_the_clients_address_and_serves_from_this_node() {
    let served = with(local_outside(with_balancer()), vec![here("10.244.1.1"), there("10.244.2.1")]);
    for key in [at_node(30080), at("192.0.2.80", 80)] {
        let expected = ("10.244.1.1:8080".to_owned(), "10.244.1.1:8080 10.244.2.1:8080".to_owned());
        assert_eq!(both(&served, key), expected);
        assert!(frontend(&served, key).keeps_client);
    }
    assert!(!frontend(&served, at(VIP, 80)).keeps_client);
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.1.1:8080 10.244.2.1:8080");
}

#[test]
fn the_external_policy_local_drops_without_an_endpoint_here_and_serves_the_nodes_own_pods() {
    let served = with(local_outside(with_balancer()), vec![there("10.244.2.1")]);
    for key in [at_node(30080), at("192.0.2.80", 80)] {
        assert_eq!(both(&served, key), ("dropped".to_owned(), "10.244.2.1:8080".to_owned()));
    }
}

#[test]
fn the_external_policy_local_counts_for_external_addresses_of_a_service_of_type_cluster_ip() {
    let external = Service { external_ips: ips(&["203.0.113.250"]), ..local_outside(service()) };
    let served = with(external, vec![there("10.244.2.1")]);
    assert_eq!(both(&served, at("203.0.113.250", 80)).0, "dropped");
}

#[test]
fn endpoints_that_say_no_node_are_nowhere_near() {
    let nowhere = Endpoint { node: None, ..here("10.0.0.1") };
    let served = with(local_inside(service()), vec![nowhere]);
    assert_eq!(goes(&served, at(VIP, 80)), "dropped");
}

#[test]
fn an_endpoint_in_the_hosts_network_is_an_endpoint() {
    let served = with(local_inside(service()), vec![here("198.51.100.1"), there("198.51.100.2")]);
    assert_eq!(goes(&served, at(VIP, 80)), "198.51.100.1:8080");
}

// Session affinity.

#[test]
fn session_affinity_counts_for_every_address_and_can_be_switched() {
    let affinity = NonZeroU32::new(60);
    let mut table = table(vec![Service { affinity, ..with_balancer() }], vec![]);
    assert!(web(&table).frontends.iter().all(|frontend| frontend.affinity == affinity));
    table.take(News::PutService(with_balancer()));
    assert!(web(&table).frontends.iter().all(|frontend| frontend.affinity.is_none()));
    assert_eq!(Service::DEFAULT_AFFINITY_S.get(), 3 * 60 * 60);
}

// What is another's.

#[test]
fn labels_take_a_service_away_and_give_it_back() {
    let labels = [Labels { proxy_name: true, headless: false }, Labels { proxy_name: false, headless: true }];
    for labels in labels {
        let mut table =
            table(vec![Service { labels, ..service() }], vec![slice("web-1", vec![here("10.244.1.1")])]);
        assert_eq!(web(&table), Served::default());
        table.take(News::PutService(service()));
        assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.1.1:8080");
        let slice = EndpointSlice { labels, ..slice("web-1", vec![here("10.244.1.1")]) };
        table.take(News::PutSlice(slice));
        assert_eq!(goes(&web(&table), at(VIP, 80)), "refused", "the slice is another's");
    }
}

#[test]
fn a_headless_service_is_not_served_at_any_address() {
    let headless = Service { cluster_ips: Box::default(), ..with_balancer() };
    assert_eq!(with(headless, vec![here("10.244.1.1")]), Served::default());
}

// External addresses.

#[test]
fn external_addresses_are_served_only_inside_allowed_networks() {
    let external = Service { external_ips: ips(&["203.0.113.250", "198.51.100.99"]), ..service() };
    let slices = vec![slice("web-1", vec![there("10.244.2.1")])];
    let some = served(external.clone(), slices.clone());
    assert_eq!(goes(&some, at("203.0.113.250", 80)), "10.244.2.1:8080");
    assert_eq!(some.frontends.len(), 2);
    assert!(
        complaints(&some)[0]
            .starts_with("the external address 198.51.100.99 is not served, because no network")
    );
    let none = web(&table_with(Rules::default(), vec![external], slices));
    assert_eq!(none.frontends.len(), 1, "none is allowed unless it is configured");
    assert_eq!(none.complaints.len(), 2);
}

#[test]
fn addresses_that_nobody_can_reach_are_left_out_alone() {
    let odd = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"];
    let ingress = odd.map(|address| Ingress { address: ip(address), mode: IpMode::Vip });
    let served = with(
        Service { ingress: ingress.into(), service_type: ServiceType::LoadBalancer, ..service() },
        vec![here("10.244.1.1"), here("127.0.0.1")],
    );
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.1.1:8080");
    assert_eq!(served.frontends.len(), 1);
    let unservable = served.complaints.iter().filter(|said| matches!(said, Complaint::NotServable(_)));
    assert_eq!(unservable.count(), odd.len(), "each is told once");
}

#[test]
fn a_load_balancer_that_proxies_gets_the_clusters_packets_itself() {
    let ingress = [IpMode::Proxy, IpMode::Vip].map(|mode| Ingress {
        address: ip(if mode == IpMode::Vip { "192.0.2.80" } else { "192.0.2.81" }),
        mode,
    });
    let served = with(Service { ingress: ingress.into(), ..with_balancer() }, vec![here("10.244.1.1")]);
    assert_eq!(goes(&served, at("192.0.2.80", 80)), "10.244.1.1:8080");
    assert!(served.frontends.iter().all(|frontend| frontend.key != at("192.0.2.81", 80)));
    assert_eq!(served.complaints, []);
}

#[test]
fn source_ranges_count_for_the_load_balancers_address_and_can_be_changed() {
    let with = |ranges: Option<&[&str]>| {
        let ranges = ranges.map(|all| all.iter().map(|range| range.parse().unwrap()).collect());
        served(Service { source_ranges: ranges, ..with_balancer() }, vec![])
    };
    let sources = |served: &Served, key| {
        frontend(served, key)
            .sources
            .as_ref()
            .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let served = with(Some(&["192.0.2.0/28", "2001:db8::/64"]));
    assert_eq!(sources(&served, at("192.0.2.80", 80)).unwrap(), ["192.0.2.0/28"]);
    assert_eq!(sources(&served, at(VIP, 80)), None);
    assert_eq!(sources(&served, at_node(30080)), None);
    assert_eq!(sources(&with(None), at("192.0.2.80", 80)), None);
    let own = with(Some(&["198.51.100.0/24"]));
    assert_eq!(
        sources(&own, at("192.0.2.80", 80)).unwrap(),
        ["192.0.2.80/32", "198.51.100.0/24"],
        "this node may use it, and its packets may come from the balancer's address"
    );
    for ranges in [&["2001:db8::/64"][..], &[]] {
        let closed = with(Some(ranges));
        assert!(sources(&closed, at("192.0.2.80", 80)).unwrap().is_empty());
        assert_eq!(closed.complaints, [Complaint::NobodyAllowed(Family::V4)]);
    }
}

#[test]
fn a_load_balancers_address_that_is_an_external_one_too_keeps_its_source_ranges() {
    let ingress = [Ingress { address: ip("203.0.113.250"), mode: IpMode::Vip }];
    let service = Service {
        external_ips: ips(&["203.0.113.250"]),
        ingress: ingress.into(),
        source_ranges: Some(["192.0.2.0/28".parse().unwrap()].into()),
        ..with_balancer()
    };
    let served = with(service, vec![]);
    assert!(frontend(&served, at("203.0.113.250", 80)).sources.is_some());
}

#[test]
fn a_load_balancer_without_node_ports_is_served_at_its_address() {
    let service = Service { ports: service().ports, ..with_balancer() };
    let served = with(service, vec![here("10.244.1.1")]);
    let kinds: Vec<_> = served.frontends.iter().map(|frontend| frontend.kind).collect();
    assert_eq!(kinds, [Kind::ClusterIp, Kind::LoadBalancer]);
}

#[test]
fn services_share_an_external_address_with_different_ports() {
    let of = |text, number| Service {
        name: Arc::new(name(text)),
        cluster_ips: ips(&[if text == "default/web" { VIP } else { "10.96.0.11" }]),
        ports: [port("http", Protocol::Tcp, number)].into(),
        ..with_balancer()
    };
    let table = table(vec![of("default/web", 80), of("default/other", 81)], vec![]);
    assert_eq!(goes(&web(&table), at("192.0.2.80", 80)), "refused");
    assert_eq!(goes(&table.served(&name("default/other")), at("192.0.2.80", 81)), "refused");
    assert_eq!(web(&table).complaints, []);
}

#[test]
fn of_services_that_clash_the_older_has_the_place_and_the_other_takes_over() {
    let of = |text, created_s, vip| Service {
        name: Arc::new(name(text)),
        created_s,
        cluster_ips: ips(&[vip]),
        ports: service().ports,
        ..with_balancer()
    };
    let (young, old) = (of("default/web", 20, VIP), of("default/old", 10, "10.96.0.11"));
    let mut table = table(vec![young, old], vec![]);
    assert_eq!(
        complaints(&web(&table)),
        [
            "192.0.2.80:80/TCP is not served, because default/old has it; give one of the two another address or port"
        ]
    );
    assert_eq!(web(&table).frontends.len(), 1, "its cluster IP is its own");
    assert_eq!(table.served(&name("default/old")).complaints, []);
    let affected = table.take(News::DeleteService(name("default/old")));
    assert!(affected.contains(&name("default/web")));
    assert_eq!(goes(&web(&table), at("192.0.2.80", 80)), "refused");
    assert_eq!(web(&table).complaints, []);
}

#[test]
fn a_node_port_that_two_services_want_is_the_older_ones() {
    let other = Service {
        name: Arc::new(name("default/other")),
        created_s: 1,
        cluster_ips: ips(&["10.96.0.11"]),
        ..with_node_port()
    };
    let mut table = table(vec![with_node_port(), other], vec![slice("web-1", vec![here("10.244.1.1")])]);
    assert_eq!(goes(&web(&table), at_node(30080)), "10.244.1.1:8080");
    assert_eq!(
        complaints(&table.served(&name("default/other"))),
        ["the IPv4 node port 30080/TCP is not served, because default/web has it; \
         give one of the two another address or port"]
    );
    table.take(News::DeleteService(name("default/web")));
    assert_eq!(goes(&table.served(&name("default/other")), at_node(30080)), "refused");
}

#[test]
fn a_load_balancer_changes_its_type_its_port_and_its_protocol() {
    let mut table = table(vec![with_balancer()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    assert_eq!(goes(&web(&table), at("192.0.2.80", 80)), "10.244.1.1:8080");
    let udp = ServicePort { node_port: Some(number(30081)), ..port("http", Protocol::Udp, 81) };
    table.take(News::PutService(Service { ports: [udp].into(), ..with_balancer() }));
    let served = web(&table);
    let keys: Vec<_> = served.frontends.iter().map(|frontend| frontend.key.to_string()).collect();
    assert_eq!(keys, ["10.96.0.10:81/UDP", "192.0.2.80:81/UDP", "the IPv4 node port 30081/UDP"]);
    assert!(served.frontends.iter().all(|frontend| words(&frontend.from_outside) == "refused"));
    let lead = EndpointSlice {
        ports: [leads("http", Protocol::Udp, 8081)].into(),
        ..slice("web-1", vec![here("10.244.1.1")])
    };
    table.take(News::PutSlice(lead));
    assert!(web(&table).frontends.iter().all(|frontend| words(&frontend.from_outside) == "10.244.1.1:8081"));
    table.take(News::PutService(service()));
    assert_eq!(web(&table).frontends.len(), 1);
}

/// What counts is the endpoint's condition, which goes with the pod's.
#[test]
fn the_endpoint_of_a_pod_that_was_evicted_does_not_count() {
    let mut table = table(vec![service()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    let failed =
        Endpoint { conditions: Conditions::of(Some(false), Some(false), Some(true)), ..here("10.244.1.1") };
    table.take(News::PutSlice(slice("web-1", vec![failed])));
    assert_eq!(goes(&web(&table), at(VIP, 80)), "refused");
}

// Health checks of load balancers.

#[test]
fn the_health_check_comes_and_goes_with_the_external_policy() {
    let with = |service| Service { health_check_node_port: Some(number(32000)), ..service };
    let mut table = table(vec![with(with_balancer())], vec![slice("web-1", vec![here("10.244.1.1")])]);
    assert_eq!(web(&table).health, None);
    table.take(News::PutService(with(local_outside(with_balancer()))));
    assert_eq!(web(&table).health.unwrap().port, number(32000));
    table.take(News::PutService(with(with_balancer())));
    assert_eq!(web(&table).health, None);
}

#[test]
fn the_health_check_counts_ready_endpoints_of_this_node_once_each() {
    let checked = Service { health_check_node_port: Some(number(32000)), ..local_outside(with_balancer()) };
    let count = |endpoints: Vec<Endpoint>| {
        let again = slice("web-2", endpoints.clone());
        let served = served(checked.clone(), vec![slice("web-1", endpoints), again]);
        served.health.unwrap().local_endpoints
    };
    assert_eq!(count(vec![here("10.244.1.1"), here("10.244.1.2"), there("10.244.2.1")]), 2);
    assert_eq!(count(vec![there("10.244.2.1")]), 0);
    assert_eq!(count(vec![ending(here("10.244.1.1"))]), 0, "it still serves, and new packets go elsewhere");
    let served = with(checked.clone(), vec![ending(here("10.244.1.1"))]);
    assert_eq!(both(&served, at("192.0.2.80", 80)).0, "10.244.1.1:8080");
}

#[test]
fn a_health_check_is_there_only_with_a_load_balancer_and_the_external_policy_local() {
    let port = Some(number(32000));
    let health = |service: Service| with(service, vec![here("10.244.1.1")]).health;
    let local = local_outside(with_balancer());
    assert!(health(Service { health_check_node_port: port, ..local.clone() }).is_some());
    assert!(health(Service { health_check_node_port: port, ..with_balancer() }).is_none());
    assert!(health(Service { health_check_node_port: port, ..local_outside(with_node_port()) }).is_none());
    assert_eq!(with(local, vec![]).complaints, [Complaint::NoHealthCheckPort]);
}

// Addresses that are announced to routers.

/// The addresses of `services.json`, each with whether endpoints on this node serve it.
fn announced(table: &Table) -> Vec<(String, bool)> {
    let mut announced = Announced::default();
    for service in table.services() {
        announced.put(service, &table.served(service));
    }
    let file = announced.file(HERE);
    file.addresses.iter().map(|one| (one.address.to_string(), one.has_local_endpoints)).collect()
}

#[test]
fn an_address_is_announced_while_this_node_serves_it() {
    let vip = |is_local| (VIP.to_owned(), is_local);
    let balancer = |is_local| ("192.0.2.80".to_owned(), is_local);
    let of = |service: &Service, endpoints| {
        announced(&table(vec![service.clone()], vec![slice("web-1", endpoints)]))
    };
    let (cluster, local) = (with_balancer(), local_outside(with_balancer()));
    assert_eq!(of(&cluster, vec![there("10.244.2.1")]), [vip(false), balancer(false)]);
    assert_eq!(of(&cluster, vec![there("10.244.2.1"), here("10.244.1.1")]), [vip(true), balancer(true)]);
    assert_eq!(of(&cluster, vec![]), [], "nobody serves it");
    assert_eq!(of(&local, vec![there("10.244.2.1")]), [vip(false)], "another node serves it");
    assert_eq!(of(&local, vec![there("10.244.2.1"), here("10.244.1.1")]), [vip(true), balancer(true)]);
    assert_eq!(of(&local_inside(service()), vec![there("10.244.2.1")]), []);
}

#[test]
fn an_address_that_services_share_is_announced_if_this_node_drops_for_none_of_them() {
    let other = Service {
        name: Arc::new(name("default/other")),
        cluster_ips: ips(&["10.96.0.11"]),
        ports: [port("http", Protocol::Tcp, 81)].into(),
        ..local_outside(with_balancer())
    };
    let of_other =
        |endpoint| EndpointSlice { service: Arc::clone(&other.name), ..slice("other-1", vec![endpoint]) };
    let has = |endpoint| {
        let slices = vec![slice("web-1", vec![here("10.244.1.1")]), of_other(endpoint)];
        announced(&table(vec![with_balancer(), other.clone()], slices))
            .iter()
            .any(|(ip, _)| ip == "192.0.2.80")
    };
    assert!(has(here("10.244.1.2")));
    assert!(!has(there("10.244.2.2")));
}

#[test]
fn what_is_announced_is_new_only_if_it_changes() {
    let mut table = table(vec![with_balancer()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    let mut announced = Announced::default();
    let service = Arc::new(name("default/web"));
    let mut put = |table: &Table| announced.put(&service, &web(table));
    assert!(put(&table));
    table.take(News::PutSlice(slice("web-1", vec![here("10.244.1.1"), here("10.244.1.2")])));
    assert!(!put(&table), "a second endpoint on this node is no news");
    table.take(News::DeleteService(name("default/web")));
    assert!(put(&table));
    assert!(!put(&table));
    assert_eq!(announced.file(HERE), ferrule_config::ServedFile::new(HERE.to_owned(), vec![]));
}

// Several slices.

#[test]
fn all_slices_of_a_service_count_and_an_endpoint_in_several_counts_once() {
    let mirrored = slice("mirrored", vec![there("10.0.0.9")]);
    let slices = vec![
        slice("web-1", vec![here("10.244.1.1"), there("10.244.2.1")]),
        slice("web-2", vec![there("10.244.2.1"), unready(here("10.244.1.1"))]),
        mirrored,
    ];
    let expected = "10.0.0.9:8080 10.244.1.1:8080 10.244.2.1:8080";
    assert_eq!(goes(&served(service(), slices), at(VIP, 80)), expected);
}

#[test]
fn an_endpoint_that_one_slice_puts_on_this_node_is_on_this_node() {
    let slices = vec![slice("web-1", vec![there("10.244.1.1")]), slice("web-2", vec![here("10.244.1.1")])];
    assert_eq!(goes(&served(local_inside(service()), slices), at(VIP, 80)), "10.244.1.1:8080");
}

#[test]
fn named_target_ports_can_differ_by_endpoint() {
    let other = EndpointSlice {
        ports: [leads("http", Protocol::Tcp, 9090)].into(),
        ..slice("web-2", vec![here("10.244.1.2")])
    };
    let served = served(service(), vec![slice("web-1", vec![here("10.244.1.1")]), other]);
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.1.1:8080 10.244.1.2:9090");
}

#[test]
fn a_slice_can_be_given_to_another_service() {
    let mut table = table(vec![service()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    let given = EndpointSlice {
        service: Arc::new(name("default/other")),
        ..slice("web-1", vec![here("10.244.1.1")])
    };
    assert!(table.take(News::PutSlice(given)).contains(&name("default/web")));
    assert_eq!(goes(&web(&table), at(VIP, 80)), "refused");
}

#[test]
fn an_address_of_the_wrong_family_is_left_out_alone() {
    let served = with(service(), vec![here("10.244.1.1"), here("fd00::1")]);
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.1.1:8080");
    assert_eq!(
        complaints(&served),
        [
            "the endpoint fd00::1 is left out, because its EndpointSlice has addresses of IPv4; correct addressType"
        ]
    );
}

#[test]
fn what_the_source_could_not_read_is_told_with_the_service() {
    let unreadable =
        Complaint::Unreadable { field: "spec.externalIPs", value: "x".into(), expected: "an address" };
    let slice =
        EndpointSlice { complaints: [unreadable.clone()].into(), ..slice("web-1", vec![here("10.244.1.1")]) };
    let served = served(Service { complaints: [unreadable.clone()].into(), ..service() }, vec![slice]);
    assert_eq!(served.complaints, [unreadable]);
    assert_eq!(
        complaints(&served),
        ["spec.externalIPs: \"x\" is not an address, and is left out; correct it"]
    );
}

// Families.

#[test]
fn each_family_of_a_dual_stack_service_has_its_own_endpoints() {
    let dual = Service { cluster_ips: ips(&["fd00:96::10", VIP]), ..with_node_port() };
    let slices = vec![slice("web-1", vec![here("10.244.1.1")]), slice("web-2", vec![there("fd00:244::1")])];
    let served = served(dual, slices);
    assert_eq!(goes(&served, at(VIP, 80)), "10.244.1.1:8080");
    assert_eq!(goes(&served, at("fd00:96::10", 80)), "fd00:244::1:8080");
    let node_ports = served.frontends.iter().filter(|frontend| frontend.kind == Kind::NodePort);
    assert_eq!(node_ports.count(), 2);
}

#[test]
fn a_family_without_a_cluster_ip_is_not_served() {
    let ingress = [Ingress { address: ip("2001:db8::80"), mode: IpMode::Vip }];
    let service =
        Service { external_ips: ips(&["2001:db8::81"]), ingress: ingress.into(), ..with_balancer() };
    let served = with(service, vec![here("10.244.1.1")]);
    assert!(served.frontends.iter().all(|frontend| frontend.key.place.family() == Family::V4));
    assert_eq!(served.complaints, [Complaint::NoSuchFamily(ip("2001:db8::81"))]);
}

// Hints.

#[test]
fn hints_for_zones_count_if_every_ready_endpoint_has_some_and_one_is_for_here() {
    let (mine, other) =
        (hinted(there("10.244.2.1"), &["zone-1"], &[]), hinted(there("10.244.3.1"), &["zone-2"], &[]));
    let near = with(service(), vec![mine.clone(), other.clone()]);
    assert_eq!(goes(&near, at(VIP, 80)), "10.244.2.1:8080");
    let one_has_none = with(service(), vec![mine.clone(), other.clone(), there("10.244.4.1")]);
    assert_eq!(goes(&one_has_none, at(VIP, 80)).split(' ').count(), 3);
    assert_eq!(
        goes(&with(service(), vec![other.clone()]), at(VIP, 80)),
        "10.244.3.1:8080",
        "none is for here"
    );
    let unready = with(service(), vec![unready(mine), other, unready(there("10.244.4.1"))]);
    assert_eq!(goes(&unready, at(VIP, 80)), "10.244.3.1:8080", "only ready endpoints are asked");
}

#[test]
fn hints_for_nodes_come_before_those_for_zones() {
    let endpoints = vec![
        hinted(here("10.244.1.1"), &["zone-1"], &[HERE]),
        hinted(there("10.244.2.1"), &["zone-1"], &["node-b"]),
        hinted(there("10.244.3.1"), &["zone-2"], &["node-c"]),
    ];
    let mut table = table(vec![service()], vec![slice("web-1", endpoints.clone())]);
    assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.1.1:8080");
    table.take(News::PutSlice(slice("web-1", endpoints[1..].to_vec())));
    assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.2.1:8080", "it fell back to the zone");
    table.take(News::PutSlice(slice("web-1", endpoints[2..].to_vec())));
    assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.3.1:8080", "and to all");
    table.take(News::PutSlice(slice("web-1", endpoints)));
    assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.1.1:8080");
}

#[test]
fn hints_do_not_count_for_the_policy_local() {
    let endpoints =
        vec![hinted(here("10.244.1.1"), &["zone-2"], &[]), hinted(there("10.244.2.1"), &["zone-1"], &[])];
    let served = with(local_outside(with_node_port()), endpoints);
    assert_eq!(both(&served, at_node(30080)), ("10.244.1.1:8080".to_owned(), "10.244.2.1:8080".to_owned()));
}

#[test]
fn without_a_zone_of_this_node_hints_for_zones_do_not_count() {
    let endpoints =
        vec![hinted(there("10.244.2.1"), &["zone-1"], &[]), hinted(there("10.244.3.1"), &["zone-2"], &[])];
    let mut table = table(vec![service()], vec![slice("web-1", endpoints)]);
    let affected = table.take(News::Node(NodeFacts::named(HERE)));
    assert!(affected.contains(&name("default/web")));
    assert_eq!(goes(&web(&table), at(VIP, 80)), "10.244.2.1:8080 10.244.3.1:8080");
}

// News.

#[test]
fn news_that_say_nothing_new_affect_nothing() {
    let mut table = table(vec![with_balancer()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    let again = [
        News::PutService(with_balancer()),
        News::Services(vec![with_balancer()]),
        News::PutSlice(slice("web-1", vec![here("10.244.1.1")])),
        News::Slices(vec![slice("web-1", vec![here("10.244.1.1")])]),
        News::Node(crate::objects::node()),
        News::DeleteService(name("default/other")),
    ];
    for news in again {
        assert!(table.take(news).is_empty());
    }
}

#[test]
fn the_table_is_complete_when_both_lists_have_come() {
    let mut table = Table::new(Rules::default(), NodeFacts::named(HERE));
    assert!(!table.is_complete());
    table.take(News::Slices(vec![]));
    assert!(!table.is_complete());
    table.take(News::PutService(service()));
    assert!(!table.is_complete(), "one Service is not a list");
    table.take(News::Services(vec![service()]));
    assert!(table.is_complete());
}

#[test]
fn a_list_takes_away_what_it_does_not_name() {
    let mut table = table(vec![service()], vec![slice("web-1", vec![here("10.244.1.1")])]);
    assert_eq!(table.take(News::Slices(vec![])).len(), 1);
    assert_eq!(goes(&web(&table), at(VIP, 80)), "refused");
    assert_eq!(table.take(News::Services(vec![])).len(), 1);
    assert_eq!(table.services().count(), 0);
}
