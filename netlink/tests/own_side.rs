//! What an ordinary process sees of its own network namespace and of its callers' namespaces.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;

use ferrule_netlink::{NamespaceId, own_addresses};
use nix::sched::{CloneFlags, unshare};

fn ip(arguments: &str) {
    let status =
        Command::new("ip").args(arguments.split(' ')).status().expect("`ip` is missing: install iproute2");
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn a_caller_s_namespace_is_told_from_the_listener_s() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let own = NamespaceId::own().unwrap();
    assert_eq!(NamespaceId::own().unwrap(), own);
    for elsewhere in [false, true] {
        let path = path.clone();
        let caller = thread::spawn(move || {
            if elsewhere {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
            }
            (UnixStream::connect(path).unwrap(), NamespaceId::own().unwrap())
        });
        let (accepted, _) = listener.accept().unwrap();
        let (_stream, caller) = caller.join().unwrap();
        assert_eq!(NamespaceId::of(&accepted).unwrap(), caller);
        assert_eq!(caller == own, !elsewhere);
    }
}

#[test]
fn every_address_of_every_link_is_told_with_its_link() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    ip("link add cni0 type bridge");
    ip("address add 10.244.1.1/24 dev cni0");
    ip("address add 10.244.1.9/32 dev lo");
    ip("address add 192.0.2.7/32 label cni0:x dev cni0");
    ip("address add fd00::1/64 dev cni0 nodad");
    let mut expected: Vec<(String, String)> =
        [("10.244.1.1", "cni0"), ("10.244.1.9", "lo"), ("192.0.2.7", "cni0"), ("fd00::1", "cni0")]
            .map(|(address, link)| (address.to_owned(), link.to_owned()))
            .into();
    let told = || own_addresses().unwrap().into_iter().map(|(address, link)| (address.to_string(), link));
    assert_eq!(told().collect::<Vec<_>>(), expected);
    // More addresses than fit into the buffer at once.
    for number in 1..=200 {
        ip(&format!("address add 10.9.0.{number}/32 dev lo"));
        expected.push((format!("10.9.0.{number}"), "lo".to_owned()));
    }
    assert_eq!(told().count(), expected.len());
}
