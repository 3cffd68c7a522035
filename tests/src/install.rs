//! What is installed on the lab's nodes: the built programs where they belong, with the repository's own units and configuration
//! list.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

use crate::{
    conflist::Conflist,
    error::{Context, Result},
    runtime::Runtime,
    space::Space,
    unit::Unit,
};

/// Where a node has its daemons, as their units say.
const BIN_DIR: &str = "/usr/local/bin";
/// Where a runtime looks for plugins.
const PLUGIN_DIR: &str = "/opt/cni/bin";

/// Where the parts of an installation come from.
#[derive(Clone, Debug)]
pub struct Install {
    /// Directory of the built `ipamd` and `routed`.
    pub bin_dir: PathBuf,
    /// The built plugin.
    pub plugin: PathBuf,
    /// The repository's `conf/`.
    pub conf_dir: PathBuf,
}

impl Install {
    /// Puts the programs into a node, over directories of its own: the machine's are not written to.
    pub fn place(&self, node: &Space) -> Result<()> {
        let programs =
            ["ipamd", "routed"].map(|name| (self.bin_dir.join(name), Path::new(BIN_DIR).join(name)));
        let plugin = (self.plugin.clone(), Path::new(PLUGIN_DIR).join("ferrule"));
        node.enter(|| {
            let mut places = Vec::new();
            for (from, to) in programs.into_iter().chain([plugin]) {
                // Opened before anything is mounted: the build may be below one of the directories that get covered.
                places.push((
                    File::open(&from).context(|| format!("{} (build it first)", from.display()))?,
                    to,
                ));
            }
            cover(BIN_DIR)?;
            cover("/opt")?;
            fs::create_dir_all(PLUGIN_DIR).context(|| PLUGIN_DIR)?;
            for (from, to) in &places {
                File::create(to).context(|| to.display().to_string())?;
                let from = format!("/proc/self/fd/{}", from.as_raw_fd());
                mount(Some(from.as_str()), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .context(|| format!("placing {}", to.display()))?;
            }
            Ok(())
        })?
    }

    /// The shipped unit of a daemon, with the lab's configuration instead of the default one.
    pub fn unit(&self, name: &str, config: &Path) -> Result<Unit> {
        let path = self.conf_dir.join(format!("systemd/{name}.service"));
        let mut unit = Unit::parse(name, &fs::read_to_string(&path).context(|| path.display().to_string())?)?;
        if let Some(at) = unit.exec.iter().position(|word| word == "--config") {
            unit.exec.drain(at..unit.exec.len().min(at + 2));
        }
        unit.exec.extend(["--config".to_owned(), config.display().to_string()]);
        Ok(unit)
    }

    /// A runtime configured with the shipped network.
    pub fn runtime(&self) -> Result<Runtime> {
        let path = self.conf_dir.join("10-ferrule.conflist");
        let network = Conflist::parse(&fs::read_to_string(&path).context(|| path.display().to_string())?)?;
        network.plugin_type()?;
        Ok(Runtime { plugin_dir: PLUGIN_DIR.into(), network })
    }
}

/// An empty file system over a directory.
fn cover(directory: &str) -> Result<()> {
    mount(Some("lab"), directory, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .context(|| format!("covering {directory}"))
}
