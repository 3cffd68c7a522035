//! The requests to the API server, and their answers as lines, pages or faults.
//!
//! kube provides what all of its clients share: kubeconfig, service account, TLS, renewal of tokens. Its own list and
//! watch are not used, because they keep whole objects, and have no fallback for a server that does not stream lists.

use std::marker::PhantomData;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tokio::time::Instant;
use tower::{BoxError, ServiceBuilder};

use ferrule_model::chain;

use crate::fault::Fault;
use crate::feed::Feed;
use crate::kind::{Kind, ObjectName, Permission, Resource};
use crate::objects::{self, Page, Status, Told};
use crate::watcher::Selector;

/// Connecting to the server and the TLS handshake take at most so long.
const CONNECT: Duration = Duration::from_secs(10);
/// An answer that was promised has to begin within this time, and so has its next piece.
const ANSWER: Duration = Duration::from_secs(30);
/// A streamed list, too, has to begin within this time, and so has its next piece. It is short, so that a server which
/// cannot stream is soon asked for pages. A server waits for 3 s until it has what is new.
const STREAM: Duration = Duration::from_secs(5);
/// A streamed list that brings no new object for so long will not end: the server treats it as a watch like any other.
const STALLED: Duration = Duration::from_secs(30);
/// The server ends a watch after this time. The next one begins where it ended.
const WATCH_S: u64 = 290;
/// A server sends bookmarks once a minute. If it is silent for longer than the watch may last, it is gone.
const SILENCE: Duration = Duration::from_secs(WATCH_S + 20);
/// With this interval a connection that died silently is found within half a minute.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// Objects on a page, if lists are not streamed. A page is held in memory as a whole.
const PAGE: u32 = 100;
/// The longest page, in bytes.
const LONGEST_PAGE: usize = 64 << 20;
/// The longest part of a refusal's body that is read, in bytes.
const LONGEST_REFUSAL: usize = 64 << 10;

/// A client with the credentials as they were when it was opened.
pub(crate) struct Api {
    client: Client,
}

/// A watch that has begun.
pub(crate) struct Watch<K> {
    body: Body,
    feed: Feed,
    /// The longest silence between two pieces.
    patience: Duration,
    kind: PhantomData<fn() -> K>,
}

impl Api {
    /// A client for the server and the user of `config`. Connects to nothing yet.
    ///
    /// # Errors
    /// The credentials cannot be used.
    pub(crate) fn new(config: &Config) -> kube::Result<Self> {
        Ok(Self { client: client(config)? })
    }

    /// Begins a watch with all objects: the server sends every object, and then a bookmark that marks the end of the
    /// list.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(crate) async fn stream<K: Kind>(&self, selector: &Selector) -> Result<Watch<K>, Fault> {
        // Without a version the list is at least as new as the request, so nothing goes back in time.
        let initial = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let watch = tokio::time::timeout(STREAM, self.watch(selector, initial, STREAM)).await;
        watch.unwrap_or(Err(Fault::Silent(STREAM)))
    }

    /// Begins a watch with the changes since `version`.
    ///
    /// # Errors
    /// What can happen to every request; [`Fault::Expired`] may come here or later.
    pub(crate) async fn resume<K: Kind>(
        &self,
        selector: &Selector,
        version: &str,
    ) -> Result<Watch<K>, Fault> {
        self.watch(selector, &format!("&resourceVersion={}", escaped(version)), SILENCE).await
    }

    async fn watch<K: Kind>(
        &self,
        selector: &Selector,
        how: &str,
        patience: Duration,
    ) -> Result<Watch<K>, Fault> {
        let selected = selected(selector);
        let how = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}{selected}{how}");
        let uri = format!("{}?{how}", K::RESOURCE.path());
        let answer = self.send(get(&uri), K::RESOURCE.watch()).await?;
        Ok(Watch { body: answer.into_body(), feed: Feed::default(), patience, kind: PhantomData })
    }

    /// A page of the list. It is the first one if `next` is empty.
    ///
    /// # Errors
    /// What can happen to every request; [`Fault::Expired`] if the list has to be begun again.
    pub(crate) async fn list<K: Kind>(&self, selector: &Selector, next: &str) -> Result<Page<K>, Fault> {
        let mut uri = format!("{}?limit={PAGE}{}", K::RESOURCE.path(), selected(selector));
        if !next.is_empty() {
            uri = format!("{uri}&continue={}", escaped(next));
        }
        let answer = self.send(get(&uri), K::RESOURCE.list()).await?;
        objects::page(&whole(answer, LONGEST_PAGE).await?)
    }

    /// Merges `patch` into the status of the object of this name.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(crate) async fn patch_status(
        &self,
        resource: Resource,
        name: &ObjectName,
        patch: Vec<u8>,
    ) -> Result<(), Fault> {
        let name = ObjectName { namespace: escaped(&name.namespace), name: escaped(&name.name) };
        let mut request = Request::new(Body::from(patch));
        *request.method_mut() = Method::PATCH;
        *request.uri_mut() = uri(&format!("{}/status", resource.path_of(&name)))?;
        let kind = http::HeaderValue::from_static("application/strategic-merge-patch+json");
        request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        let answer = self.send(Ok(request), resource.patch_status()).await?;
        whole(answer, LONGEST_PAGE).await.map(drop)
    }

    async fn send(
        &self,
        request: Result<Request<Body>, Fault>,
        permission: Permission,
    ) -> Result<Response<Body>, Fault> {
        let answer = tokio::time::timeout(ANSWER, self.client.send(request?)).await;
        let answer =
            answer.map_err(|_| Fault::Silent(ANSWER))?.map_err(|error| Fault::Away(chain(&error)))?;
        let code = answer.status().as_u16();
        if answer.status().is_success() {
            return Ok(answer);
        }
        let wait = answer.headers().get(http::header::RETRY_AFTER);
        // The header may also be a date, but an API server does not send that form.
        let wait = wait.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        // The body gives the reason, if there is any.
        let body = whole(answer, LONGEST_REFUSAL).await.unwrap_or_default();
        let mut status: Status = serde_json::from_slice(&body).unwrap_or_default();
        status.code = code;
        wait.into_iter().for_each(|seconds| status.wait(seconds));
        if status.message.is_empty() {
            status.message =
                String::from_utf8_lossy(&body).chars().take(200).collect::<String>().trim().into();
        }
        if code == 403 {
            return Err(Fault::Forbidden { permission, message: status.message });
        }
        Err(objects::refusal(status))
    }
}

