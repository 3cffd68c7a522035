//! gRPC as far as etcd needs it: requests with one answer, and requests with a long answer (a watch), in HTTP/2 over
//! one connection.
//!
//! This module does not know what is asked. HTTP/2 pings find a member that hangs, whatever TCP says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, Bytes};
use ferrule_config::Endpoint;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::fault::{Fault, Right};
use ferrule_model::chain;

/// Connecting to a member and the handshakes take at most so long.
const CONNECT: Duration = Duration::from_secs(5);
/// An answer has to come within this time.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a member is asked whether it lives, and how long it may take to answer.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Bytes that may be on their way to us, for one answer and for all.
const WINDOW: u32 = 1 << 20;
/// The longest accepted message, in bytes: 5,000 nodes take less than two MiB.
const LONGEST_MESSAGE: usize = 64 << 20;
/// Length of what precedes a message: whether it is compressed, and how long it is.
const PREFIX: usize = 5;

/// The TLS settings for one connection to a member.
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    pub(super) asked: Arc<AskedInVain>,
}

/// A client without a certificate, which notes whether the member has asked for one.
#[derive(Debug, Default)]
pub(super) struct AskedInVain(AtomicBool);

impl ResolvesClientCert for AskedInVain {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A connection to one member.
#[derive(Debug)]
pub(super) struct Channel {
    sender: SendRequest<Bytes>,
    base: String,
    token: Option<HeaderValue>,
    /// Set if the member did not answer a ping.
    is_silent: Arc<OnceLock<()>>,
    /// Whether the member asked for a certificate that we do not have, and has not answered anything yet.
    wants_certificate: AtomicBool,
    driver: JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The messages of a long answer.
#[derive(Debug)]
pub(super) struct Messages {
    body: RecvStream,
    frames: Frames,
    /// The request goes on as long as this value lives.
    _request: SendStream<Bytes>,
}

impl Channel {
    /// Connects.
    ///
    /// # Errors
    /// [`Fault::Away`], [`Fault::Silent`], [`Fault::Tls`]
    pub(super) async fn connect(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Self, Fault> {
        let connected = tokio::time::timeout(CONNECT, Self::open(endpoint, tls)).await;
        connected.unwrap_or_else(|_| Err(Fault::Silent { endpoint: endpoint.to_string(), after: CONNECT }))
    }

    async fn open(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Self, Fault> {
        let away = |error: std::io::Error| Fault::Away(format!("{endpoint}: {error}"));
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(away)?;
        tcp.set_nodelay(true).map_err(away)?;
        match tls {
            None => Self::over(tcp, endpoint, false).await,
            Some(Tls { connector, asked }) => {
                let refused =
                    |error: &dyn std::error::Error| Fault::Tls(format!("{endpoint}: {}", chain(error)));
                let name = endpoint.host.clone().try_into();
                let name = name.map_err(|error: rustls::pki_types::InvalidDnsNameError| refused(&error))?;
                let tls = connector.connect(name, tcp).await.map_err(|error| refused(&error))?;
                Self::over(tls, endpoint, asked.0.load(Ordering::Relaxed)).await
            }
        }
    }

    async fn over<S>(socket: S, endpoint: &Endpoint, wants_certificate: bool) -> Result<Self, Fault>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, mut connection) = settings.handshake(socket).await.map_err(|error| {
            if wants_certificate { no_certificate(&endpoint.to_string(), &error) } else { fault_of(&error) }
        })?;
        let pings = connection.ping_pong();
        let is_silent = Arc::new(OnceLock::new());
        let driver = tokio::spawn(drive(connection, pings, Arc::clone(&is_silent)));
        let wants_certificate = AtomicBool::new(wants_certificate);
        Ok(Self { sender, base: endpoint.to_string(), token: None, is_silent, wants_certificate, driver })
    }

    /// Sets the token that goes with every request from now on.
    pub(super) fn set_token(&mut self, token: &str) -> Result<(), Fault> {
        let value = HeaderValue::from_str(token);
        self.token = Some(value.map_err(|_| Fault::Malformed("its token cannot be sent back".into()))?);
        Ok(())
    }

