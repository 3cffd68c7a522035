//! nftables rulesets by the `nft` program: a script goes in, one transaction comes out.
//!
//! For skeletons that change rarely; one process is 4 to 50 ms.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::rights;

/// `nft` did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program could not be run.
    #[error("cannot run nft: {}; {} (PATH and the sbin directories are searched)", .0, rights::to_run(.0, "nftables"))]
    Run(#[source] io::Error),
    /// The script was refused; nothing of it was done.
    #[error("nft refused the ruleset: {}{}", .0, rights::behind(rights::of_program(.0)))]
    Refused(String),
}

/// Carries out `script` as one transaction (`nft -f -`).
///
/// # Errors
/// `nft` is missing, or it or the kernel refused; then nothing has changed.
pub fn apply(script: &str) -> Result<(), NftError> {
    let output = nft(&["-f", "-"], script)?;
    if output.status.success() { Ok(()) } else { Err(refused(&output)) }
}

/// The table as `nft --stateless --numeric list table FAMILY NAME` prints it, `None` if there is none.
///
/// # Errors
/// `nft` is missing, or refused for another reason.
pub fn list_table(family: &str, name: &str) -> Result<Option<String>, NftError> {
    listed(&["--stateless", "--numeric", "list", "table", family, name])
}

/// The same without the elements of its sets and maps (`--terse`).
///
/// # Errors
/// The same.
pub fn list_rules(family: &str, name: &str) -> Result<Option<String>, NftError> {
    listed(&["--stateless", "--numeric", "--terse", "list", "table", family, name])
}

fn listed(args: &[&str]) -> Result<Option<String>, NftError> {
    let output = nft(args, "")?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    if is_missing(&output) { Ok(None) } else { Err(refused(&output)) }
}

/// Whether there is this chain.
///
/// # Errors
/// As [`list_table`].
pub fn has_chain(family: &str, table: &str, chain: &str) -> Result<bool, NftError> {
    let output = nft(&["list", "chain", family, table, chain], "")?;
    if output.status.success() {
        return Ok(true);
    }
    if is_missing(&output) { Ok(false) } else { Err(refused(&output)) }
}

/// All chains with their hooks and policies, as `nft list chains` prints them.
///
/// # Errors
/// `nft` is missing, or refused.
pub fn list_chains() -> Result<String, NftError> {
    let output = nft(&["list", "chains"], "")?;
    if !output.status.success() {
        return Err(refused(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// nft tells errors apart only by their text. This text is the C library's for ENOENT, untranslated under LC_ALL=C.
fn is_missing(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains("No such file or directory")
}

fn refused(output: &Output) -> NftError {
    NftError::Refused(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
}

/// The path of the program. It is looked for in PATH, and then in the directories for root's programs, which may be
/// missing in the PATH of a container runtime.
fn program(is_there: impl Fn(&Path) -> bool) -> PathBuf {
    const USUAL: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(USUAL.map(PathBuf::from));
    let found = directories.map(|directory| directory.join("nft")).find(|file| is_there(file));
    found.unwrap_or_else(|| "nft".into())
}

/// Runs it. Script and listing pass through files in memory. nft flushes after every few bytes: at a pipe the reader
/// would be woken each time, twice for each element of a set.
fn nft(args: &[&str], script: &str) -> Result<Output, NftError> {
    let mut command = Command::new(program(|path| path.is_file()));
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::piped());
    if !script.is_empty() {
        let mut file = memory()?;
        file.write_all(script.as_bytes()).and_then(|()| file.rewind()).map_err(NftError::Run)?;
        command.stdin(file);
    }
    let mut listing = memory()?;
    command.stdout(listing.try_clone().map_err(NftError::Run)?);
    let mut output = command.spawn().and_then(|child| child.wait_with_output()).map_err(NftError::Run)?;
    // Writer and reader share one position in the file.
    listing.rewind().and_then(|()| listing.read_to_end(&mut output.stdout)).map_err(NftError::Run)?;
    Ok(output)
}

/// `MFD_NOEXEC_SEAL`. Without it a kernel with `vm.memfd_noexec` = 2 refuses; kernels before Linux 6.3 do not know it.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(8);

fn memory() -> Result<File, NftError> {
    let make = |flags| memfd_create("nft", MFdFlags::MFD_CLOEXEC | flags);
    let made = make(NOEXEC_SEAL).or_else(|_| make(MFdFlags::empty()));
    made.map(File::from).map_err(|errno| NftError::Run(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_path_lacks_is_looked_for_where_roots_programs_are() {
        assert_eq!(program(|path| path == Path::new("/usr/sbin/nft")), Path::new("/usr/sbin/nft"));
        let first = std::env::split_paths(&std::env::var_os("PATH").unwrap()).next().unwrap();
        assert_eq!(program(|_| true), first.join("nft"));
        assert_eq!(program(|_| false), Path::new("nft"));
    }

    #[test]
    fn a_table_is_there_after_apply_and_only_then() {
        crate::netns::make()
            .unwrap()
            .run(|| {
                assert_eq!(list_table("inet", "ferrule").unwrap(), None);
                apply("table inet ferrule {\n chain c {\n }\n}\n").unwrap();
                assert!(list_table("inet", "ferrule").unwrap().unwrap().contains("chain c"));
            })
            .unwrap();
    }

    #[test]
    fn a_refused_script_changes_nothing_and_says_why() {
        crate::netns::make()
            .unwrap()
            .run(|| {
                let error =
                    apply("add table inet ferrule\nadd rule inet ferrule nowhere accept").unwrap_err();
                assert!(error.to_string().contains("nowhere"), "{error}");
                assert_eq!(list_table("inet", "ferrule").unwrap(), None);
            })
            .unwrap();
    }
}
