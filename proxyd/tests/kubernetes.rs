//! Services from a server that speaks the API over TLS: what is told, when, and what cannot be used.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use ferrule_config::Kubernetes;
use ferrule_fake_api::{ApiServer, Streaming, node};
use ferrule_model::Family;
use proxyd::decide::{
    Complaint, EndpointSlice, Ingress, IpMode, Labels, News, NodeFacts, Protocol, Service, ServiceType,
    TrafficPolicy,
};
use proxyd::source::KubernetesSource;
use serde_json::{Value, json};

use crate::objects::{ips, name, number};

const LIMIT: Duration = Duration::from_secs(20);
/// Longer than the first pause after a fault.
const QUIET: Duration = Duration::from_millis(1500);

/// A Service with everything that it can have, as the API server of Kubernetes 1.36.0 tells it.
const SERVICE: &str = include_str!("golden/service.json");
/// One of its EndpointSlices, as the controller of the same version makes it: one pod is ready, one is terminating.
const SLICE: &str = include_str!("golden/endpointslice.json");

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A Service of namespace `default` with TCP port 80.
fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "labels": {}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                 "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}]},
        "status": {"loadBalancer": {}},
    })
}

/// A slice of that Service with one endpoint.
fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": "n1"}],
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
    })
}

/// A server, a source that watches it, and what the source has told so far.
struct Pair {
    server: ApiServer,
    source: KubernetesSource,
    services: BTreeMap<String, Service>,
    slices: BTreeMap<String, EndpointSlice>,
    node: Option<NodeFacts>,
    _directory: tempfile::TempDir,
}

impl Pair {
    /// A server with the node n1 and whatever `prepare` adds. Must be called within a runtime.
    fn new(prepare: impl FnOnce(&ApiServer)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = ApiServer::new(listener("127.0.0.1:0"), directory.path());
        (1..=2).for_each(|number| server.put(node(number)));
        prepare(&server);
        let settings = Kubernetes { kubeconfig: Some(server.kubeconfig()), servers: Vec::new() };
        let source = KubernetesSource::new(&settings, "n1");
        let (services, slices) = (BTreeMap::new(), BTreeMap::new());
        Self { server, source, services, slices, node: None, _directory: directory }
    }

    fn take(&mut self, news: News) {
        let named = |service: Service| (service.name.to_string(), service);
        let sliced = |slice: EndpointSlice| (slice.name.to_string(), slice);
        match news {
            News::Services(all) => self.services = all.into_iter().map(named).collect(),
            News::PutService(service) => self.services.extend([named(service)]),
            News::DeleteService(name) => assert!(self.services.remove(&name.to_string()).is_some(), "{name}"),
            News::Slices(all) => self.slices = all.into_iter().map(sliced).collect(),
            News::PutSlice(slice) => self.slices.extend([sliced(slice)]),
            News::DeleteSlice(name) => assert!(self.slices.remove(&name.to_string()).is_some(), "{name}"),
            News::Node(facts) => self.node = Some(facts),
        }
    }

    /// Waits until what was told is as `is_so` says.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while !is_so(self) {
            let batch = tokio::time::timeout_at(deadline, self.source.next()).await;
            let told = || format!("{:?} {:?} {:?}", self.services.keys(), self.slices.keys(), self.node);
            batch
                .unwrap_or_else(|_| panic!("{what}: {}", told()))
                .into_iter()
                .for_each(|news| self.take(news));
        }
    }

    /// Waits until exactly these Services of the namespace `default` are told.
    async fn wait_for(&mut self, names: &[&str]) {
        let names: Vec<_> = names.iter().map(|name| format!("default/{name}")).collect();
        self.until(&format!("{names:?}"), |pair| pair.services.keys().eq(&names)).await;
    }

    async fn is_quiet(&mut self) {
        let batch = tokio::time::timeout(QUIET, self.source.next()).await;
        assert!(batch.is_err(), "{batch:?}");
    }
}

