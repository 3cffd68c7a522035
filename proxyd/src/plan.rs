//! `proxyd plan`: where packets to each Service would go.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use ferrule_config::ServicesFile;
use ferrule_daemon::CommonArgs;

use crate::decide::{Backends, Frontend};
use crate::run::{RunError, system};
use crate::services::Services;
use crate::source::news;
use crate::sync::thread::Job;

/// Prints where packets to each Service would go, and changes nothing.
///
/// # Errors
/// See [`RunError`].
pub fn plan(args: &CommonArgs) -> Result<(), RunError> {
    let config = args.load_config()?;
    let name = CommonArgs::node_name(&config)?;
    let file = ServicesFile::load(&config.services.path)?;
    let node = Services::node(&config, &name);
    let mut services = Services::new(config, node.clone());
    let mut lines = Vec::new();
    if let Some(Job::All(all)) = services.take(news(&file, &node)) {
        lines.extend(all.iter().flat_map(|(_, frontends)| frontends).map(line));
    }
    lines.sort();
    let text: String = lines.concat();
    io::stdout().write_all(text.as_bytes()).map_err(system("write to standard output"))
}

fn line(frontend: &Frontend) -> String {
    let mut line = format!("{} {} -> {}", frontend.port, frontend.key, told(&frontend.from_outside));
    if frontend.from_inside != frontend.from_outside {
        let _ = write!(line, "; from the node and its pods -> {}", told(&frontend.from_inside));
    }
    line.push('\n');
    line
}

fn told(backends: &Backends) -> String {
    match backends {
        Backends::To(all) => {
            let all: Vec<_> = all
                .iter()
                .map(|backend| std::net::SocketAddr::new(backend.address, backend.port.get()).to_string())
                .collect();
            all.join(", ")
        }
        Backends::Refuse => "refused".to_owned(),
        Backends::Drop => "dropped".to_owned(),
    }
}
