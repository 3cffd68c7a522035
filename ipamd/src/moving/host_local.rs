//! host-local's files. `DIR/NETWORK/ADDRESS` holds the container's id and the interface's name, on two lines separated
//! by CR LF. `last_reserved_ip.N` says after which address it goes on. `lock` is held (flock) while anything changes.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The mode with which host-local makes files.
const LINE_BREAK: &str = "\r\n";

/// The interface of an entry that names none. Old versions of host-local wrote such entries. Every runtime calls the
/// first interface so.
const FIRST_INTERFACE: &str = "eth0";

/// host-local's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostLocalError {
    /// A file or directory cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It is not clear which network is meant.
    #[error("{} has {}: name one with --network", directory.display(), if names.is_empty() { "no network".to_owned() } else { format!("the networks {}", names.join(", ")) })]
    Which {
        /// The directory.
        directory: PathBuf,
        /// The networks in it.
        names: Vec<String>,
    },
    /// A file that is not an entry of host-local.
    #[error("{} holds no container's id: remove it if no pod has the address, and try again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A name that would lead to another directory.
    #[error("{name:?} cannot be a network's name")]
    Name {
        /// The name.
        name: String,
    },
}

/// An address that host-local has given out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) address: IpAddr,
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

/// One network's directory, locked as host-local locks it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    path: PathBuf,
    _lock: Flock<File>,
}

impl Network {
    /// Opens the network of this name, or else the only one there is. Waits while host-local itself holds the lock.
    /// With `make`, a missing directory is made.
    pub(crate) fn open(directory: &Path, name: Option<&str>, make: bool) -> Result<Self, HostLocalError> {
        let name = match name {
            Some(name) if name.is_empty() || name.contains('/') || name.starts_with('.') => {
                return Err(HostLocalError::Name { name: name.to_owned() });
            }
            Some(name) => name.to_owned(),
            None => only(directory)?,
        };
        let path = directory.join(&name);
        if make {
            fs::create_dir_all(&path).map_err(failed("make", &path))?;
        }
        let lock = path.join("lock");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock);
        let file = file.map_err(failed("lock", &lock))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("lock", &lock)(io::Error::from(errno)))?;
        Ok(Self { name, path, _lock: lock })
    }

    /// Every address that is given out, in order.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, HostLocalError> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.path).map_err(failed("read", &self.path))? {
            let path = file.map_err(failed("read", &self.path))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(address) = name.parse() else { continue };
            let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let Some(container_id) = lines.next().map(str::to_owned) else {
                return Err(HostLocalError::Empty { path });
            };
            let ifname = lines.next().unwrap_or(FIRST_INTERFACE).to_owned();
            entries.push(Entry { address, container_id, ifname });
        }
        entries.sort_unstable();
        Ok(entries)
    }

    /// Marks an address as given out, and replaces any earlier entry.
    pub(crate) fn write(&self, entry: &Entry) -> Result<(), HostLocalError> {
        let path = self.path.join(entry.address.to_string());
        let text = format!("{}{LINE_BREAK}{}", entry.container_id, entry.ifname);
        ferrule_daemon::write_atomically(&path, text.as_bytes()).map_err(failed("write", &path))
    }

    /// Marks an address as free.
    pub(crate) fn remove(&self, address: IpAddr) -> Result<(), HostLocalError> {
        let path = self.path.join(address.to_string());
        fs::remove_file(&path).map_err(failed("remove", &path))
    }
}

fn only(directory: &Path) -> Result<String, HostLocalError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    match <[String; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(names) => Err(HostLocalError::Which { directory: directory.to_owned(), names }),
    }
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> HostLocalError + use<'a> {
    move |source| HostLocalError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_all_versions_are_read_and_written_as_host_local_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cbr0");
        fs::create_dir(&path).unwrap();
        for (name, text) in [
            ("10.0.0.2", "new\r\nnet1"),
            ("10.0.0.3", "old\n"),
            ("fd00::2", "new\r\nnet1"),
            ("last_reserved_ip.0", "10.0.0.3"),
        ] {
            fs::write(path.join(name), text).unwrap();
        }
        let network = Network::open(dir.path(), None, false).unwrap();
        let entry = |address: &str, container_id: &str, ifname: &str| Entry {
            address: address.parse().unwrap(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        };
        let expected = [
            entry("10.0.0.2", "new", "net1"),
            entry("10.0.0.3", "old", "eth0"),
            entry("fd00::2", "new", "net1"),
        ];
        assert_eq!(network.entries().unwrap(), expected);
        network.write(&entry("10.0.0.9", "c", "eth0")).unwrap();
        assert_eq!(fs::read_to_string(path.join("10.0.0.9")).unwrap(), "c\r\neth0");
        network.remove("10.0.0.9".parse().unwrap()).unwrap();
        assert_eq!(network.entries().unwrap(), expected);
        fs::write(path.join("10.0.0.4"), "").unwrap();
        assert!(matches!(network.entries(), Err(HostLocalError::Empty { .. })));
    }

    #[test]
    fn of_several_networks_one_has_to_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name| Network::open(dir.path(), name, true).map(|network| network.name);
        assert!(open(None).unwrap_err().to_string().contains("no network"));
        assert_eq!(open(Some("a")).unwrap(), "a");
        assert_eq!(open(None).unwrap(), "a");
        assert_eq!(open(Some("b")).unwrap(), "b");
        assert!(open(None).unwrap_err().to_string().contains("the networks a, b"));
        assert!(matches!(open(Some("../a")), Err(HostLocalError::Name { .. })));
    }
}
