//! What every kernel with WireGuard promises. The same tests show it on the fake kernel and on the real one. Those on
//! the real one run only if asked for, because not every kernel has WireGuard: `make test-vm` runs them in a virtual
//! machine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use ferrule_model::{
    IfIndex, IfName, LinkChange, LinkKind, Op, PROTOCOL, Peer, PeerKey, Route, RouteKey, Via, WgKey,
    WgSecret, WireguardSettings, WireguardSpec, WireguardState,
};
use ferrule_netlink::fake::FakeWorld;
use ferrule_netlink::{Kernel, Netlink, Tunnels, netns};
use nix::errno::Errno;

const PORT: u16 = 51820;

fn fake() -> impl Tunnels {
    let world = FakeWorld::new();
    let netns = world.netns();
    world.kernel(&netns)
}

fn real() -> impl Tunnels {
    let netns = netns::make().expect("CAP_SYS_ADMIN: run through tests/in-namespace");
    Netlink::open_in(&netns).unwrap()
}

fn spec(name: &str) -> WireguardSpec {
    WireguardSpec { name: IfName::new(name).unwrap(), mtu: 1420, alias: "ours".into() }
}

fn ok(kernel: &mut impl Kernel, ops: &[Op]) {
    for (op, result) in ops.iter().zip(kernel.apply(ops).unwrap()) {
        assert_eq!(result, Ok(()), "{op}");
    }
}

fn errno(kernel: &mut impl Kernel, op: Op) -> Errno {
    kernel.apply(&[op]).unwrap().remove(0).unwrap_err().errno
}

fn settings(byte: u8) -> WireguardSettings {
    // The kernel keeps a private key like this: some bits are the same in all of them.
    let mut secret = [byte; 32];
    secret[0] &= 0xf8;
    secret[31] = secret[31] & 0x7f | 0x40;
    WireguardSettings { secret: WgSecret(secret), port: PORT }
}

/// A device, off.
fn device(kernel: &mut impl Tunnels) -> IfIndex {
    ok(kernel, &[Op::AddWireguard(spec("wg0"))]);
    kernel.link(&spec("wg0").name).unwrap().unwrap().index
}

fn peer(endpoint: &str, networks: &[&str]) -> Peer {
    Peer {
        endpoint: Some(endpoint.parse().unwrap()),
        allowed: networks.iter().map(|text| text.parse().unwrap()).collect(),
        keepalive_s: 25,
        preshared: false,
    }
}

fn peers(kernel: &mut impl Tunnels, link: IfIndex) -> BTreeMap<PeerKey, Peer> {
    let state = kernel.wireguard(link).unwrap().unwrap();
    state.peers.into_iter().map(|(key, state)| (key, state.peer)).collect()
}

fn a_device_is_made_off_with_its_alias_and_once(mut kernel: impl Tunnels) {
    let link = device(&mut kernel);
    let made = kernel.link(&spec("wg0").name).unwrap().unwrap();
    assert_eq!((made.kind, made.up, made.mtu), (LinkKind::Wireguard, false, 1420));
    assert_eq!(made.alias.as_deref(), Some("ours"));
    let other = WireguardSpec { alias: "theirs".into(), ..spec("wg0") };
    assert_eq!(errno(&mut kernel, Op::AddWireguard(other)), Errno::EEXIST);
    let made = kernel.link(&spec("wg0").name).unwrap().unwrap();
    assert_eq!(made.alias.as_deref(), Some("ours"), "a refused one leaves the other alone");
    assert_eq!(kernel.wireguard(link).unwrap(), Some(WireguardState::default()));
    ok(&mut kernel, &[Op::DeleteLink(link)]);
    assert_eq!(kernel.wireguard(link).unwrap(), None);
}

fn key_and_port_are_what_was_put(mut kernel: impl Tunnels) {
    let link = device(&mut kernel);
    for byte in [7, 8] {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        ok(&mut kernel, &[Op::SetWireguard(link, settings(byte)), Op::SetLink(link, up)]);
        let state = kernel.wireguard(link).unwrap().unwrap();
        assert_eq!((state.secret, state.port), (Some(settings(byte).secret), PORT));
    }
}

