//! A server that speaks as much of the Kubernetes API as a client of nodes sees: list, watch, streamed lists,
//! bookmarks, a history that can be forgotten, one node's status, tokens and TLS. It can fail at each of these on
//! demand.

pub(crate) mod http;
pub(crate) mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use std::{fs, io, thread};

use serde_json::{Value, json};

use http::{Answer, Request};
use tls::Authority;
use tls::Stream;

/// How long a watch of the server sleeps before it looks whether it has to end.
const LOOK: Duration = Duration::from_millis(20);

/// What the server, or a proxy before it, does to a streamed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Streaming {
    /// Nothing: the list is streamed as asked.
    #[default]
    Works,
    /// It answers 422, like a server whose feature gate is off.
    Refused,
    /// It answers with this status.
    Answers(u16),
    /// It answers 429, and asks the client to hold back for so many seconds.
    TooMany(u64),
    /// It ends the answer properly, but before the last bookmark.
    Ends,
    /// It cuts the connection in the middle.
    Cut,
    /// It cuts the connection before it has answered.
    CutAtOnce,
    /// It begins an answer, and sends nothing more.
    Silent,
    /// It accepts the request and never answers.
    Mute,
    /// It knows no streamed lists, and tells changes for ever.
    Endless,
    /// It answers with a page for people.
    Page,
}

impl Streaming {
    /// The words of an API server with this status. Those for 500 are of a server whose etcd cannot report progress.
    fn words(code: u16) -> (&'static str, &'static str) {
        match code {
            400 => ("BadRequest", "unknown parameter"),
            404 => ("NotFound", "the server could not find the requested resource"),
            406 => ("NotAcceptable", "only the following media types are accepted"),
            422 => (
                "Invalid",
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature \
                 gate is enabled",
            ),
            500 => (
                "InternalError",
                "a watch stream was requested by the client but the required storage feature RequestWatchProgress is \
                 disabled",
            ),
            504 => ("Timeout", "Timeout: Too large resource version"),
            _ => ("", ""),
        }
    }

    /// Does what is set, unless the server has to work. Returns whether it did something.
    fn perform(self, stream: &mut Stream, shared: &Shared) -> io::Result<bool> {
        let refuse = |code: u16| {
            let (reason, message) = Self::words(code);
            Answer::status(code, reason, message)
        };
        let wait_for_end = || {
            let generation = shared.state().generation;
            while shared.state().generation == generation {
                thread::sleep(LOOK);
            }
        };
        let first = br#"{"type":"ADDED","object":{"metadata":{"name":"n1","resourceVersion":"1"}}}"#;
        match self {
            Self::Works => return Ok(false),
            Self::Refused => refuse(422).write(stream)?,
            Self::Answers(code) => refuse(code).write(stream)?,
            Self::TooMany(seconds) => refuse(429).retry_after(seconds).write(stream)?,
            Self::CutAtOnce => {}
            Self::Mute => wait_for_end(),
            Self::Ends | Self::Cut | Self::Silent => {
                http::begin_chunks(stream)?;
                http::chunk(stream, &[first.as_slice(), b"\n"].concat())?;
                match self {
                    Self::Ends => http::chunk(stream, b"")?,
                    Self::Silent => wait_for_end(),
                    _ => {}
                }
            }
            Self::Endless => {
                http::begin_chunks(stream)?;
                let generation = shared.state().generation;
                while shared.state().generation == generation {
                    http::chunk(stream, &[first.as_slice(), b"\n"].concat())?;
                    thread::sleep(LOOK);
                }
            }
            Self::Page => {
                http::begin_chunks(stream)?;
                http::chunk(stream, b"<html>\n<body>Who are you?</body>\n</html>\n")?;
                http::chunk(stream, b"")?;
            }
        }
        Ok(true)
    }
}