    /// Sends a request, and waits for the one answer. `right` is the right that the request needs.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn ask<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        question: &Q,
        right: Option<&Right>,
    ) -> Result<A, Fault> {
        let exchange = async {
            let (answer, _) = self.send(method, question, true).await?;
            let mut body = self.begun(answer, right)?;
            let mut frames = Frames::default();
            let mut found = None;
            while let Some(bytes) = self.piece(&mut body).await? {
                frames.push(&bytes)?;
                while let Some(message) = frames.next()? {
                    found = Some(message);
                }
            }
            self.ended(&mut body, right).await?;
            found.ok_or_else(|| Fault::Malformed("it has no message".into()))
        };
        let answer = tokio::time::timeout(ANSWER, exchange).await;
        answer.unwrap_or_else(|_| Err(Fault::Silent { endpoint: self.base.clone(), after: ANSWER }))
    }

    /// Sends a request whose answer goes on.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn listen<Q: Message>(
        &self,
        method: &str,
        question: &Q,
        right: &Right,
    ) -> Result<Messages, Fault> {
        let begin = async {
            let (answer, request) = self.send(method, question, false).await?;
            let body = self.begun(answer, Some(right))?;
            Ok(Messages { body, frames: Frames::default(), _request: request })
        };
        let answer = tokio::time::timeout(ANSWER, begin).await;
        answer.unwrap_or_else(|_| Err(Fault::Silent { endpoint: self.base.clone(), after: ANSWER }))
    }

    /// The next message of a long answer. Cancel safe.
    ///
    /// # Errors
    /// The answer cannot go on. That it has ended is a fault too.
    pub(super) async fn next<A: Message + Default>(
        &self,
        messages: &mut Messages,
        right: &Right,
    ) -> Result<A, Fault> {
        loop {
            if let Some(message) = messages.frames.next()? {
                return Ok(message);
            }
            match self.piece(&mut messages.body).await? {
                Some(bytes) => messages.frames.push(&bytes)?,
                None => {
                    self.ended(&mut messages.body, Some(right)).await?;
                    return Err(Fault::Away(format!("{} has ended the watch", self.base)));
                }
            }
        }
    }

