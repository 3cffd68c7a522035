//! As much of HTTP/1.1 (RFC 9112) as a scrape and a probe need: GET and HEAD, one request for each connection.
//! Everything is bounded: the connections, the size of a request, the time for it and for the answer.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Whether all is well: 200, else 503.
    pub good: bool,
    /// The text.
    pub text: String,
}

/// What is served.
pub trait Pages: Send + Sync + 'static {
    /// The page of a path such as `/metrics`; `None` if there is none.
    fn page(&self, path: &str) -> impl Future<Output = Option<Page>> + Send;
}

/// The bounds. The default is used in production.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Callers at the same time. Further callers wait in the socket's backlog.
    pub connections: usize,
    /// Bytes in the head of a request.
    pub request: usize,
    /// Time for each of three things: a request arrives, its page is made, the answer is read.
    pub time: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        // Two Prometheus servers, two probes and a person, with room to spare.
        Self { connections: 16, request: 8 << 10, time: Duration::from_secs(5) }
    }
}

/// How long to wait before the next try if the address cannot be used, or if the kernel has no descriptor.
const PAUSE: Duration = Duration::from_secs(5);

/// Serves for ever. If the address cannot be used, that is an error in the log, and is tried again: a daemon that
/// nobody can look at still has to work.
pub async fn serve_metrics(address: SocketAddr, pages: impl Pages, limits: HttpLimits) {
    let listener = listen(address).await;
    let pages = Arc::new(pages);
    let mut callers = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = callers.join_next() => {}
            accepted = listener.accept(), if callers.len() < limits.connections => match accepted {
                Ok((stream, _)) => drop(callers.spawn(converse(stream, Arc::clone(&pages), limits))),
                Err(error) => {
                    tracing::warn!(%error, "nobody can be given figures now");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(address);
                tracing::info!(%address, "serving /metrics, /healthz and /readyz");
                return listener;
            }
            Err(error) if !told => {
                told = true;
                tracing::error!(
                    %error, %address,
                    "[metrics]: this address cannot be had, it is tried again; is it another program's, \
                     or does the unit lack its metrics.conf (docs/operations.md)?"
                );
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

/// Serves one request with one answer. A caller that is too slow is cut off.
async fn converse<P: Pages>(mut stream: TcpStream, pages: Arc<P>, limits: HttpLimits) {
    let Ok(Some(head)) = timeout(limits.time, head(&mut stream, limits.request)).await else { return };
    let answer = match parse(&head) {
        Ok((is_head, path)) => match timeout(limits.time, pages.page(path)).await {
            Ok(Some(page)) => {
                answer(if page.good { "200 OK" } else { "503 Service Unavailable" }, &page.text, !is_head)
            }
            Ok(None) => answer("404 Not Found", "There are /metrics, /healthz and /readyz.\n", !is_head),
            Err(_) => answer("503 Service Unavailable", "no answer in time\n", !is_head),
        },
        Err(status) => answer(status, "", true),
    };
    let sent = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What the caller still sends is read. Otherwise closing would reset the connection and lose the answer.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    let _ = timeout(limits.time, sent).await;
}

/// The head of the request. If it is too long, as much of it as was read. `None` if the caller went away.
async fn head(stream: &mut TcpStream, most: usize) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !is_whole(&head) && head.len() < most {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => head.extend_from_slice(&piece[..read]),
        }
    }
    Some(head)
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n")
}

/// Whether the request is a HEAD, and its path without the query; else the status to answer with.
fn parse(head: &[u8]) -> Result<(bool, &str), &'static str> {
    if !is_whole(head) {
        return Err("431 Request Header Fields Too Large");
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = str::from_utf8(line).map_err(|_| "400 Bad Request")?;
    let mut words = line.trim_end().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version)) = (method, target, version) else {
        return Err("400 Bad Request");
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') || words.next().is_some() {
        return Err("400 Bad Request");
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    match method {
        "GET" => Ok((false, path)),
        "HEAD" => Ok((true, path)),
        _ => Err("405 Method Not Allowed"),
    }
}

fn answer(status: &str, text: &str, with_text: bool) -> String {
    let length = text.len();
    let text = if with_text { text } else { "" };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\n{allow}Connection: close\r\n\r\n{text}"
    )
}
