//! The filter table of iptables, read and changed by iptables' own programs. If another program's iptables drops a
//! packet, no rule outside of its chains can accept it.
//!
//! There are two kinds of tables with the same syntax, and a node may have both: those in nftables that `iptables-nft`
//! keeps, and those of the older `ip_tables`. This module never makes a missing table, not even by looking for it, as
//! the older program would.

use std::io::{self, ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use ferrule_model::Family;

use crate::nft::{self, NftError};
use crate::rights;

/// Which of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Chains of nftables.
    Nft,
    /// The kernel's `ip_tables`.
    Legacy,
}

/// iptables did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program could not be run.
    #[error("cannot run {program}: {source}; {}", rights::to_run(source, "iptables"))]
    Run {
        /// Its name.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program refused; nothing was changed.
    #[error("{program} refused: {said}{}", rights::behind(rights::of_program(said)))]
    Refused {
        /// Its name.
        program: String,
        /// The program's own words.
        said: String,
    },
    /// There may be tables of the older kind. Only root may see and change them.
    #[error(
        "the kernel's older iptables are in use, which only root may change: as root, append rules to \
         FORWARD that accept what comes from and goes to this node's pods (iptables-legacy -A FORWARD -s \
         NETWORK -j ACCEPT, and -d)"
    )]
    Hidden,
    /// It is not known whether there is a table.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The same for a table of the older kind.
    #[error("cannot read {file}: {source}")]
    Names {
        /// The file.
        file: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl IptablesError {
    /// Whether this process cannot have made anything there.
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Hidden | Self::Nft(NftError::Run(_)) => true,
            Self::Run { source, .. } => source.kind() == ErrorKind::NotFound,
            Self::Refused { .. } | Self::Nft(_) | Self::Names { .. } => false,
        }
    }
}

/// The rules of the filter table as `iptables -S` prints them, if it has a chain of this name.
///
/// # Errors
/// See [`IptablesError`].
pub fn rules(variant: Variant, family: Family, chain: &str) -> Result<Option<String>, IptablesError> {
    let is_there = match variant {
        Variant::Nft => nft::has_chain(nft_family(family), "filter", chain)?,
        Variant::Legacy => has_legacy_filter(family)?,
    };
    if !is_there {
        return Ok(None);
    }
    let output = run(&program(variant, family), &["-S"], variant, "")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let begins = [format!("-P {chain} "), format!("-N {chain}")];
    let has_chain = text.lines().any(|line| line.starts_with(&begins[0]) || line == begins[1]);
    Ok(has_chain.then_some(text))
}

/// Carries out `script` as one transaction (`iptables-restore --noflush`). What the script does not name stays.
///
/// # Errors
/// See [`IptablesError`].
pub fn restore(variant: Variant, family: Family, script: &str) -> Result<(), IptablesError> {
    run(&named(variant, family, "-restore"), &["--noflush"], variant, script).map(drop)
}

/// The name of the program for both, such as `ip6tables-nft`.
pub fn program(variant: Variant, family: Family) -> String {
    named(variant, family, "")
}

fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn named(variant: Variant, family: Family, ending: &str) -> String {
    let kind = match variant {
        Variant::Nft => "nft",
        Variant::Legacy => "legacy",
    };
    format!("{}tables-{kind}{ending}", nft_family(family))
}

/// The file lists a table only after some program has asked for it.
fn has_legacy_filter(family: Family) -> Result<bool, IptablesError> {
    let (file, module) = match family {
        Family::V4 => ("/proc/thread-self/net/ip_tables_names", "/sys/module/iptable_filter"),
        Family::V6 => ("/proc/thread-self/net/ip6_tables_names", "/sys/module/ip6table_filter"),
    };
    match std::fs::read_to_string(file) {
        Ok(names) => Ok(names.lines().any(|name| name == "filter")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            if std::path::Path::new(module).exists() { Err(IptablesError::Hidden) } else { Ok(false) }
        }
        Err(source) => Err(IptablesError::Names { file, source }),
    }
}

fn run(program: &str, args: &[&str], variant: Variant, script: &str) -> Result<Output, IptablesError> {
    let failed = |source| IptablesError::Run { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C");
    if variant == Variant::Legacy {
        // Another iptables may hold the lock for seconds.
        command.args(["-w", "5"]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // If the program closes the pipe early, exit status and standard error tell why.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(IptablesError::Refused { program: program.to_owned(), said })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;

    #[test]
    fn looking_makes_no_table_and_a_script_changes_what_it_names() {
        for variant in [Variant::Nft, Variant::Legacy] {
            for family in Family::BOTH {
                let inside = || {
                    assert_eq!(rules(variant, family, "FORWARD").unwrap(), None, "{variant:?}");
                    assert_eq!(rules(variant, family, "FORWARD").unwrap(), None, "{variant:?}");
                    let program = program(variant, family);
                    run(&program, &["-P", "FORWARD", "DROP"], variant, "").unwrap();
                    restore(variant, family, "*filter\n:OURS - [0:0]\n-A OURS -j ACCEPT\nCOMMIT\n").unwrap();
                    let text = rules(variant, family, "OURS").unwrap().unwrap();
                    assert!(text.contains("-P FORWARD DROP") && text.contains("-A OURS -j ACCEPT"), "{text}");
                    assert_eq!(rules(variant, family, "THEIRS").unwrap(), None);
                    let refused = restore(variant, family, "*filter\n-A NOWHERE -j ACCEPT\nCOMMIT\n");
                    assert!(matches!(refused, Err(IptablesError::Refused { .. })), "{refused:?}");
                };
                netns::make().unwrap().run(inside).unwrap();
            }
        }
    }
}
