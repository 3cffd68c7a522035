//! A server that speaks as much of the Kubernetes API as a daemon sees: list, watch, streamed lists, selectors,
//! bookmarks, a history that can be forgotten, one node's status, tokens and TLS. It can fail at each of these on
//! demand.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails, in its helpers too, and says how"
)]

pub mod http;
pub mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use std::{fs, io, thread};

use serde_json::{Value, json};

use http::{Answer, Request, Selector};
use tls::Authority;
use tls::Stream;

/// How long a watch of the server sleeps before it looks whether it has to end.
const LOOK: Duration = Duration::from_millis(20);

/// What the server, or a proxy before it, does to a streamed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Streaming {
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
pub struct Faults {
    /// What happens to streamed lists.
    pub streaming: Streaming,
    /// Each `verb resource` that is forbidden.
    pub forbidden: BTreeSet<String>,
    /// Each `verb resource` that is allowed. `None` allows everything that is not forbidden.
    pub allowed: Option<BTreeSet<String>>,
    /// Bytes that the next watch sends in the middle of its list, before it closes.
    pub break_list_with: Option<Vec<u8>>,
    /// Time between two pieces of a list or watch.
    pub slowness: Duration,
    /// Bytes in a piece; 0 for a line.
    pub piece: usize,
}