impl<K: Kind> Watch<K> {
    /// What the server tells next; `None` when it has ended the watch. A line that the server did not finish is
    /// dropped.
    ///
    /// # Errors
    /// The watch cannot go on.
    pub(crate) async fn next(&mut self) -> Result<Option<Told<K>>, Fault> {
        loop {
            if let Some(line) = self.feed.line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return objects::event(line).map(Some);
            }
            match piece(&mut self.body, self.patience).await? {
                Some(bytes) => self.feed.push(&bytes)?,
                None => return Ok(None),
            }
        }
    }

    /// What the server tells next of a streamed list. The list brought its last new object at `last`.
    ///
    /// # Errors
    /// The list does not go on, or will not end.
    pub(crate) async fn next_of_list(&mut self, last: Instant) -> Result<Told<K>, Fault> {
        let told = tokio::time::timeout_at(last + STALLED, self.next()).await;
        let told = told.map_err(|_| Fault::Malformed("a streamed list does not end".into()))??;
        told.ok_or_else(|| Fault::Away("it ended the list in the middle".into()))
    }

    /// Notes that the initial list is complete: from now on silence means that nothing happens.
    pub(crate) fn has_begun(&mut self) {
        self.patience = SILENCE;
    }
}

/// A client without kube's own log, which writes a line for every try.
fn client(config: &Config) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// The part of a query that says which objects are wanted.
fn selected(selector: &Selector) -> String {
    let part = |key: &str, text: &str| match text {
        "" => String::new(),
        text => format!("&{key}={}", escaped(text)),
    };
    format!("{}{}", part("labelSelector", &selector.labels), part("fieldSelector", &selector.fields))
}

fn get(text: &str) -> Result<Request<Body>, Fault> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri(text)?;
    Ok(request)
}

fn uri(text: &str) -> Result<http::Uri, Fault> {
    // Everything in it is escaped, so it can only be too long.
    text.parse().map_err(|error| Fault::Malformed(format!("no request can be made of it: {error}")))
}

/// The text as it may stand in a URI: everything but letters, digits and the unreserved signs is written in
/// hexadecimal.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let write = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(write).collect()
}

/// The next piece of a body; `None` at its end.
async fn piece(body: &mut Body, patience: Duration) -> Result<Option<bytes::Bytes>, Fault> {
    loop {
        let frame =
            tokio::time::timeout(patience, body.frame()).await.map_err(|_| Fault::Silent(patience))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Fault::Away(chain(&error))),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// The whole body.
async fn whole(answer: Response<Body>, longest: usize) -> Result<Vec<u8>, Fault> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = piece(&mut body, ANSWER).await? {
        if bytes.len() + piece.len() > longest {
            return Err(Fault::Malformed(format!("it has more than {longest} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_gave_goes_back_to_it_unharmed() {
        assert_eq!(escaped("12345"), "12345");
        assert_eq!(escaped("eyJ2Ijoi&b=/+ ä"), "eyJ2Ijoi%26b%3D%2F%2B%20%C3%A4");
    }
}
