//! What every [`Netfilter`] promises. The same tests show it on the fake and on the real kernel.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::UdpSocket;

use ferrule_model::{Element, Family, Value};
use ferrule_netlink::nft::{Change, FakeNetfilter, Flow, Netfilter, NetfilterSocket};
use ferrule_netlink::{netns, nft};
use nix::errno::Errno;

const TABLE: &str = "ferrule-test";
const SCRIPT: &str = "table inet ferrule-test {
    map ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
    set pairs { type ipv4_addr . ipv4_addr; }
    map ways { type ipv4_addr . inet_proto . inet_service : verdict; }
    set networks { type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval; }
    chain one { }
    chain two { }
}
";

fn port(port: u16, comment: &str) -> Element {
    let [high, low] = port.to_be_bytes();
    let to = Value::Data(vec![10, 0, 0, 5, 0, 80, 0, 0]);
    Element::of_map("ports", vec![6, 0, 0, 0, high, low, 0, 0], to, comment.into())
}

fn pair() -> Element {
    Element::of_set("pairs", vec![10, 0, 0, 5, 10, 0, 0, 5], "c0ffee".into())
}

fn errno<T: std::fmt::Debug>(result: Result<T, ferrule_netlink::Error>) -> Errno {
    result.unwrap_err().errno().unwrap()
}

/// Runs the test on the fake, and on the real kernel in a namespace of its own.
fn on_both(test: impl Fn(&mut dyn Netfilter)) {
    test(&mut FakeNetfilter::new());
    let netns = netns::make().expect("CAP_SYS_ADMIN: run through tests/in-namespace");
    netns.run(|| test(&mut NetfilterSocket::open().unwrap())).unwrap();
}

#[test]
fn elements_come_and_go_in_one_transaction_and_keep_their_comment() {
    on_both(|netfilter| {
        netfilter.load(SCRIPT).unwrap();
        let (a, b) = (port(8080, "c0ffee"), port(8081, "decaf"));
        netfilter.change(TABLE, &[Change::Add(&a), Change::Add(&b), Change::Add(&pair())], None).unwrap();
        let mut listed = netfilter.elements(TABLE, "ports").unwrap();
        listed.sort_unstable();
        assert_eq!(listed, [a.clone(), b.clone()]);
        assert_eq!(netfilter.elements(TABLE, "pairs").unwrap(), [pair()]);
        netfilter.load(SCRIPT).unwrap();
        assert_eq!(netfilter.elements(TABLE, "pairs").unwrap(), [pair()], "what is there stays");
        let anew = [Change::Clear("pairs"), Change::Add(&pair())];
        netfilter.change(TABLE, &anew, None).unwrap();
        assert_eq!(netfilter.elements(TABLE, "pairs").unwrap(), [pair()], "emptied and filled again");
        netfilter.change(TABLE, &[Change::Clear("pairs"), Change::Clear("pairs")], None).unwrap();
        assert_eq!(netfilter.elements(TABLE, "pairs").unwrap(), [], "emptied, whatever was in it");
        netfilter.change(TABLE, &[Change::Add(&pair())], None).unwrap();
        netfilter.change(TABLE, &[Change::Delete(&a), Change::Delete(&pair())], None).unwrap();
        assert_eq!(netfilter.elements(TABLE, "ports").unwrap(), [b]);
        assert_eq!(netfilter.elements(TABLE, "pairs").unwrap(), []);
    });
}

fn way(port: u8, value: Value) -> Element {
    let key = vec![10, 96, 0, 1, 6, 0, 0, 0, 0, port, 0, 0];
    Element::of_map("ways", key, value, "web".into())
}

