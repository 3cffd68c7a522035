//! The CNI plugin `ferrule`: one process for each verb, from environment and standard input to one JSON text.
//!
//! A call walks through the folders so: [`edge`] reads what the runtime says into a typed request and finds every fault
//! in it; then one file of [`verbs`] does the verb. It has addresses asked for by [`ask`], the pure [`decide`] works
//! out what the pod needs of the kernel, and [`act`] does it. Where leases come from is the affair of `ipamd`; the ways
//! to other nodes are the affair of `routed`.

pub mod act;
mod ask;
pub mod decide;
pub mod edge;
pub mod verbs;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{Read, Write};

use serde::Serialize;

pub use act::node::{Node, RealNode};
use edge::error::{Error, Failure};
pub use edge::request::Face;
use edge::request::{Invocation, Unreadable};
use edge::result::AddResult;
use edge::spec::{Verb, Version};
use verbs::{add, check, del, face, gc, status};

/// What the process leaves behind.
#[derive(Debug)]
pub struct Answer {
    /// For standard output: a result, an error object, or nothing. The result of ADD is written already.
    pub stdout: Vec<u8>,
    /// For standard error: one line on failure, or one for each thing that an operator should know.
    pub log: Option<String>,
    /// The exit code is 0.
    pub ok: bool,
}

/// Answer to VERSION (section 5, "Version Success").
#[derive(Serialize)]
struct Versions {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    #[serde(rename = "supportedVersions")]
    supported: [&'static str; Version::ALL.len()],
}

/// The same as [`serve`], with the whole output in the answer.
pub fn run<N: Node>(
    face: Face,
    variable: impl Fn(&str) -> Option<OsString>,
    stdin: impl Read,
    node: &N,
) -> Answer {
    let mut written = Vec::new();
    let mut answer = serve(face, variable, stdin, &mut written, node);
    written.append(&mut answer.stdout);
    Answer { stdout: written, ..answer }
}

/// Does what the environment and standard input ask of the program under the name it was called by. ADD writes its
/// result to `stdout` itself: what cannot be told is taken back.
pub fn serve<N: Node>(
    face: Face,
    variable: impl Fn(&str) -> Option<OsString>,
    stdin: impl Read,
    stdout: &mut dyn Write,
    node: &N,
) -> Answer {
    let log = Log { trace: trace(&variable) };
    let request = match Invocation::read(face, variable, stdin) {
        Ok(request) => request,
        Err(Unreadable { version, error }) => return log.failed("", version, &error.into()),
    };
    let named = |verb: Verb, what: &dyn Display| format!("{} {what}: ", verb.as_str());
    let network = face == Face::Network;
    let mut warnings = Vec::new();
    let (what, version, outcome) = match &request {
        Invocation::About => return Answer { stdout: Vec::new(), log: Some(about()), ok: true },
        Invocation::Version => {
            let supported = Version::ALL.map(Version::as_str);
            return succeeded(json(&Versions { version: Version::NEWEST.as_str(), supported }));
        }
        Invocation::Add(add) => {
            let version = add.config.version;
            let tell = |result: AddResult| {
                let text = json(&result.in_version(version));
                stdout.write_all(&text).and_then(|()| stdout.flush()).map_err(Error::Stdout)
            };
            let done = if network {
                add::add(node, add, tell).map(|said| warnings = said)
            } else {
                face::add(add, tell)
            };
            (named(Verb::Add, &add.attachment), version, done)
        }
        Invocation::Del(del) => {
            let done = if network { del::del(node, del) } else { face::del(del) };
            (named(Verb::Del, &del.attachment), del.config.version, done)
        }
        Invocation::Check(check) => {
            let done = if network { check::check(node, check) } else { face::check(check) };
            (named(Verb::Check, &check.attachment), check.config.version, done)
        }
        Invocation::Status(config) => {
            let done = if network { status::status(node, config) } else { face::status(config) };
            (named(Verb::Status, &config.name), config.version, done)
        }
        Invocation::Gc(gc) => {
            let done = if network { gc::gc(node, gc) } else { face::gc(gc) };
            (named(Verb::Gc, &gc.config.name), gc.config.version, done)
        }
    };
    match outcome {
        Ok(()) => Answer { log: log.warned(&what, &warnings), ..succeeded(Vec::new()) },
        Err(failure) => log.failed(&what, version, &failure),
    }
}

/// What the line in the log has beside the error.
struct Log {
    /// The caller's trace, if it has one.
    trace: Option<String>,
}

impl Log {
    fn warned(&self, what: &str, warnings: &[String]) -> Option<String> {
        let trace = self.trace();
        let line = |warning: &String| format!("ferrule: {what}{warning}{trace}\n");
        Some(warnings.iter().map(line).collect::<String>()).filter(|lines| !lines.is_empty())
    }

    fn trace(&self) -> String {
        self.trace.as_ref().map_or_else(String::new, |trace| format!(" traceparent={trace}"))
    }

    fn failed(&self, what: &str, version: Version, failure: &Failure) -> Answer {
        let object = failure.object(version);
        let trace = self.trace();
        // What the caller wrote may be in the message, and must not begin a line of its own.
        let line = format!("ferrule: {what}{object}{trace}").replace(|c: char| c.is_control(), " ");
        Answer { log: Some(line + "\n"), stdout: json(&object), ok: false }
    }
}

/// `TRACEPARENT` as W3C's Trace Context has it, by which a person finds the caller's trace; nothing else is taken.
fn trace(variable: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    const MAX: usize = 128;
    let text = variable("TRACEPARENT")?.into_string().ok()?;
    let hexadecimal = |b: u8| b.is_ascii_hexdigit() || b == b'-';
    Some(text).filter(|text| !text.is_empty() && text.len() <= MAX && text.bytes().all(hexadecimal))
}

const fn succeeded(stdout: Vec<u8>) -> Answer {
    Answer { stdout, log: None, ok: true }
}

/// One line of JSON. Texts, numbers and lists always have a form in it.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn about() -> String {
    format!(
        "ferrule {}: CNI plugin that attaches pods to Ferrule's pod network; under the name ferrule-ipam, the addresses alone.\n\
         A container runtime runs it (CNI_COMMAND in the environment, the network configuration on standard input).\n\
         CNI versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        Version::ALL.map(Version::as_str).join(", ")
    )
}
