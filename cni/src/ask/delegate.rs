//! Executes another IPAM plugin, as section 4 of the specification says. The plugin is looked for in `CNI_PATH`. It
//! gets our environment and our configuration, and its errors are handed on unchanged. If it does not end in time, it
//! is killed.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use ferrule_model::json::named;
use serde::Deserialize;
use serde_json::Value;

use crate::ask::daemon;
use crate::edge::config::Delegate;
use crate::edge::error::Error;
use crate::edge::result::AddResult;
use crate::edge::spec::{Verb, Version};

/// How long the plugin may take for any verb: as long as an ADD waits for `ipamd`. A release by another plugin cannot
/// be queued, so DEL waits as long as ADD.
const WAIT: Duration = daemon::START_WAIT.saturating_add(daemon::ALLOCATE_WAIT);
/// How long to wait for a plugin that was killed. While its work is undone, it must not do anything more.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// Most bytes of its output. Real results and error objects are far smaller.
const OUTPUT_MAX: u64 = 1 << 20;
/// How often to look whether a plugin has ended, once it has written everything. Normally it ends at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// A plugin that is running. It is killed when this is dropped, unless it has ended before.
pub(crate) struct Running {
    verb: Verb,
    child: Child,
    deadline: Instant,
    /// Its output, once it has written everything.
    output: Receiver<io::Result<Vec<u8>>>,
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

impl Running {
    /// Waits for its end. Returns `None` if the deadline passes first.
    fn end(&mut self) -> io::Result<Option<(ExitStatus, Vec<u8>)>> {
        let output = match self.output.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(output) => output?,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => Vec::new(),
        };
        Ok(self.gone(self.deadline)?.map(|status| (status, output)))
    }

    fn gone(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Killing a plugin that has ended does nothing. If the kernel cannot end it now, it does so later.
        let _ = self.child.kill();
        let _ = self.gone(Instant::now() + KILL_WAIT);
    }
}

/// Starts the plugin. [`finish`] fetches the answer.
pub(crate) fn start(delegate: &Delegate, verb: Verb) -> Result<Running, Error> {
    let deadline = Instant::now() + WAIT;
    let file = find(delegate)?;
    let failed = |reason: io::Error| failed(delegate, format!("cannot execute {}: {reason}", file.display()));
    let mut command = Command::new(&file);
    command.envs(delegate.variables.iter().map(|(name, value)| (name, value)));
    command.env("CNI_COMMAND", verb.as_str());
    command.envs(delegate.path.iter().map(|path| ("CNI_PATH", path)));
    // It inherits our standard error, which is the runtime's log.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let (pipes, text) = ((child.stdin.take(), child.stdout.take()), delegate.stdin.clone());
    let (sender, output) = channel();
    // A thread, because a pipe has no deadline. It ends with the plugin, or with us.
    thread::spawn(move || {
        let (Some(mut stdin), Some(stdout)) = pipes else { return };
        // A plugin that ends without reading its input says why on its standard output.
        let _ = stdin.write_all(&text);
        drop(stdin);
        let mut written = Vec::new();
        let read = stdout.take(OUTPUT_MAX).read_to_end(&mut written);
        let _ = sender.send(read.map(|_| written));
    });
    Ok(Running { verb, child, deadline, output })
}

/// Waits for its end, and returns what it wrote.
pub(crate) fn finish(delegate: &Delegate, mut running: Running) -> Result<Vec<u8>, Error> {
    let ended = running.end().map_err(|reason| failed(delegate, reason.to_string()))?;
    let Some((status, output)) = ended else {
        return Err(Error::DelegateHangs {
            plugin: delegate.plugin.clone(),
            verb: running.verb,
            waited: WAIT,
        });
    };
    if status.success() {
        return Ok(output);
    }
    let object = serde_json::from_slice(&output).and_then(|mut value| {
        named(&mut value, &["code", "msg", "details"]);
        serde_json::from_value(value)
    });
    let Ok(Object { code, msg, details }) = object else {
        return Err(failed(delegate, format!("{status} without an error object")));
    };
    let plugin = delegate.plugin.clone();
    // An older reference library answers the verbs of 1.1.0 with these words, because it does not know them.
    let knows_not = msg.contains("missing containerID") || msg.contains("unknown CNI_COMMAND");
    if running.verb.since() == Version::V1_1_0 && knows_not {
        return Err(Error::DelegateTooOld { plugin, verb: running.verb, msg });
    }
    Err(Error::Delegate { plugin, code, msg, details })
}

/// Runs a verb that has no answer.
pub(crate) fn run(delegate: &Delegate, verb: Verb) -> Result<(), Error> {
    start(delegate, verb).and_then(|running| finish(delegate, running)).map(drop)
}

/// DEL. If the plugin is not installed, there is nothing to release, unless an ADD with it succeeded before.
pub(crate) fn release(delegate: &Delegate) -> Result<(), Error> {
    match run(delegate, Verb::Del) {
        Err(Error::DelegateNotFound { .. }) if !delegate.has_result => Ok(()),
        result => result,
    }
}

/// The result of its ADD.
pub(crate) fn result(delegate: &Delegate, running: Running) -> Result<AddResult, Error> {
    let text = finish(delegate, running)?;
    let read = serde_json::from_slice::<Value>(&text).map_err(|error| error.to_string());
    let read = read.and_then(|value| AddResult::read(&value));
    let result = read.map_err(|reason| failed(delegate, format!("its result cannot be read: {reason}")))?;
    if result.ips.is_empty() {
        return Err(failed(delegate, "there is no address in its result".into()));
    }
    Ok(result)
}

fn find(delegate: &Delegate) -> Result<PathBuf, Error> {
    let found = delegate.path.iter().flat_map(std::env::split_paths).map(|dir| dir.join(&delegate.plugin));
    found.into_iter().find(|file| file.is_file()).ok_or_else(|| Error::DelegateNotFound {
        plugin: delegate.plugin.clone(),
        path: delegate.path.clone().unwrap_or_default().display().to_string(),
    })
}

fn failed(delegate: &Delegate, reason: String) -> Error {
    Error::DelegateFailed { plugin: delegate.plugin.clone(), reason }
}
