//! The HTTP side of the metrics: what it answers, and that slow, large and silent callers neither stop it nor stay.

#[path = "../../tests/wait.rs"]
mod wait;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ferrule_daemon::{HttpLimits, Page, Pages, serve_metrics};

struct Demo;

impl Pages for Demo {
    async fn page(&self, path: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(Page { good: true, text: "up 1\n".repeat(100_000) }),
            "/healthz" => Some(Page { good: true, text: "ok\n".to_owned() }),
            "/readyz" => Some(Page { good: false, text: "no pool\n".to_owned() }),
            "/never" => std::future::pending().await,
            _ => None,
        }
    }
}

const LIMITS: HttpLimits = HttpLimits { connections: 4, request: 2048, time: Duration::from_millis(500) };

/// Serves on a free port until the test's process ends.
fn serve() -> SocketAddr {
    // The loopback device is off at first in the test's own network namespace (tests/in-namespace).
    let up =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip; `tests/setup` installs it");
    assert!(up.success(), "ip link set lo up: {up}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("its address");
    drop(free);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve_metrics(address, Demo, LIMITS));
    });
    wait::until(Duration::from_secs(10), || TcpStream::connect(address).is_ok(), || "a listener");
    address
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

fn status(address: SocketAddr, request: &str) -> String {
    let answer = ask(address, request);
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn pages_health_and_faults_have_their_status() {
    let address = serve();
    let answer = ask(address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    assert!(answer.contains("\r\nContent-Length: 3\r\n") && answer.contains("version=0.0.4"), "{answer}");
    let answer = ask(address, "HEAD /healthz HTTP/1.1\r\n\r\n");
    assert!(answer.contains("\r\nContent-Length: 3\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = ask(address, "GET /metrics?x=1 HTTP/1.0\r\n\r\n");
    assert_eq!(answer.matches("up 1\n").count(), 100_000);
    for (request, expected) in [
        ("GET /readyz HTTP/1.1\r\n\r\n", "503"),
        ("GET /never HTTP/1.1\r\n\r\n", "503"),
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
        ("GET /metrics\r\n\r\n", "400"),
        ("GET http://x/metrics HTTP/1.1\r\n\r\n", "400"),
        ("\u{7f}\r\n\r\n", "400"),
    ] {
        assert_eq!(status(address, request), expected, "{request:?}");
    }
    let large = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(4000));
    assert_eq!(status(address, &large), "431");
}

#[test]
fn silent_and_slow_callers_are_cut_off_and_the_others_served() {
    let address = serve();
    let connect = |text: &str| {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(text.as_bytes()).expect("sent");
        stream
    };
    // More callers than allowed at once: some silent, some in the middle of a request, some not reading half a
    // megabyte.
    let stuck: Vec<TcpStream> =
        ["", "GET /met", "GET /metrics HTTP/1.1\r\n\r\n"].repeat(4).into_iter().map(connect).collect();
    let begun = Instant::now();
    assert_eq!(status(address, "GET /healthz HTTP/1.1\r\n\r\n"), "200");
    println!("served behind {} stuck callers after {:?}", stuck.len(), begun.elapsed());
    for mut stream in stuck {
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut rest = Vec::new();
        // The end or a reset means that the caller was cut off, and that our timeout was not reached.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        let _ = stream.shutdown(Shutdown::Both);
    }
}
