//! The whole way of news, from what a source tells to the elements of the kernel's table: wherever the rules of the
//! table lead a packet, the reference model sends it there, too.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ferrule_model::{Element, Family, Value};
use ferrule_netlink::nft::FakeNetfilter;
use proptest::prelude::*;
use proxyd::decide::{Key, NodeFacts, Place, Table};
use proxyd::nft::Shape;
use proxyd::nft::script::REFUSE;
use proxyd::nft::sets::{
    CLUSTER_IPS, ENDPOINTS, INSIDE, LOCAL, NODE_ENDPOINTS, NODE_INSIDE, NODE_SERVICES, NODE_STICKY,
    NODE_UNSERVED, Pair, RESTRICTED, SERVICES, SLOTS, SOURCES, STICKY, UNSERVED, address_bytes, key_bytes,
    read_endpoint,
};
use proxyd::sync::{DataPath, Wanted};

use crate::objects::HERE;
use crate::reference::{Cluster, Fate, Packet, fate, is_cluster_ip};
use crate::states::{Truth, history, packets, rules};

/// A table and the data path that follows it, as the daemon has them.
struct Node {
    table: Table,
    path: DataPath<FakeNetfilter>,
    kernel: FakeNetfilter,
}

impl Node {
    /// A node that has heard of nothing.
    fn new() -> Self {
        let kernel = FakeNetfilter::new();
        let table = Table::new(rules(), NodeFacts::named(HERE));
        let mut path = DataPath::new(kernel.clone(), Shape::default());
        path.start(Vec::new(), Instant::now()).unwrap();
        Self { table, path, kernel }
    }

    fn take(&mut self, news: proxyd::decide::News) {
        let affected = self.table.take(news);
        let wanted = |name: &Arc<_>| -> Wanted { (Arc::clone(name), self.table.served(name).frontends) };
        let report = self.path.change(affected.iter().map(wanted).collect(), Instant::now()).unwrap();
        assert_eq!(report.complaints, Vec::<String>::new());
    }

    /// Another daemon finds nothing to do.
    fn is_right(&self) -> bool {
        let names = self.table.services();
        let all = names.map(|name| (Arc::clone(name), self.table.served(name).frontends)).collect();
        let mut another = DataPath::new(self.kernel.clone(), Shape::default());
        another.start(all, Instant::now()).unwrap().elements == 0
    }
}

/// What the table's rules do with packets, given its elements.
struct Kernel {
    of_maps: HashMap<(&'static str, Vec<u8>), Value>,
    sources: Vec<Element>,
    endpoints: Vec<Element>,
}

/// A set of addresses or of node ports.
type Sets = (Pair, Pair);

/// Where a packet goes, and how.
struct Way {
    fate: Fate,
    /// The chain that chooses the endpoint.
    chain: String,
}

impl Kernel {
    fn new(all: BTreeSet<Element>) -> Self {
        let is_of = |element: &Element, pair: Pair| element.set == pair.0 || element.set == pair.1;
        let (endpoints, rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|element| is_of(element, ENDPOINTS) || is_of(element, NODE_ENDPOINTS));
        let (sources, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|element| is_of(element, SOURCES));
        let of_maps = rest.into_iter().map(|element| ((element.set, element.key), element.value)).collect();
        Self { of_maps, sources, endpoints }
    }

    fn get(&self, sets: Sets, key: &Key) -> Option<&Value> {
        let pair = if matches!(key.place, Place::Node(_)) { sets.1 } else { sets.0 };
        self.of_maps.get(&(pair.of(key.place.family()), key_bytes(key)))
    }

    fn has_address(&self, pair: Pair, address: IpAddr, times: usize) -> bool {
        let key = address_bytes(address).repeat(times);
        self.of_maps.contains_key(&(pair.of(Family::of(address)), key))
    }

    /// As the chains `prerouting`, `output` and `unserved` have it.
    fn way(&self, packet: &Packet) -> Way {
        let ended = |fate| Way { fate, chain: String::new() };
        if self.is_shut_out(packet) {
            return ended(Fate::Dropped);
        }
        let inside = self.get((INSIDE, NODE_INSIDE), &packet.to).filter(|_| packet.is_inside);
        match inside.or_else(|| self.get((SERVICES, NODE_SERVICES), &packet.to)) {
            Some(Value::Goto(chain)) => {
                let to = self.chosen_by(chain, &packet.to);
                let affinity_s = self.remembered(&packet.to);
                return Way {
                    fate: Fate::Sent { to, keeps_client: false, affinity_s },
                    chain: chain.clone(),
                };
            }
            // It accepts the packet as it is.
            Some(Value::Verdict(1)) | None => {}
            other => panic!("{other:?} chooses no endpoint"),
        }
        match self.get((UNSERVED, NODE_UNSERVED), &packet.to) {
            Some(Value::Goto(chain)) if chain == REFUSE => ended(Fate::Refused),
            Some(Value::Verdict(0)) => ended(Fate::Dropped),
            None => ended(match packet.to.place {
                Place::Address(address) if self.has_address(CLUSTER_IPS, address, 1) => Fate::Refused,
                _ => Fate::Untouched,
            }),
            other => panic!("{other:?} ends no packet"),
        }
    }

