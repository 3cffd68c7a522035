//! The commands `import` and `export`: look, decide, act, and report what was done.

use super::host_local::{HostLocalError, Network};
use super::namespaces::{LookError, Namespaces};
use super::plan::{self, Fate, Found, Line};
use crate::decide::holdings::Batch;
use crate::decide::recover::{Doubled, recover};
use crate::decide::service::{Answer, Service, ServiceRequest, Settings};
use crate::look::clock::{boot_clock, boot_id};
use crate::look::inputs::Inputs;
use crate::store::path_in;
use crate::store::{SledStore, Store, StoreError};
use ferrule_config::ConfigError;
use ferrule_daemon::varlink::{Lock, SocketError};
use ferrule_daemon::{CommonArgs, block_on};
use ferrule_wire::{Lease, Pod};
use nix::unistd::{Gid, Uid, geteuid, setegid, seteuid};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What both commands take.
#[derive(Debug, Clone, clap::Args)]
pub struct Moving {
    /// host-local's directory, as /var/lib/cni/networks
    #[arg(long, value_name = "DIR", required = true)]
    pub host_local: PathBuf,

    /// The network's name there [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,

    /// The network's name in Ferrule's configuration list [default: the same]
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,

    /// Where the runtime keeps the network namespaces' files
    #[arg(long, value_name = "DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,

