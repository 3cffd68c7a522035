//! The socket: the daemon's own, or one that the service manager listens on and passes. Also the lock that lets only
//! one daemon serve a runtime directory.

use listenfd::ListenFd;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon serves the directory.
    #[error("another {daemon} serves {}: stop it first, or use another --runtime-dir", directory.display())]
    Taken {
        /// The program's name.
        daemon: &'static str,
        /// The runtime directory.
        directory: PathBuf,
    },
    /// A file cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The service manager passed something other than the socket that callers know.
    #[error(
        "the service manager passed {what}; {daemon}.socket needs the one line ListenStream={}, with SocketMode=0600",
        expected.display()
    )]
    Passed {
        /// The program's name.
        daemon: &'static str,
        /// What it passed.
        what: String,
        /// The socket that it should be.
        expected: PathBuf,
    },
}

/// The right to serve a runtime directory, until it is dropped or its process dies.
#[derive(Debug)]
pub struct Lock {
    daemon: &'static str,
    directory: PathBuf,
    _held: Flock<File>,
}

impl Lock {
    /// Takes the lock of the program of this name. The directory is made if it is missing.
    ///
    /// # Errors
    /// [`SocketError::Taken`] if another process has it.
    pub fn take(directory: &Path, daemon: &'static str) -> Result<Self, SocketError> {
        let path = directory.join(format!("{daemon}.lock"));
        fs::create_dir_all(directory).map_err(making(directory))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(making(&path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self { daemon, directory: directory.to_owned(), _held: held }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(SocketError::Taken { daemon, directory: directory.to_owned() })
            }
            Err((_, errno)) => Err(making(&path)(errno.into())),
        }
    }

    /// The socket, `NAME.sock`.
    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}.sock", self.daemon))
    }

    /// Listens on the socket. When the file appears, it already listens and has its access rights. It replaces the file
    /// of a dead daemon in the same step, so that no caller finds it missing.
    ///
    /// # Errors
    /// [`SocketError::Make`].
    pub fn listen(&self) -> Result<(UnixListener, SocketFile), SocketError> {
        let path = self.path();
        let unready = path.with_extension("new");
        match fs::remove_file(&unready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(making(&unready)(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&unready).map_err(making(&unready))?;
        listener.set_nonblocking(true).map_err(making(&unready))?;
        fs::set_permissions(&unready, Permissions::from_mode(0o600)).map_err(making(&unready))?;
        fs::rename(&unready, &path).map_err(making(&path))?;
        Ok((listener, SocketFile(path)))
    }

    /// The socket that the service manager listens on and has passed to this process (sd_listen_fds(3)), if it has. The
    /// socket's file does not belong to the daemon. It stays when the daemon goes, and a caller that comes meanwhile
    /// waits for the next daemon.
    ///
    /// Must be called before there are threads, because it takes the variables out of the environment.
    ///
    /// # Errors
    /// [`SocketError::Passed`]: callers would not find the socket, or others than root and the daemon's user could use
    /// it.
    pub fn passed(&self) -> Result<Option<UnixListener>, SocketError> {
        let (daemon, expected) = (self.daemon, self.path());
        let wrong = |what: String| SocketError::Passed { daemon, what, expected: expected.clone() };
        let mut passed = ListenFd::from_env();
        match passed.len() {
            0 => return Ok(None),
            1 => {}
            more => return Err(wrong(format!("{more} sockets"))),
        }
        let taken = passed.take_unix_listener(0).map_err(|error| wrong(error.to_string()))?;
        let Some(listener) = taken else { return Ok(None) };
        check(&listener, &expected).map_err(wrong)?;
        listener.set_nonblocking(true).map_err(making(&expected))?;
        Ok(Some(listener))
    }
}

/// Checks that this is the socket at `expected`, that it listens, and that only root and its owner may connect. Whoever
/// may write to the file may connect (unix(7)).
fn check(listener: &UnixListener, expected: &Path) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let address = listener.local_addr().map_err(told)?;
    let path = address.as_pathname().ok_or("a socket without a path")?;
    if !getsockopt(listener, AcceptConn).map_err(|errno| told(errno.into()))? {
        return Err(format!("{}, which does not listen", path.display()));
    }
    let data = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let callers = fs::metadata(expected).map(|callers| (callers.dev(), callers.ino()));
    if callers.ok() != Some((data.dev(), data.ino())) {
        return Err(format!("{}", path.display()));
    }
    let mode = data.mode() & 0o777;
    if mode & 0o022 != 0 { Err(format!("{} with mode {mode:04o}", path.display())) } else { Ok(()) }
}

/// The socket's file. It is removed with this value, so that callers know at once that nobody serves.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that stays behind is replaced at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

fn making(path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError::Make { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn one_daemon_serves_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("made/on/the/way");
        let lock = Lock::take(&directory, "ipamd").unwrap();
        assert!(matches!(Lock::take(&directory, "ipamd"), Err(SocketError::Taken { .. })));
        drop(lock);
        Lock::take(&directory, "ipamd").unwrap();
        Lock::take(&directory, "routed").unwrap();
    }

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced_and_a_stopped_one_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipamd.sock");
        drop(UnixListener::bind(&path).unwrap());
        drop(UnixListener::bind(dir.path().join("ipamd.new")).unwrap());
        assert!(UnixStream::connect(&path).is_err());
        let (listener, file) = Lock::take(dir.path(), "ipamd").unwrap().listen().unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop((listener, file));
        assert!(!path.exists());
    }
}
