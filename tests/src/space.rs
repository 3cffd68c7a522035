//! A place on the network of the lab: a network namespace, and for a node a mount namespace too. Lives here: making, entering and
//! pinning them. What is put inside (links, addresses, files) lives in `topology` and `node`.
//!
//! A space is held open by descriptors of this process alone, so that it vanishes with the process, however that ends.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::error::{Context, Result};

/// A network namespace (and mount namespace) with a name for messages. A clone is the same space.
#[derive(Clone, Debug)]
pub struct Space {
    name: String,
    net: Arc<File>,
    mnt: Option<Arc<File>>,
}

impl Space {
    /// Makes a network namespace with its loopback up.
    pub fn network(name: &str) -> Result<Space> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context(|| "making a network namespace")?;
            Ok(Space { name: name.to_owned(), net: current("net")?, mnt: None })
        })
    }

    /// Makes a node: a network and a mount namespace, with a `/run` of its own (an empty tmpfs holding `/run/netns`).
    pub fn node(name: &str) -> Result<Space> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .context(|| "making a node's namespaces")?;
            // Nothing mounted in the node may reach the namespace it was copied from.
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .context(|| "making the node's mounts private")?;
            mount(
                Some("run"),
                "/run",
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                Some("mode=0755"),
            )
            .context(|| "mounting the node's own /run")?;
            fs::create_dir("/run/netns").context(|| "/run/netns in the node")?;
            Ok(Space { name: name.to_owned(), net: current("net")?, mnt: Some(current("mnt")?) })
        })
    }

    /// Makes a network namespace and pins it at `path` as seen in this space, as a container runtime does for a pod.
    pub fn pin_network(&self, name: &str, path: &Path) -> Result<Space> {
        self.enter(|| {
            unshare(CloneFlags::CLONE_NEWNET).context(|| "making a pod's network namespace")?;
            File::create(path).context(|| format!("creating {}", path.display()))?;
            mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .context(|| format!("pinning a namespace at {}", path.display()))?;
            Ok(Space { name: name.to_owned(), net: current("net")?, mnt: None })
        })?
    }

    /// Undoes [`Space::pin_network`]: the namespace ends with its last user.
    pub fn unpin(&self, path: &Path) -> Result<()> {
        self.enter(|| {
            umount2(path, MntFlags::MNT_DETACH).context(|| format!("unmounting {}", path.display()))?;
            fs::remove_file(path).context(|| format!("removing {}", path.display()))
        })?
    }

    /// Runs `work` on a thread of its own inside this space and gives its value. Processes it starts and sockets it opens are
    /// inside too, and stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.adopt_thread()?;
            Ok(work())
        })
    }

    /// Moves the calling thread into this space for good. Only for threads that are made for it.
    pub fn adopt_thread(&self) -> Result<()> {
        if let Some(mnt) = &self.mnt {
            // A thread shares its root and working directory with the others, and the kernel moves no such thread.
            unshare(CloneFlags::CLONE_FS).context(|| "leaving the shared working directory")?;
            setns(mnt, CloneFlags::CLONE_NEWNS)
                .context(|| format!("entering the mounts of {}", self.name))?;
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET)
            .context(|| format!("entering the network of {}", self.name))
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path to the network namespace that any process of the lab can open while this value lives.
    pub fn net_path(&self) -> PathBuf {
        descriptor_path(&self.net)
    }

    /// The same for the mount namespace, if it has its own.
    pub fn mnt_path(&self) -> Option<PathBuf> {
        self.mnt.as_ref().map(descriptor_path)
    }
}

/// The calling thread's namespace of a kind (`net`, `mnt`).
fn current(kind: &str) -> Result<Arc<File>> {
    let path = format!("/proc/thread-self/ns/{kind}");
    File::open(&path).map(Arc::new).context(|| path)
}

fn descriptor_path(file: &Arc<File>) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Namespaces belong to threads: whatever changes them happens on one that ends with the work.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