/// A socket of the test's own namespace.
fn listener(address: &str) -> TcpListener {
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(status.expect("install iproute2").success());
    TcpListener::bind(address).unwrap()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_service_and_its_slice_are_read_with_all_that_matters() {
    for streaming in [Streaming::Works, Streaming::Refused] {
        run(async {
            let mut pair = Pair::new(|server| {
                server.faults(|faults| faults.streaming = streaming);
                server.put(object(SERVICE));
                server.put(object(SLICE));
            });
            let batch = tokio::time::timeout(LIMIT, pair.source.next()).await.unwrap();
            assert_eq!(batch.len(), 3, "{batch:?}");
            batch.into_iter().for_each(|news| pair.take(news));
            assert_service(&pair.services["shop/web"]);
            assert_slice(&pair.slices["shop/web-cc7kt"]);
            let facts = pair.node.unwrap();
            assert_eq!((&*facts.name, facts.zone, facts.is_deleting), ("n1", None, false));
            assert_eq!(facts.addresses, ips(&["192.0.2.1", "2001:db8::1"]));
        });
    }
}

fn assert_service(service: &Service) {
    assert_eq!(service.name.to_string(), "shop/web");
    assert_eq!(service.created_s, 1_795_841_085);
    assert_eq!(service.service_type, ServiceType::LoadBalancer);
    assert_eq!(service.labels, Labels::default());
    assert_eq!(service.cluster_ips, ips(&["10.96.12.34", "fd96::1234"]));
    assert_eq!(service.external_ips, ips(&["198.51.100.7"]));
    let ingress = [
        Ingress { address: "203.0.113.10".parse().unwrap(), mode: IpMode::Vip },
        Ingress { address: "2001:db8:1::10".parse().unwrap(), mode: IpMode::Proxy },
    ];
    assert_eq!(*service.ingress, ingress);
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| (&*port.name, port.protocol, port.port.get(), port.node_port.map(u16::from)))
        .collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 80, Some(30080)), ("quic", Protocol::Udp, 443, Some(30443))]);
    assert_eq!(service.affinity.map(u32::from), Some(600));
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(service.external_policy, TrafficPolicy::Local);
    assert_eq!(service.source_ranges.as_deref().unwrap(), ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(service.health_check_node_port, Some(number(31234)));
    assert_eq!(*service.complaints, []);
}

fn assert_slice(slice: &EndpointSlice) {
    assert_eq!(*slice.service, name("shop/web"));
    assert_eq!(slice.family, Family::V4);
    let ports: Vec<_> = slice.ports.iter().map(|port| (&*port.name, port.port.get())).collect();
    assert_eq!(ports, [("http", 8080), ("quic", 8443)]);
    let endpoints: Vec<_> = slice
        .endpoints
        .iter()
        .map(|endpoint| {
            let conditions = endpoint.conditions;
            let flags = (conditions.ready, conditions.serving, conditions.terminating);
            (endpoint.address.to_string(), flags, endpoint.node.as_deref())
        })
        .collect();
    assert_eq!(
        endpoints,
        [
            ("10.244.1.17".into(), (true, true, false), Some("n1")),
            ("10.244.2.17".into(), (false, true, true), Some("n2")),
        ]
    );
    let hints = slice.endpoints[0].hints.as_ref().unwrap();
    assert_eq!((&*hints.zones[0], hints.nodes.len()), ("zone-a", 0));
    assert_eq!(slice.endpoints[1].hints, None);
}

#[test]
fn nothing_is_told_before_all_lists_are_complete() {
    for plural in ["services", "endpointslices.discovery.k8s.io", "nodes"] {
        run(async {
            let rights = ["watch", "list"].map(|verb| format!("{verb} {plural}"));
            let mut pair = Pair::new(|server| {
                server.put(service("web", "10.96.0.1"));
                server.put(slice("web-a", "web", "10.244.1.1"));
                server.faults(|faults| faults.forbidden.extend(rights));
            });
            pair.is_quiet().await;
            pair.server.faults(|faults| faults.forbidden.clear());
            let batch = tokio::time::timeout(LIMIT, pair.source.next()).await.unwrap();
            let all = |news: &News| matches!(news, News::Services(_) | News::Slices(_) | News::Node(_));
            assert!(batch.len() == 3 && batch.iter().all(all), "{plural}: {batch:?}");
        });
    }
}