/// What goes wrong, until a test changes it.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) streaming: Streaming,
    /// Each `verb resource` that is forbidden.
    pub(crate) forbidden: BTreeSet<String>,
    /// Each `verb resource` that is allowed. `None` allows everything that is not forbidden.
    pub(crate) allowed: Option<BTreeSet<String>>,
    /// Bytes that the next watch sends in the middle of its list, before it closes.
    pub(crate) break_list_with: Option<Vec<u8>>,
    /// Time between two pieces of a list or watch.
    pub(crate) slowness: Duration,
    /// Bytes in a piece; 0 for a line.
    pub(crate) piece: usize,
}

#[derive(Default)]
struct State {
    faults: Faults,
    nodes: BTreeMap<String, Value>,
    version: u64,
    /// What happened, with its version.
    history: Vec<(u64, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    /// Raw bytes for every open watch, to be sent after what has happened so far. Each has the number of its push.
    raw: Vec<Vec<u8>>,
    /// Watches of earlier generations end.
    generation: u64,
    token: String,
    requests: Vec<Request>,
    stopped: bool,
}

/// The server. It runs until the value is dropped.
pub(crate) struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    authority: Authority,
    /// The thread that accepts callers, while there is one.
    accepting: Mutex<Option<thread::JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    tls: Arc<rustls::ServerConfig>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl ApiServer {
    /// A server on `listener`, with certificates in `directory`.
    pub(crate) fn new(listener: TcpListener, directory: &Path) -> Self {
        let authority = Authority::new(directory);
        let state = State { version: 100, token: "first-token".into(), ..State::default() };
        let tls = authority.server();
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), tls });
        let address = listener.local_addr().unwrap();
        let server = Self { shared, address, authority, accepting: Mutex::default() };
        server.accept(listener);
        server.write_token("first-token");
        fs::write(server.kubeconfig(), server.kubeconfig_text()).unwrap();
        server
    }

    fn accept(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        listener.set_nonblocking(true).unwrap();
        let accepting = thread::spawn(move || {
            while !shared.state().stopped {
                match listener.accept() {
                    Ok((socket, _)) => {
                        let shared = Arc::clone(&shared);
                        thread::spawn(move || serve(&shared, socket));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        *self.accepting.lock().unwrap() = Some(accepting);
    }

    /// The address at which it listens, so that another one can come back there.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.authority.directory.join("kubeconfig")
    }

    fn kubeconfig_text(&self) -> String {
        let directory = self.authority.directory.display();
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster:\n    server: https://{}\n    certificate-authority: {directory}/ca.crt\n\
             users:\n- name: test\n  user:\n    tokenFile: {directory}/token\n\
             contexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n",
            self.address
        )
    }

    /// Writes the token that the client presents.
    pub(crate) fn write_token(&self, token: &str) {
        fs::write(self.authority.directory.join("token"), token).unwrap();
    }

    /// The token that the server wants from now on; open connections are cut.
    pub(crate) fn want_token(&self, token: &str) {
        self.shared.state().token = token.into();
        self.cut();
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.state().faults);
    }

    /// Creates or changes an object.
    pub(crate) fn put(&self, mut node: Value) {
        let mut state = self.shared.state();
        state.version += 1;
        node["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        let known = state.nodes.insert(name, node.clone()).is_some();
        let kind = if known { "MODIFIED" } else { "ADDED" };
        self.happen(state, json!({"type": kind, "object": node}));
    }

    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.shared.state();
        state.version += 1;
        let mut node = state.nodes.remove(name).unwrap();
        node["metadata"]["resourceVersion"] = json!(state.version.to_string());
        self.happen(state, json!({"type": "DELETED", "object": node}));
    }

    pub(crate) fn bookmark(&self) -> u64 {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        let object = json!({"kind": "Node", "metadata": {"resourceVersion": version.to_string()}});
        self.happen(state, json!({"type": "BOOKMARK", "object": object}));
        version
    }

    fn happen(&self, mut state: MutexGuard<'_, State>, event: Value) {
        let version = state.version;
        state.history.push((version, event));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Sends bytes as they are to every watch that is open.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.shared.state().raw.push(bytes.to_vec());
        self.shared.changed.notify_all();
    }

    /// Forgets what happened before now. A watch from an older version gets 410.
    pub(crate) fn forget(&self) {
        let mut state = self.shared.state();
        state.version += 1;
        state.oldest = state.version;
        state.history.clear();
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        self.shared.state().generation += 1;
        self.shared.changed.notify_all();
    }

    /// Stops the server: nothing listens any more.
    pub(crate) fn stop(&self) {
        self.shared.state().stopped = true;
        self.cut();
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.join().unwrap();
        }
    }

    /// Listens again.
    pub(crate) fn start(&self, listener: TcpListener) {
        self.shared.state().stopped = false;
        self.accept(listener);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// The object of a node.
    pub(crate) fn node(&self, name: &str) -> Value {
        self.shared.state().nodes[name].clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A node as the kubelet and the controller manager leave it, with an image list as long as nodes have.
pub(crate) fn node(number: u8) -> Value {
    let images: Vec<_> =
        (0..20).map(|image| json!({"names": [format!("registry/{image}")], "sizeBytes": 1})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": format!("n{number}"), "labels": {"kubernetes.io/os": "linux"}},
        "spec": {
            "podCIDR": format!("10.244.{number}.0/24"),
            "podCIDRs": [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")],
        },
        "status": {
            "addresses": [
                {"type": "Hostname", "address": format!("n{number}")},
                {"type": "InternalIP", "address": format!("192.0.2.{number}")},
                {"type": "InternalIP", "address": format!("2001:db8::{number}")},
                {"type": "ExternalIP", "address": format!("203.0.113.{number}")},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": images,
        },
    })
}

fn serve(shared: &Shared, socket: TcpStream) {
    socket.set_nonblocking(false).unwrap();
    let _ = socket.set_nodelay(true);
    // It is no fault of the server if a client goes away in the middle.
    let _ = tls::accept(Arc::clone(&shared.tls), socket).and_then(|stream| talk(shared, stream));
}

/// Serves one request on a connection.
fn talk(shared: &Shared, mut stream: Stream) -> io::Result<()> {
    let request = Request::read(&mut stream)?;
    let mut state = shared.state();
    state.requests.push(request.clone());
    if request.token != format!("Bearer {}", state.token) {
        return Answer::status(401, "Unauthorized", "Unauthorized").write(&mut stream);
    }
    let permission = request.permission();
    let is_left_out = state.faults.allowed.as_ref().is_some_and(|all| !all.contains(&permission));
    if is_left_out || state.faults.forbidden.contains(&permission) {
        let (verb, resource) = permission.split_once(' ').unwrap();
        let message = format!(
            "User \"test\" cannot {verb} resource \"{resource}\" in API group \"\" at the cluster scope"
        );
        return Answer::status(403, "Forbidden", &message).write(&mut stream);
    }
    match permission.as_str() {
        "list nodes" => list(&request, &state).write(&mut stream),
        "watch nodes" => {
            drop(state);
            watch(shared, &request, &mut stream)
        }
        "patch nodes/status" => {
            let answer = patch(&request, &mut state);
            drop(state);
            shared.changed.notify_all();
            answer.write(&mut stream)
        }
        other => Answer::status(404, "NotFound", other).write(&mut stream),
    }
}

/// A page. Its token is the number of nodes on the pages before.
fn list(request: &Request, state: &State) -> Answer {
    let begin: usize = request.query("continue").map_or(0, |text| text.parse().unwrap());
    let limit: usize = request.query("limit").map_or(usize::MAX, |text| text.parse().unwrap());
    let items: Vec<_> = state.nodes.values().skip(begin).take(limit).collect();
    let end = begin + items.len();
    let next = if end < state.nodes.len() { end.to_string() } else { String::new() };
    let metadata = json!({"resourceVersion": state.version.to_string(), "continue": next});
    Answer::json(200, &json!({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

/// A strategic merge, as far as conditions need it.
fn patch(request: &Request, state: &mut State) -> Answer {
    if request.content_type != "application/strategic-merge-patch+json" {
        let message = format!("the body of the request was in an unknown format: {}", request.content_type);
        return Answer::status(415, "UnsupportedMediaType", &message);
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let name = request.path.split('/').nth(4).unwrap().to_owned();
    let Some(node) = state.nodes.get_mut(&name) else {
        return Answer::status(404, "NotFound", &format!("nodes \"{name}\" not found"));
    };
    state.version += 1;
    node["metadata"]["resourceVersion"] = json!(state.version.to_string());
    for (name, value) in body["metadata"]["annotations"].as_object().into_iter().flatten() {
        node["metadata"]["annotations"][name] = value.clone();
    }
    let conditions = node["status"]["conditions"].as_array_mut().unwrap();
    for condition in body["status"]["conditions"].as_array().into_iter().flatten() {
        conditions.retain(|known| known["type"] != condition["type"]);
        conditions.push(condition.clone());
    }
    let (version, node) = (state.version, node.clone());
    state.history.push((version, json!({"type": "MODIFIED", "object": node})));
    Answer::json(200, &node)
}

fn watch(shared: &Shared, request: &Request, stream: &mut Stream) -> io::Result<()> {
    if request.query("sendInitialEvents").is_some() {
        let streaming = shared.state().faults.streaming;
        if streaming.perform(stream, shared)? {
            return Ok(());
        }
    }
    let state = shared.state();
    let (generation, mut raw) = (state.generation, state.raw.len());
    let mut seen: u64 = request.query("resourceVersion").map_or(0, |text| text.parse().unwrap());
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let line = |event: &Value| [event.to_string().as_bytes(), b"\n"].concat();
    let mut broken = None;
    if request.query("sendInitialEvents").is_some() {
        seen = state.version;
        lines.extend(state.nodes.values().map(|node| line(&json!({"type": "ADDED", "object": node}))));
        let end = json!({"resourceVersion": seen.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
        lines.push(line(&json!({"type": "BOOKMARK", "object": {"kind": "Node", "metadata": end}})));
        broken = state.faults.break_list_with.clone();
    } else if seen < state.oldest {
        return Answer::status(410, "Expired", &format!("too old resource version: {seen}")).write(stream);
    }
    let (slowness, size) = (state.faults.slowness, state.faults.piece);
    drop(state);
    http::begin_chunks(stream)?;
    if let Some(bytes) = broken {
        shared.state().faults.break_list_with = None;
        for line in lines.iter().take(1) {
            http::chunk(stream, line)?;
        }
        return http::chunk(stream, &bytes);
    }
    loop {
        for line in lines.drain(..) {
            let size = if size == 0 { line.len() } else { size };
            for piece in line.chunks(size) {
                http::chunk(stream, piece)?;
                thread::sleep(slowness);
            }
        }
        let mut state = shared.state();
        if state.generation == generation
            && raw == state.raw.len()
            && state.history.iter().all(|(version, _)| *version <= seen)
        {
            state = shared.changed.wait_timeout(state, LOOK).unwrap().0;
        }
        if state.generation != generation {
            // Raw bytes that were to be sent went out before the cut.
            return state.raw[raw..].iter().try_for_each(|bytes| http::chunk(stream, bytes));
        }
        lines.extend(
            state.history.iter().filter(|(version, _)| *version > seen).map(|(_, event)| line(event)),
        );
        seen = state.history.last().map_or(seen, |(version, _)| *version.max(&seen));
        lines.extend(state.raw[raw..].iter().cloned());
        raw = state.raw.len();
    }
}
