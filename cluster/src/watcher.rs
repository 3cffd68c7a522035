//! The task that lists and watches. It never ends, tells what changed, and says in the log what it cannot do.
//!
//! A round begins with a list, or resumes a watch where the last one ended. The list is streamed if the server can do
//! that. If anything keeps the server from it, the same round asks for pages, and the next list tries streaming again.
//! Any other fault ends the round. Nothing is told then, so what is known stays. The next round follows after a pause,
//! or at once if there is another server to be asked.

use std::time::Duration;

use ferrule_daemon::Pause;
use tokio::time::Instant;

use crate::access::Access;
use crate::api::{Api, Watch};
use crate::fault::Fault;
use crate::kind::{Kind, ObjectName, Resource};
use crate::objects::{Item, Told};

/// A server that has answered for this long is a good one. The next pause is short again.
const GOOD: Duration = Duration::from_secs(30);
/// After a round that was shorter than this the next one has to wait, even if nothing went wrong.
const SHORT: Duration = Duration::from_secs(1);

/// Which objects of a kind are wanted, as the API spells it. Empty texts select all.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    /// `labelSelector`
    pub labels: String,
    /// `fieldSelector`
    pub fields: String,
}

/// What a program does with the objects of a kind.
///
/// Between [`Listener::begin`] and [`Listener::end`] all objects are told, one by one. If the server stops in the
/// middle, there is another `begin` without an `end`. What is known stays as it is until `end`, which says that every
/// object that was not told is gone. At all other times a call is one change.
pub trait Listener: Send + 'static {
    /// The kind.
    type Kind: Kind;

    /// A list begins.
    fn begin(&mut self);

    /// An object exists, with this content. Returns whether the list that is being read had no object of this name
    /// before.
    fn put(&mut self, item: Item<Self::Kind>) -> bool;

    /// The object of this name is gone.
    fn gone(&mut self, name: ObjectName);

    /// The list is complete.
    fn end(&mut self);

    /// Hands on what follows from the calls since the last time, if anything does. Waits while that is not taken. It is
    /// called after each change, and also after each object of a list: whoever tells these at once, as changes, needs
    /// no memory for a list.
    ///
    /// # Errors
    /// Nobody takes it any more. The watcher ends.
    fn tell(&mut self) -> impl Future<Output = Result<(), Deaf>> + Send;
}

/// The task that watches the objects of one kind.
pub struct Watcher<L> {
    access: Access,
    selector: Selector,
    listener: L,
    /// `None` after a fault, because the files of the credentials may have been renewed.
    api: Option<Api>,
    /// The number of the server that `api` leads to, or led to at last.
    server: usize,
    /// So many servers have been found faulty one after the other.
    tried: usize,
    /// The version of what is known; `None` if the objects have to be listed.
    version: Option<String>,
    /// When the server last began to give what it was asked for; `None` after a fault.
    answered: Option<Instant>,
    /// Whether the log says that the server does not stream lists.
    said_pages: bool,
    pause: Pause,
}

/// Nobody listens any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deaf;

/// Why a round ended.
enum End {
    /// The server ended it regularly.
    Closed,
    Fault(Fault),
    Deaf,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Deaf> for End {
    fn from(_: Deaf) -> Self {
        Self::Deaf
    }
}

impl<L: Listener> Watcher<L> {
    const RESOURCE: Resource = <L::Kind as Kind>::RESOURCE;

    /// A watcher that has not begun.
    pub fn new(access: Access, selector: Selector, listener: L) -> Self {
        Self {
            access,
            selector,
            listener,
            api: None,
            server: 0,
            tried: 0,
            version: None,
            answered: None,
            said_pages: false,
            pause: Pause::new(),
        }
    }

