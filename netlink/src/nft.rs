//! nftables rulesets by the `nft` program: a script goes in, one transaction comes out.
//!
//! For skeletons that change rarely; one process is 4 to 50 ms.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// `nft` did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program could not be run.
    #[error("cannot run nft: {0}; install the package nftables")]
    Run(#[source] io::Error),
    /// The script was refused; nothing of it was done.
    #[error("nft refused the ruleset: {0}")]
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
    let output = nft(&["--stateless", "--numeric", "list", "table", family, name], "")?;
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

/// nft tells errors apart by text alone; this one is the C library's for ENOENT, untranslated under LC_ALL=C.
fn is_missing(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains("No such file or directory")
}

fn refused(output: &Output) -> NftError {
    NftError::Refused(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
}

fn nft(args: &[&str], script: &str) -> Result<Output, NftError> {
    let mut child = Command::new("nft")
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Run)?;
    // A pipe that nft closed early is told by its exit status and stderr.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(script.as_bytes());
    }
    child.wait_with_output().map_err(NftError::Run)
}

#[cfg(test)]
mod tests {
    use super::*;

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