    /// Says what would be done, and does nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The daemon runs, or the directory cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The store cannot be opened, read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store contradicts itself.
    #[error(transparent)]
    Doubled(#[from] Doubled),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// host-local's files cannot be used.
    #[error(transparent)]
    HostLocal(#[from] HostLocalError),
    /// A namespace cannot be looked into.
    #[error(transparent)]
    Look(#[from] LookError),
    /// Some attachment cannot be taken over.
    #[error("nothing was moved:\n  {}", .0.join("\n  "))]
    Conflicts(Vec<String>),
    /// The system refuses something basic.
    #[error("cannot {doing}")]
    System {
        /// What was refused.
        doing: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Makes leases of the addresses that host-local has given out and that some network namespace has. Either all leases
/// are made or none.
///
/// # Errors
/// See [`MoveError`]. After an error nothing is changed.
pub fn import(common: &CommonArgs, moving: &Moving) -> Result<(), MoveError> {
    let mut books = Books::open(common)?;
    let network = Network::open(&moving.host_local, moving.network.as_deref(), false)?;
    let entries = network.entries()?;
    let namespaces = Namespaces::look(&moving.netns_dir)?;
    let pods = cached_pods(&moving.host_local, &network.name);
    let leases = leases(&mut books.service);
    let pools = &books.settings.pools;
    let found = Found { entries: &entries, pods, namespaces: &namespaces, leases: &leases, pools };
    let name = moving.name.as_deref().unwrap_or(&network.name);
    let (changes, lines) = plan::import(&found, name, boot_clock()()).map_err(MoveError::Conflicts)?;
    if !moving.dry_run {
        books.batch.changes.extend(changes);
    }
    books.close(!moving.dry_run)?;
    report(&lines, moving.dry_run)
}

/// Makes host-local's files say what the leases say.
///
/// # Errors
/// See [`MoveError`]. Files that were written before the failure stay. Repeating the command goes on from there.
pub fn export(common: &CommonArgs, moving: &Moving) -> Result<(), MoveError> {
    let mut books = Books::open(common)?;
    let network = Network::open(&moving.host_local, moving.network.as_deref(), !moving.dry_run)?;
    let namespaces = Namespaces::look(&moving.netns_dir)?;
    let name = moving.name.as_deref().unwrap_or(&network.name);
    let mut leases = leases(&mut books.service);
    books.close(false)?;
    // A lease with a queued release has ended.
    leases.retain(|lease| ferrule_wire::find_queued(&common.runtime_dir, &lease.attachment).is_none());
    let files = plan::export(&leases, name, &network.entries()?, &namespaces);
    if !moving.dry_run {
        for entry in &files.write {
            network.write(entry)?;
        }
        for address in &files.remove {
            network.remove(*address)?;
        }
    }
    report(&files.lines, moving.dry_run)
}

/// The store, what it holds, and the lock that keeps the daemon from running.
struct Books {
    store: Option<SledStore>,
    service: Service,
    settings: Settings,
    /// Changes that the store has to be told of in any case.
    batch: Batch,
    owner: Owner,
    _lock: Lock,
}

impl Books {
    fn open(common: &CommonArgs) -> Result<Self, MoveError> {
        let failed = |doing| move |source| MoveError::System { doing, source };
        let inputs = block_on(async { Inputs::open(common) }).map_err(failed("begin"))??;
        let path = path_in(inputs.config().ipam.state_dir.as_deref(), &common.runtime_dir);
        let owner = Owner::of(path.parent().unwrap_or(&path));
        let boot_id = boot_id().map_err(failed("read the boot id from /proc"))?;
        owner.act(|| {
            let lock = Lock::take(&common.runtime_dir, crate::serve::daemon::PROGRAM)?;
            let mut store = SledStore::new(&path);
            let contents = store.load()?;
            let (service, batch) = recover(contents, inputs.settings(), &boot_id, boot_clock()())?;
            Ok(Self { store: Some(store), service, settings: inputs.settings(), batch, owner, _lock: lock })
        })?
    }

    /// Stops using the store. The lock is held until the command ends.
    fn close(&mut self, commit: bool) -> Result<(), MoveError> {
        let (store, batch) = (self.store.take(), &self.batch);
        self.owner.act(|| match store {
            Some(mut store) if commit => store.commit(batch).map(drop).map_err(MoveError::from),
            Some(_) | None => Ok(()),
        })?
    }
}

/// The user that the daemon runs as, which is the owner of the store's directory. The daemon could not use files that
/// root makes there.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<(Uid, Gid)>);

impl Owner {
    fn of(directory: &Path) -> Self {
        let other = |data: fs::Metadata| (Uid::from_raw(data.uid()), Gid::from_raw(data.gid()));
        let owner =
            fs::metadata(directory).ok().map(other).filter(|(uid, _)| geteuid().is_root() && !uid.is_root());
        Self(owner)
    }

    /// Does something as that user, and becomes root again.
    fn act<T>(self, work: impl FnOnce() -> T) -> Result<T, MoveError> {
        let failed =
            |errno: nix::Error| MoveError::System { doing: "become the store's owner", source: errno.into() };
        let Some((uid, gid)) = self.0 else { return Ok(work()) };
        setegid(gid).and_then(|()| seteuid(uid)).map_err(failed)?;
        let done = work();
        seteuid(Uid::from_raw(0)).and_then(|()| setegid(Gid::from_raw(0))).map_err(failed)?;
        Ok(done)
    }
}

fn leases(service: &mut Service) -> Vec<Lease> {
    let mut leases: Vec<Lease> = Vec::new();
    loop {
        let after = leases.last().map(|lease| lease.attachment.clone());
        match service.handle(ServiceRequest::Leases { after }, boot_clock()(), &mut Vec::new()) {
            Ok(Answer::Leases(page)) if !page.leases.is_empty() => leases.extend(page.leases),
            _ => return leases,
        }
    }
}

/// The files that libcni keeps beside host-local's directory. For each attachment they hold the arguments of its ADD.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    container_id: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    cni_args: Vec<(String, String)>,
}

/// The pods of a network's attachments, by container and interface, where the runtime's cache names them. They are for
/// people only, so a file that cannot be read is left out.
fn cached_pods(host_local: &Path, network: &str) -> HashMap<(String, String), Pod> {
    let results = host_local.parent().map(|parent| parent.join("results"));
    let files = results.and_then(|results| fs::read_dir(results).ok()).into_iter().flatten();
    let cached =
        files.filter_map(|file| serde_json::from_slice::<Cached>(&fs::read(file.ok()?.path()).ok()?).ok());
    let named = cached.filter(|cached| cached.network_name == network).filter_map(|cached| {
        let argument =
            |name: &str| cached.cni_args.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let pod = Pod {
            namespace: argument("K8S_POD_NAMESPACE")?,
            name: argument("K8S_POD_NAME")?,
            uid: argument("K8S_POD_UID").unwrap_or_default(),
        };
        Some(((cached.container_id, cached.if_name), pod))
    });
    named.collect()
}

fn report(lines: &[Line], dry_run: bool) -> Result<(), MoveError> {
    let count = |fate: Fate| lines.iter().filter(|line| line.fate == fate).count();
    let mut out = io::stdout().lock();
    let mut write = || {
        for line in lines {
            writeln!(out, "{line}")?;
        }
        let nothing = if dry_run { " (nothing was changed: --dry-run)" } else { "" };
        writeln!(
            out,
            "{} moved, {} there already, {} left out, {} left as they are{nothing}",
            count(Fate::Moved),
            count(Fate::Already),
            count(Fate::Gone),
            count(Fate::Kept)
        )
    };
    write().map_err(|source| MoveError::System { doing: "write the report", source })
}
