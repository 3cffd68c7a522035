//! Which nodes count if some clash, and that the order in which they are told makes no difference.

use std::collections::BTreeSet;

use ferrule_model::vtep_mac;
use proptest::prelude::*;

use super::*;
use crate::decide::nodes::vtep_mac6;

fn config() -> Config {
    let text = "[cluster]\nservice_cidrs = [\"10.96.0.0/16\"]\n";
    Config::parse(text, std::path::Path::new("test")).unwrap()
}

fn node(name: &str, address: &str, cidr: &str) -> Node {
    Node {
        name: name.into(),
        v4: Some(address.parse().unwrap()),
        v6: None,
        pod_cidrs: vec![cidr.parse().unwrap()],
        vtep_mac: vtep_mac(name),
        wireguard_key: None,
        vtep_mac6: vtep_mac6(name),
        further: Vec::new(),
    }
}

const NEW: Rank = Rank { ready: true, born: 9 };
const OLD: Rank = Rank { ready: true, born: 1 };
const AWAY: Rank = Rank { ready: false, born: 20 };

/// The names that count on node `a`, and the lines that are logged.
fn counted(nodes: &[(Node, Rank)]) -> (String, Vec<String>) {
    let mut roll = Roll::new("a", &config());
    let own = (node("a", "192.0.2.1", "10.244.1.0/24"), OLD);
    let counts = roll.replace(nodes.iter().cloned().chain([own]));
    (counts.into_iter().map(|node| node.name).collect::<Vec<_>>().join(" "), roll.lines())
}

/// The names of the nodes that count.
fn names(nodes: &[(Node, Rank)]) -> String {
    counted(nodes).0
}

#[test]
fn of_two_objects_with_one_address_the_ready_and_then_the_newer_counts() {
    let (b, c) = (node("b", "192.0.2.2", "10.244.2.0/24"), node("c", "192.0.2.2", "10.244.3.0/24"));
    assert_eq!(names(&[(b.clone(), OLD), (c.clone(), NEW)]), "a c");
    assert_eq!(names(&[(b.clone(), NEW), (c.clone(), OLD)]), "a b");
    assert_eq!(names(&[(b.clone(), OLD), (c.clone(), AWAY)]), "a b");
    let (left, lines) = counted(&[(b, NEW), (c, NEW)]);
    assert_eq!(left, "a b", "by name, where nothing else tells");
    assert_eq!(
        lines,
        [
            "node c is left out: its address 192.0.2.2 is that of node b, which comes first by its name; give each node its \
             own, or remove the one that is gone"
        ]
    );
}

#[test]
fn this_node_comes_first_whatever_others_say() {
    let same = (node("b", "192.0.2.1", "10.244.2.0/24"), NEW);
    assert_eq!(counted(std::slice::from_ref(&same)).0, "a");
    assert!(counted(&[same]).1[0].contains("of node a, which is this one"));
    assert_eq!(names(&[(node("b", "192.0.2.2", "10.244.0.0/16"), NEW)]), "a");
    let inside = (node("b", "10.244.1.7", "10.244.2.0/24"), NEW);
    assert!(counted(&[inside]).1[0].contains("its address 10.244.1.7 lies in the pod CIDR 10.244.1.0/24"));
}

#[test]
fn pod_cidrs_over_nodes_or_services_are_nobodys_and_nobody_else_is_touched() {
    let good = (node("c", "192.0.2.3", "10.244.3.0/24"), OLD);
    let with = |bad: Node| counted(&[(bad, NEW), good.clone()]);
    for (cidr, why) in [
        ("192.0.2.0/24", "its own address 192.0.2.2 lies in its pod CIDR 192.0.2.0/24"),
        ("192.0.2.3/32", "its pod CIDR 192.0.2.3/32 holds the address of node c"),
        ("192.0.2.0/31", "its pod CIDR 192.0.2.0/31 holds the address of node a"),
        ("10.96.1.0/24", "overlaps 10.96.0.0/16 of [cluster] service_cidrs"),
        ("10.0.0.0/8", "service_cidrs"),
    ] {
        let (left, lines) = with(node("b", "192.0.2.2", cidr));
        assert_eq!(left, "a c", "{cidr}");
        assert!(lines.len() == 1 && lines[0].contains(why), "{cidr}: {lines:?}");
    }
    assert_eq!(with(node("b", "192.0.2.2", "10.244.3.128/25")).0, "a b", "the newer of two");
    let mut twice = node("b", "192.0.2.2", "10.244.8.0/22");
    twice.pod_cidrs.push("10.244.9.0/24".parse().unwrap());
    assert!(with(twice).1[0].contains("overlap; give it others"));
}

#[test]
fn macs_count_where_vxlan_is_and_keys_where_wireguard_is() {
    let (mut b, mut c) = (node("b", "192.0.2.2", "10.244.2.0/24"), node("c", "192.0.2.3", "10.244.3.0/24"));
    (b.vtep_mac, b.wireguard_key) = (vtep_mac("x"), Some(WgKey([7; 32])));
    (c.vtep_mac, c.wireguard_key) = (vtep_mac("x"), Some(WgKey([8; 32])));
    for (backend, expected) in [("vxlan", 1), ("native", 2), ("auto", 1), ("wireguard", 2)] {
        let text = format!("[routing]\nbackend = \"{backend}\"\n");
        let config = Config::parse(&text, std::path::Path::new("test")).unwrap();
        let mut roll = Roll::new("a", &config);
        assert_eq!(roll.replace([(b.clone(), OLD), (c.clone(), OLD)]).len(), expected, "{backend}");
        let twin = Node { wireguard_key: c.wireguard_key, ..b.clone() };
        let both = roll.replace([(twin, OLD), (c.clone(), OLD)]).len();
        assert_eq!(both, if backend == "native" { 2 } else { 1 }, "{backend}");
    }
}

