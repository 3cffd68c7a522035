//! Network namespaces: naming one, entering it for a moment, and telling two apart.
//!
//! A program enters a pod's namespace only to open a socket or a file. The socket stays in the namespace, the thread
//! does not. `setns(2)` moves the calling thread alone, so every path goes through `/proc/thread-self`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

/// The calling thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace. It lives at least as long as this value, whatever happens to its path.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// Why a path cannot be used as a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It cannot be opened.
    #[error("cannot open the network namespace {}: {source}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why not; `NotFound` when the namespace is gone.
        #[source]
        source: io::Error,
    },
    /// It is a file of another kind, or this process may not enter it.
    #[error("cannot enter the network namespace {}: {}", path.display(), why(*.errno))]
    Enter {
        /// The path.
        path: PathBuf,
        /// `setns(2)`'s error.
        errno: Errno,
    },
    /// `unshare(2)` failed.
    #[error("cannot make a network namespace: {}", why(*.0))]
    Make(Errno),
}

fn why(errno: Errno) -> String {
    match errno {
        Errno::EINVAL => {
            "it is not a network namespace: give the path of one (/run/netns/NAME, /proc/PID/ns/net)".into()
        }
        Errno::EPERM => format!("{errno}: CAP_SYS_ADMIN is needed; run as root or in a user namespace"),
        _ => errno.to_string(),
    }
}

impl Netns {
    /// Opens the namespace that is bound at `path`, such as `/run/netns/NAME` or `/proc/PID/ns/net`. If something else
    /// is there, such as a pipe, opening it does not wait.
    ///
    /// # Errors
    /// [`NetnsError::Open`]; whether it is a namespace shows only when it is entered.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref().to_path_buf();
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        match File::options().read(true).custom_flags(flags).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(NetnsError::Open { path, source }),
        }
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(OWN)
    }

    /// The namespace of a socket (`SIOCGSKNS`, `sock_ioctl` in the kernel). This needs CAP_NET_ADMIN in that namespace.
    #[expect(unsafe_code, reason = "ioctl(2) that makes a descriptor")]
    pub(crate) fn of_socket(socket: &impl AsRawFd) -> io::Result<Self> {
        /// Its number in `linux/sockios.h`.
        const SIOCGSKNS: libc::Ioctl = 0x894C;
        // SAFETY: the request takes no argument and touches no memory of ours.
        let found = Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) })?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let file = unsafe { File::from_raw_fd(found) };
        Ok(Self { file, path: PathBuf::from("(of a socket)") })
    }

    /// The path at which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the calling thread's namespace (same inode on the same nsfs, `namespaces(7)`).
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn is_current(&self) -> Result<bool, NetnsError> {
        // The path suffices, so nothing has to be opened and closed.
        let own = std::fs::metadata(OWN).map_err(|source| NetnsError::Open { path: OWN.into(), source })?;
        Ok(self.file.metadata().is_ok_and(|it| (it.dev(), it.ino()) == (own.dev(), own.ino())))
    }

    /// Runs `inside` with the calling thread in this namespace.
    ///
    /// The process is aborted if the way back fails: a thread that stayed in a pod's namespace would do the node's work
    /// there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run<T>(&self, inside: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let home = Self::current()?;
        self.enter()?;
        let _way_back = WayBack(home);
        Ok(inside())
    }

    fn enter(&self) -> Result<(), NetnsError> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetnsError::Enter { path: self.path.clone(), errno })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Returns the thread to its own namespace, even after a panic.
struct WayBack(Netns);

impl Drop for WayBack {
    fn drop(&mut self) {
        if self.0.enter().is_err() {
            std::process::abort();
        }
    }
}

/// Makes an empty network namespace. Only this value keeps it alive. Only the calling thread is moved there, and back.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn make() -> Result<Netns, NetnsError> {
    let home = Netns::current()?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(NetnsError::Make)?;
    let _way_back = WayBack(home);
    let made = Netns::current()?;
    // `/proc/thread-self` means another namespace to every thread, so the descriptor alone names this one.
    Ok(Netns { path: PathBuf::from("(unnamed)"), ..made })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Vec<String> {
        std::fs::read_to_string("/proc/thread-self/net/dev")
            .unwrap()
            .lines()
            .skip(2)
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
            .collect()
    }

    #[test]
    fn a_made_namespace_is_another_one_and_the_thread_is_back() {
        let home = Netns::current().unwrap();
        let made = make().unwrap();
        assert!(!made.is_current().unwrap());
        assert!(home.is_current().unwrap());
        assert!(made.run(|| made.is_current()).unwrap().unwrap());
        assert!(made.run(links).unwrap().contains(&"lo".to_owned()));
    }

    #[test]
    fn a_socket_tells_its_namespace_from_outside() {
        let made = make().unwrap();
        let socket = made.run(|| std::os::unix::net::UnixDatagram::unbound().unwrap()).unwrap();
        let found = Netns::of_socket(&socket).unwrap();
        assert!(!found.is_current().unwrap());
        assert!(made.run(|| found.is_current()).unwrap().unwrap());
    }

    #[test]
    fn a_panic_inside_leaves_the_thread_at_home() {
        let home = Netns::current().unwrap();
        let made = make().unwrap();
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| made.run(|| panic!("inside"))));
        assert!(panicked.is_err());
        assert!(home.is_current().unwrap());
    }

    #[test]
    fn what_is_no_namespace_is_said_so() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let path = |text: &str| PathBuf::from(text);
        for other in [path("/proc/self/status"), path("/proc/self/ns/mnt"), directory.path().to_owned(), pipe]
        {
            let error = Netns::open(&other).unwrap().run(|| ()).unwrap_err().to_string();
            let name = other.display().to_string();
            assert!(error.contains("it is not a network namespace") && error.contains(&name), "{error}");
        }
        let error = Netns::open("/nonexistent").unwrap_err().to_string();
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
