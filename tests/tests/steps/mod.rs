//! Named steps of a test that tells a story: each says what it saw, the first that fails ends the test and says so.
#![allow(clippy::print_stdout, clippy::panic)] // how a test speaks, and how it fails

use std::{path::PathBuf, time::Instant};

use ferrule_tests::{error::Result, report::time};
use nix::sys::stat::{Mode, umask};

/// The running story, with a directory for the logs, which stays when the story ends badly.
pub(crate) struct Steps {
    name: &'static str,
    dir: Option<tempfile::TempDir>,
}

impl Steps {
    /// Begins.
    pub(crate) fn new(name: &'static str) -> Steps {
        println!("━━ {name}");
        // The daemons run as another user, who reads the configuration written there.
        umask(Mode::from_bits_truncate(0o022));
        Steps { name, dir: Some(tempfile::tempdir().expect("a directory for logs")) }
    }

    /// The directory for logs.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.as_ref().map(|dir| dir.path().to_owned()).expect("it is there until the end")
    }

    /// Does a step; `work` gives a value and what was seen.
    pub(crate) fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> T {
        let start = Instant::now();
        match work() {
            Ok((value, seen)) => {
                println!("  ✔ {name}: {seen} [{}]", time(start.elapsed()));
                value
            }
            Err(error) => panic!("{}, {name}: {error}\nlogs: {}", self.name, self.dir().display()),
        }
    }

    /// A step that has no value but what was seen.
    pub(crate) fn prove(&self, name: &str, work: impl FnOnce() -> Result<String>) {
        self.step(name, || work().map(|seen| ((), seen)));
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let (true, Some(dir)) = (std::thread::panicking(), self.dir.take()) {
            let _ = dir.keep();
        }
    }
}