#[test]
fn what_is_said_is_said_once_and_taken_back() {
    let mut roll = Roll::new("a", &config());
    let (b, c) = (node("b", "192.0.2.2", "10.244.2.0/24"), node("c", "192.0.2.2", "10.244.3.0/24"));
    assert_eq!(roll.put(b.clone(), OLD), [NodeUpdate::Put(b.clone())]);
    assert_eq!(roll.put(c.clone(), NEW), [NodeUpdate::Remove("b".into()), NodeUpdate::Put(c.clone())]);
    assert_eq!(roll.lines().len(), 1);
    assert_eq!(roll.put(c.clone(), NEW), []);
    // Readiness alone, which its kubelet tells, changes which node counts.
    assert_eq!(roll.put(c.clone(), AWAY), [NodeUpdate::Remove("c".into()), NodeUpdate::Put(b)]);
    assert_eq!(roll.lines().len(), 2, "b can be used, c cannot");
    roll.put(c, AWAY);
    assert_eq!(roll.lines(), [""; 0]);
    let gone = roll.remove("b");
    assert!(matches!(&gone[..], [NodeUpdate::Remove(_), NodeUpdate::Put(c)] if c.name == "c"), "{gone:?}");
    assert_eq!(roll.lines(), ["node c can be used now"]);
}

/// Few names, addresses and networks, so that clashes are common.
fn any_node() -> impl Strategy<Value = (Node, Rank)> {
    let cidr = prop_oneof![
        (0u8..12).prop_map(|third| format!("10.244.{third}.0/24")),
        (0u8..3).prop_map(|third| format!("10.244.{}.0/22", third * 4)),
        (0u8..8).prop_map(|last| format!("192.0.2.{last}/32")),
        Just("10.96.0.0/24".to_owned()),
    ];
    let parts = (0usize..7, 0u8..9, prop::collection::vec(cidr, 0..3), 0u8..6, any::<bool>(), 0i64..3);
    parts.prop_map(|(name, last, cidrs, mac, ready, born)| {
        let name = ["a", "b", "c", "d", "e", "f", "g"][name];
        let mut node = node(name, &format!("192.0.2.{last}"), "10.0.0.0/24");
        node.pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        node.vtep_mac = if mac == 0 { vtep_mac("same") } else { vtep_mac(name) };
        (node, Rank { ready, born })
    })
}

fn clash(one: &Node, other: &Node) -> bool {
    one.v4 == other.v4
        || one.vtep_mac == other.vtep_mac
        || one.pod_cidrs.iter().any(|cidr| other.pod_cidrs.iter().any(|other| overlap(cidr, other)))
        || addresses(one).any(|address| other.pod_cidrs.iter().any(|cidr| cidr.contains(address)))
        || addresses(other).any(|address| one.pod_cidrs.iter().any(|cidr| cidr.contains(address)))
}

proptest! {
    #[test]
    fn whatever_the_order_of_events_the_same_nodes_count(
        events in prop::collection::vec((any_node(), prop::bool::weighted(0.2)), 0..40),
    ) {
        let mut roll = Roll::new("a", &config());
        let mut counts = BTreeMap::new();
        let mut told = BTreeMap::new();
        for ((node, rank), is_gone) in events {
            let updates = if is_gone {
                told.remove(&node.name);
                roll.remove(&node.name)
            } else {
                told.insert(node.name.clone(), (node.clone(), rank));
                roll.put(node, rank)
            };
            for update in updates {
                match update {
                    NodeUpdate::Put(node) => drop(counts.insert(node.name.clone(), node)),
                    NodeUpdate::Remove(name) => drop(counts.remove(&name)),
                }
            }
            // The result is the same as if all had been told at once.
            let mut fresh = Roll::new("a", &config());
            let at_once: Vec<_> = fresh.replace(told.values().cloned());
            prop_assert_eq!(counts.values().cloned().collect::<Vec<_>>(), at_once);
        }
    }

    #[test]
    fn those_that_count_do_not_clash_and_who_is_left_out_has_a_reason(nodes in prop::collection::vec(any_node(), 0..12)) {
        let mut roll = Roll::new("a", &config());
        let counts = roll.replace(nodes);
        for (at, one) in counts.iter().enumerate() {
            prop_assert!(roll.rules.fault(one).is_none());
            prop_assert!(counts.iter().skip(at + 1).all(|other| !clash(one, other)));
        }
        let names: BTreeSet<_> = counts.iter().map(|node| node.name.as_str()).collect();
        for (name, (node, _)) in roll.all.iter().filter(|(name, _)| !names.contains(name.as_ref())) {
            let faulty = roll.rules.fault(node).is_some();
            let others = roll.all.iter().filter(|(other, _)| *other != name);
            let clashes = others.filter(|(_, (other, _))| clash(node, other)).count();
            prop_assert!(faulty || clashes > 0, "{name}: {}", roll.left_out[name]);
        }
    }
}
