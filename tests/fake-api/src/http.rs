//! As much of HTTP/1.1 as the server needs: one request and one answer, which is sent in chunks if it has no end.

use std::io::{self, Read, Write};

use serde_json::{Value, json};

use super::tls::Stream;

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) token: String,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
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

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// The right that RBAC requires: verb and resource.
    pub(crate) fn permission(&self) -> String {
        let resource = match self.path.strip_prefix("/api/v1/nodes") {
            Some(rest) if rest.ends_with("/status") => "nodes/status",
            Some(_) => "nodes",
            None => self.path.as_str(),
        };
        let verb = match self.method.as_str() {
            "GET" if self.query("watch") == Some("true") => "watch",
            "GET" if self.path.ends_with("/nodes") => "list",
            "GET" => "get",
            "PATCH" => "patch",
            other => other,
        };
        format!("{verb} {resource}")
    }
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
