//! Running the system's own tools inside a space. Lives here: starting, feeding and reading them. What their output means is
//! decided by the callers.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    error::{Context, LabError, Result},
    space::Space,
};

/// Runs a command line (words apart by blanks) in a space and gives its standard output.
pub fn run(space: &Space, line: &str) -> Result<String> {
    space.enter(|| run_here(line))?
}

/// The same on the calling thread, where it already is in the right place.
pub fn run_here(line: &str) -> Result<String> {
    feed_here(line, "")
}

/// Runs a command line in a space with `input` on its standard input.
pub fn feed(space: &Space, line: &str, input: &str) -> Result<String> {
    space.enter(|| feed_here(line, input))?
}

fn feed_here(line: &str, input: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).env("LC_ALL", "C");
    let output = output(&mut command, input.as_bytes()).context(|| format!("running `{line}`"))?;
    if !output.status.success() {
        let written = [output.stderr, output.stdout]
            .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
            .join(" ");
        return Err(LabError::Command {
            command: line.to_owned(),
            status: output.status.to_string(),
            output: written,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a prepared command with `input` and collects what it writes. The input must be small (a pipe's buffer, 64 KiB).
pub fn output(command: &mut Command, input: &[u8]) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read its input is judged by its status, not by our broken pipe.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output()
}

/// Runs a command that prints JSON on the calling thread.
pub fn json_here(line: &str) -> Result<Value> {
    let text = run_here(line)?;
    if text.trim().is_empty() {
        // `ip -j` prints nothing at all for some empty dumps.
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).map_err(|error| LabError::parse(format!("output of `{line}`"), &error))
}

/// Runs a command that prints JSON in a space.
pub fn json(space: &Space, line: &str) -> Result<Value> {
    space.enter(|| json_here(line))?
}

/// Asks `check` until it says yes (`Ok(Ok(value))`), and says what it said last (`Ok(Err(saw))`) when the time is over.
pub fn wait_for<T>(
    expected: &str,
    within: Duration,
    mut check: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        // The time is read before the check: a check that starts in time may finish late, and counts.
        let waited = start.elapsed();
        match check()? {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(saw) if waited >= within => {
                return Err(LabError::Late { expected: expected.to_owned(), within, saw });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(3)), // the pace of asking, not a guess at how long it takes
        }
    }
}