    /// Works until nobody listens any more. Must be called within a tokio runtime.
    pub async fn run(mut self) {
        loop {
            let begin = Instant::now();
            let end = self.round().await.unwrap_or_else(|end| end);
            if is_good(self.answered, Instant::now()) {
                self.pause.reset();
                self.access.is_good(Self::RESOURCE.plural);
            }
            match end {
                End::Deaf => return,
                End::Closed if begin.elapsed() >= SHORT => {}
                End::Closed => tokio::time::sleep(self.pause.next_wait()).await,
                End::Fault(fault) => {
                    let wait = self.fail(&fault);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<End, End> {
        let api = match self.api.take() {
            Some(api) => api,
            None => {
                let (api, server) = self.access.open().await?;
                self.server = server;
                api
            }
        };
        let mut watch = match &self.version {
            Some(version) => {
                let watch = api.resume(&self.selector, version).await?;
                self.answered();
                watch
            }
            None => self.list(&api).await?,
        };
        loop {
            match watch.next().await {
                Ok(Some(told)) => self.take(told).await?,
                Ok(None) => break,
                Err(fault) => {
                    // Not even a bookmark came: a program on the way may hold back what the server says.
                    if matches!(fault, Fault::Silent(_)) {
                        self.version = None;
                    }
                    return Err(fault.into());
                }
            }
        }
        self.api = Some(api);
        Ok(End::Closed)
    }

    /// Lists all objects, and returns a watch from there.
    async fn list(&mut self, api: &Api) -> Result<Watch<L::Kind>, End> {
        let streaming = match self.streamed_list(api).await {
            Ok(watch) => {
                self.said_pages = false;
                return Ok(watch);
            }
            Err(End::Fault(fault)) => fault,
            Err(end) => return Err(end),
        };
        tokio::time::sleep(streaming.retry_after()).await;
        let version = match self.paged_list(api).await {
            Ok(version) => version,
            // The fault would be the same for every request, or the right to watch is missing anyhow.
            Err(End::Fault(_)) if streaming.is_the_clients() => return Err(streaming.into()),
            Err(end) => return Err(end),
        };
        if !std::mem::replace(&mut self.said_pages, true) {
            let kind = Self::RESOURCE.plural;
            tracing::info!(
                "the API server does not stream the list of {kind}, it is asked for pages: {streaming}"
            );
        }
        Ok(api.resume(&self.selector, &version).await?)
    }

    async fn streamed_list(&mut self, api: &Api) -> Result<Watch<L::Kind>, End> {
        let mut watch = api.stream(&self.selector).await?;
        self.listener.begin();
        let mut last = Instant::now();
        loop {
            // A server that does not know streaming, and does not say so, never sends the last bookmark.
            match watch.next_of_list(last).await? {
                Told::Bookmark { version, initial_end: true } => {
                    watch.has_begun();
                    self.listed(version).await?;
                    return Ok(watch);
                }
                Told::Put(item) => {
                    let is_new = self.listener.put(item);
                    self.listener.tell().await?;
                    if is_new {
                        last = Instant::now();
                    }
                }
                Told::Gone(identity) => self.listener.gone(identity.name),
                Told::Bookmark { .. } => {}
            }
        }
    }

    async fn paged_list(&mut self, api: &Api) -> Result<String, End> {
        self.listener.begin();
        let mut next = String::new();
        loop {
            let page = api.list(&self.selector, &next).await?;
            for item in page.items {
                self.listener.put(item);
                self.listener.tell().await?;
            }
            next = page.next;
            if next.is_empty() {
                self.listed(page.version.clone()).await?;
                return Ok(page.version);
            }
        }
    }

    /// Completes a list.
    async fn listed(&mut self, version: String) -> Result<(), Deaf> {
        self.listener.end();
        self.version = Some(version);
        self.answered();
        self.listener.tell().await
    }

    async fn take(&mut self, told: Told<L::Kind>) -> Result<(), Deaf> {
        let version = match told {
            Told::Put(item) => {
                let version = item.identity.version.clone();
                self.listener.put(item);
                version
            }
            Told::Gone(identity) => {
                self.listener.gone(identity.name);
                identity.version
            }
            Told::Bookmark { version, .. } => version,
        };
        if !version.is_empty() {
            self.version = Some(version);
        }
        self.listener.tell().await
    }

    /// Notes that the server gave what it was asked for. Its content may still be unreadable.
    fn answered(&mut self) {
        self.answered.get_or_insert_with(Instant::now);
        self.tried = 0;
        if self.access.answered(Self::RESOURCE.plural) {
            tracing::info!("the API server answers again");
        }
    }

    /// Draws the consequences of a fault. Returns how long to wait before the next try.
    fn fail(&mut self, fault: &Fault) -> Duration {
        self.answered = None;
        if fault.doubts_the_version() {
            self.version = None;
        }
        if fault.is_the_servers() {
            self.access.leave(self.server, fault);
            self.tried += 1;
            if self.tried < self.access.servers() {
                self.say_next(fault);
                return fault.retry_after();
            }
        }
        self.tried = 0;
        let kind = Self::RESOURCE.plural;
        match fault {
            Fault::Expired(_) => tracing::info!("{fault}: all {kind} are listed again"),
            fault => {
                if self.access.say(kind, fault, fault.class()) {
                    tracing::error!("{fault}; it is tried again, everything stays as it is until then");
                }
            }
        }
        self.pause.next_wait().max(fault.retry_after())
    }

    /// Says, once for each server, that another one is tried.
    fn say_next(&self, fault: &Fault) {
        let Some(server) = self.access.server(self.server) else { return };
        if self.access.say(Self::RESOURCE.plural, fault, format!("{} at {server}", fault.class())) {
            tracing::warn!("{server}: {fault}; the next server of [kubernetes] server is tried");
        }
    }
}

/// Whether the server, which has answered since `answered`, has done so for long enough.
fn is_good(answered: Option<Instant>, now: Instant) -> bool {
    answered.is_some_and(|answered| now.duration_since(answered) >= GOOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_keeps_silent_for_long_is_not_a_good_one() {
        let begin = Instant::now();
        let later = begin + GOOD;
        assert!(is_good(Some(begin), later) && !is_good(Some(begin), later - Duration::from_millis(1)));
        // It was asked half a minute ago, and has not answered.
        assert!(!is_good(None, later));
    }
}
