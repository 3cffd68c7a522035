//! ICMP echo by the system's `ping`: single ones for the table, and a run that goes on while something is done to the network.

use std::{
    io::{BufRead, BufReader},
    net::IpAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    command::wait_for,
    error::{Context, LabError, Result},
    space::Space,
};

/// How long an echo that should come back is waited for.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Starts one echo from the calling thread's namespace, and waits for its reply for so long. `full` is the size in bytes of the
/// whole packet, sent with don't-fragment; without it the packet is ping's usual 84 (104 over IPv6).
pub fn start(to: IpAddr, full: Option<u32>, patience: Duration) -> Result<Child> {
    let mut command = Command::new("ping");
    command.args(["-n", "-c", "1", "-W", &patience.as_secs_f64().to_string()]).env("LC_ALL", "C");
    if let Some(size) = full {
        let overhead = if to.is_ipv4() { 28 } else { 48 }; // IP header and ICMP header
        command.args(["-M", "do", "-s", &size.saturating_sub(overhead).to_string()]);
    }
    command.arg(to.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context(|| "starting ping")
}

/// Waits for an echo started by [`start`]; what ping wrote about a failure is the inner error.
pub fn finish(child: Child) -> Result<std::result::Result<(), String>> {
    let output = child.wait_with_output().context(|| "waiting for ping")?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    let written =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    // The first line repeats the arguments; the rest says what happened.
    let said: Vec<&str> =
        written.lines().skip(1).filter(|line| !line.is_empty() && !line.starts_with("---")).collect();
    Ok(Err(if said.is_empty() { written.trim().to_owned() } else { said.join("; ") }))
}

/// Milliseconds between two echoes of a [`Run`].
pub const RUN_INTERVAL_MS: u64 = 5;

/// Echoes that go on until they are stopped, each reply noted.
#[derive(Debug)]
pub struct Run {
    child: Child,
    to: IpAddr,
    replies: Arc<Mutex<Vec<u32>>>,
    ended: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

impl Run {
    /// Starts it and waits for the first replies, so that what comes next happens while it runs.
    pub fn start(from: &Space, to: IpAddr) -> Result<Run> {
        let replies = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (note, end, from) = (Arc::clone(&replies), Arc::clone(&ended), from.clone());
        let (hand_over, started) = mpsc::channel();
        // The thread that starts ping stays until ping ends: a parent-death signal goes by the thread, not the process.
        let reader = std::thread::spawn(move || {
            let mut child = from.adopt_thread().and_then(|()| spawn_run(to));
            let lines = child.as_mut().ok().and_then(|child| child.stdout.take()).map(BufReader::new);
            let _ = hand_over.send(child);
            for sequence in lines
                .into_iter()
                .flat_map(BufRead::lines)
                .map_while(|line| line.ok())
                .filter_map(|line| sequence(&line))
            {
                note.lock().unwrap_or_else(PoisonError::into_inner).push(sequence);
            }
            end.store(true, Ordering::Release);
        });
        let child = started.recv().map_err(|error| LabError::parse("ping's thread", &error))??;
        let run = Run { child, to, replies, ended, reader };
        run.more(10)?;
        Ok(run)
    }

    /// Waits for this many more replies.
    fn more(&self, count: usize) -> Result<()> {
        let len = || self.replies.lock().unwrap_or_else(PoisonError::into_inner).len();
        let wanted = len() + count;
        let expected = format!("{count} more replies from {}", self.to);
        let seen = || match len() {
            enough if enough >= wanted => Ok(Ok(())),
            _ if self.ended.load(Ordering::Acquire) => Ok(Err("ping has ended".to_owned())),
            replies => Ok(Err(format!("{} missing", wanted - replies))),
        };
        wait_for(&expected, Duration::from_secs(5), seen).map(drop)
    }

    /// Lets some more echoes pass, stops the run, and gives the number of replies if none is missing. The echoes sent after
    /// the last reply do not count: they were under way.
    pub fn stop(mut self) -> Result<usize> {
        let waited = self.more(20);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reader.join();
        waited?;
        let mut replies = std::mem::take(&mut *self.replies.lock().unwrap_or_else(PoisonError::into_inner));
        replies.sort_unstable();
        replies.dedup();
        let last = replies.last().copied().unwrap_or_default();
        let missing: Vec<String> = (1..=last)
            .filter(|number| replies.binary_search(number).is_err())
            .map(|n| n.to_string())
            .collect();
        if missing.is_empty() {
            return Ok(replies.len());
        }
        let saw = format!(
            "{} of {last} lost (one every {RUN_INTERVAL_MS} ms): {}",
            missing.len(),
            missing.join(" ")
        );
        Err(LabError::promise(format!("a reply from {} to every echo", self.to), saw))
    }
}

fn spawn_run(to: IpAddr) -> Result<Child> {
    let interval = format!("0.{RUN_INTERVAL_MS:03}");
    let mut command = Command::new("setpriv");
    // The run ends with the lab even if the lab is killed.
    command.args(["--pdeathsig", "KILL", "ping", "-n", "-i", &interval, &to.to_string()]).env("LC_ALL", "C");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(|| "starting ping")
}

/// The number of the echo a line of ping's output is the reply to.
fn sequence(line: &str) -> Option<u32> {
    let (head, tail) = line.split_once("icmp_seq=")?;
    // "From ... icmp_seq=1 Destination unreachable" is no reply.
    head.contains("bytes from").then_some(())?;
    tail.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::sequence;

    #[test]
    fn only_replies_count() {
        assert_eq!(sequence("64 bytes from 10.244.2.1: icmp_seq=17 ttl=62 time=0.1 ms"), Some(17));
        assert_eq!(sequence("From 10.244.1.1 icmp_seq=18 Destination Host Unreachable"), None);
        assert_eq!(sequence("PING 10.244.2.1 (10.244.2.1) 56(84) bytes of data."), None);
    }
}
