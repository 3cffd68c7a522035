//! The clients that are not ours, `windows.py`, for the tests of both daemons' windows.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What `windows.py` says, as JSON. `daemon` is the program under test.
pub(crate) fn python(daemon: &str, arguments: &[&str], input: &str) -> Value {
    // Where `tests/setup` puts the packages: beside what cargo builds.
    let target = Path::new(daemon).ancestors().nth(2).unwrap().join("python");
    assert!(target.join("varlink").exists(), "{} has no varlink: type tests/setup", target.display());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/windows.py");
    let mut command = Command::new("python3");
    command.arg(script).args(arguments).env("PYTHONPATH", &target).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("python3: {error}; type tests/setup"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
