//! Opens the store at the start. A damaged store is kept aside and replaced by a new one; then the daemon serves
//! nothing before it knows from the kernel which addresses are in use (`look::sight`, `decide::adopt`).

use crate::decide::holdings::{Batch, Contents};
use crate::decide::recover::once_each;
use crate::decide::seen::PodLink;
use crate::look::sight::pod_links;
use crate::store::{SledStore, Store, StoreError, Waited};
use ferrule_model::chain;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// How long to wait before asking the kernel when the store may lack leases. By then an ADD that got its address from
/// the daemon before this one has written its route, and an ADD that still waits for an answer has given up and deleted
/// its link: the plugin waits 5 s for the answer, and milliseconds for the kernel.
const SETTLE: Duration = Duration::from_secs(6);

/// The store cannot be opened safely.
#[derive(Debug, thiserror::Error)]
pub enum RescueError {
    /// The store cannot be read, and the reason is not damage.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The damaged store cannot be moved aside.
    #[error("the store {} is damaged and cannot be moved aside", path.display())]
    Aside {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's list of the pods' links cannot be read.
    #[error("cannot read /proc/net, so the addresses in use cannot be told")]
    Kernel(#[source] io::Error),
    /// Pods are running, and their addresses cannot be found out.
    #[error(
        "the store was lost and these pods' links have no route that tells their address: {links}; \
         delete these pods, or the links, then it starts"
    )]
    Untold {
        /// Names of the links.
        links: String,
    },
}

/// A store that was read once, and its state.
pub struct Opened {
    /// The store; its first load answers with what was read.
    pub store: Box<dyn Store>,
    /// Whether it may lack leases.
    pub state: State,
}

/// The state of a store at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is the store of the last run, so it lacks nothing.
    Whole,
    /// It is new, or replaces a damaged one. Pods that are running may have addresses that it does not know.
    New,
}

/// Opens the store in this directory. A damaged store is moved aside.
///
/// # Errors
/// See [`RescueError`]. Then nothing may be given out.
pub fn open(path: &Path) -> Result<Opened, RescueError> {
    let mut store = SledStore::new(path);
    let damage = match store.load() {
        Ok(contents) => match once_each(&contents) {
            Ok(()) => {
                let state = if contents.boot_id.is_none() { State::New } else { State::Whole };
                return Ok(Opened { store: Box::new(Primed { store, contents: Some(contents) }), state });
            }
            Err(doubled) => doubled.to_string(),
        },
        Err(error) if error.is_damage() => chain(&error),
        Err(error) => return Err(error.into()),
    };
    drop(store);
    let aside = move_aside(path).map_err(|source| RescueError::Aside { path: path.to_owned(), source })?;
    tracing::error!(
        damage,
        kept = %aside.display(),
        "the store is damaged: it is kept aside, and its leases are made anew from the pods that run"
    );
    Ok(Opened { store: Box::new(SledStore::new(path)), state: State::New })
}

/// The pods' links with their addresses. With a new store, either the addresses of all links are known, or this fails.
/// After a failure the store still counts as new at the next start.
///
/// # Errors
/// See [`RescueError`].
pub fn links(state: State) -> Result<BTreeMap<String, PodLink>, RescueError> {
    let before = pod_links().map_err(RescueError::Kernel)?;
    if state == State::Whole || before.is_empty() {
        return Ok(before);
    }
    tracing::warn!(
        links = before.len(),
        "the store is new although pods run: asking the kernel in {SETTLE:?}"
    );
    sleep(SETTLE);
    let links = pod_links().map_err(RescueError::Kernel)?;
    // A link that has appeared meanwhile belongs to an ADD that waits for this daemon. An ADD that waited for the
    // daemon before has given up.
    let stayed = links.iter().filter(|(name, _)| before.contains_key(*name));
    let untold: Vec<&str> =
        stayed.filter(|(_, link)| link.addresses.is_empty()).map(|(name, _)| name.as_str()).collect();
    if untold.is_empty() { Ok(links) } else { Err(RescueError::Untold { links: untold.join(", ") }) }
}

/// Renames a damaged store and the file of its commits, with the first number that is free. The commits are renamed
/// last: without them, a store that was cut off looks whole, whereas the commits alone still tell that there was a
/// store.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let name = |number: u32| path.with_extension(format!("damaged-{number}"));
    let number = (1..).find(|number| !name(*number).exists()).unwrap_or_default();
    rename_if_there(path, &name(number))?;
    rename_if_there(&SledStore::commits(path), &path.with_extension(format!("damaged-{number}.commits")))?;
    Ok(name(number))
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A store that has already been read.
struct Primed {
    store: SledStore,
    contents: Option<Contents>,
}

impl Store for Primed {
    fn load(&mut self) -> Result<Contents, StoreError> {
        self.contents.take().map_or_else(|| self.store.load(), Ok)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Waited, StoreError> {
        self.store.commit(batch)
    }
}
