//! A watch runs while etcd forgets history that it has not told yet.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::NETWORK;
use super::daemon::Lab;
use super::server::{Etcd, flannels};
use crate::lab::Daemon;

/// The address at which the daemon asks. Everybody else asks at 127.0.0.1.
const SECOND: &str = "127.0.0.2";
/// More than fits into the buffers between etcd and a client that reads nothing: 64 KiB of HTTP/2's window, as much of
/// gRPC's quota, and 128 messages of the watch itself.
const PUTS: usize = 500;
/// Bytes of junk in each value.
const SIZE: usize = 4096;

/// Writes quickly, through etcd's JSON gateway over one connection.
struct Gateway(BufReader<TcpStream>);

impl Gateway {
    fn open(etcd: &Etcd) -> Self {
        Self(BufReader::new(TcpStream::connect(("127.0.0.1", etcd.port)).unwrap()))
    }

    fn put(&mut self, key: &str, value: &str) {
        let body = format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", base64(key), base64(value));
        let request = format!(
            "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        let mut length = 0;
        while line.trim() != "" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if let Some((_, text)) = line.split_once("Content-Length: ") {
                length = text.trim().parse().unwrap();
            }
        }
        self.0.read_exact(&mut vec![0; length]).unwrap();
    }
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let at = |n: usize| u32::from(*bytes.get(n).unwrap_or(&0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let digit = |n: usize| match n <= bytes.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * n) & 63) as usize]),
            false => '=',
        };
        [0, 1, 2, 3].map(digit)
    };
    text.as_bytes().chunks(3).flat_map(group).collect()
}

/// A node that has its routes to three others with leases in etcd. It asks etcd at the second address.
fn started() -> (Lab, Daemon) {
    let mut lab = Lab::new();
    let port = lab.etcd.port;
    let urls = format!("http://127.0.0.1:{port},http://{SECOND}:{port}");
    let etcd = std::mem::replace(&mut lab.etcd, Etcd::new(lab.node.directory.path(), 0));
    lab.etcd = etcd.with(&["--listen-client-urls", &urls]);
    lab.configure("");
    let text = fs::read_to_string(lab.node.path("ferrule.toml")).unwrap();
    fs::write(lab.node.path("ferrule.toml"), text.replace("//127.0.0.1", &format!("//{SECOND}"))).unwrap();
    lab.etcd(|etcd| {
        etcd.start();
        etcd.put_config(NETWORK);
        (241..=243).for_each(|last| etcd.put(&format!("10.5.{last}.0-24"), last));
    });
    let daemon = lab.node.start();
    daemon.wait_until_ready();
    lab.wait(&daemon, || (241..=243).all(|last| lab.has(last)));
    (lab, daemon)
}

/// One node goes, one comes, one gets another address and MAC. Then etcd forgets how that came about.
fn change_and_forget(etcd: &mut Etcd) {
    etcd.delete("10.5.241.0-24");
    etcd.put("10.5.244.0-24", 244);
    etcd.put("10.5.242.0-24", 142);
    let (_, _, revision) = etcd.subnet("10.5.242.0-24").unwrap();
    etcd.ctl(&["compact", "--physical", &revision.to_string()]);
}

fn has_arrived(lab: &Lab) -> bool {
    let state = lab.node.state();
    let has_moved =
        state.contains("82:4b:b6:00:00:8e dst 192.0.2.142 self permanent") && !state.contains("192.0.2.242");
    has_moved && lab.has_nothing_of(241) && lab.has(243) && lab.has(244)
}

fn follows(lab: &mut Lab, daemon: &Daemon) {
    lab.etcd(|etcd| etcd.put("10.5.245.0-24", 245));
    lab.wait(daemon, || lab.has(245));
}

#[test]
fn what_etcd_forgot_while_the_watch_was_stopped_arrives_by_another_list() {
    let (mut lab, daemon) = started();
    daemon.send(Signal::SIGSTOP);
    let began = Instant::now();
    lab.etcd(|etcd| {
        let mut gateway = Gateway::open(etcd);
        let junk = "x".repeat(SIZE);
        for _ in 0..PUTS {
            let value = flannels(243).replacen('{', &format!("{{\"Junk\":\"{junk}\","), 1);
            gateway.put("/coreos.com/network/subnets/10.5.243.0-24", &value);
        }
        change_and_forget(etcd);
    });
    let stopped_for = began.elapsed();
    daemon.send(Signal::SIGCONT);
    lab.wait(&daemon, || has_arrived(&lab));
    // If the machine is slower than the client's pings are patient, the pings end the watch first.
    if stopped_for < Duration::from_secs(4) {
        assert!(daemon.log().contains("etcd no longer has the changes"), "{}", daemon.log());
    }
    follows(&mut lab, &daemon);
}

#[test]
fn what_etcd_forgot_while_the_network_was_cut_arrives_when_it_is_back() {
    let (mut lab, daemon) = started();
    // Neither side is told. Packets are lost from now on.
    lab.node.run("nft", "add table ip cut");
    lab.node.run("nft", "add chain ip cut in { type filter hook input priority 0 ; }");
    for side in ["saddr", "daddr"] {
        lab.node.run("nft", &format!("add rule ip cut in ip {side} {SECOND} drop"));
    }
    lab.etcd(change_and_forget);
    daemon.wait_for_log("everything stays as it is until then");
    assert!((241..=243).all(|last| lab.has(last)), "{}", lab.node.state());
    lab.node.run("nft", "delete table ip cut");
    lab.wait(&daemon, || has_arrived(&lab));
    follows(&mut lab, &daemon);
}
