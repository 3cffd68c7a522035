//! What a person sees while the lab runs, and what it comes to: steps with a mark, their times, and the list of what failed.
#![allow(clippy::print_stdout)] // printing is this module's purpose

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::error::{LabError, Result};

/// The running report.
#[derive(Debug)]
pub struct Report {
    chapter: String,
    started: Instant,
    steps: usize,
    failures: Vec<String>,
}

impl Report {
    /// An empty report.
    pub fn new() -> Report {
        Report { chapter: String::new(), started: Instant::now(), steps: 0, failures: Vec::new() }
    }

    /// Starts a chapter.
    pub fn chapter(&mut self, name: &str, about: &str) {
        name.clone_into(&mut self.chapter);
        println!("\n━━ {name}: {about}");
    }

    /// Says something that is neither good nor bad.
    pub fn say(&self, text: &str) {
        println!("{text}");
    }

    /// Does a step and prints what came of it: `work` gives a value and what was seen. Nothing if it failed.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Option<T> {
        let start = Instant::now();
        match work() {
            Ok((value, seen)) => {
                self.steps += 1;
                println!("  ✔ {name}: {seen} [{}]", time(start.elapsed()));
                Some(value)
            }
            Err(error) => {
                self.fail(name, &error);
                None
            }
        }
    }

    /// A step that has no value but what was seen.
    pub fn prove(&mut self, name: &str, work: impl FnOnce() -> Result<String>) -> bool {
        self.step(name, || work().map(|seen| ((), seen))).is_some()
    }

    /// Notes and prints a failure.
    pub fn fail(&mut self, name: &str, error: &LabError) {
        println!("  ✘ {name}: {error}");
        self.failures.push(format!("{}, {name}: {error}", self.chapter));
    }

    /// Whether nothing has failed.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
    }

    /// Prints the result.
    pub fn finish(&self, logs: &Path) {
        let took = time(self.started.elapsed());
        if self.is_good() {
            println!("\n✔ all {} steps held, in {took}", self.steps);
            return;
        }
        println!(
            "\n✘ {} of {} steps failed, in {took}:",
            self.failures.len(),
            self.steps + self.failures.len()
        );
        for failure in &self.failures {
            println!("  - {failure}");
        }
        println!("  logs and configuration: {}", logs.display());
    }
}

impl Default for Report {
    fn default() -> Report {
        Report::new()
    }
}

/// A duration as a person says it.
pub fn time(duration: Duration) -> String {
    match duration.as_millis() {
        0..10 => format!("{:.1} ms", duration.as_secs_f64() * 1000.0),
        millis @ 10..1000 => format!("{millis} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}