#[test]
fn a_list_that_breaks_off_tells_nothing_and_takes_nothing_away() {
    run(async {
        let breaks = |server: &ApiServer| server.faults(|faults| faults.break_list_with = Some(Vec::new()));
        let mut pair = Pair::new(|server| {
            server.put(service("a", "10.96.0.1"));
            server.put(service("b", "10.96.0.2"));
            breaks(server);
        });
        pair.wait_for(&["a", "b"]).await;
        breaks(&pair.server);
        pair.server.delete_object("services", "default/a");
        pair.wait_for(&["b"]).await;
        pair.server.put(service("c", "10.96.0.3"));
        pair.server.forget();
        pair.server.cut();
        pair.wait_for(&["b", "c"]).await;
        pair.server.put(service("d", "10.96.0.4"));
        pair.wait_for(&["b", "c", "d"]).await;
    });
}

#[test]
fn changes_are_told_as_they_come_and_a_server_that_is_away_tells_nothing() {
    run(async {
        let mut pair = Pair::new(|server| {
            server.put(service("a", "10.96.0.1"));
            server.put(service("b", "10.96.0.2"));
            server.put(slice("a-1", "a", "10.244.1.1"));
        });
        pair.wait_for(&["a", "b"]).await;
        pair.server.put(service("c", "10.96.0.3"));
        pair.server.delete_object("services", "default/a");
        pair.wait_for(&["b", "c"]).await;
        pair.server.put(slice("a-1", "a", "10.244.1.2"));
        let address = ips(&["10.244.1.2"])[0];
        pair.until("another endpoint", |pair| pair.slices["default/a-1"].endpoints[0].address == address)
            .await;
        let mut own = node(1);
        own["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("zone-a");
        own["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        pair.server.put(own);
        pair.until("a zone", |pair| pair.node.as_ref().is_some_and(|node| node.zone.is_some())).await;
        assert!(pair.node.as_ref().is_some_and(|node| node.is_unwanted && !node.is_eligible()));

        pair.server.stop();
        pair.server.delete_object("services", "default/b");
        pair.server.delete_object("endpointslices", "default/a-1");
        pair.server.put(service("d", "10.96.0.4"));
        // What happened meanwhile has to be listed.
        pair.server.forget();
        pair.is_quiet().await;
        pair.server.start(TcpListener::bind(pair.server.address()).unwrap());
        pair.wait_for(&["c", "d"]).await;
        pair.until("no slice", |pair| pair.slices.is_empty()).await;
    });
}

#[test]
fn an_object_that_cannot_be_read_leaves_out_itself_alone_until_it_can() {
    run(async {
        let spoiled: [(&str, Value); 4] = [
            ("/spec/ports", json!("http")),
            ("/spec/clusterIPs", json!({"a": 1})),
            ("/spec/type", json!("Mesh")),
            ("/spec", json!([1])),
        ];
        let bad = |index: usize| {
            let mut bad = service("bad", "10.96.0.9");
            let (pointer, value) = &spoiled[index];
            *bad.pointer_mut(pointer).unwrap() = value.clone();
            bad
        };
        let mut pair = Pair::new(|server| {
            server.put(service("good", "10.96.0.1"));
            server.put(bad(0));
            let mut odd = slice("odd", "good", "10.244.1.1");
            odd["endpoints"] = json!(17);
            server.put(odd);
            server.put(slice("even", "good", "10.244.1.1"));
        });
        pair.wait_for(&["good"]).await;
        assert!(pair.slices.keys().eq(["default/even"]), "{:?}", pair.slices.keys());
        for index in 0..spoiled.len() {
            pair.server.put(service("bad", "10.96.0.9"));
            pair.wait_for(&["bad", "good"]).await;
            pair.server.put(bad(index));
            pair.wait_for(&["good"]).await;
        }
    });
}

#[test]
fn a_value_that_cannot_be_read_is_left_out_with_a_complaint() {
    run(async {
        let mut pair = Pair::new(|server| {
            let mut odd = service("odd", "10.96.0.1");
            odd["spec"]["externalIPs"] = json!(["198.51.100.7", "gateway", ""]);
            odd["spec"]["ports"] = json!([{"port": 80}, {"name": "s", "port": 70_000},
                                          {"name": "d", "port": 53, "protocol": "DCCP"}]);
            odd["spec"]["loadBalancerSourceRanges"] = json!(["all"]);
            server.put(odd);
            let mut slice = slice("odd-1", "odd", "10.244.1.1");
            slice["endpoints"] =
                json!([{"addresses": ["pod"]}, {"addresses": []}, {"addresses": ["10.244.1.2"]}]);
            server.put(slice);
        });
        pair.wait_for(&["odd"]).await;
        let service = &pair.services["default/odd"];
        assert_eq!(service.external_ips, ips(&["198.51.100.7"]));
        assert_eq!(service.ports.len(), 1);
        assert_eq!(service.source_ranges.as_deref(), Some(&[][..]), "it lets nobody in");
        let values = |complaints: &[Complaint]| -> Vec<String> {
            complaints
                .iter()
                .map(|complaint| match complaint {
                    Complaint::Unreadable { value, .. } => value.to_string(),
                    other => panic!("{other}"),
                })
                .collect()
        };
        assert_eq!(values(&service.complaints), ["gateway", "70000", "DCCP", "all"]);
        let slice = &pair.slices["default/odd-1"];
        assert_eq!((slice.endpoints.len(), values(&slice.complaints)), (1, vec!["pod".to_owned()]));
    });
}

#[test]
fn what_is_anothers_is_neither_asked_for_nor_told() {
    run(async {
        let labelled = |label: &str| {
            let mut service = service(label.rsplit('/').next().unwrap(), "10.96.0.9");
            service["metadata"]["labels"][label] = json!("");
            service
        };
        let names = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
        let mut pair = Pair::new(|server| {
            names.iter().for_each(|label| server.put(labelled(label)));
            server.put(service("web", "10.96.0.1"));
            let mut names = slice("names", "web", "10.244.1.1");
            names["addressType"] = json!("FQDN");
            names["endpoints"][0]["addresses"] = json!(["db.example"]);
            server.put(names);
            let mut nobodys = slice("nobodys", "web", "10.244.1.1");
            nobodys["metadata"]["labels"] = json!({});
            server.put(nobodys);
        });
        pair.wait_for(&["web"]).await;
        assert!(pair.slices.is_empty());
        // The Service is given to another proxy, and taken back.
        let mut others = service("web", "10.96.0.1");
        others["metadata"]["labels"][names[0]] = json!("mesh");
        pair.server.put(others);
        pair.wait_for(&[]).await;
        pair.server.put(service("web", "10.96.0.1"));
        pair.wait_for(&["web"]).await;
        let asked = pair.server.requests();
        let selector = "%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name";
        for request in &asked {
            let is_node = request.plural() == "nodes";
            assert_eq!(request.query("labelSelector"), (!is_node).then_some(selector));
            assert_eq!(request.query("fieldSelector"), is_node.then_some("metadata.name%3Dn1"));
        }
        let rights: Vec<_> =
            proxyd::source::kubernetes::PERMISSIONS.iter().map(ToString::to_string).collect();
        assert!(asked.iter().all(|request| rights.contains(&request.permission())), "{asked:?}");
    });
}

#[test]
fn a_node_that_is_not_registered_holds_up_nothing() {
    run(async {
        let mut pair = Pair::new(|server| {
            server.delete("n1");
            server.put(service("web", "10.96.0.1"));
        });
        pair.wait_for(&["web"]).await;
        assert_eq!(pair.node, Some(NodeFacts::named("n1")));
        pair.server.put(node(1));
        let has_address = |pair: &Pair| pair.node.as_ref().is_some_and(|node| !node.addresses.is_empty());
        pair.until("the node", has_address).await;
        pair.server.delete("n1");
        pair.until("no node", |pair| pair.node == Some(NodeFacts::named("n1"))).await;
    });
}