    /// As the chain `sources` has it.
    fn is_shut_out(&self, packet: &Packet) -> bool {
        let Place::Address(_) = packet.to.place else { return false };
        let is_restricted = self.get((RESTRICTED, RESTRICTED), &packet.to).is_some();
        let key = [key_bytes(&packet.to), address_bytes(packet.from)].concat();
        let holds = |one: &Element| one.key.len() == key.len() && one.key <= key && key <= one.end;
        is_restricted && !self.sources.iter().any(holds)
    }

    /// All endpoints that a chain can choose. No slot that it draws for certain may be empty.
    fn chosen_by(&self, chain: &str, key: &Key) -> BTreeSet<(IpAddr, u16)> {
        let is_node = matches!(key.place, Place::Node(_));
        let family = key.place.family();
        let set = if is_node { NODE_ENDPOINTS } else { ENDPOINTS }.of(family);
        assert_eq!(chain.starts_with("node-"), is_node);
        let first = if chain.contains("inside-") { SLOTS } else { 0 };
        let slots: usize = chain.rsplit('-').next().unwrap().parse().unwrap();
        let full: Vec<_> = (0..SLOTS)
            .map_while(|slot| {
                let key = [key_bytes(key), (first + slot).to_ne_bytes().to_vec()].concat();
                self.endpoints.iter().find(|element| element.set == set && element.key == key)
            })
            .map(|element| read_endpoint(element.value.data(), family).unwrap())
            .collect();
        let is_exact = !chain.contains("hash-") && slots <= 16;
        assert!(
            full.len() == slots || (!is_exact && full.len() > slots / 2 && full.len() <= slots),
            "{chain}"
        );
        let to: BTreeSet<_> = full.iter().map(|(address, port)| (*address, port.get())).collect();
        assert_eq!(to.len(), full.len(), "an endpoint has two slots");
        to
    }

    /// For how long a client's endpoint is remembered.
    fn remembered(&self, key: &Key) -> Option<u32> {
        match self.get((STICKY, NODE_STICKY), key)? {
            Value::Goto(chain) => chain.strip_prefix("remember-")?.parse().ok(),
            other => panic!("{other:?} remembers nothing"),
        }
    }
}

/// What the model says, where it knows more than the table's elements do.
fn expected(cluster: &Cluster, packet: &Packet) -> Fate {
    match (fate(cluster, packet), packet.to.place) {
        // Ports that a cluster IP does not have are refused.
        (Fate::Untouched, Place::Address(address)) if is_cluster_ip(cluster, address) => Fate::Refused,
        (fate, _) => fate,
    }
}

fn agree(kernel: &Kernel, cluster: &Cluster, packet: &Packet) -> Result<(), TestCaseError> {
    let expected = expected(cluster, packet);
    let Way { fate: got, chain } = kernel.way(packet);
    let (
        Fate::Sent { to, keeps_client, affinity_s },
        Fate::Sent { to: got_to, affinity_s: got_affinity, .. },
    ) = (&expected, &got)
    else {
        prop_assert_eq!(&expected, &got, "{:?} in {:#?}", packet, cluster);
        return Ok(());
    };
    prop_assert_eq!(to, got_to, "{:?} in {:#?}", packet, cluster);
    if packet.to.place.family() == Family::V4 {
        prop_assert_eq!(affinity_s, got_affinity);
    } else {
        // With IPv6 a client stays with its endpoint by a hash of its address.
        prop_assert_eq!(affinity_s.is_some() && to.len() > 1, chain.contains("hash-"));
    }
    if *keeps_client && !packet.is_inside {
        // The source of packets to endpoints of this node is not translated.
        prop_assert!(to.iter().all(|(address, _)| kernel.has_address(LOCAL, *address, 2)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kernels_table_leads_every_packet_where_the_reference_model_says(all in history()) {
        let (mut truth, mut node) = (Truth::new(), Node::new());
        for news in all {
            truth.take(news.clone());
            node.take(news);
        }
        let (kernel, cluster) = (Kernel::new(node.kernel.all()), truth.cluster());
        for packet in packets() {
            agree(&kernel, &cluster, &packet)?;
        }
        prop_assert!(node.is_right());
    }
}
