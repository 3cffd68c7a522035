//! This node's key. It is made once and kept in a file that nobody else reads; its public half is shown to the others.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use ferrule_daemon::write_secret;
use ferrule_model::{WgKey, WgSecret};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::decide::wireguard::Identity;

/// The source of random bytes.
const CHANCE: &str = "/dev/urandom";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error(
        "cannot {what} the WireGuard key {}: {source}; let routed write there (StateDirectory= in its unit), or set \
         [routing.wireguard] key_file", path.display()
    )]
    File {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file holds something that is no key.
    #[error(
        "{} is not a private key of WireGuard; put the right one there, or remove the file to have another made, of which \
         the other nodes have to learn then", path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

impl Identity {
    /// The identity that has this private key.
    pub fn of(secret: WgSecret) -> Self {
        let public = PublicKey::from(&StaticSecret::from(secret.0));
        Self { secret, key: WgKey(public.to_bytes()) }
    }

    /// The identity whose key is in the file at `path`. If there is no file, a key is made.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn keep(path: &Path) -> Result<Self, KeyError> {
        if let Some(identity) = Self::find(path)? {
            return Ok(identity);
        }
        let fault = |what| move |source| KeyError::File { what, path: path.to_owned(), source };
        let identity = Self::of(make().map_err(fault("make"))?);
        write(path, &identity.secret).map_err(fault("write"))?;
        tracing::info!("a WireGuard key is made and kept in {}", path.display());
        Ok(identity)
    }

    /// The identity whose key is in the file at `path`, if there is one.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn find(path: &Path) -> Result<Option<Self>, KeyError> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let secret = text.trim().parse().map_err(|_| KeyError::Broken { path: path.to_owned() });
                secret.map(|secret| Some(Self::of(secret)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeyError::File { what: "read", path: path.to_owned(), source }),
        }
    }
}

/// A new private key, as the kernel keeps it: five bits are the same in all of them (RFC 7748, section 5).
fn make() -> io::Result<WgSecret> {
    let mut bytes = [0; 32];
    fs::File::open(CHANCE)?.read_exact(&mut bytes)?;
    bytes[0] &= 0xf8;
    bytes[31] = bytes[31] & 0x7f | 0x40;
    Ok(WgSecret(bytes))
}

/// Writes the file. The owner of the directory also owns the key: an operator who makes it as root makes it for the
/// daemon.
fn write(path: &Path, secret: &WgSecret) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    write_secret(path, format!("{}\n", secret.reveal()).as_bytes())?;
    let (owner, file) = (fs::metadata(directory)?, fs::metadata(path)?);
    if owner.uid() != file.uid() {
        chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        // Section 6.1: Alice's keys.
        let bytes = |text: &str| -> [u8; 32] {
            std::array::from_fn(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
        };
        let secret = bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let public = bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(Identity::of(WgSecret(secret)).key, WgKey(public));
    }

    #[test]
    fn a_key_is_made_once_and_read_by_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/wireguard.key");
        let made = Identity::keep(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Identity::keep(&path).unwrap(), made);
        fs::remove_file(&path).unwrap();
        assert_ne!(Identity::keep(&path).unwrap().key, made.key);
    }

    #[test]
    fn a_file_with_something_else_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wireguard.key");
        for text in ["", "none\n", "AAAA"] {
            fs::write(&path, text).unwrap();
            let error = Identity::keep(&path).unwrap_err().to_string();
            assert!(error.contains("is not a private key of WireGuard"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let error = Identity::keep(directory.path()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the WireGuard key"), "{error}");
    }
}
