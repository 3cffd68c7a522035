//! One program run to its end and timed, and a process watched from outside.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use ferrule_tests::{
    command::output,
    error::{Context, LabError, Result},
};

/// A program to be run, with all that it is given.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    /// Its file.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(&'static str, String)>,
    /// Its standard input.
    pub input: Vec<u8>,
}

impl Exec {
    /// Runs it on the calling thread's namespaces, without a shell between; the time is from before it is started until it has
    /// been waited for, with all it wrote read.
    ///
    /// # Errors
    /// It cannot be started, or its status is not 0.
    pub fn run(&self) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        let start = Instant::now();
        let output = output(&mut command, &self.input).context(|| self.program.display().to_string())?;
        let took = start.elapsed();
        if output.status.success() {
            return Ok(took);
        }
        let said =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        Err(LabError::Command {
            command: self.program.display().to_string(),
            status: output.status.to_string(),
            output: said.join(" "),
        })
    }
}

/// How long the threads of a process have run on a core.
///
/// # Errors
/// It is gone.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = 0;
    for task in fs::read_dir(&tasks).context(|| tasks.clone())? {
        let path = task.context(|| tasks.clone())?.path().join("schedstat");
        // A thread may end between the listing and the look.
        let text = fs::read_to_string(path).unwrap_or_default();
        total += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(Duration::from_nanos(total))
}

/// A field of `/proc/PID/status` that is in kB, in bytes.
///
/// # Errors
/// The process is gone, or has no such field.
pub fn memory(pid: i32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes
        .map(|kilobytes| kilobytes * 1024.0)
        .ok_or_else(|| LabError::parse(path, &format!("no {field} in it")))
}
