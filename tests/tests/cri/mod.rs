//! The part of kubelet that talks to a runtime: a small client of the CRI, gRPC over a unix socket. Lives here: one unary call over
//! HTTP/2. The messages are `message`'s part, the calls of a pod's life `pod`'s.
//!
//! Debian has no `crictl`; this is what it would do, without a code generator: `h2` speaks HTTP/2, `prost` protobuf, and gRPC adds a
//! prefix of five bytes to each message and a status behind it.

pub(crate) mod message;
pub(crate) mod pod;

use std::{os::unix::net::UnixStream, time::Duration};

use bytes::Bytes;
use ferrule_tests::error::{Context, LabError, Result};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::runtime::Runtime;

/// How long one call may take. Making a sandbox includes the CNI plugins.
const CALL_WITHIN: Duration = Duration::from_secs(15);
/// Compression flag and length of a gRPC message.
const PREFIX: usize = 5;

/// A connection to a runtime.
pub(crate) struct Cri {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

impl Cri {
    /// Speaks HTTP/2 on a connected socket.
    pub(crate) fn new(stream: UnixStream) -> Result<Cri> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context(|| "a tokio runtime")?;
        stream.set_nonblocking(true).context(|| "the CRI socket")?;
        let requests = runtime.block_on(async {
            let stream = tokio::net::UnixStream::from_std(stream).context(|| "the CRI socket")?;
            let (requests, connection) =
                h2::client::handshake(stream).await.map_err(|e| broken("the handshake", &e))?;
            // Runs while a call waits, and tells that call what went wrong with it.
            tokio::spawn(connection);
            Ok(requests)
        })?;
        Ok(Cri { runtime, requests })
    }

    /// Calls a method (`RuntimeService/Version`); the status of a failed call is a broken promise with the runtime's words.
    pub(crate) fn call<R: Message + Default>(&self, method: &str, request: &impl Message) -> Result<R> {
        let call = unary(self.requests.clone(), method, request.encode_to_vec());
        let bytes = self.runtime.block_on(async { tokio::time::timeout(CALL_WITHIN, call).await });
        let late = |_| LabError::Late {
            expected: format!("an answer to {method}"),
            within: CALL_WITHIN,
            saw: "none".to_owned(),
        };
        let bytes = bytes.map_err(late)??;
        R::decode(bytes.as_slice()).map_err(|error| broken(method, &error))
    }
}

/// One request, one answer: the bytes of the answer's message.
async fn unary(requests: SendRequest<Bytes>, method: &str, message: Vec<u8>) -> Result<Vec<u8>> {
    let fault = |error: h2::Error| broken(method, &error);
    let request = Request::post(format!("http://localhost/runtime.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|error| broken(method, &error))?;
    let mut requests = requests.ready().await.map_err(fault)?;
    let (answer, mut body) = requests.send_request(request, false).map_err(fault)?;
    let length = u32::try_from(message.len()).map_err(|error| broken(method, &error))?;
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    body.send_data(framed.into(), true).map_err(fault)?;

    let answer = answer.await.map_err(fault)?;
    // A call that fails at once has its status here, and no body.
    check(method, answer.headers())?;
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(fault)?;
        body.flow_control().release_capacity(part.len()).map_err(fault)?;
        bytes.extend_from_slice(&part);
    }
    if let Some(trailers) = body.trailers().await.map_err(fault)? {
        check(method, &trailers)?;
    }
    match bytes.get(PREFIX..) {
        Some(message) => Ok(message.to_vec()),
        None => Err(broken(method, &"an answer without a message")),
    }
}

/// The status of a call, where these headers have it.
fn check(method: &str, headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(status) => {
            let said = text("grpc-message").unwrap_or_default();
            Err(LabError::promise(format!("{method} to succeed"), format!("status {status}: {said}")))
        }
    }
}

fn broken(what: &str, error: &impl std::fmt::Display) -> LabError {
    LabError::parse(format!("CRI, {what}"), error)
}
