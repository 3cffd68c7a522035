//! `/proc/sys`: kernel parameters of the calling thread's network namespace.

use std::io;
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
}
