//! Whether this process runs in the network namespace that the pods' links are in. That is where the plugin makes them,
//! so it is where its calls come from; the kernel says of each connection which namespace it was opened in.
//!
//! The answer is kept in a file, so that a restarted daemon knows it before the first call. Otherwise no lease would be
//! taken back on a full node, where no pod can start any more and so no call comes.

use crate::decide::seen::Whereabouts;
use ferrule_daemon::write_atomically;
use ferrule_model::chain;
use ferrule_netlink::NamespaceId;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Name of the file in the runtime directory. It holds the boot, and the namespace that the plugin called from last.
const FILE: &str = "ipamd.netns";

/// No namespace has this number.
const NONE: u64 = 0;

/// The namespace of this process and the one of its callers.
#[derive(Debug)]
pub(crate) struct Home {
    own: u64,
    caller: AtomicU64,
    is_kept: AtomicBool,
    path: PathBuf,
    boot_id: String,
}

impl Home {
    /// Takes over what an earlier daemon left in this runtime directory, if it is from this boot.
    pub(crate) fn open(runtime_dir: &Path, boot_id: &str) -> Self {
        let path = runtime_dir.join(FILE);
        let kept = fs::read_to_string(&path).unwrap_or_default();
        let number = kept.trim_end().strip_prefix(boot_id).and_then(|rest| rest.trim_start().parse().ok());
        Self {
            own: NamespaceId::own().map_or(NONE, |id| id.0),
            caller: AtomicU64::new(number.unwrap_or(NONE)),
            is_kept: AtomicBool::new(number.is_some()),
            path,
            boot_id: boot_id.to_owned(),
        }
    }

    /// Notes that the plugin has called from this namespace.
    pub(crate) fn called_from(&self, NamespaceId(number): NamespaceId) {
        if self.caller.swap(number, Ordering::Relaxed) != number {
            self.is_kept.store(false, Ordering::Relaxed);
        }
    }

    /// Whether this process runs where the links are.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        match self.caller.load(Ordering::Relaxed) {
            NONE => Whereabouts::Untold,
            caller if caller == self.own => Whereabouts::Here,
            _ => Whereabouts::Elsewhere,
        }
    }

    /// Writes the caller's namespace down for the next daemon, unless that is done already. Without the file, the next
    /// daemon has to wait for a call.
    pub(crate) fn keep(&self) {
        if self.whereabouts() == Whereabouts::Untold || self.is_kept.swap(true, Ordering::Relaxed) {
            return;
        }
        let text = format!("{} {}\n", self.boot_id, self.caller.load(Ordering::Relaxed));
        if let Err(error) = write_atomically(&self.path, text.as_bytes()) {
            tracing::warn!(error = chain(&error), path = %self.path.display(), "cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_daemon_of_this_boot_knows_where_the_plugin_called_from() {
        let dir = tempfile::tempdir().unwrap();
        let open = |boot| Home::open(dir.path(), boot);
        let home = open("boot");
        home.keep();
        assert_eq!(home.whereabouts(), Whereabouts::Untold);
        home.called_from(NamespaceId::own().unwrap());
        assert_eq!(home.whereabouts(), Whereabouts::Here);
        home.keep();
        assert_eq!(open("boot").whereabouts(), Whereabouts::Here);
        assert_eq!(open("another").whereabouts(), Whereabouts::Untold);
        let home = open("boot");
        home.called_from(NamespaceId(u64::MAX));
        home.keep();
        assert_eq!(open("boot").whereabouts(), Whereabouts::Elsewhere);
        for broken in ["", "boot", "boot x", "bootless 7"] {
            fs::write(dir.path().join(FILE), broken).unwrap();
            assert_eq!(open("boot").whereabouts(), Whereabouts::Untold, "{broken:?}");
        }
    }
}
