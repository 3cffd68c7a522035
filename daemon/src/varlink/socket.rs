//! The socket's file and the lock that lets one daemon alone serve a runtime directory.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon serves it.
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
}

/// The right to serve a runtime directory, until it is dropped or its process dies.
#[derive(Debug)]
pub struct Lock {
    daemon: &'static str,
    directory: PathBuf,
    _held: Flock<File>,
}

impl Lock {
    /// Takes the lock of the program of this name; the directory is made if it is not there.
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

    /// Listens on the socket, `NAME.sock`. The file appears listening and with its rights set; that of a daemon that died is
    /// replaced in the same step, so that no caller finds it missing.
    ///
    /// # Errors
    /// [`SocketError::Make`].
    pub fn listen(&self) -> Result<(UnixListener, SocketFile), SocketError> {
        let path = self.directory.join(format!("{}.sock", self.daemon));
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
}

/// The socket's file. It goes when this does: callers then know at once that nobody serves.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // What stays behind is replaced at the next start.
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
