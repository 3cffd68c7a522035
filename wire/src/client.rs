//! The synchronous client: one connection, and one deadline for every wait on it.

use crate::frame::{FrameError, Frames, encode};
use crate::messages::{CallError, Envelope, Method, Reply};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::TimeVal;
use serde_json::{Map, Value};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often [`Client::connect_wait`] looks for the socket. A person or kubelet would not notice such a short delay.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Why a call has no answer, or which error it was answered with.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// Path of the socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The deadline passed.
    #[error("ipamd did not answer in time while {doing}")]
    Deadline {
        /// What the client was doing.
        doing: &'static str,
    },
    /// The connection broke.
    #[error("the connection to ipamd broke while {doing}")]
    Broken {
        /// What the client was doing.
        doing: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The daemon closed the connection before it answered: it stopped or died.
    #[error("ipamd closed the connection before it answered")]
    Closed,
    /// A message cannot be framed, either the call or the reply.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The reply does not fit the interface.
    #[error("ipamd's reply does not fit the interface (are plugin and ipamd of one version?)")]
    Reply(#[source] serde_json::Error),
    /// The daemon answered with an error.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl ClientError {
    /// Whether the daemon cannot be reached or does not answer, as opposed to an answer that is an error.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Deadline { .. } | Self::Broken { .. } | Self::Closed)
    }
}

/// A connection to `ipamd`.
///
/// A call is a [`send`](Self::send) and a [`receive`](Self::receive), so that the caller can work while the daemon
/// does. [`call`](Self::call) does both. After any error other than [`ClientError::Call`], the connection cannot be
/// used any more.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixListener;
/// use std::time::{Duration, Instant};
/// use ferrule_wire::{Call, Client, Frames, Incoming, Reply, Status, StatusReply, encode};
///
/// let directory = tempfile::tempdir()?;
/// let socket = directory.path().join("ipamd.sock");
/// let listener = UnixListener::bind(&socket)?;
/// // The daemon's part, for one call.
/// let daemon = std::thread::spawn(move || {
///     let (mut stream, _) = listener.accept().unwrap();
///     let mut frames = Frames::default();
///     let message = loop {
///         let mut piece = [0; 512];
///         let read = stream.read(&mut piece).unwrap();
///         frames.push(&piece[..read]);
///         if let Some(message) = frames.pop().unwrap() {
///             break message;
///         }
///     };
///     let incoming = Incoming::<Call>::parse(&message).unwrap().unwrap();
///     assert!(matches!(incoming.call, Call::Status(_)));
///     stream.write_all(&encode(&Reply::success(StatusReply {}, false)).unwrap()).unwrap();
/// });
///
/// let deadline = Instant::now() + Duration::from_secs(10);
/// let mut client = Client::connect_wait(&socket, deadline)?;
/// client.call(&Status { pool: None })?;
/// daemon.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    frames: Frames,
    deadline: Instant,
}