/// The plural of an object's kind, and its name, with its namespace before it if it has one.
type Key = (&'static str, String);

/// Something that happened.
#[derive(Clone)]
struct Happened {
    version: u64,
    /// The plural of the object's kind; `None` for a bookmark, which is for all.
    plural: Option<&'static str>,
    /// The object before; `None` if there was none.
    before: Option<Value>,
    /// The object after; `None` if there is none.
    after: Option<Value>,
}

impl Happened {
    /// The event that this is for a watch.
    fn event(&self, plural: &str, selector: &Selector) -> Option<Value> {
        let Some(own) = self.plural else {
            let metadata = json!({"resourceVersion": self.version.to_string()});
            return Some(json!({"type": "BOOKMARK", "object": {"metadata": metadata}}));
        };
        if own != plural {
            return None;
        }
        let selected = |object: &Option<Value>| object.clone().filter(|object| selector.selects(object));
        let (kind, mut object) = match (selected(&self.before), selected(&self.after)) {
            (None, None) => return None,
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
        };
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(json!({"type": kind, "object": object}))
    }
}

/// Makes one object of a crowd, from the plural of its kind and a number; `None` after the last one. The object is one
/// line of JSON.
pub type Crowd = fn(&str, u32) -> Option<String>;

#[derive(Default)]
struct State {
    faults: Faults,
    objects: BTreeMap<Key, Value>,
    /// Objects that are made when a list is streamed, and kept nowhere.
    crowd: Option<Crowd>,
    version: u64,
    /// What happened.
    history: Vec<Happened>,
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
pub struct ApiServer {
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
    pub fn new(listener: TcpListener, directory: &Path) -> Self {
        let authority = Authority::new(directory);
        let state = State { version: 100, token: "first-token".into(), ..State::default() };
        let server = Self::with(listener, authority, state);
        server.write_token("first-token");
        fs::write(server.kubeconfig(), server.kubeconfig_text()).unwrap();
        server
    }

    /// Another server of the same cluster, with the same credentials and the objects as they are now.
    pub fn beside(&self, listener: TcpListener) -> Self {
        let state = self.shared.state();
        let (objects, version, token) = (state.objects.clone(), state.version, state.token.clone());
        let state = State { objects, version, token, history: state.history.clone(), ..State::default() };
        Self::with(listener, self.authority.clone(), state)
    }

    fn with(listener: TcpListener, authority: Authority, state: State) -> Self {
        let tls = authority.server();
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), tls });
        let address = listener.local_addr().unwrap();
        let server = Self { shared, address, authority, accepting: Mutex::default() };
        server.accept(listener);
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
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file with the server's address and the credentials.
    pub fn kubeconfig(&self) -> std::path::PathBuf {
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
    pub fn write_token(&self, token: &str) {
        fs::write(self.authority.directory.join("token"), token).unwrap();
    }

    /// The token that the server wants from now on; open connections are cut.
    pub fn want_token(&self, token: &str) {
        self.shared.state().token = token.into();
        self.cut();
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.state().faults);
    }

    /// Creates or changes an object.
    pub fn put(&self, mut object: Value) {
        let mut state = self.shared.state();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let key = (plural_of(&object), name_of(&object));
        let (plural, before) = (key.0, state.objects.insert(key, object.clone()));
        self.happen(state, Some(plural), before, Some(object));
    }

    /// Adds objects without number to every streamed list. They are made anew each time, so that the server takes no
    /// memory for them.
    pub fn crowd(&self, crowd: Crowd) {
        self.shared.state().crowd = Some(crowd);
    }

    /// Deletes the node of this name.
    pub fn delete(&self, name: &str) {
        self.delete_object("nodes", name);
    }

    /// Deletes the object of this name, which is `NAMESPACE/NAME` if it is in a namespace.
    pub fn delete_object(&self, plural: &'static str, name: &str) {
        let mut state = self.shared.state();
        state.version += 1;
        let before = state.objects.remove(&(plural, name.to_owned()));
        assert!(before.is_some(), "there is no {plural} {name}");
        self.happen(state, Some(plural), before, None);
    }

    /// Tells every watch that nothing happened up to a new version. Returns it.
    pub fn bookmark(&self) -> u64 {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        self.happen(state, None, None, None);
        version
    }

    fn happen(
        &self,
        mut state: MutexGuard<'_, State>,
        plural: Option<&'static str>,
        before: Option<Value>,
        after: Option<Value>,
    ) {
        let version = state.version;
        state.history.push(Happened { version, plural, before, after });
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Sends bytes as they are to every watch that is open.
    pub fn send(&self, bytes: &[u8]) {
        self.shared.state().raw.push(bytes.to_vec());
        self.shared.changed.notify_all();
    }

    /// Forgets what happened before now. A watch from an older version gets 410.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.version += 1;
        state.oldest = state.version;
        state.history.clear();
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.shared.state().generation += 1;
        self.shared.changed.notify_all();
    }

    /// Stops the server: nothing listens any more.
    pub fn stop(&self) {
        self.shared.state().stopped = true;
        self.cut();
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.join().unwrap();
        }
    }

    /// Listens again.
    pub fn start(&self, listener: TcpListener) {
        self.shared.state().stopped = false;
        self.accept(listener);
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// The object of a node.
    pub fn node(&self, name: &str) -> Value {
        self.shared.state().objects[&("nodes", name.to_owned())].clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn plural_of(object: &Value) -> &'static str {
    match object["kind"].as_str() {
        None | Some("Node") => "nodes",
        Some("Service") => "services",
        Some("EndpointSlice") => "endpointslices",
        Some(other) => panic!("the server knows no {other}"),
    }
}

fn name_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap();
    metadata["namespace"].as_str().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// A node as the kubelet and the controller manager leave it, with an image list as long as nodes have.
pub fn node(number: u8) -> Value {
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
    let plural = request.plural().to_owned();
    match (permission.split_once(' ').unwrap().0, plural.as_str()) {
        ("list", plural) => list(&request, plural, &state).write(&mut stream),
        ("watch", plural) => {
            drop(state);
            watch(shared, &request, plural, &mut stream)
        }
        ("patch", "nodes") => {
            let answer = patch(&request, &mut state);
            drop(state);
            shared.changed.notify_all();
            answer.write(&mut stream)
        }
        _ => Answer::status(404, "NotFound", &permission).write(&mut stream),
    }
}

/// The objects that a request asks for.
fn selected<'a>(
    request: &Request,
    plural: &str,
    state: &'a State,
) -> impl Iterator<Item = &'a Value> + use<'a> {
    let (selector, plural) = (Selector::of(request), plural.to_owned());
    let all = state.objects.iter().filter(move |((own, _), _)| *own == plural);
    all.map(|(_, object)| object).filter(move |object| selector.selects(object))
}

