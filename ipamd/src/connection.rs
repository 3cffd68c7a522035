//! One caller: its calls in their order, each answered before the next is read.

use crate::server::{Limits, Shared};
use crate::service::{Answer, PAGE, Request};
use crate::writer::Handle;
use ferrule_wire::{
    Call, CallError, DEFINITION, FrameError, Frames, GetInfoReply, GetInterfaceDescriptionReply, INTERFACE,
    Reply, SERVICE_DEFINITION, SERVICE_INTERFACE, encode,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// A call up to this size is taken in however much others hold: all callers' together are bounded by their number.
const SMALL: usize = 16 << 10;

/// Why a conversation ended other than by the caller's hanging up between calls.
#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error("the caller sent no whole call in time")]
    Idle,
    #[error("the caller did not read its answer in time")]
    NotRead,
    #[error("the caller hung up in the middle of a call")]
    HalfCall,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the call is no Varlink message: {0}")]
    NotVarlink(#[from] serde_json::Error),
    #[error("the caller may not call")]
    Refused,
    #[error("the caller was silent while others waited for its place")]
    Crowded,
    #[error("the calls that are not answered yet are too large together")]
    TooMuch,
}

/// Serves a caller until it hangs up, breaks a limit, or the daemon stops.
pub(crate) async fn converse(stream: UnixStream, handle: Handle, shared: Shared) {
    let mut caller = Caller::new(stream, &shared);
    let (mut stopped, mut crowded) = (shared.stopped.clone(), shared.crowded.clone());
    let served = async {
        loop {
            let silent_until = Instant::now() + shared.limits.crowded;
            let message = tokio::select! {
                biased;
                message = caller.message() => message?,
                // The sender lives as long as the server, so the end of it is a stop too.
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                () = is_crowded(&mut crowded, silent_until) => return Err(EndError::Crowded),
            };
            let Some(message) = message else { return Ok(()) };
            caller.serve(&handle, &message).await?;
        }
    };
    if let Err(error) = served.await {
        let error: EndError = error;
        tracing::debug!(%error, "ended a conversation");
    }
}

/// Waits until others wait for a place, at this time or later.
async fn is_crowded(crowded: &mut watch::Receiver<bool>, from: Instant) {
    while crowded.wait_for(|crowded| *crowded).await.is_ok() {
        sleep_until(from).await;
        if *crowded.borrow() {
            return;
        }
    }
    // The server ends, and with it the conversation.
    std::future::pending::<()>().await;
}

/// Tells a caller that it may not call.
pub(crate) async fn refuse(stream: UnixStream, shared: Shared) {
    let mut caller = Caller::new(stream, &shared);
    // Its call is read first: an answer to nothing would be lost with the connection's reset.
    if let Ok(Ok(Some(_))) = timeout(shared.limits.crowded, caller.message()).await {
        let _ = caller.fail(&CallError::PermissionDenied {}).await;
    }
    tracing::debug!(error = %EndError::Refused, "ended a conversation");
}

/// The bytes of one caller's call, counted among all.
struct Held {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Held {
    /// Counts more bytes; all that is held.
    fn add(&mut self, bytes: usize) -> usize {
        self.own += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    fn clear(&mut self) {
        self.all.fetch_sub(std::mem::take(&mut self.own), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clear();
    }
}

struct Caller {
    stream: UnixStream,
    frames: Frames,
    held: Held,
    limits: Arc<Limits>,
}

impl Caller {
    fn new(stream: UnixStream, shared: &Shared) -> Self {
        let held = Held { all: Arc::clone(&shared.held), own: 0 };
        Self { stream, frames: Frames::default(), held, limits: Arc::clone(&shared.limits) }
    }

    /// The next whole message; `None` if the caller hung up between calls.
    async fn message(&mut self) -> Result<Option<Vec<u8>>, EndError> {
        let idle = self.limits.idle;
        // The call before is answered.
        self.held.clear();
        let read = async {
            let mut piece = [0; 4096];
            loop {
                if let Some(message) = self.frames.pop()? {
                    return Ok(Some(message));
                }
                match self.stream.read(&mut piece).await? {
                    0 if self.frames.is_partial() => return Err(EndError::HalfCall),
                    0 => return Ok(None),
                    read => {
                        self.frames.push(&piece[..read]);
                        if self.held.add(read) > self.limits.held && self.held.own > SMALL {
                            return Err(EndError::TooMuch);
                        }
                    }
                }
            }
        };
        let read: Result<_, EndError> = timeout(idle, read).await.map_err(|_| EndError::Idle)?;
        if let Err(error @ (EndError::Frame(_) | EndError::TooMuch)) = &read {
            let parameter = error.to_string();
            self.fail(&CallError::InvalidParameter { parameter }).await?;
        }
        read
    }

    async fn serve(&mut self, handle: &Handle, message: &[u8]) -> Result<(), EndError> {
        let request = match ferrule_wire::Request::parse(message)? {
            Ok(request) => request,
            Err(error) => return self.fail(&error).await,
        };
        let silent = request.oneway;
        let (request, patience) = match request.call {
            Call::List(_) if silent || !request.more => {
                return if silent { Ok(()) } else { self.fail(&CallError::ExpectedMore {}).await };
            }
            Call::List(_) => return self.list(handle).await,
            Call::Resting(_) if silent || !request.more => {
                return if silent { Ok(()) } else { self.fail(&CallError::ExpectedMore {}).await };
            }
            Call::Resting(call) => return self.resting(handle, call.pool).await,
            Call::GetInfo(_) => return self.succeed(&info(), silent).await,
            Call::GetInterfaceDescription(call) => {
                return match description(&call.interface) {
                    Ok(description) => self.succeed(&description, silent).await,
                    Err(error) => self.fail(&error).await,
                };
            }
            // Who is gone will not use the lease, and may have queued its release already.
            Call::Allocate(_) if self.has_hung_up() => return Ok(()),
            Call::Allocate(call) => {
                let patience = call.deadline_ms.map(Duration::from_millis);
                (Request::Allocate(call), patience)
            }
            Call::Release(call) => (Request::Release(call.attachment), None),
            Call::Check(call) => (Request::Check(call), None),
            Call::Status(call) => (Request::Status(call), None),
            Call::Collect(call) => (Request::Collect(call), None),
            Call::Pools(_) => (Request::Pools, None),
        };
        match handle.ask(request, patience).await {
            Ok(answer) => self.succeed(&answer, silent).await,
            Err(_) if silent => Ok(()),
            Err(error) => self.fail(&error).await,
        }
    }

    /// All leases, a page a message. No page waits for the one before to be gathered again.
    async fn list(&mut self, handle: &Handle) -> Result<(), EndError> {
        let mut after = None;
        loop {
            let page = match handle.ask(Request::Leases { after }, None).await {
                Ok(Answer::Leases(page)) => page,
                Ok(_) => return Ok(()),
                Err(error) => return self.fail(&error).await,
            };
            after = page.leases.last().map(|lease| lease.attachment.clone());
            let continues = page.leases.len() == PAGE;
            self.write(&Reply::success(page, continues)).await?;
            if !continues {
                return Ok(());
            }
        }
    }

    /// All resting addresses, a page a message.
    async fn resting(&mut self, handle: &Handle, pool: Option<String>) -> Result<(), EndError> {
        let mut after = None;
        loop {
            let page = match handle.ask(Request::Resting { pool: pool.clone(), after }, None).await {
                Ok(Answer::Resting(page)) => page,
                Ok(_) => return Ok(()),
                Err(error) => return self.fail(&error).await,
            };
            after = page.last;
            let continues = page.reply.addresses.len() == PAGE;
            self.write(&Reply::success(page.reply, continues)).await?;
            if !continues {
                return Ok(());
            }
        }
    }

    /// Whether the caller has closed the connection, as opposed to having closed its sending side only.
    fn has_hung_up(&self) -> bool {
        let mut end = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        matches!(poll(&mut end, PollTimeout::ZERO), Ok(1..))
            && end[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    async fn succeed<T: Serialize>(&mut self, answer: &T, silent: bool) -> Result<(), EndError> {
        if silent { Ok(()) } else { self.write(&Reply::success(answer, false)).await }
    }

    async fn fail(&mut self, error: &CallError) -> Result<(), EndError> {
        self.write(&Reply::failure(error)).await
    }

    async fn write<T: Serialize>(&mut self, reply: &T) -> Result<(), EndError> {
        let bytes = encode(reply)?;
        let written = timeout(self.limits.write, self.stream.write_all(&bytes)).await;
        Ok(written.map_err(|_| EndError::NotRead)??)
    }
}

fn info() -> GetInfoReply {
    GetInfoReply {
        vendor: "Ferrule".to_owned(),
        product: "ipamd".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: env!("CARGO_PKG_REPOSITORY").to_owned(),
        interfaces: vec![SERVICE_INTERFACE.to_owned(), INTERFACE.to_owned()],
    }
}

fn description(interface: &str) -> Result<GetInterfaceDescriptionReply, CallError> {
    let description = match interface {
        INTERFACE => DEFINITION,
        SERVICE_INTERFACE => SERVICE_DEFINITION,
        _ => return Err(CallError::InterfaceNotFound { interface: interface.to_owned() }),
    };
    Ok(GetInterfaceDescriptionReply { description: description.to_owned() })
}
