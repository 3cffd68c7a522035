//! The client against a server that behaves and against several that do not: every wait ends by the deadline.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use ferrule_wire::{
    Allocate, Attachment, CallError, Client, ClientError, FrameError, List, MESSAGE_CAP, Release, Status,
};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(150);
/// Far above any wait that the tests expect to end, for a busy machine.
const LONG: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + SHORT
}

fn late() -> Instant {
    Instant::now() + LONG
}

fn attachment() -> Attachment {
    Attachment { network: "pods".into(), container_id: "c1".into(), ifname: "eth0".into() }
}

/// Reads one call, then answers with these bytes and keeps the connection.
fn serve(listener: UnixListener, answer: &'static [u8]) -> thread::JoinHandle<UnixStream> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut call = Vec::new();
        BufReader::new(&stream).read_until(0, &mut call).unwrap();
        stream.write_all(answer).unwrap();
        stream
    })
}

fn with_answer(answer: &'static [u8]) -> (Client, thread::JoinHandle<UnixStream>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = serve(UnixListener::bind(&path).unwrap(), answer);
    (Client::connect(&path, late()).unwrap(), server, dir)
}

#[test]
fn a_call_and_its_answer() {
    let (mut client, _server, _dir) = with_answer(b"{\"parameters\":{\"released\":[\"10.0.0.7/32\"]}}\0");
    client.send(&Release { attachment: attachment() }).unwrap();
    let reply = client.receive::<Release>().unwrap();
    assert_eq!(reply.released, ["10.0.0.7/32".parse().unwrap()]);
}

#[test]
fn an_answer_in_several_messages() {
    let (mut client, _server, _dir) = with_answer(
        b"{\"parameters\":{\"leases\":[]},\"continues\":true}\0{\"parameters\":{\"leases\":[]}}\0",
    );
    let mut answers = 0;
    client.call_more(&List {}, |_| answers += 1).unwrap();
    assert_eq!(answers, 2);
}

#[test]
fn an_error_is_typed() {
    let (mut client, _server, _dir) =
        with_answer(b"{\"error\":\"io.ferrule.Ipam.NoPool\",\"parameters\":{\"reason\":\"wait\"}}\0");
    let error = client.call(&Status::default()).unwrap_err();
    assert!(!error.is_unreachable());
    let ClientError::Call(error) = error else { panic!("{error}") };
    assert_eq!(error, CallError::NoPool { pool: None, reason: "wait".into() });
}

#[test]
fn an_error_without_parameters() {
    let (mut client, _server, _dir) = with_answer(b"{\"error\":\"io.ferrule.Ipam.DeadlineExceeded\"}\0");
    let error = client.call(&Status::default()).unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError::DeadlineExceeded {})), "{error}");
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    for answer in [&b"nonsense\0"[..], b"{\"parameters\":{\"released\":7}}\0", b"\0", b"[]\0"] {
        let (mut client, _server, _dir) = with_answer(answer);
        let error = client.call(&Release { attachment: attachment() }).unwrap_err();
        assert!(matches!(error, ClientError::Reply(_)), "{error}");
    }
}

#[test]
fn silence_and_half_an_answer_end_at_the_deadline() {
    for answer in [&b""[..], b"{\"parameters\":"] {
        let (mut client, _server, _dir) = with_answer(answer);
        client.set_deadline(soon());
        let error = client.call(&Status::default()).unwrap_err();
        assert!(matches!(error, ClientError::Deadline { .. }), "{error}");
        assert!(error.is_unreachable());
    }
}

#[test]
fn a_server_that_never_reads_ends_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path, late()).unwrap();
    let (_stream, _) = listener.accept().unwrap();
    let netns = Some("x".repeat(MESSAGE_CAP - 4096));
    let call = Allocate { netns, ..Allocate::new(attachment()) };
    client.set_deadline(soon());
    let error = client.call(&call).unwrap_err();
    assert!(matches!(error, ClientError::Deadline { .. }), "{error}");
}

#[test]
fn a_closed_connection_is_an_error() {
    let (mut client, server, _dir) = with_answer(b"{");
    client.send(&Status::default()).unwrap();
    drop(server.join().unwrap());
    assert!(matches!(client.receive::<Status>(), Err(ClientError::Closed)));
}

#[test]
fn too_large_a_call_is_not_sent() {
    let (mut client, _server, _dir) = with_answer(b"{\"parameters\":{}}\0");
    let call = Allocate { pool: Some("x".repeat(MESSAGE_CAP)), ..Allocate::new(attachment()) };
    let error = client.call(&call).unwrap_err();
    assert!(matches!(error, ClientError::Frame(FrameError::TooLarge)), "{error}");
    client.call(&Status::default()).unwrap();
}

#[test]
fn too_large_an_answer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path, late()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    // The client hangs up in the middle, so the write may fail.
    let server = thread::spawn(move || drop(stream.write_all(&vec![b' '; 2 * MESSAGE_CAP])));
    let error = client.call(&Status::default()).unwrap_err();
    assert!(matches!(error, ClientError::Frame(FrameError::TooLarge)), "{error}");
    drop(client);
    server.join().unwrap();
}

#[test]
fn nobody_serves() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let error = Client::connect(&absent, late()).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    assert!(error.is_unreachable());

    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let error = Client::connect(&stale, late()).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");

    for path in [&absent, &stale] {
        let begun = Instant::now();
        let error = Client::connect_wait(path, begun + SHORT).unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error}");
        assert!(begun.elapsed() >= SHORT / 2 && begun.elapsed() < LONG);
    }
    let long_path = Path::new("/").join("x".repeat(200));
    assert!(matches!(Client::connect_wait(&long_path, late()), Err(ClientError::Connect { .. })));
}

#[test]
fn connect_wait_finds_a_server_that_comes_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (bound_path, deadline) = (path.clone(), late());
    let client = thread::spawn(move || Client::connect_wait(&path, deadline));
    let server = serve(UnixListener::bind(bound_path).unwrap(), b"{\"parameters\":{}}\0");
    client.join().unwrap().unwrap().call(&Status::default()).unwrap();
    server.join().unwrap();
}

#[test]
fn a_full_backlog_ends_at_the_deadline() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    use std::os::fd::AsRawFd;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let mut waiting = Vec::new();
    let error = loop {
        assert!(waiting.len() < 16, "the backlog never fills");
        match Client::connect_wait(&path, soon()) {
            Ok(client) => waiting.push(client),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Deadline { .. }), "{error}");
    assert!(matches!(Client::connect(&path, Instant::now()), Err(ClientError::Deadline { .. })));
}
