//! Finds out which address each network namespace has. Namespaces are found by their files (`/run/netns`) and by the
//! processes in them. Their addresses are read from `/proc/net`.

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

/// A namespace cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[error("cannot look into {}: run this as root on the node itself, it has to see every pod's network namespace", path.display())]
pub struct LookError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Which address is where.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Addresses of all namespaces other than the host's. The path is that of the namespace's file. It is `None` if
    /// only a process leads to the namespace.
    pub(crate) pods: HashMap<IpAddr, Option<PathBuf>>,
    /// Addresses of the host's namespace.
    pub(crate) host: HashSet<IpAddr>,
}

impl Namespaces {
    /// Looks into every namespace. Their files are in `directory`, which need not exist.
    pub(crate) fn look(directory: &Path) -> Result<Self, LookError> {
        let own = Path::new("/proc/self/ns/net");
        let mut seen = HashSet::from([identity(own).map_err(cannot(own))?]);
        let mut found =
            Self { host: addresses(Path::new("/proc/self/net")).map_err(cannot(own))?, ..Self::default() };
        for path in list(directory)? {
            let Ok(id) = identity(&path) else { continue };
            if seen.insert(id) {
                let addresses = inside(&path).map_err(cannot(&path))?;
                found.pods.extend(addresses.into_iter().map(|address| (address, Some(path.clone()))));
            }
        }
        for process in list(Path::new("/proc"))? {
            let is_process =
                process.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
            let path = process.join("ns/net");
            let look = || {
                if seen.insert(identity(&path)?) {
                    addresses(&process.join("net"))
                } else {
                    Ok(HashSet::new())
                }
            };
            match is_process.then(look) {
                None => {}
                Some(Ok(addresses)) => {
                    for address in addresses {
                        found.pods.entry(address).or_default();
                    }
                }
                // The process has ended meanwhile.
                Some(Err(error)) if is_gone(&error) => {}
                Some(Err(error)) => return Err(cannot(&path)(error)),
            }
        }
        Ok(found)
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::ESRCH as i32)
        || error.raw_os_error() == Some(Errno::EINVAL as i32)
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, LookError> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(cannot(directory)(error)),
    }
}

/// What identifies a namespace: the device and inode of its file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|data| (data.dev(), data.ino()))
}

/// The addresses inside a namespace. A thread enters the namespace, reads them and ends. A file that is not a
/// namespace, such as a crash leaves behind, has no addresses.
fn inside(path: &Path) -> io::Result<HashSet<IpAddr>> {
    let file = File::open(path)?;
    let look = move || match setns(&file, CloneFlags::CLONE_NEWNET) {
        Ok(()) => addresses(Path::new("/proc/thread-self/net")),
        Err(Errno::EINVAL) => Ok(HashSet::new()),
        Err(errno) => Err(errno.into()),
    };
    thread::spawn(look).join().unwrap_or_else(|_| Err(io::Error::other("the thread that looked died")))
}

/// The addresses of the namespace to which a `net` directory of `/proc` belongs.
fn addresses(net: &Path) -> io::Result<HashSet<IpAddr>> {
    let mut found = ipv4(&fs::read_to_string(net.join("fib_trie"))?);
    match fs::read_to_string(net.join("if_inet6")) {
        Ok(text) => found.extend(ipv6(&text)),
        // The kernel has no IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// Reads the kernel's routes to its own addresses: a line `|-- ADDRESS`, and below it `/32 host LOCAL`.
fn ipv4(fib_trie: &str) -> HashSet<IpAddr> {
    let mut last = None::<Ipv4Addr>;
    let mut found = HashSet::new();
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last.map(IpAddr::V4));
        }
    }
    found
}

/// Each line begins with an address of 32 hexadecimal digits.
fn ipv6(if_inet6: &str) -> HashSet<IpAddr> {
    let words = if_inet6.lines().filter_map(|line| line.split_whitespace().next());
    words
        .filter_map(|digits| u128::from_str_radix(digits, 16).ok())
        .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        .collect()
}

fn cannot(path: &Path) -> impl FnOnce(io::Error) -> LookError {
    move |source| LookError { path: path.to_owned(), source }
}
