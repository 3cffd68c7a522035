//! As much of HTTP/1.1 as the server needs: one request and one answer, which is sent in chunks if it has no end.

use std::io::{self, Read, Write};

use serde_json::{Value, json};

use super::tls::Stream;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// What stands before the question mark.
    pub path: String,
    /// What stands behind it.
    pub query: String,
    /// The header `Authorization`
    pub token: String,
    /// The header `Content-Type`
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    pub(crate) fn read(stream: &mut Stream) -> io::Result<Self> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut words = head.split_whitespace();
        let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let header = |name: &str| {
            let found = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
        stream.read_exact(&mut body)?;
        Ok(Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            token: header("authorization"),
            content_type: header("content-type"),
            body,
        })
    }

    /// A part of the query, as it was sent.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// The path behind the API's group and the namespace: the plural, the name and the part of the object.
    fn parts(&self) -> Vec<&str> {
        let mut parts: Vec<_> = self.path.split('/').skip(1).collect();
        let group = if parts.first() == Some(&"api") { 2 } else { 3 };
        parts.drain(..group.min(parts.len()));
        if parts.first() == Some(&"namespaces") {
            parts.drain(..2.min(parts.len()));
        }
        parts
    }

    /// The plural of the kind that it is about.
    pub fn plural(&self) -> &str {
        self.parts().first().copied().unwrap_or_default()
    }

    /// The right that RBAC requires: verb and resource.
    pub fn permission(&self) -> String {
        let parts = self.parts();
        let verb = match self.method.as_str() {
            "GET" if self.query("watch") == Some("true") => "watch",
            "GET" if parts.len() == 1 => "list",
            "GET" => "get",
            "PATCH" => "patch",
            other => other,
        };
        let group = self.path.strip_prefix("/apis/").and_then(|rest| rest.split('/').next());
        let group = group.map_or_else(String::new, |group| format!(".{group}"));
        let part = parts.get(2).map_or_else(String::new, |part| format!("/{part}"));
        format!("{verb} {}{group}{part}", self.plural())
    }
}

/// Which objects a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    /// Labels that an object must not have.
    without: Vec<String>,
    /// The name that it must have.
    name: Option<String>,
}

impl Selector {
    /// The selectors of a request. A form that no client of ours uses is a fault of the test.
    pub(crate) fn of(request: &Request) -> Self {
        let text = |key: &str| request.query(key).map(unescaped);
        let labels = text("labelSelector").unwrap_or_default();
        let labels = labels.split(',').filter(|part| !part.is_empty());
        let without = labels.map(|part| part.strip_prefix('!').unwrap().to_owned()).collect();
        let name = text("fieldSelector").map(|text| text.strip_prefix("metadata.name=").unwrap().to_owned());
        Self { without, name }
    }

    pub(crate) fn selects(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.without.iter().all(|label| metadata["labels"].get(label).is_none())
            && self.name.as_ref().is_none_or(|name| metadata["name"] == **name)
    }
}

/// A text as it was before it stood in a URI.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, rest) {
            (b'%', [high, low, after @ ..]) => {
                let digits = String::from_utf8(vec![*high, *low]).unwrap();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) struct Answer {
    code: u16,
    body: Vec<u8>,
    /// Seconds for which the client is to wait.
    retry_after: Option<u64>,
}

impl Answer {
    pub(crate) fn json(code: u16, body: &Value) -> Self {
        Self { code, body: body.to_string().into_bytes(), retry_after: None }
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    pub(crate) fn status(code: u16, reason: &str, message: &str) -> Self {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                          "message": message});
        Self::json(code, &body)
    }

    pub(crate) fn write(&self, stream: &mut Stream) -> io::Result<()> {
        let Self { code, body, retry_after } = self;
        let wait = retry_after.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
        write!(
            stream,
            "HTTP/1.1 {code} Any\r\n{wait}Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
        stream.flush()
    }
}

pub(crate) fn begin_chunks(stream: &mut Stream) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    stream.flush()
}

pub(crate) fn chunk(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    write!(stream, "{:x}\r\n", bytes.len())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")?;
    stream.flush()
}
