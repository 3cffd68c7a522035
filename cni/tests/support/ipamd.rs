//! A stand-in for `ipamd`: the protocol over a real socket, leases in a map.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ferrule_model::{Attachment, IpNetwork};
use ferrule_wire::{
    AddressRange, AllocateReply, Call, CallError, CheckReply, CollectReply, Family, Frames, Incoming, Lease,
    ListReply, PoolStatus, PoolsReply, ReleaseReply, Reply, SOCKET_NAME, StatusReply, encode,
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::Value;

/// What the stand-in does with calls.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) leases: BTreeMap<Attachment, Lease>,
    /// MTU to answer with.
    pub(crate) mtu: Option<u32>,
    /// IPv4 only.
    pub(crate) v4_only: bool,
    /// Answer the next call with this.
    pub(crate) refuse: Option<CallError>,
    /// Do what so many of the next calls ask, but close the connection instead of answering.
    pub(crate) die: u32,
    /// Names of the methods called.
    pub(crate) calls: Vec<&'static str>,
    /// Ranges of the last call.
    pub(crate) ranges: Vec<AddressRange>,
    /// The last number that was given.
    pub(crate) given: u8,
}

/// A running stand-in. Its threads end with the test's process.
pub(crate) struct Ipamd {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
}

impl Ipamd {
    /// Serves in `runtime_dir`, with the queue's directory made as the daemon does.
    pub(crate) fn start(runtime_dir: &Path) -> Self {
        ferrule_wire::make_queue(runtime_dir).unwrap();
        let socket = runtime_dir.join(SOCKET_NAME);
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(Mutex::new(State { mtu: Some(1450), ..State::default() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (shared, connection) = (Arc::clone(&shared), connection.unwrap());
                thread::spawn(move || serve(connection, &shared));
            }
        });
        Self { state, socket }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn leases(&self) -> BTreeMap<Attachment, Lease> {
        self.state().leases.clone()
    }

    /// Takes the socket away.
    pub(crate) fn stop(&self) {
        std::fs::remove_file(&self.socket).unwrap();
    }
}

fn serve(mut connection: UnixStream, state: &Mutex<State>) {
    let mut frames = Frames::default();
    let mut piece = [0; 4096];
    loop {
        while let Some(message) = frames.pop().unwrap() {
            let request = Incoming::parse(&message).unwrap().unwrap();
            let reply = state.lock().unwrap().answer(request.call);
            let Some(reply) = reply else { return };
            // The plugin may be gone by now.
            let _ = connection.write_all(&encode(&reply).unwrap());
        }
        match connection.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(read) => frames.push(&piece[..read]),
        }
    }
}

impl State {
    fn answer(&mut self, call: Call) -> Option<Reply<Value>> {
        self.calls.push(name(&call));
        if let Some(error) = self.refuse.take() {
            return Some(Reply::failure(&error));
        }
        let reply = match call {
            Call::Allocate(call) => {
                let existing = self.leases.contains_key(&call.attachment);
                self.ranges.clone_from(&call.ranges);
                if !existing {
                    let lease = self.lease(&call);
                    self.leases.insert(call.attachment.clone(), lease);
                }
                let lease = self.leases[&call.attachment].clone();
                success(&AllocateReply { lease, existing, mtu: self.mtu })
            }
            Call::Release(call) => {
                let released = self.leases.remove(&call.attachment).map(|lease| lease.addresses);
                success(&ReleaseReply { released: released.unwrap_or_default() })
            }
            Call::Check(call) => match self.leases.get(&call.attachment) {
                None => Reply::failure(&CallError::LeaseNotFound { attachment: call.attachment }),
                Some(lease) if lease.addresses == call.addresses => success(&CheckReply {}),
                Some(lease) => Reply::failure(&CallError::LeaseMismatch {
                    attachment: call.attachment,
                    leased: lease.addresses.clone(),
                    claimed: call.addresses,
                }),
            },
            Call::Status(call) => match call.pool.as_deref() {
                None | Some("big") => success(&StatusReply {}),
                Some("full") => Reply::failure(&full()),
                Some(_) => Reply::failure(&CallError::NoPool { pool: call.pool, reason: "big, full".into() }),
            },
            Call::Pools(_) => success(&PoolsReply { pools: vec![pool(Family::Ipv4), pool(Family::Ipv6)] }),
            Call::List(_) => success(&ListReply { leases: self.leases.values().cloned().collect() }),
            Call::Collect(call) => {
                let stale = |lease: &&Lease| {
                    lease.attachment.network == call.network && !call.valid.contains(&lease.attachment)
                };
                // One at a time, so that the caller has to come back.
                let released: Vec<_> = self.leases.values().find(stale).cloned().into_iter().collect();
                self.leases.retain(|_, lease| !released.contains(lease));
                success(&CollectReply { released })
            }
            other @ Call::Resting(_) => panic!("the plugin does not call {other:?}"),
        };
        let dies = self.die > 0;
        self.die = self.die.saturating_sub(1);
        if dies { None } else { Some(reply) }
    }

    fn lease(&mut self, call: &ferrule_wire::Allocate) -> Lease {
        let boottime = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
        self.given += 1;
        let n = self.given;
        let mut addresses: Vec<IpNetwork> = vec![format!("10.244.1.{n}/32").parse().unwrap()];
        if !self.v4_only {
            addresses.push(format!("fd00:10:244:1::{n:x}/128").parse().unwrap());
        }
        for requested in &call.requested {
            let same = |address: &&mut IpNetwork| address.is_ipv4() == requested.is_ipv4();
            *addresses.iter_mut().find(same).unwrap() = (*requested).into();
        }
        Lease {
            attachment: call.attachment.clone(),
            addresses,
            pool: call.pool.clone().unwrap_or_else(|| "default".into()),
            pod: call.pod.clone(),
            netns: call.netns.clone(),
            given_at_boottime_ms: u64::try_from(boottime.as_millis()).unwrap(),
        }
    }
}

fn pool(family: Family) -> PoolStatus {
    let subnet = match family {
        Family::Ipv4 => "10.244.1.0/24",
        Family::Ipv6 => "fd00:10:244:1::/64",
    };
    PoolStatus {
        name: "default".into(),
        family,
        subnets: vec![subnet.parse().unwrap()],
        in_use: 1,
        resting: 0,
        draining: 0,
        reserved: "0".into(),
        size: "8".into(),
        free: "7".into(),
    }
}

fn full() -> CallError {
    CallError::PoolExhausted {
        pool: "full".into(),
        family: Family::Ipv4,
        in_use: 6,
        resting: 0,
        reserved: "2".into(),
        gone: 0,
    }
}

fn success<T: Serialize>(reply: &T) -> Reply<Value> {
    Reply::success(serde_json::to_value(reply).unwrap(), false)
}

fn name(call: &Call) -> &'static str {
    match call {
        Call::Allocate(_) => "Allocate",
        Call::Release(_) => "Release",
        Call::Check(_) => "Check",
        Call::Status(_) => "Status",
        Call::Pools(_) => "Pools",
        Call::List(_) => "List",
        Call::Collect(_) => "Collect",
        Call::Resting(_) => "Resting",
    }
}
