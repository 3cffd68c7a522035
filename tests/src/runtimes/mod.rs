//! Real container runtimes on a node of the lab: the callers Ferrule is written for. Lives here: the node (`host`), the place in it
//! where a runtime lives (`place`), the image it runs (`image`), and how each is started and asked (`containerd`, `podman`). What is
//! proved with them lives in the integration tests named after them.
//!
//! Nothing of the machine is read or written by a runtime but its programs: `/etc`, `/var/lib`, `/run`, `/opt` and the process ids
//! are the node's own, and its control groups are below one that goes with it.

pub mod containerd;
pub mod host;
pub mod image;
pub mod place;
pub mod podman;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Context, LabError, Result},
    install::Install,
};

/// Where `cargo` puts what it builds, and which of it is a node's installation: what `make build` made.
pub fn install() -> Result<Install> {
    // This program is TARGET/PROFILE/deps/NAME.
    let program = env::current_exe().context(|| "finding this program")?;
    let target = program
        .ancestors()
        .nth(3)
        .ok_or_else(|| LabError::parse("the build directory", &program.display()))?;
    let bin_dir = target.join("release");
    let plugin = plugin(target)?;
    for file in [&bin_dir.join("ipamd"), &bin_dir.join("routed"), &plugin] {
        if !file.is_file() {
            return Err(LabError::promise(format!("{} (type `make build`)", file.display()), "no such file"));
        }
    }
    let conf_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf");
    Ok(Install { bin_dir, plugin, conf_dir })
}

/// The plugin is built for a named target, whose directory bears its name.
fn plugin(target: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(target).context(|| target.display().to_string())?;
    let own = |name: &str| name.starts_with(&format!("{}-", env::consts::ARCH));
    let built = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(own))
        .map(|path| path.join("plugin/ferrule"))
        .find(|path| path.is_file());
    built.ok_or_else(|| {
        let expected = format!("the plugin below {} (type `make build`)", target.display());
        LabError::promise(expected, "no such file")
    })
}

/// Fails with the packages to install if one of the commands is missing.
pub fn require(commands: &[(&str, &str)]) -> Result<()> {
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let is_there = |command: &str| path.split(':').any(|dir| Path::new(dir).join(command).exists());
    let missing: Vec<&str> =
        commands.iter().filter(|(command, _)| !is_there(command)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LabError::promise(
        "all tools (type `make setup`)",
        format!("missing packages: {}", missing.join(" ")),
    ))
}