fn a_peer_is_what_was_put_and_replaced_as_a_whole(mut kernel: impl Tunnels) {
    let link = device(&mut kernel);
    let key = |byte| PeerKey { link, key: WgKey([byte; 32]) };
    let many: Vec<_> = (0..2000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    // More networks of one peer than fit into a message of the kernel.
    let all = [
        (key(2), peer("192.0.2.2:51820", &["10.244.2.0/24", "fd00:2::/64"])),
        (key(3), peer("[2001:db8::3]:51820", &many)),
        (key(4), Peer { endpoint: None, allowed: [].into(), keepalive_s: 0, preshared: false }),
    ];
    for _ in 0..2 {
        let ops: Vec<_> = all.iter().map(|(key, peer)| Op::PutPeer(*key, peer.clone())).collect();
        ok(&mut kernel, &ops);
        assert_eq!(peers(&mut kernel, link), all.clone().into());
    }
    let less = peer("192.0.2.22:51820", &["10.244.2.0/24"]);
    ok(&mut kernel, &[Op::PutPeer(key(2), less.clone()), Op::DeletePeer(key(3)), Op::DeletePeer(key(9))]);
    assert_eq!(peers(&mut kernel, link), [(key(2), less), all[2].clone()].into());
    assert!(kernel.wireguard(link).unwrap().unwrap().peers.values().all(|peer| peer.handshake_s.is_none()));
}

fn a_network_belongs_to_the_peer_that_it_was_put_to_last(mut kernel: impl Tunnels) {
    let link = device(&mut kernel);
    let key = |byte| PeerKey { link, key: WgKey([byte; 32]) };
    let (two, three) = (peer("192.0.2.2:1", &["10.244.2.0/24"]), peer("192.0.2.3:1", &["10.244.2.0/24"]));
    ok(&mut kernel, &[Op::PutPeer(key(2), two.clone()), Op::PutPeer(key(3), three.clone())]);
    let bare = Peer { allowed: [].into(), ..two };
    assert_eq!(peers(&mut kernel, link), [(key(2), bare), (key(3), three)].into());
}

fn what_is_no_wireguard_device_is_told_apart(mut kernel: impl Tunnels) {
    device(&mut kernel);
    let (loopback, nowhere) = (IfIndex(1), IfIndex(4_000));
    assert_eq!(kernel.wireguard(loopback).unwrap(), None);
    assert_eq!(kernel.wireguard(nowhere).unwrap(), None);
    assert_eq!(errno(&mut kernel, Op::SetWireguard(loopback, settings(7))), Errno::EOPNOTSUPP);
    assert_eq!(errno(&mut kernel, Op::SetWireguard(nowhere, settings(7))), Errno::ENODEV);
}

fn ops_for_route_netlink_and_for_wireguard_go_in_their_order(mut kernel: impl Tunnels) {
    let link = device(&mut kernel);
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let key = PeerKey { link, key: WgKey([2; 32]) };
    let route = RouteKey::main("10.244.2.0/24".parse().unwrap());
    let answers = kernel
        .apply(&[
            Op::SetWireguard(link, settings(7)),
            Op::SetLink(link, up),
            Op::PutPeer(key, peer("192.0.2.2:1", &["10.244.2.0/24"])),
            Op::PutPeer(PeerKey { link: IfIndex(4_000), ..key }, peer("192.0.2.2:1", &[])),
            Op::PutRoute(route, Route::ours(Via::Link(link))),
            Op::DeletePeer(key),
        ])
        .unwrap();
    let refused: Vec<_> = answers.iter().map(Result::is_err).collect();
    assert_eq!(refused, [false, false, false, true, false, false]);
    assert!(kernel.routes(PROTOCOL).unwrap().contains_key(&route));
    assert!(peers(&mut kernel, link).is_empty());
}

macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod fake { $(#[test] fn $promise() { super::$promise(super::fake()); })* }
        mod real { $(
            #[test]
            #[ignore = "needs a kernel with WireGuard: make test-vm"]
            fn $promise() { super::$promise(super::real()); }
        )* }
    };
}

contract!(
    a_device_is_made_off_with_its_alias_and_once,
    key_and_port_are_what_was_put,
    a_peer_is_what_was_put_and_replaced_as_a_whole,
    a_network_belongs_to_the_peer_that_it_was_put_to_last,
    what_is_no_wireguard_device_is_told_apart,
    ops_for_route_netlink_and_for_wireguard_go_in_their_order,
);
