//! The server over a real socket: callers that behave, and callers that do not and must not be noticed by the others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use ferrule_daemon::varlink::{Limits, Lock, serve};
use ferrule_wire::{
    Allocate, Attachment, CallError, Check, Client, ClientError, DEFINITION, GetInfo,
    GetInterfaceDescription, INTERFACE, List, MESSAGE_CAP, Method, Pools, Release, SERVICE_INTERFACE, Status,
};
use ipamd::decide::pool::PoolSpec;
use ipamd::decide::service::Settings;
use ipamd::look::clock::boot_clock;
use ipamd::serve::writer::Writer;
use ipamd::store::MemoryStore;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Far above any wait that the tests expect to end, for a busy machine.
const LONG: Duration = Duration::from_secs(20);

struct Server {
    dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(change: impl FnOnce(&mut Limits)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolSpec {
            name: "node".into(),
            subnets: vec!["10.0.0.0/16".parse().unwrap()],
            ..PoolSpec::default()
        };
        let cooldown = Duration::from_secs(30);
        let settings = Settings {
            pools: vec![pool],
            cooldown,
            mtu: Some(1450),
            why_no_pool: String::new(),
            held: std::collections::BTreeMap::new(),
        };
        let store = Box::new(MemoryStore::default());
        let runtime_dir = dir.path().to_owned();
        let writer = Writer::open(store, settings, runtime_dir.clone(), "boot".into(), boot_clock()).unwrap();
        let mut limits = Limits::production();
        change(&mut limits);
        let (stop, stopped) = oneshot::channel();
        let (listener, file) = Lock::take(&runtime_dir, "ipamd").unwrap().listen().unwrap();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (handle, writer) = writer.start().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                serve(listener, handle, limits, async move { drop(stopped.await) }).await;
            });
            drop(runtime);
            writer.join().unwrap();
            drop(file);
        });
        Self { dir, stop: Some(stop), thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(ferrule_wire::SOCKET_NAME)
    }

    fn client(&self) -> Client {
        Client::connect(&self.path(), Instant::now() + LONG).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

fn attachment(container_id: &str) -> Attachment {
    Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() }
}

fn allocate(container_id: &str) -> Allocate {
    Allocate { deadline_ms: Some(20_000), ..Allocate::new(attachment(container_id)) }
}

/// Everything until the server hangs up.
fn read_to_end(mut stream: UnixStream) -> String {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        // The server hung up with something of ours unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => text,
        result => {
            result.unwrap();
            text
        }
    }
}

#[test]
fn a_life_of_a_lease() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    client.call(&Status::default()).unwrap();
    client.send(&allocate("a")).unwrap();
    let given = client.receive::<Allocate>().unwrap();
    assert_eq!((given.existing, given.mtu), (false, Some(1450)));
    assert!(server.client().call(&allocate("a")).unwrap().existing);
    let addresses = given.lease.addresses;
    client.call(&Check { attachment: attachment("a"), addresses: addresses.clone() }).unwrap();
    assert_eq!(client.call(&Pools {}).unwrap().pools[0].in_use, 1);
    assert_eq!(client.call(&Release { attachment: attachment("a") }).unwrap().released, addresses);
    let error = client.call(&Check { attachment: attachment("a"), addresses }).unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError::LeaseNotFound { .. })), "{error}");
}

#[test]
fn many_callers_at_once_get_an_address_each() {
    let server = Server::start(|_| {});
    let mut addresses: Vec<_> = thread::scope(|scope| {
        let one = |id: usize| server.client().call(&allocate(&id.to_string())).unwrap().lease.addresses;
        let threads: Vec<_> = (0..32).map(|id| scope.spawn(move || one(id))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 32);
}

#[test]
fn a_long_list_comes_in_several_messages() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    for id in 0..200 {
        client.call(&allocate(&format!("{id:03}"))).unwrap();
    }
    let (mut ids, mut messages) = (Vec::new(), 0);
    let collect = |reply: ferrule_wire::ListReply| {
        messages += 1;
        ids.extend(reply.leases.into_iter().map(|lease| lease.attachment.container_id));
    };
    client.call_more(&List {}, collect).unwrap();
    assert_eq!(ids, (0..200).map(|id| format!("{id:03}")).collect::<Vec<_>>());
    assert!(messages > 1);
    let error = client.call(&List {}).unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError::ExpectedMore {})), "{error}");
    client.call(&Status::default()).unwrap();
}