#[test]
fn an_element_leads_to_a_chain_or_has_another_verdict() {
    on_both(|netfilter| {
        netfilter.load(SCRIPT).unwrap();
        let (to, other) = (way(80, Value::Goto("one".into())), way(81, Value::Verdict(0)));
        netfilter.change(TABLE, &[Change::Add(&to), Change::Add(&other)], None).unwrap();
        let listed = |netfilter: &mut dyn Netfilter| {
            let mut listed = netfilter.elements(TABLE, "ways").unwrap();
            listed.sort_unstable();
            listed
        };
        assert_eq!(listed(netfilter), [to.clone(), other.clone()]);
        let moved = way(80, Value::Goto("two".into()));
        netfilter.change(TABLE, &[Change::Delete(&to), Change::Add(&moved)], None).unwrap();
        assert_eq!(listed(netfilter), [moved.clone(), other.clone()]);
        let nowhere = way(82, Value::Goto("none".into()));
        let refused = netfilter.change(TABLE, &[Change::Delete(&other), Change::Add(&nowhere)], None);
        assert_eq!(errno(refused), Errno::ENOENT);
        assert_eq!(listed(netfilter), [moved, other]);
    });
}

/// The clients from `first` to `last` of a Service's port.
fn clients(first: [u8; 4], last: [u8; 4]) -> Element {
    let of = |address: [u8; 4]| [&[10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0], &address[..]].concat();
    Element { end: of(last), ..Element::of_set("networks", of(first), "web".into()) }
}

#[test]
fn an_element_stands_for_an_interval() {
    on_both(|netfilter| {
        netfilter.load(SCRIPT).unwrap();
        let (a, b) = (clients([192, 0, 2, 0], [192, 0, 2, 255]), clients([203, 0, 113, 7], [203, 0, 113, 7]));
        netfilter.change(TABLE, &[Change::Add(&a), Change::Add(&b)], None).unwrap();
        let mut listed = netfilter.elements(TABLE, "networks").unwrap();
        listed.sort_unstable();
        assert_eq!(listed, [a.clone(), b.clone()]);
        let wider = clients([192, 0, 0, 0], [192, 0, 255, 255]);
        netfilter.change(TABLE, &[Change::Delete(&a), Change::Add(&wider)], None).unwrap();
        netfilter.change(TABLE, &[Change::Delete(&b)], None).unwrap();
        assert_eq!(netfilter.elements(TABLE, "networks").unwrap(), [wider]);
    });
}

#[test]
fn a_refused_change_takes_the_whole_transaction_with_it() {
    on_both(|netfilter| {
        netfilter.load(SCRIPT).unwrap();
        let (a, b) = (port(8080, "c0ffee"), port(8081, "decaf"));
        netfilter.change(TABLE, &[Change::Add(&a)], None).unwrap();
        for (refused, changes) in [
            (Errno::EEXIST, [Change::Add(&b), Change::Add(&a)]),
            (Errno::EEXIST, [Change::Add(&a), Change::Add(&b)]),
            (Errno::ENOENT, [Change::Delete(&a), Change::Delete(&b)]),
            (Errno::ENOENT, [Change::Delete(&b), Change::Delete(&a)]),
        ] {
            assert_eq!(errno(netfilter.change(TABLE, &changes, None)), refused, "{changes:?}");
            assert_eq!(netfilter.elements(TABLE, "ports").unwrap(), std::slice::from_ref(&a));
        }
        let moved = Element { value: Value::Data(vec![10, 0, 0, 6, 0, 80, 0, 0]), ..a.clone() };
        netfilter.change(TABLE, &[Change::Delete(&a), Change::Add(&moved)], None).unwrap();
        assert_eq!(netfilter.elements(TABLE, "ports").unwrap(), [moved], "replaced in one transaction");
    });
}

#[test]
fn what_is_not_there_is_no_entry() {
    on_both(|netfilter| {
        assert_eq!(errno(netfilter.elements(TABLE, "ports")), Errno::ENOENT);
        assert_eq!(errno(netfilter.change(TABLE, &[Change::Add(&port(80, ""))], None)), Errno::ENOENT);
        assert!(!netfilter.has_table(TABLE).unwrap());
        netfilter.load(SCRIPT).unwrap();
        assert!(netfilter.has_table(TABLE).unwrap());
        assert_eq!(errno(netfilter.elements(TABLE, "nothing")), Errno::ENOENT);
    });
}

