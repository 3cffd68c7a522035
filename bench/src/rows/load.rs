//! Callers of `ipamd` that never rest: each has a connection and a call under way. One thread drives them all, so that what is
//! measured is the daemon and not how the machine shares its cores among callers. And what they get from a server that does
//! nothing: the floor.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixListener,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use ferrule_tests::error::{Context, LabError, Result};
use ferrule_wire::{
    Allocate, AllocateReply, Attachment, Client, ClientError, Lease, Method, Release, ReleaseReply, Reply,
    encode,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::stand::Bench;

/// The floor's name.
pub(super) const NOTHING: &str = "answers for nothing";

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Calls a second: an Allocate and a Release are two.
    pub(super) rates: Vec<f64>,
    /// Of each call, in seconds.
    pub(super) latencies: Vec<f64>,
    /// Of each Allocate.
    pub(super) allocations: Vec<f64>,
}

impl Samples {
    /// Adds those of another round.
    pub(super) fn add(&mut self, round: Samples) {
        self.rates.extend(round.rates);
        self.latencies.extend(round.latencies);
        self.allocations.extend(round.allocations);
    }
}

/// A caller.
struct Caller {
    connection: Client,
    number: usize,
    /// Its pairs so far.
    pairs: usize,
    /// The call under way is a Release.
    releases: bool,
    begun: Instant,
}

/// Has `callers` of them allocate and release for `duration`.
///
/// # Errors
/// The daemon does not answer, or not with a success.
pub(super) fn pairs(socket: &Path, callers: usize, duration: Duration, samples: &mut Samples) -> Result<()> {
    let start = Instant::now();
    let end = start + duration;
    let caller = |number| {
        let connection = Client::connect(socket, end + Duration::from_secs(10)).map_err(failed)?;
        let mut caller = Caller { connection, number, pairs: 0, releases: false, begun: start };
        caller.send().map(|()| caller)
    };
    let mut callers = (0..callers).map(caller).collect::<Result<Vec<_>>>()?;
    let answers = samples.latencies.len();
    while Instant::now() < end {
        for at in ready(&callers).context(|| "waiting for answers".to_owned())? {
            callers[at].turn(samples)?;
        }
    }
    let answers = samples.latencies.len() - answers;
    samples.rates.push(answers as f64 / start.elapsed().as_secs_f64());
    callers.into_iter().try_for_each(Caller::end)
}

/// How long they call.
pub(super) fn duration(bench: &Bench) -> Duration {
    Duration::from_millis(bench.times(2000, 700) as u64)
}

/// The same calls, answered by a thread that does nothing else: what sockets and scheduler take.
///
/// # Errors
/// There is no socket to be had.
pub(super) fn nothing(bench: &Bench, callers: usize, samples: &mut Samples) -> Result<()> {
    let path = bench.dir.join("nothing.sock");
    let listener = UnixListener::bind(&path).context(|| path.display().to_string())?;
    let server = thread::spawn(move || answer(&listener, callers));
    pairs(&path, callers, duration(bench), samples)?;
    std::fs::remove_file(&path).context(|| path.display().to_string())?;
    let answered = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    answered.context(|| NOTHING.to_owned())
}

/// Answers until the callers have gone.
fn answer(listener: &UnixListener, callers: usize) -> io::Result<()> {
    let attachment =
        Attachment { network: "bench".to_owned(), container_id: "0".repeat(64), ifname: "eth0".to_owned() };
    let lease = Lease {
        attachment,
        addresses: vec![std::net::IpAddr::from([127, 0, 0, 1]).into()],
        pool: "bench".to_owned(),
        pod: None,
        netns: None,
        given_at_boottime_ms: 1,
    };
    let released = ReleaseReply { released: lease.addresses.clone() };
    let given = AllocateReply { lease, existing: false, mtu: None };
    let given = encode(&Reply::success(&given, false)).map_err(io::Error::other)?;
    let released = encode(&Reply::success(&released, false)).map_err(io::Error::other)?;
    let mut streams =
        (0..callers).map(|_| listener.accept().map(|(stream, _)| stream)).collect::<io::Result<Vec<_>>>()?;
    let mut piece = [0; 4096];
    while !streams.is_empty() {
        for at in ready(&streams)?.into_iter().rev() {
            // Each call comes in one piece.
            let call = match streams[at].read(&mut piece)? {
                0 => {
                    drop(streams.swap_remove(at));
                    continue;
                }
                read => &piece[..read],
            };
            let name = Release::NAME.as_bytes();
            let is_release = call.windows(name.len()).any(|part| part == name);
            streams[at].write_all(if is_release { &released } else { &given })?;
        }
    }
    Ok(())
}

/// Those that have something to be read; waits for the first.
fn ready<T: AsFd>(all: &[T]) -> io::Result<Vec<usize>> {
    let mut waiting: Vec<_> = all.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut waiting, PollTimeout::from(10_000_u16))?;
    Ok(waiting.iter().enumerate().filter(|(_, fd)| fd.any() == Some(true)).map(|(at, _)| at).collect())
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Caller {
    /// Takes the answer and makes the next call.
    fn turn(&mut self, samples: &mut Samples) -> Result<()> {
        self.receive()?;
        let took = self.begun.elapsed().as_secs_f64();
        samples.latencies.push(took);
        if self.releases {
            self.pairs += 1;
        } else {
            samples.allocations.push(took);
        }
        self.releases = !self.releases;
        self.send()
    }

    /// Takes the last answer, and gives back what it gave.
    fn end(mut self) -> Result<()> {
        self.receive()?;
        if self.releases {
            return Ok(());
        }
        self.releases = true;
        self.send()?;
        self.receive()
    }

    fn receive(&mut self) -> Result<()> {
        let received = if self.releases {
            self.connection.receive::<Release>().map(drop)
        } else {
            self.connection.receive::<Allocate>().map(drop)
        };
        received.map_err(failed)
    }

    fn send(&mut self) -> Result<()> {
        let (client, number) = (self.number, self.pairs);
        let attachment = Attachment {
            network: "bench".to_owned(),
            container_id: format!("{client:032x}{number:032x}"),
            ifname: "eth0".to_owned(),
        };
        self.begun = Instant::now();
        let sent = if self.releases {
            self.connection.send(&Release { attachment })
        } else {
            self.connection.send(&Allocate { deadline_ms: Some(5000), ..Allocate::new(attachment) })
        };
        sent.map_err(failed)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: ClientError) -> LabError {
    LabError::promise("ipamd to answer", error.to_string())
}
