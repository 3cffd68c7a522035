//! What is held against the reference: writer, service, pool and sled in this process with a clock that the test turns,
//! and the daemon behind its socket.

use super::common::{Daemon, Place, leases, until};
use super::reference::Said;
use ferrule_wire::{
    Allocate, AllocateReply, Attachment, CallError, Check, Client, ClientError, Collect, Lease, Method,
    PoolStatus, Pools, Release, Resting, Status,
};
use ipamd::decide::service::{Answer, ServiceRequest};
use ipamd::look::clock::Clock;
use ipamd::serve::writer::{Handle, Writer};
use ipamd::store::SledStore;
use ipnetwork::IpNetwork;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How a life of the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is told to stop.
    Stop,
    /// It dies.
    Crash,
    /// The machine boots anew.
    Reboot,
}

/// The answer to a call, if one was read.
pub type Answered = Option<Result<AllocateReply, CallError>>;

/// Something that gives addresses.
pub trait Subject {
    fn allocate(&mut self, call: &Allocate) -> Result<AllocateReply, CallError>;
    fn release(&mut self, whom: &Attachment) -> Vec<IpNetwork>;
    fn check(&mut self, call: &Check) -> Result<(), CallError>;
    fn status(&mut self) -> Result<(), CallError>;
    fn collect(&mut self, call: &Collect) -> Vec<Attachment>;
    fn leases(&mut self) -> Vec<Lease>;
    fn pools(&mut self) -> Vec<PoolStatus>;
    fn resting(&mut self) -> Vec<IpAddr>;
    fn configure(&mut self, said: Said);
    /// The time is this now.
    fn turn(&mut self, now: Duration);
    /// Ends, with this call under way, and begins anew, with this release in the queue. How it ended, as it can, and
    /// the call's answer if that is known.
    fn end(&mut self, end: End, last: Option<&Allocate>, queued: Option<&Attachment>) -> (End, Answered);
}

/// Where the store lies in production: tmpfs.
const MEMORY: &str = "/dev/shm";

/// Writer, service, pool and store in this process.
pub struct Parts {
    dir: tempfile::TempDir,
    /// Which copy of the store is in use.
    copy: u32,
    boot: u32,
    said: Said,
    now: Arc<AtomicU64>,
    runtime: tokio::runtime::Runtime,
    running: Option<(Handle, JoinHandle<()>)>,
}

impl Parts {
    pub fn start(said: Said, now: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir_in(MEMORY).unwrap();
        let now = Arc::new(AtomicU64::new(now.as_secs()));
        let mut parts = Self { dir, copy: 0, boot: 0, said, now, runtime, running: None };
        parts.open();
        parts
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join(format!("{}/ipam", self.copy))
    }

    fn open(&mut self) {
        let now = Arc::clone(&self.now);
        let clock: Clock = Arc::new(move || Duration::from_secs(now.load(Ordering::SeqCst)));
        let (runtime_dir, boot) = (self.dir.path().to_owned(), format!("boot {}", self.boot));
        let store = Box::new(SledStore::new(&self.store()));
        let writer = Writer::open(store, self.said.settings(), runtime_dir, boot, clock).unwrap();
        self.running = Some(writer.start().unwrap());
    }

    /// Lets go of the handle; the writer ends with it.
    fn close(&mut self) {
        if let Some((handle, thread)) = self.running.take() {
            drop(handle);
            thread.join().unwrap();
        }
    }

    fn ask(&self, request: ServiceRequest) -> Result<Answer, CallError> {
        let (handle, _) = self.running.as_ref().unwrap();
        self.runtime.block_on(handle.ask(request, None))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.close();
    }
}

