//! Another IPAM plugin, executed as the specification's section 4 says: found in `CNI_PATH`, given our environment and
//! our configuration, its errors handed on as they are.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;
use crate::result::AddResult;
use crate::spec::Verb;

/// The plugin named in `ipam.type`, with what it is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    /// Name of its file.
    pub(crate) plugin: String,
    /// `CNI_PATH`.
    pub(crate) path: Option<OsString>,
    /// The other variables of ours.
    pub(crate) variables: Vec<(&'static str, OsString)>,
    /// The whole configuration.
    pub(crate) stdin: Vec<u8>,
    /// Whether there is a result of ADD, so that the plugin holds something.
    pub(crate) has_result: bool,
}

/// The error object on the plugin's standard output.
#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Delegate {
    /// Starts it. The answer is fetched with [`finish`](Self::finish).
    pub(crate) fn start(&self, verb: Verb) -> Result<Child, Error> {
        let file = self.find()?;
        let failed =
            |reason: std::io::Error| self.failed(format!("cannot execute {}: {reason}", file.display()));
        let mut command = Command::new(&file);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env("CNI_COMMAND", verb.as_str());
        command.envs(self.path.iter().map(|path| ("CNI_PATH", path)));
        // Its standard error is ours: the runtime's log.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says why on its standard output.
            let _ = stdin.write_all(&self.stdin);
        }
        Ok(child)
    }

    /// Waits for its end and gives what it wrote.
    pub(crate) fn finish(&self, child: Child) -> Result<Vec<u8>, Error> {
        let output = child.wait_with_output().map_err(|reason| self.failed(reason.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        match serde_json::from_slice(&output.stdout) {
            Ok(Object { code, msg, details }) => {
                Err(Error::Delegate { plugin: self.plugin.clone(), code, msg, details })
            }
            Err(_) => Err(self.failed(format!("{} without an error object", output.status))),
        }
    }

    /// Runs a verb that answers nothing.
    pub(crate) fn run(&self, verb: Verb) -> Result<(), Error> {
        self.start(verb).and_then(|child| self.finish(child)).map(drop)
    }

    /// DEL. A plugin that is not there holds nothing, unless an ADD with it succeeded.
    pub(crate) fn release(&self) -> Result<(), Error> {
        match self.run(Verb::Del) {
            Err(Error::DelegateNotFound { .. }) if !self.has_result => Ok(()),
            result => result,
        }
    }

    /// The result of its ADD.
    pub(crate) fn result(&self, child: Child) -> Result<AddResult, Error> {
        let text = self.finish(child)?;
        let read = serde_json::from_slice::<Value>(&text).and_then(|value| AddResult::read(&value));
        let result = read.map_err(|error| self.failed(format!("its result cannot be read: {error}")))?;
        if result.ips.is_empty() {
            return Err(self.failed("there is no address in its result".into()));
        }
        Ok(result)
    }

    fn find(&self) -> Result<PathBuf, Error> {
        let found = self.path.iter().flat_map(std::env::split_paths).map(|dir| dir.join(&self.plugin));
        found.into_iter().find(|file| file.is_file()).ok_or_else(|| Error::DelegateNotFound {
            plugin: self.plugin.clone(),
            path: self.path.clone().unwrap_or_default().display().to_string(),
        })
    }

    fn failed(&self, reason: String) -> Error {
        Error::DelegateFailed { plugin: self.plugin.clone(), reason }
    }
}