#[test]
fn introspection_serves_the_definitions() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    let info = client.call(&GetInfo {}).unwrap();
    assert_eq!((info.product.as_str(), info.version.as_str()), ("ipamd", env!("CARGO_PKG_VERSION")));
    assert_eq!(info.interfaces, [SERVICE_INTERFACE, INTERFACE]);
    for interface in info.interfaces {
        let text =
            client.call(&GetInterfaceDescription { interface: interface.clone() }).unwrap().description;
        assert!(text.contains(&format!("interface {interface}\n")), "{text}");
        assert!(interface != INTERFACE || text == DEFINITION);
    }
    let error = client.call(&GetInterfaceDescription { interface: "io.other.Thing".into() }).unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError::InterfaceNotFound { .. })), "{error}");
}

#[test]
fn wrong_calls_are_answered_and_the_conversation_goes_on() {
    let server = Server::start(|_| {});
    let mut stream = server.raw();
    for (call, answer) in [
        (r#"{"method":"io.ferrule.Ipam.Nope"}"#, "org.varlink.service.MethodNotFound"),
        (r#"{"method":"io.other.Thing.Nope"}"#, "org.varlink.service.InterfaceNotFound"),
        (r#"{"method":"io.ferrule.Ipam.Release","parameters":{}}"#, "org.varlink.service.InvalidParameter"),
        (r#"{"method":"io.ferrule.Ipam.Check"}"#, "org.varlink.service.InvalidParameter"),
        (r#"{"method":"io.ferrule.Ipam.Status","parameters":{}}"#, r#"{"parameters":{}}"#),
    ] {
        stream.write_all(call.as_bytes()).unwrap();
        stream.write_all(b"\0").unwrap();
        let mut reply = [0; 4096];
        let read = stream.read(&mut reply).unwrap();
        let reply = String::from_utf8_lossy(&reply[..read]);
        assert!(reply.contains(answer) && reply.ends_with('\0'), "{call}: {reply}");
    }
    stream.write_all(b"nonsense\0").unwrap();
    assert_eq!(read_to_end(stream), "", "what is no message at all ends the conversation");
}

#[test]
fn calls_sent_at_once_are_answered_in_order_and_oneway_ones_not_at_all() {
    let server = Server::start(|_| {});
    let mut stream = server.raw();
    let calls = [
        r#"{"method":"io.ferrule.Ipam.Status","oneway":true}"#,
        r#"{"method":"io.ferrule.Ipam.Allocate","oneway":true,"parameters":{"attachment":{"network":"pods","container_id":"a","ifname":"eth0"}}}"#,
        r#"{"method":"io.ferrule.Ipam.Release","parameters":{"attachment":{"network":"pods","container_id":"a","ifname":"eth0"}}}"#,
        r#"{"method":"io.ferrule.Ipam.Status"}"#,
    ];
    stream.write_all((calls.join("\0") + "\0").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let replies = read_to_end(stream);
    assert_eq!(replies, "{\"parameters\":{\"released\":[\"10.0.0.1/32\"]}}\0{\"parameters\":{}}\0");
}

#[test]
fn slow_silent_and_half_callers_are_not_noticed_by_others() {
    let server = Server::start(|_| {});
    let silent: Vec<UnixStream> = (0..200).map(|_| server.raw()).collect();
    let mut slow = server.raw();
    let mut half = server.raw();
    half.write_all(b"{\"method\":\"io.ferr").unwrap();
    let mut client = server.client();
    for (index, byte) in b"{\"method\":\"io.ferrule.Ipam.Status\"}\0".iter().enumerate() {
        slow.write_all(&[*byte]).unwrap();
        client.call(&allocate(&index.to_string())).unwrap();
    }
    let mut reply = [0; 64];
    let read = slow.read(&mut reply).unwrap();
    assert_eq!(&reply[..read], b"{\"parameters\":{}}\0");
    drop((half, silent));
    client.call(&Status::default()).unwrap();
}

#[test]
fn who_sends_no_whole_call_in_time_is_hung_up_on() {
    let server = Server::start(|limits| limits.idle = Duration::from_millis(100));
    for begun in [&b""[..], b"{\"method\":"] {
        let mut stream = server.raw();
        stream.write_all(begun).unwrap();
        assert_eq!(read_to_end(stream), "");
    }
}

/// However long the conversation is, and however long ago it began when it falls silent.
#[test]
fn who_goes_on_calling_is_not_silent_and_who_stops_is() {
    const IDLE: Duration = Duration::from_millis(500);
    let server = Server::start(|limits| limits.idle = IDLE);
    let mut stream = server.raw();
    let call = format!("{{\"method\":\"{}\"}}\0", Status::NAME);
    let begun = Instant::now();
    while begun.elapsed() < 3 * IDLE {
        stream.write_all(call.as_bytes()).unwrap();
        let mut reply = [0; 64];
        let read = stream.read(&mut reply).unwrap();
        assert_eq!(&reply[..read], b"{\"parameters\":{}}\0");
    }
    let silent = Instant::now();
    assert_eq!(read_to_end(stream), "");
    assert!(silent.elapsed() > IDLE / 2, "after {:?}", silent.elapsed());
}

#[test]
fn who_does_not_read_is_hung_up_on() {
    let server = Server::start(|limits| limits.write = Duration::from_millis(100));
    let mut stream = server.raw();
    let call = format!(
        "{{\"method\":\"{}\",\"parameters\":{{\"interface\":\"{INTERFACE}\"}}}}\0",
        GetInterfaceDescription::NAME
    );
    // Until the answers fill both buffers and the server gives up; then the pipe is broken.
    let broken = (0..100_000).find_map(|_| stream.write_all(call.as_bytes()).err());
    assert!(matches!(broken.map(|e| e.kind()), Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)));
    server.client().call(&Status::default()).unwrap();
}

#[test]
fn too_large_a_message_is_refused_and_its_sender_hung_up_on() {
    let server = Server::start(|_| {});
    let mut stream = server.raw();
    // The server hangs up in the middle, so the write may fail.
    let _ = stream.write_all(&vec![b' '; 4 * MESSAGE_CAP]);
    assert!(read_to_end(stream).contains("org.varlink.service.InvalidParameter"));
    server.client().call(&Status::default()).unwrap();
}

#[test]
fn other_users_are_refused() {
    let server = Server::start(|limits| limits.uids.clear());
    let error = server.client().call(&allocate("a")).unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError::PermissionDenied {})), "{error}");
}

#[test]
fn callers_beyond_the_bound_wait_for_a_place() {
    let server = Server::start(|limits| limits.connections = 2);
    let held = [server.raw(), server.raw()];
    let mut waiting = server.client();
    waiting.send(&Status::default()).unwrap();
    waiting.set_deadline(Instant::now() + Duration::from_millis(200));
    assert!(matches!(waiting.receive::<Status>(), Err(ClientError::Deadline { .. })));
    drop(held);
    waiting.set_deadline(Instant::now() + LONG);
    waiting.receive::<Status>().unwrap();
}

#[test]
fn who_has_hung_up_before_its_call_is_read_gets_nothing() {
    let server = Server::start(|limits| limits.connections = 1);
    let held = server.raw();
    let mut gone = server.client();
    gone.send(&allocate("a")).unwrap();
    drop(gone);
    let mut next = server.client();
    next.send(&Pools {}).unwrap();
    drop(held);
    assert_eq!(next.receive::<Pools>().unwrap().pools[0].in_use, 0);
}

#[test]
fn a_caller_that_vanishes_before_its_answer_harms_nobody() {
    let server = Server::start(|_| {});
    for _ in 0..50 {
        let mut gone = server.client();
        gone.send(&allocate("a")).unwrap();
        drop(gone);
        let mut client = server.client();
        client.call(&allocate("a")).unwrap();
        assert_eq!(client.call(&Pools {}).unwrap().pools[0].in_use, 1);
        client.call(&Release { attachment: attachment("a") }).unwrap();
    }
}

#[test]
fn a_stop_hangs_up_on_idle_callers_and_ends() {
    let mut server = Server::start(|_| {});
    let idle = server.raw();
    server.client().call(&allocate("a")).unwrap();
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < Limits::production().stop, "an idle caller held up the stop");
    assert_eq!(read_to_end(idle), "");
    assert!(!server.path().exists());
}