/// A page. Its token is the number of objects on the pages before.
fn list(request: &Request, plural: &str, state: &State) -> Answer {
    let begin: usize = request.query("continue").map_or(0, |text| text.parse().unwrap());
    let limit: usize = request.query("limit").map_or(usize::MAX, |text| text.parse().unwrap());
    let items: Vec<_> = selected(request, plural, state).skip(begin).take(limit).collect();
    let end = begin + items.len();
    let is_last = end >= selected(request, plural, state).count();
    let next = if is_last { String::new() } else { end.to_string() };
    let metadata = json!({"resourceVersion": state.version.to_string(), "continue": next});
    Answer::json(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

/// A strategic merge, as far as conditions need it.
fn patch(request: &Request, state: &mut State) -> Answer {
    if request.content_type != "application/strategic-merge-patch+json" {
        let message = format!("the body of the request was in an unknown format: {}", request.content_type);
        return Answer::status(415, "UnsupportedMediaType", &message);
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let name = request.path.split('/').nth(4).unwrap().to_owned();
    let key = ("nodes", name);
    let Some(before) = state.objects.get(&key).cloned() else {
        return Answer::status(404, "NotFound", &format!("nodes \"{}\" not found", key.1));
    };
    let mut node = before.clone();
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
    let answer = Answer::json(200, &node);
    state.objects.insert(key, node.clone());
    let version = state.version;
    let (before, after) = (Some(before), Some(node));
    state.history.push(Happened { version, plural: Some("nodes"), before, after });
    answer
}

/// Tells a crowd, many objects at a time.
fn tell_crowd(make: Crowd, plural: &str, stream: &mut Stream) -> io::Result<()> {
    let mut lines = String::new();
    for object in (0..).map_while(|number| make(plural, number)) {
        lines.push_str(&format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"));
        if lines.len() > 1 << 15 {
            http::chunk(stream, lines.as_bytes())?;
            lines.clear();
        }
    }
    if lines.is_empty() { Ok(()) } else { http::chunk(stream, lines.as_bytes()) }
}

fn watch(shared: &Shared, request: &Request, plural: &str, stream: &mut Stream) -> io::Result<()> {
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
    let selector = Selector::of(request);
    if request.query("sendInitialEvents").is_some() {
        seen = state.version;
        let all = selected(request, plural, &state);
        lines.extend(all.map(|object| line(&json!({"type": "ADDED", "object": object}))));
        let end = json!({"resourceVersion": seen.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
        lines.push(line(&json!({"type": "BOOKMARK", "object": {"metadata": end}})));
        broken = state.faults.break_list_with.clone();
    } else if seen < state.oldest {
        return Answer::status(410, "Expired", &format!("too old resource version: {seen}")).write(stream);
    }
    let (slowness, size) = (state.faults.slowness, state.faults.piece);
    let crowd = state.crowd.filter(|_| request.query("sendInitialEvents").is_some());
    drop(state);
    http::begin_chunks(stream)?;
    if let Some(make) = crowd {
        tell_crowd(make, plural, stream)?;
    }
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
            && state.history.iter().all(|one| one.version <= seen)
        {
            state = shared.changed.wait_timeout(state, LOOK).unwrap().0;
        }
        if state.generation != generation {
            // Raw bytes that were to be sent went out before the cut.
            return state.raw[raw..].iter().try_for_each(|bytes| http::chunk(stream, bytes));
        }
        let news = state.history.iter().filter(|one| one.version > seen);
        lines.extend(news.filter_map(|one| one.event(plural, &selector)).map(|event| line(&event)));
        seen = state.history.last().map_or(seen, |one| one.version.max(seen));
        lines.extend(state.raw[raw..].iter().cloned());
        raw = state.raw.len();
    }
}
