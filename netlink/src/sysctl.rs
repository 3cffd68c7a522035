//! `/proc/sys`: kernel parameters of the calling thread's network namespace.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A parameter could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the sysctl {name}: {source}")]
pub struct SysctlError {
    verb: &'static str,
    name: String,
    /// What the file system said.
    #[source]
    pub source: io::Error,
}

/// The value of the parameter whose file is `/proc/sys/NAME`: `name` is in the form with slashes
/// (`net/ipv4/ip_forward`), because interface names may contain dots (`sysctl(8)`).
///
/// # Errors
/// There is none of this name (`NotFound`), or it may not be read.
pub fn get(name: &str) -> Result<String, SysctlError> {
    match std::fs::read_to_string(file(name)) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(SysctlError { verb: "read", name: name.to_owned(), source }),
    }
}

/// Sets the parameter if it has another value; `true` if it was changed.
///
/// # Errors
/// There is none of this name, the value is not accepted, or `/proc/sys` is read-only.
pub fn set(name: &str, value: &str) -> Result<bool, SysctlError> {
    if get(name)? == value {
        return Ok(false);
    }
    std::fs::write(file(name), value).map_err(|source| SysctlError {
        verb: "write",
        name: name.to_owned(),
        source,
    })?;
    Ok(true)
}

/// A parameter that is looked at again and again. Its file stays open, so a look is one system call without a path
/// lookup.
#[derive(Debug)]
pub struct Watched(File);

impl Watched {
    /// More bytes than any number has.
    const LONGEST: usize = 32;

    /// Opens the parameter of this name, which is in the form with slashes.
    ///
    /// # Errors
    /// There is none, or it may not be read.
    pub fn open(name: &str) -> io::Result<Self> {
        File::open(file(name)).map(Self)
    }

    /// Whether its value, a number, is as `is` wants it. `None` if that cannot be told, for instance because the link
    /// is gone. A new link of the same name has other parameters.
    pub fn look(&self, is: impl FnOnce(&str) -> bool) -> Option<bool> {
        let mut value = [0; Self::LONGEST];
        let length = self.0.read_at(&mut value, 0).ok().filter(|length| *length < value.len())?;
        std::str::from_utf8(&value[..length]).ok().map(|value| is(value.trim_end()))
    }
}

fn file(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_once() {
        crate::netns::make()
            .unwrap()
            .run(|| {
                assert!(set("net/ipv4/ip_forward", "1").unwrap());
                assert!(!set("net/ipv4/ip_forward", "1").unwrap());
                assert_eq!(get("net/ipv4/ip_forward").unwrap(), "1");
            })
            .unwrap();
    }

    #[test]
    fn an_unknown_one_is_not_found() {
        let error = get("net/ipv4/no_such_thing").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("net/ipv4/no_such_thing"));
    }

    #[test]
    fn a_watched_value_is_the_present_one_and_none_once_its_link_has_gone() {
        let ip = |line: &str| {
            let status = std::process::Command::new("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "{line}");
        };
        crate::netns::make()
            .unwrap()
            .run(|| {
                let name = "net/ipv4/conf/u0/rp_filter";
                assert!(Watched::open(name).is_err());
                ip("link add u0 type veth peer name u1");
                let watched = Watched::open(name).unwrap();
                for value in ["1", "2"] {
                    set(name, value).unwrap();
                    assert_eq!(watched.look(|now| now == value), Some(true));
                    assert_eq!(watched.look(|now| now != value), Some(false));
                }
                ip("link del u0");
                ip("link add u0 type veth peer name u1");
                assert_eq!(watched.look(|_| true), None);
            })
            .unwrap();
    }
}