impl Subject for Parts {
    fn allocate(&mut self, call: &Allocate) -> Result<AllocateReply, CallError> {
        match self.ask(ServiceRequest::Allocate(call.clone()))? {
            Answer::Allocate(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, whom: &Attachment) -> Vec<IpNetwork> {
        match self.ask(ServiceRequest::Release(whom.clone())) {
            Ok(Answer::Release(reply)) => reply.released,
            other => panic!("{other:?}"),
        }
    }

    fn check(&mut self, call: &Check) -> Result<(), CallError> {
        self.ask(ServiceRequest::Check(call.clone())).map(drop)
    }

    fn status(&mut self) -> Result<(), CallError> {
        self.ask(ServiceRequest::Status(Status::default())).map(drop)
    }

    fn collect(&mut self, call: &Collect) -> Vec<Attachment> {
        match self.ask(ServiceRequest::Collect(call.clone())) {
            Ok(Answer::Collect(reply)) => reply.released.into_iter().map(|lease| lease.attachment).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn leases(&mut self) -> Vec<Lease> {
        match self.ask(ServiceRequest::Leases { after: None }) {
            Ok(Answer::Leases(page)) => page.leases,
            other => panic!("{other:?}"),
        }
    }

    fn pools(&mut self) -> Vec<PoolStatus> {
        match self.ask(ServiceRequest::Pools) {
            Ok(Answer::Pools(reply)) => reply.pools,
            other => panic!("{other:?}"),
        }
    }

    fn resting(&mut self) -> Vec<IpAddr> {
        match self.ask(ServiceRequest::Resting { pool: None, after: None }) {
            Ok(Answer::Resting(page)) => {
                page.reply.addresses.into_iter().map(|rest| rest.address.parse().unwrap()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn configure(&mut self, said: Said) {
        self.said = said;
        let (handle, _) = self.running.as_ref().unwrap();
        self.runtime.block_on(handle.configure(said.settings()));
    }

    fn turn(&mut self, now: Duration) {
        self.now.store(now.as_secs(), Ordering::SeqCst);
    }

    fn end(&mut self, end: End, last: Option<&Allocate>, queued: Option<&Attachment>) -> (End, Answered) {
        let answer = last.map(|call| self.allocate(call));
        if end == End::Crash {
            // What would be on the disk: the files as they are now, while nobody has closed them.
            let (from, copy) = (self.dir.path().join(self.copy.to_string()), self.copy + 1);
            let to = self.dir.path().join(copy.to_string());
            assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
            self.close();
            self.copy = copy;
        }
        self.close();
        if let Some(whom) = queued {
            ferrule_wire::queue_release(self.dir.path(), whom).unwrap();
        }
        self.boot += u32::from(end == End::Reboot);
        self.open();
        (end, answer)
    }
}

/// The daemon behind its socket. Its clock is the kernel's: cooldowns end at once or never.
pub struct Process {
    place: Place,
    daemon: Option<Daemon>,
    client: Client,
}

impl Process {
    pub fn start(said: Said) -> Self {
        let place = Place::within(Path::new(MEMORY), &said.toml());
        let daemon = Some(place.start());
        let client = place.client();
        Self { place, daemon, client }
    }

    fn call<M: Method>(&mut self, call: &M) -> Result<M::Reply, CallError> {
        self.client.set_deadline(super::common::soon());
        self.client.call(call).map_err(|error| match error {
            ClientError::Call(error) => error,
            other => panic!("{other:?}\n{}", self.place.log_end()),
        })
    }
}

impl Subject for Process {
    fn allocate(&mut self, call: &Allocate) -> Result<AllocateReply, CallError> {
        self.call(call)
    }

    fn release(&mut self, whom: &Attachment) -> Vec<IpNetwork> {
        self.call(&Release { attachment: whom.clone() }).unwrap().released
    }

    fn check(&mut self, call: &Check) -> Result<(), CallError> {
        self.call(call).map(drop)
    }

    fn status(&mut self) -> Result<(), CallError> {
        self.call(&Status::default()).map(drop)
    }

    fn collect(&mut self, call: &Collect) -> Vec<Attachment> {
        self.call(call).unwrap().released.into_iter().map(|lease| lease.attachment).collect()
    }

    fn leases(&mut self) -> Vec<Lease> {
        self.client.set_deadline(super::common::soon());
        leases(&mut self.client)
    }

    fn pools(&mut self) -> Vec<PoolStatus> {
        self.call(&Pools {}).unwrap().pools
    }

    fn resting(&mut self) -> Vec<IpAddr> {
        let mut resting = Vec::new();
        self.client.set_deadline(super::common::soon());
        let add = |page: ferrule_wire::RestingReply| {
            resting.extend(page.addresses.iter().map(|rest| rest.address.parse::<IpAddr>().unwrap()));
        };
        self.client.call_more(&Resting { pool: None }, add).unwrap();
        resting
    }

    fn configure(&mut self, said: Said) {
        let path = self.place.dir.path().join("ferrule.toml");
        let reads = |place: &Place| place.log().matches("configuration read").count();
        let before = reads(&self.place);
        fs::write(path.with_extension("new"), said.toml()).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
        until("the configuration is read", || reads(&self.place) > before);
    }

    fn turn(&mut self, _: Duration) {}

    fn end(&mut self, end: End, last: Option<&Allocate>, queued: Option<&Attachment>) -> (End, Answered) {
        if let Some(call) = last {
            self.client.send(call).unwrap();
        }
        // The machine cannot be booted from here.
        let end = if end == End::Stop { End::Stop } else { End::Crash };
        let daemon = self.daemon.take().unwrap();
        if end == End::Stop {
            assert!(daemon.stop().success());
        } else {
            daemon.kill();
        }
        if let Some(whom) = queued {
            ferrule_wire::queue_release(&self.place.runtime_dir(), whom).unwrap();
        }
        self.daemon = Some(self.place.start());
        self.client = self.place.client();
        (end, None)
    }
}