#[test]
fn a_generation_passes_with_every_transaction() {
    on_both(|netfilter| {
        netfilter.load(SCRIPT).unwrap();
        let then = netfilter.generation().unwrap();
        let (a, b) = (port(8080, "c0ffee"), port(8081, "decaf"));
        netfilter.change(TABLE, &[Change::Add(&a)], Some(then)).unwrap();
        assert_eq!(errno(netfilter.change(TABLE, &[Change::Add(&b)], Some(then))), Errno::ERESTART);
        assert_eq!(netfilter.elements(TABLE, "ports").unwrap(), std::slice::from_ref(&a));
        let now = netfilter.generation().unwrap();
        netfilter.change(TABLE, &[Change::Delete(&a)], Some(now)).unwrap();
    });
}

#[test]
fn the_counters_of_a_table_are_told_by_name() {
    netns::make()
        .unwrap()
        .run(|| {
            let script = "table inet t {\n counter a { packets 7 bytes 9 }\n counter b { }\n }\n\
                          table inet other {\n counter c { }\n }\n";
            nft::apply(script).unwrap();
            let mut socket = NetfilterSocket::open().unwrap();
            let mut counters = socket.counters("t").unwrap();
            counters.sort();
            assert_eq!(counters, [("a".to_owned(), 7), ("b".to_owned(), 0)]);
            assert_eq!(socket.counters("none").unwrap(), []);
        })
        .unwrap();
}

/// A namespace with tracked connections from 127.0.0.1 to two UDP ports.
fn with_udp_flows(test: impl FnOnce(&mut NetfilterSocket, u16, u16)) {
    netns::make()
        .unwrap()
        .run(|| {
            ferrule_netlink::Kernel::apply(
                &mut ferrule_netlink::Netlink::open().unwrap(),
                &[ferrule_model::Op::SetLink(
                    ferrule_model::IfIndex(1),
                    ferrule_model::LinkChange { up: Some(true), ..Default::default() },
                )],
            )
            .unwrap();
            // The kernel tracks connections only if a hook looks at them.
            nft::apply(
                "table inet t {\n chain c {\n type filter hook output priority 0; ct state new accept\n }\n}\n",
            )
            .unwrap();
            let [a, b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
            let (to, other) = (a.local_addr().unwrap(), b.local_addr().unwrap());
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", to).unwrap();
            client.send_to(b"x", other).unwrap();
            b.send_to(b"y", client.local_addr().unwrap()).unwrap();
            test(&mut NetfilterSocket::open().unwrap(), to.port(), other.port());
        })
        .unwrap();
}

#[test]
fn udp_connections_to_a_port_are_forgotten_if_they_are_wanted() {
    with_udp_flows(|netfilter, port, other| {
        let loopback: std::net::IpAddr = "127.0.0.1".parse().unwrap();
        let of_port = |flow: &Flow| {
            assert_eq!((flow.source, flow.destination), (loopback, loopback));
            assert_eq!((flow.answers_from, flow.answers_to), (loopback, loopback));
            assert_eq!((flow.port, flow.answering_port, flow.answered), (port, port, false));
            true
        };
        let mut forget = |family, port, wanted: &dyn Fn(&Flow) -> bool| {
            netfilter.forget_udp(family, port, wanted).unwrap()
        };
        assert_eq!(forget(Family::V6, Some(port), &|_| true), 0);
        assert_eq!(forget(Family::V4, Some(port), &|_| false), 0);
        assert_eq!(forget(Family::V4, Some(port), &of_port), 1);
        assert_eq!(forget(Family::V4, Some(port), &|_| true), 0);
        assert_eq!(forget(Family::V4, None, &|flow| flow.port == port), 0);
        assert_eq!(forget(Family::V4, None, &|flow| flow.answered && flow.answering_port == other), 1);
    });
}
