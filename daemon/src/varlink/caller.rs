//! Serves one caller: its calls in their order, each answered before the next one is read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrule_wire::service;
use ferrule_wire::{
    CallError, FrameError, Frames, GetInfoReply, GetInterfaceDescriptionReply, Incoming, Reply,
    SERVICE_DEFINITION, SERVICE_INTERFACE, Served, encode,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::server::{Limits, Service, Shared};

/// A call up to this size is always accepted, however many bytes other calls hold. The number of callers bounds these.
const SMALL: usize = 16 << 10;

/// Why a conversation ended. That the caller hung up between calls is not among the reasons.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// The caller said nothing.
    #[error("the caller sent no whole call in time")]
    Idle,
    /// The caller did not read its answer.
    #[error("the caller did not read its answer in time")]
    NotRead,
    /// The caller went away.
    #[error("the caller hung up in the middle of a call")]
    HalfCall,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A message cannot be framed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The caller speaks another protocol.
    #[error("the call is no Varlink message: {0}")]
    NotVarlink(#[from] serde_json::Error),
    /// The caller may not call.
    #[error("the caller may not call")]
    Refused,
    /// The caller held a place that another one wanted.
    #[error("the caller was silent while others waited for its place")]
    Crowded,
    /// There is no room for its call.
    #[error("the calls that are not answered yet are too large together")]
    TooMuch,
}

/// Serves a caller until it hangs up, breaks a limit, or the daemon stops.
pub(super) async fn converse<S: Service>(stream: UnixStream, service: S, shared: Shared) {
    let mut caller = Caller::new(stream, &shared);
    let (mut stopped, mut crowded) = (shared.stopped.clone(), shared.crowded.clone());
    let served = async {
        loop {
            let silent_until = Instant::now() + shared.limits.crowded;
            let message = tokio::select! {
                biased;
                message = caller.message() => message?,
                // The sender lives as long as the server, so its end means a stop too.
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                () = is_crowded(&mut crowded, silent_until) => return Err(EndError::Crowded),
            };
            let Some(message) = message else { return Ok(()) };
            caller.serve(&service, &message).await?;
        }
    };
    if let Err(error) = served.await {
        let error: EndError = error;
        tracing::debug!(%error, "ended a conversation");
    }
}

/// Waits until others wait for a place, but not before the time `from`.
async fn is_crowded(crowded: &mut watch::Receiver<bool>, from: Instant) {
    while crowded.wait_for(|crowded| *crowded).await.is_ok() {
        sleep_until(from).await;
        if *crowded.borrow() {
            return;
        }
    }
    // The server ends, and the conversation with it.
    std::future::pending::<()>().await;
}

/// Tells a caller that it may not call.
pub(super) async fn refuse(stream: UnixStream, shared: Shared) {
    let mut caller = Caller::new(stream, &shared);
    // The call is read first. Otherwise an early answer would be lost when the connection is reset.
    if let Ok(Ok(Some(_))) = timeout(shared.limits.crowded, caller.message()).await {
        let _ = caller.fail(&CallError::PermissionDenied {}).await;
    }
    tracing::debug!(error = %EndError::Refused, "ended a conversation");
}

/// The bytes of one caller's call. They are counted among those of all callers.
#[derive(Debug)]
struct Held {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Held {
    /// Counts more bytes. Returns how many all callers hold.
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

/// The other end of a conversation.
#[derive(Debug)]
pub struct Caller {
    stream: UnixStream,
    frames: Frames,
    held: Held,
    limits: Arc<Limits>,
    /// Fires when the caller may have been silent for too long. A new timer for each call would wake the runtime each
    /// time.
    alarm: Pin<Box<Sleep>>,
}

impl Caller {
    fn new(stream: UnixStream, shared: &Shared) -> Self {
        let held = Held { all: Arc::clone(&shared.held), own: 0 };
        let limits = Arc::clone(&shared.limits);
        let alarm = Box::pin(sleep(limits.idle));
        Self { stream, frames: Frames::default(), held, limits, alarm }
    }

    /// The next whole message; `None` if the caller hung up between calls.
    async fn message(&mut self) -> Result<Option<Vec<u8>>, EndError> {
        // The previous call was answered.
        self.held.clear();
        let late = Instant::now() + self.limits.idle;
        let mut piece = [0; 4096];
        loop {
            if let Some(message) = self.frame().await? {
                return Ok(Some(message));
            }
            tokio::select! {
                biased;
                read = self.stream.read(&mut piece) => match read? {
                    0 if self.frames.is_partial() => return Err(EndError::HalfCall),
                    0 => return Ok(None),
                    read => self.take(&piece[..read]).await?,
                },
                () = &mut self.alarm => {
                    if Instant::now() >= late {
                        return Err(EndError::Idle);
                    }
                    self.alarm.as_mut().reset(late);
                }
            }
        }
    }

    /// Takes out a message that has arrived whole. One that cannot be framed is answered with an error, and ends the
    /// conversation.
    async fn frame(&mut self) -> Result<Option<Vec<u8>>, EndError> {
        match self.frames.pop() {
            Ok(message) => Ok(message),
            Err(error) => self.end(error.into()).await.map(|()| None),
        }
    }

    /// Takes in a piece of a message, as far as there is room.
    async fn take(&mut self, piece: &[u8]) -> Result<(), EndError> {
        self.frames.push(piece);
        if self.held.add(piece.len()) > self.limits.held && self.held.own > SMALL {
            return self.end(EndError::TooMuch).await;
        }
        Ok(())
    }

    /// Tells the caller why the conversation ends.
    async fn end(&mut self, error: EndError) -> Result<(), EndError> {
        let parameter = error.to_string();
        self.fail(&CallError::InvalidParameter { parameter }).await?;
        Err(error)
    }

    async fn serve<S: Service>(&mut self, service: &S, message: &[u8]) -> Result<(), EndError> {
        let Incoming { call, more, oneway } = match Incoming::<Served<S::Call>>::parse(message)? {
            Ok(request) => request,
            Err(error) => return self.fail(&error).await,
        };
        match call {
            Served::Own(call) => service.serve(self, Incoming { call, more, oneway }).await,
            Served::Standard(service::Call::GetInfo(_)) => self.succeed(&info::<S>(), oneway).await,
            Served::Standard(service::Call::GetInterfaceDescription(call)) => {
                match description::<S>(&call.interface) {
                    Ok(description) => self.succeed(&description, oneway).await,
                    Err(error) => self.fail(&error).await,
                }
            }
        }
    }

    /// Whether the caller has closed the connection, and not only its sending side.
    pub fn has_hung_up(&self) -> bool {
        let mut end = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        matches!(poll(&mut end, PollTimeout::ZERO), Ok(1..))
            && end[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    /// Sends the only answer to a call. Sends nothing if the call was `silent` (Varlink's `oneway`).
    ///
    /// # Errors
    /// See [`EndError`].
    pub async fn succeed<T: Serialize + Sync>(&mut self, answer: &T, silent: bool) -> Result<(), EndError> {
        if silent { Ok(()) } else { self.page(answer, false).await }
    }

    /// Sends one of several answers. Another one follows if `continues` is set.
    ///
    /// # Errors
    /// See [`EndError`].
    pub async fn page<T: Serialize + Sync>(&mut self, answer: &T, continues: bool) -> Result<(), EndError> {
        self.write(&Reply::success(answer, continues)).await
    }

    /// Sends an error as the answer.
    ///
    /// # Errors
    /// See [`EndError`].
    pub async fn fail(&mut self, error: &CallError) -> Result<(), EndError> {
        self.write(&Reply::failure(error)).await
    }

    async fn write<T: Serialize>(&mut self, reply: &T) -> Result<(), EndError> {
        let bytes = encode(reply)?;
        let written = timeout(self.limits.write, self.stream.write_all(&bytes)).await;
        Ok(written.map_err(|_| EndError::NotRead)??)
    }
}

/// The connection, so that the kernel can be asked about it.
impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn info<S: Service>() -> GetInfoReply {
    GetInfoReply {
        vendor: "Ferrule".to_owned(),
        product: S::PRODUCT.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: env!("CARGO_PKG_REPOSITORY").to_owned(),
        interfaces: vec![SERVICE_INTERFACE.to_owned(), S::INTERFACE.to_owned()],
    }
}

fn description<S: Service>(interface: &str) -> Result<GetInterfaceDescriptionReply, CallError> {
    let description = match interface {
        SERVICE_INTERFACE => SERVICE_DEFINITION,
        other if other == S::INTERFACE => S::DEFINITION,
        _ => return Err(CallError::InterfaceNotFound { interface: interface.to_owned() }),
    };
    Ok(GetInterfaceDescriptionReply { description: description.to_owned() })
}