impl Client {
    /// Connects once. `deadline` bounds this and every later wait on the connection.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody serves the socket; [`ClientError::Deadline`] when the daemon's backlog
    /// stays full.
    pub fn connect(path: &Path, deadline: Instant) -> Result<Self, ClientError> {
        let failed = |source: io::Error| ClientError::Connect { path: path.to_owned(), source };
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|e| failed(e.into()))?;
        let address = UnixAddr::new(path).map_err(|e| failed(e.into()))?;
        loop {
            // A full backlog makes connect(2) on a unix socket block. The send timeout limits that wait too
            // (unix_stream_connect in the kernel), but std can set it only once the connection exists.
            let left = remaining(deadline, "connecting")?;
            setsockopt(&fd, SendTimeout, &timeval(left)).map_err(|e| failed(e.into()))?;
            match connect(fd.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(nix::Error::EAGAIN) => return Err(ClientError::Deadline { doing: "connecting" }),
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Ok(Self { stream: UnixStream::from(fd), frames: Frames::default(), deadline })
    }

    /// Connects, and waits for the daemon to come up. As long as the socket is missing or nobody serves it, it tries
    /// again.
    ///
    /// # Errors
    /// The last [`ClientError::Connect`] once the deadline has passed. Other errors are returned at once.
    pub fn connect_wait(path: &Path, deadline: Instant) -> Result<Self, ClientError> {
        let mut last = None;
        loop {
            let error = match (Self::connect(path, deadline), last.take()) {
                (Ok(client), _) => return Ok(client),
                // The last sleep took longer than it should. The error that was seen before it says more than the
                // deadline.
                (Err(ClientError::Deadline { .. }), Some(last)) => return Err(last),
                (Err(error), _) => error,
            };
            let ClientError::Connect { source, .. } = &error else { return Err(error) };
            let absent = matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
            if !absent || deadline.saturating_duration_since(Instant::now()) <= LOOK_INTERVAL {
                return Err(error);
            }
            last = Some(error);
            sleep(LOOK_INTERVAL);
        }
    }

    /// Sets another deadline for the following waits. For example, the call that undoes an earlier one gets a deadline
    /// of its own.
    pub const fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Sends a call.
    ///
    /// # Errors
    /// See [`ClientError`]. If the call is too large, nothing is sent.
    pub fn send<M: Method>(&mut self, parameters: &M) -> Result<(), ClientError> {
        self.send_flagged(parameters, false)
    }

    /// Reads the reply to a call that was sent.
    ///
    /// # Errors
    /// [`ClientError::Call`] if the daemon answered with an error.
    pub fn receive<M: Method>(&mut self) -> Result<M::Reply, ClientError> {
        self.receive_one::<M>().map(|(reply, _)| reply)
    }

    /// Calls and waits for the reply.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`receive`](Self::receive).
    pub fn call<M: Method>(&mut self, parameters: &M) -> Result<M::Reply, ClientError> {
        self.send(parameters)?;
        self.receive::<M>()
    }

    /// Calls a method that answers in several messages and hands each to `each`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_more<M: Method>(
        &mut self,
        parameters: &M,
        mut each: impl FnMut(M::Reply),
    ) -> Result<(), ClientError> {
        self.send_flagged(parameters, true)?;
        loop {
            let (reply, continues) = self.receive_one::<M>()?;
            each(reply);
            if !continues {
                return Ok(());
            }
        }
    }

    fn send_flagged<M: Method>(&mut self, parameters: &M, more: bool) -> Result<(), ClientError> {
        let method = M::NAME.to_owned();
        let bytes = encode(&Envelope { method, parameters: Some(parameters), more, oneway: false })?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let left = remaining(self.deadline, SENDING)?;
            self.stream.set_write_timeout(Some(left)).map_err(|source| broken(SENDING, source))?;
            match self.stream.write(rest) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(written) => rest = &rest[written..],
                Err(error) => ignore_interruption(error, SENDING)?,
            }
        }
        Ok(())
    }

    fn receive_one<M: Method>(&mut self) -> Result<(M::Reply, bool), ClientError> {
        let message = self.receive_message()?;
        let reply: Reply<Value> = serde_json::from_slice(&message).map_err(ClientError::Reply)?;
        let parameters = reply.parameters.unwrap_or_else(|| Value::Object(Map::new()));
        if let Some(name) = reply.error {
            let parameters = serde_json::from_value(parameters).map_err(ClientError::Reply)?;
            return Err(CallError::from_reply(name, parameters).into());
        }
        let value = serde_json::from_value(parameters).map_err(ClientError::Reply)?;
        Ok((value, reply.continues))
    }

    fn receive_message(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut piece = [0; 8192];
        loop {
            if let Some(message) = self.frames.pop()? {
                return Ok(message);
            }
            let left = remaining(self.deadline, RECEIVING)?;
            self.stream.set_read_timeout(Some(left)).map_err(|source| broken(RECEIVING, source))?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(read) => self.frames.push(&piece[..read]),
                Err(error) => ignore_interruption(error, RECEIVING)?,
            }
        }
    }
}

/// For callers that wait on several connections at once. The descriptor is readable once a reply begins to arrive.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

const SENDING: &str = "sending the call";
const RECEIVING: &str = "waiting for the answer";

const fn broken(doing: &'static str, source: io::Error) -> ClientError {
    ClientError::Broken { doing, source }
}

/// After an interruption or a timeout the caller's loop goes on, and looks at the deadline again.
fn ignore_interruption(error: io::Error, doing: &'static str) -> Result<(), ClientError> {
    match error.kind() {
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
        _ => Err(broken(doing, error)),
    }
}

fn remaining(deadline: Instant, doing: &'static str) -> Result<Duration, ClientError> {
    let left = deadline.saturating_duration_since(Instant::now());
    // For less than a microsecond, the kernel would take the timeout to mean "none".
    if left < Duration::from_micros(1) { Err(ClientError::Deadline { doing }) } else { Ok(left) }
}

fn timeval(duration: Duration) -> TimeVal {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    TimeVal::new(seconds, i64::from(duration.subsec_micros()))
}
