//! The process itself: what it is given to read and to write may be missing, and it ends by itself all the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Command, Stdio};

fn version() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrule"));
    command.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null());
    command
}

#[test]
fn a_result_that_nobody_reads_is_a_failure_and_no_crash() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(version().stdout(writer).status().unwrap().code(), Some(1));
}

/// Else the first socket would be standard output, and get the result. Nobody hears that, so it is a failure.
#[test]
fn streams_that_are_closed_are_nobodys() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec strace -qq -e trace=openat,write -o \"$1\" \"$0\" <&- >&- 2>&-"]);
    let trace = tempfile::NamedTempFile::new().unwrap();
    shell.arg(env!("CARGO_BIN_EXE_ferrule")).arg(trace.path());
    let status = shell.env_clear().env("PATH", "/usr/bin:/bin").env("CNI_COMMAND", "VERSION").status();
    assert_eq!(status.unwrap().code(), Some(1));
    let calls = std::fs::read_to_string(trace.path()).unwrap();
    let opened = |file: &str| calls.lines().filter(|call| call.contains(file)).count();
    assert_eq!((opened("\"/dev/null\""), opened("\"/dev/full\"")), (2, 1), "{calls}");
    let result = calls.lines().find(|call| call.contains("{\\\"cniVersion\\\""));
    assert!(result.is_some_and(|call| call.contains("ENOSPC")), "{calls}");
}