    async fn send<Q: Message>(
        &self,
        method: &str,
        question: &Q,
        is_all: bool,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>), Fault> {
        let mut request = Request::post(format!("{}{method}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // With this header a member that is cut off from the others says so, instead of being silent.
            .header("hasleader", "true");
        if let Some(token) = &self.token {
            request = request.header("token", token);
        }
        let request = request.body(()).map_err(|error| Fault::Malformed(error.to_string()))?;
        let failed = |error: h2::Error| self.broken(&error);
        let mut sender = self.sender.clone().ready().await.map_err(failed)?;
        let (answer, mut body) = sender.send_request(request, false).map_err(failed)?;
        body.send_data(framed(question), is_all).map_err(failed)?;
        let answer = answer.await.map_err(failed)?;
        self.wants_certificate.store(false, Ordering::Relaxed);
        Ok((answer, body))
    }

    /// An answer that has begun. Its headers may already say how it ends.
    fn begun(&self, answer: Response<RecvStream>, right: Option<&Right>) -> Result<RecvStream, Fault> {
        let kind = answer.headers().get("content-type").map(HeaderValue::as_bytes).unwrap_or_default();
        if answer.status() != 200 || !kind.starts_with(b"application/grpc") {
            return Err(Fault::Malformed(format!("HTTP status {}, and no gRPC", answer.status())));
        }
        status(answer.headers(), right)?;
        Ok(answer.into_body())
    }

    async fn piece(&self, body: &mut RecvStream) -> Result<Option<Bytes>, Fault> {
        let Some(bytes) = body.data().await else { return Ok(None) };
        let bytes = bytes.map_err(|error| self.broken(&error))?;
        // This fails only for a stream that has ended, and then no room is needed.
        let _ = body.flow_control().release_capacity(bytes.len());
        Ok(Some(bytes))
    }

    async fn ended(&self, body: &mut RecvStream, right: Option<&Right>) -> Result<(), Fault> {
        let trailers = body.trailers().await.map_err(|error| self.broken(&error))?;
        trailers.map_or(Ok(()), |trailers| status(&trailers, right))
    }

    fn broken(&self, error: &h2::Error) -> Fault {
        if self.is_silent.get().is_some() {
            return Fault::Silent { endpoint: self.base.clone(), after: HEARTBEAT };
        }
        if self.wants_certificate.load(Ordering::Relaxed) {
            return no_certificate(&self.base, error);
        }
        match fault_of(error) {
            Fault::Away(why) => Fault::Away(format!("{}: {why}", self.base)),
            fault => fault,
        }
    }
}

/// Moves the connection's bytes until it ends or the member no longer answers. The connection ends when this function
/// does.
async fn drive<S>(connection: Connection<S>, pings: Option<PingPong>, is_silent: Arc<OnceLock<()>>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    tokio::select! {
        // Whoever waits for an answer learns what was wrong.
        _ = connection => {}
        () = beat(pings) => drop(is_silent.set(())),
    }
}

/// Ends when the member leaves a ping unanswered.
async fn beat(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        match tokio::time::timeout(HEARTBEAT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended, and says so itself.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// A member that asks for a certificate in vain hangs up with an alert that says so. The alert is read only if nothing
/// was sent to the member after it.
fn no_certificate(endpoint: &str, error: &h2::Error) -> Fault {
    Fault::Tls(format!(
        "{endpoint}: it asks for a certificate, and [routing.etcd] has no cert and key ({})",
        chain(error)
    ))
}

fn fault_of(error: &h2::Error) -> Fault {
    let why = chain(error);
    if why.contains("fatal alert") {
        // In TLS 1.3 a client learns only after the handshake that its certificate is not accepted.
        Fault::Tls(why)
    } else if error.is_io() || error.is_go_away() || error.is_remote() || error.is_reset() {
        Fault::Away(why)
    } else {
        Fault::Malformed(why)
    }
}

/// The outcome of a request, if `headers` tell it.
fn status(headers: &HeaderMap, right: Option<&Right>) -> Result<(), Fault> {
    let Some(code) = headers.get("grpc-status") else { return Ok(()) };
    let code = code.to_str().ok().and_then(|code| code.parse::<u32>().ok());
    let code = code.ok_or_else(|| Fault::Malformed("its gRPC status is no number".into()))?;
    let message = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
    match refusal(code, unescaped(message), right) {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

/// The meaning of a gRPC status as etcd uses it (its `rpctypes`).
fn refusal(code: u32, message: String, right: Option<&Right>) -> Option<Fault> {
    Some(match (code, right) {
        (0, _) => return None,
        (7, Some(right)) => Fault::Forbidden { right: right.clone(), message },
        (16, _) => Fault::Token(message),
        (11, _) if message.contains("compacted") => Fault::Compacted,
        (3, _) if message.contains("user name is empty") => Fault::NoLogin(message),
        (3, _) if message.contains("authentication failed") => Fault::Login(message),
        (3, _) if message.contains("auth store is old") => Fault::Token(message),
        (4 | 14, _) => Fault::Away(message),
        (code, _) => Fault::Refused { code, message },
    })
}

/// The fault that the reason for a watch's end means. Such ends have no status of their own.
pub(super) fn ended_watch(reason: String, right: &Right) -> Fault {
    let code = [("permission denied", 7), ("invalid auth token", 16), ("no leader", 14)]
        .iter()
        .find_map(|(words, code)| reason.contains(words).then_some(*code));
    let unknown = Fault::Refused { code: 2, message: reason.clone() };
    code.and_then(|code| refusal(code, reason, Some(right))).unwrap_or(unknown)
}

/// Decodes `grpc-message`, which is percent-encoded.
fn unescaped(bytes: &[u8]) -> String {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        (rest, plain) = match (first, tail) {
            (b'%', [high, low, tail @ ..]) if digit(high).is_some() && digit(low).is_some() => {
                let value = digit(high).zip(digit(low)).map_or(0, |(high, low)| high * 16 + low);
                plain.push(value as u8);
                (tail, plain)
            }
            _ => {
                plain.push(*first);
                (tail, plain)
            }
        };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn framed<Q: Message>(question: &Q) -> Bytes {
    let length = question.encoded_len();
    let mut bytes = Vec::with_capacity(PREFIX + length);
    bytes.push(0);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&question.encode_to_vec());
    bytes.into()
}

/// Cuts the bytes of an answer into its messages.
#[derive(Debug, Default)]
struct Frames {
    bytes: bytes::BytesMut,
}

impl Frames {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.bytes.len() + bytes.len() > LONGEST_MESSAGE {
            return Err(Fault::Malformed(format!("it has more than {} MiB", LONGEST_MESSAGE >> 20)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Fault> {
        let Some((&[compressed, a, b, c, d], rest)) = self.bytes.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Fault::Malformed("it is compressed, which was not asked for".into()));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > LONGEST_MESSAGE {
            return Err(Fault::Malformed(format!("a message has more than {} MiB", LONGEST_MESSAGE >> 20)));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.bytes.advance(PREFIX);
        let message = self.bytes.split_to(length);
        A::decode(message).map(Some).map_err(|error| Fault::Malformed(error.to_string()))
    }
}

/// One end of a connection, for the tests of other modules.
#[cfg(test)]
mod tests {
    use super::super::message::LeaseId;
    use super::*;

    #[test]
    fn messages_come_whole_however_the_bytes_are_cut() {
        let bytes =
            [framed(&LeaseId { id: 5 }), framed(&LeaseId { id: 0 }), framed(&LeaseId { id: 1 << 40 })]
                .concat();
        for cut in 0..=bytes.len() {
            let mut frames = Frames::default();
            let mut ids = Vec::new();
            for piece in [&bytes[..cut], &bytes[cut..]] {
                frames.push(piece).unwrap();
                while let Some(LeaseId { id }) = frames.next().unwrap() {
                    ids.push(id);
                }
            }
            assert_eq!(ids, [5, 0, 1 << 40]);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let take = |bytes: &[u8]| {
            let mut frames = Frames::default();
            frames.push(bytes).unwrap();
            frames.next::<LeaseId>()
        };
        assert!(take(&[1, 0, 0, 0, 0]).is_err(), "compressed");
        assert!(take(&[0, 0xff, 0xff, 0xff, 0xff]).is_err(), "too long");
        assert!(take(&[0, 0, 0, 0, 1, 0xff]).is_err(), "no protobuf");
        assert!(take(&[0, 0, 0, 0]).unwrap().is_none());
    }

    #[test]
    fn statuses_of_etcd_become_faults_with_a_remedy() {
        let right = Right { kind: "read", key: "/n/config".into(), is_prefix: false };
        let fault = |code, words: &str| refusal(code, words.into(), Some(&right)).unwrap().class();
        assert_eq!(fault(7, "etcdserver: permission denied"), "read /n/config");
        assert_eq!(fault(16, "etcdserver: invalid auth token"), "token");
        assert_eq!(fault(3, "etcdserver: authentication failed, invalid user ID or password"), "login");
        assert_eq!(fault(3, "etcdserver: user name is empty"), "login");
        assert_eq!(fault(14, "etcdserver: no leader"), "away");
        assert_eq!(fault(11, "etcdserver: mvcc: required revision has been compacted"), "compacted");
        assert_eq!(
            ended_watch(
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied".into(),
                &right
            )
            .class(),
            "read /n/config"
        );
        assert_eq!(ended_watch("etcdserver: no leader".into(), &right).class(), "away");
        assert_eq!(ended_watch("something".into(), &right).class(), "2 something");
    }

    #[test]
    fn words_come_as_they_were() {
        assert_eq!(unescaped(b"a%20b%C3%A4%2 %zz"), "a b\u{e4}%2 %zz");
    }
}
