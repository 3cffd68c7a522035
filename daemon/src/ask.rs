//! Asks a running daemon, for the commands that show it: the connection, what can go wrong with it, and what is
//! printed.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferrule_wire::{CallError, Client, ClientError};
use serde::Serialize;

/// How long a daemon may take for its whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No daemon listens.
    #[error(
        "{daemon} does not run here, nobody listens on {}: start it (`systemctl start {daemon}`), or say with --runtime-dir where it \
         runs",
        socket.display()
    )]
    NotRunning {
        /// The program's name.
        daemon: &'static str,
        /// Where it would listen.
        socket: PathBuf,
    },
    /// This user may not use the socket.
    #[error("{} is for root and {daemon}'s own user: ask as root (sudo)", socket.display())]
    NotAllowed {
        /// The program's name.
        daemon: &'static str,
        /// Its socket.
        socket: PathBuf,
    },
    /// The daemon does not answer.
    #[error("{daemon} does not answer within {} s: its log may say why (`journalctl -u {daemon}`)", PATIENCE.as_secs())]
    Silent {
        /// The program's name.
        daemon: &'static str,
    },
    /// The answer cannot be used.
    #[error("{daemon} answers: {source}")]
    Answer {
        /// The program's name.
        daemon: &'static str,
        /// What is wrong with it.
        source: Box<ClientError>,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// A connection to a daemon's socket.
#[derive(Debug)]
pub struct Asked {
    client: Client,
    daemon: &'static str,
    socket: PathBuf,
}

impl Asked {
    /// Connects to `NAME.sock` in this runtime directory.
    ///
    /// # Errors
    /// See [`AskError`].
    pub fn connect(runtime_dir: &Path, daemon: &'static str) -> Result<Self, AskError> {
        let socket = runtime_dir.join(format!("{daemon}.sock"));
        match Client::connect(&socket, Instant::now() + PATIENCE) {
            Ok(client) => Ok(Self { client, daemon, socket }),
            Err(error) => Err(told(error, daemon, &socket)),
        }
    }

    /// Sends a question by `ask`, and returns the answer.
    ///
    /// # Errors
    /// See [`AskError`].
    pub fn ask<T>(&mut self, ask: impl FnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, AskError> {
        ask(&mut self.client).map_err(|error| told(error, self.daemon, &self.socket))
    }
}

fn told(error: ClientError, daemon: &'static str, socket: &Path) -> AskError {
    let socket = socket.to_owned();
    match error {
        ClientError::Connect { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            AskError::NotAllowed { daemon, socket }
        }
        ClientError::Call(CallError::PermissionDenied {}) => AskError::NotAllowed { daemon, socket },
        ClientError::Connect { .. } | ClientError::Closed => AskError::NotRunning { daemon, socket },
        ClientError::Deadline { .. } => AskError::Silent { daemon },
        other => AskError::Answer { daemon, source: Box::new(other) },
    }
}

/// Prints an answer as a JSON document.
///
/// # Errors
/// [`AskError::Output`].
pub fn print_json(answer: &impl Serialize) -> Result<(), AskError> {
    let text = serde_json::to_string_pretty(answer).map_err(|error| AskError::Output(error.into()))?;
    print(&format!("{text}\n"))
}

/// Prints a text. It is no error if the reader has seen enough and closes the pipe (`| head`).
///
/// # Errors
/// [`AskError::Output`].
pub fn print(text: &str) -> Result<(), AskError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(AskError::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Rows under a header, each column as wide as its longest cell. An empty cell is shown as a dash.
#[must_use]
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let long = |cell: &str| cell.chars().count().max(1);
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| long(&row[column])).chain([long(header[column])]).max().unwrap_or(1)
    });
    let mut text = String::new();
    let header = header.map(str::to_owned);
    for row in [&header].into_iter().chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let cell = if cell.is_empty() { "-" } else { cell };
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A time span, for people: `12 s`, `5 min`, `3 h`, `9 d`.
#[must_use]
pub fn ago(passed: Duration) -> String {
    match passed.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = [row(["10.244.1.5", "", "x"]), row(["é", "shop/web-0", ""])];
        assert_eq!(
            table(["ADDRESS", "POD", "C"], &rows),
            "ADDRESS     POD         C\n10.244.1.5  -           x\né           shop/web-0  -\n"
        );
    }

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        let told = [0, 119, 120, 7_199, 7_200, 172_800].map(|seconds| ago(Duration::from_secs(seconds)));
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }

    #[test]
    fn a_daemon_that_does_not_run_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Asked::connect(dir.path(), "ipamd").unwrap_err().to_string();
        assert!(
            error.contains("ipamd does not run here") && error.contains("systemctl start ipamd"),
            "{error}"
        );
    }
}
