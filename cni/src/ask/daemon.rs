//! The plugin's side of `ipamd`: how long it waits, and what it does when nobody answers.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ferrule_model::{Attachment, Family, IfName, IpNetwork, host_prefix, host_veth_name};
use ferrule_wire::{
    Allocate, AllocateReply, CallError, Check, Client, ClientError, Collect, Lease, List, ListReply, Method,
    PoolStatus, Pools, Release, Status, queue_release,
};
use nix::time::{ClockId, clock_gettime};

use crate::decide::grant::Grant;
use crate::edge::config::Config;
use crate::edge::error::{Error, unreachable};
use crate::edge::request::Add;

/// How long ADD waits for a daemon that is not up yet: a restart takes less, and the runtime tries again anyway.
pub(crate) const START_WAIT: Duration = Duration::from_secs(3);
/// How long ADD waits for the answer. The daemon drops calls that are older.
pub(crate) const ALLOCATE_WAIT: Duration = Duration::from_secs(5);
/// How long the other verbs wait. A DEL that gets no answer queues the release, and has to do so within the second or
/// two that a runtime allows for a pod's end.
const SHORT_WAIT: Duration = Duration::from_millis(1500);
/// How long to wait before asking again a daemon that hung up without an answer.
const PAUSE: Duration = Duration::from_millis(10);
/// Container and interface under which a network's gateway has its lease.
const GATEWAY: &str = "gateway";

/// A connection to `ipamd`.
pub(crate) struct Daemon<'a> {
    config: &'a Config,
    client: Client,
    /// When the answer has to be here at the latest.
    deadline: Instant,
    /// When the first question went out, on the daemon's clock.
    asked_at: Duration,
    /// Whether the question went out more than once, so that the lease may be there because of an earlier time.
    asked_again: bool,
    /// The call that is to be answered.
    asked: Option<Allocate>,
    /// The gateway of the subnets, if the pod shares a link with it.
    way_out: Option<(Lease, Vec<PoolStatus>)>,
}

impl<'a> Daemon<'a> {
    /// Connects, and waits a little for a daemon that is just starting.
    pub(crate) fn wait(config: &'a Config) -> Result<Self, Error> {
        let deadline = Instant::now() + START_WAIT;
        let client = Client::connect_wait(&config.socket(), deadline).map_err(|error| told(config, error))?;
        Ok(Self {
            config,
            client,
            deadline,
            asked_at: Duration::ZERO,
            asked_again: false,
            asked: None,
            way_out: None,
        })
    }

    /// Asks for a lease. [`answer`](Self::answer) fetches the answer.
    pub(crate) fn ask(&mut self, add: &Add) -> Result<(), Error> {
        self.deadline = Instant::now() + ALLOCATE_WAIT;
        self.client.set_deadline(self.deadline);
        self.asked_at = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from);
        let mut asked = self.try_ask(add);
        while is_cut_off(&asked) {
            asked = self.connect_again().and_then(|()| self.try_ask(add));
        }
        asked.map_err(|error| told(self.config, error))
    }

    fn try_ask(&mut self, add: &Add) -> Result<(), ClientError> {
        let of = |attachment: Attachment| Allocate {
            pool: add.wanted.pool.clone().or_else(|| self.config.pool.clone()),
            deadline_ms: u64::try_from(ALLOCATE_WAIT.as_millis()).ok(),
            ..Allocate::new(attachment)
        };
        if self.config.shares_subnet {
            let pools = self.client.call(&Pools {})?.pools;
            let call = of(gateway(&self.config.name));
            let mut lease = self.client.call(&call)?.lease;
            let has = |address: &IpNetwork| {
                pools.iter().flat_map(|pool| &pool.subnets).any(|subnet| subnet.contains(address.ip()))
            };
            if !lease.addresses.iter().all(has) {
                // The node's subnets have changed since the gateway's lease was given.
                self.client.call(&Release { attachment: call.attachment.clone() })?;
                lease = self.client.call(&call)?.lease;
            }
            self.way_out = Some((lease, pools));
        }
        let call = Allocate {
            pod: add.pod.clone(),
            netns: Some(add.sandbox.path.clone()),
            requested: add.wanted.addresses.clone(),
            ranges: add.wanted.ranges.clone(),
            ..of(add.attachment.clone())
        };
        self.client.send(&call)?;
        self.asked = Some(call);
        Ok(())
    }

    /// Waits for the daemon to come back, or for the next one.
    fn connect_again(&mut self) -> Result<(), ClientError> {
        sleep(PAUSE);
        self.client = Client::connect_wait(&self.config.socket(), self.deadline)?;
        self.asked_again = true;
        Ok(())
    }

    /// The reply. If the daemon stops or dies before it answers, it is asked again once it is back. The attachment gets
    /// the same lease, whether or not the daemon heard the first question.
    fn reply(&mut self) -> Result<AllocateReply, ClientError> {
        let mut answered = self.client.receive::<Allocate>();
        while is_cut_off(&answered)
            && let Some(call) = self.asked.clone()
        {
            answered = self.connect_again().and_then(|()| self.client.call(&call));
        }
        let mut reply = answered?;
        if self.asked_again {
            // A lease that is younger than the first question was given to this ADD, not to an earlier one.
            reply.existing &= u128::from(reply.lease.given_at_boottime_ms) < self.asked_at.as_millis();
        }
        Ok(reply)
    }

    /// The answer to [`ask`](Self::ask).
    pub(crate) fn answer(&mut self) -> Result<(Grant, bool), Error> {
        let reply = self.reply().map_err(|error| told(self.config, error))?;
        let grant = match &self.way_out {
            None => Grant::alone(&reply.lease, reply.mtu),
            Some((gateway, pools)) => Grant::shared(&reply.lease, gateway, pools, reply.mtu),
        };
        match grant {
            Ok(grant) => Ok((grant, reply.existing)),
            Err(error) if reply.existing => Err(error),
            Err(error) => {
                // Nobody knows of this lease yet, so it can be released at once.
                release(self.config, &reply.lease.attachment)?;
                Err(error)
            }
        }
    }
}

/// A network whose pods share a link has one more lease, which reserves the gateway's address: no pod can get it then,
/// whatever the pool. Like the bridge, this lease stays as long as the node runs.
fn gateway(network: &str) -> Attachment {
    Attachment { network: network.to_owned(), container_id: GATEWAY.to_owned(), ifname: GATEWAY.to_owned() }
}

fn connect(config: &Config) -> Result<Client, ClientError> {
    Client::connect(&config.socket(), Instant::now() + SHORT_WAIT)
}

/// Asks a question that can be asked again, if the daemon stops or dies with it.
fn ask<M: Method>(config: &Config, question: &M) -> Result<M::Reply, ClientError> {
    let deadline = Instant::now() + SHORT_WAIT;
    let mut answered =
        Client::connect(&config.socket(), deadline).and_then(|mut client| client.call(question));
    while is_cut_off(&answered) {
        sleep(PAUSE);
        answered =
            Client::connect_wait(&config.socket(), deadline).and_then(|mut client| client.call(question));
    }
    answered
}

/// Whether the daemon hung up without an answer: it stopped or died, and is about to come back.
const fn is_cut_off<T>(answered: &Result<T, ClientError>) -> bool {
    matches!(answered, Err(ClientError::Closed | ClientError::Broken { .. }))
}

/// A release that is being prepared. The connection to the daemon is opened early, so that the daemon has accepted it
/// by the time there is something to release.
pub(crate) struct Releasing<'a> {
    config: &'a Config,
    client: Result<Client, ClientError>,
}

impl<'a> Releasing<'a> {
    pub(crate) fn prepare(config: &'a Config) -> Self {
        Self { config, client: connect(config) }
    }

    /// Releases the attachment's lease. If nobody answers, queues the release.
    pub(crate) fn release(self, attachment: &Attachment) -> Result<(), Error> {
        let call = Release { attachment: attachment.clone() };
        let released = self.client.and_then(|mut client| {
            client.set_deadline(Instant::now() + SHORT_WAIT);
            client.call(&call)
        });
        match released {
            Ok(_) => Ok(()),
            // The daemon never gives a lease to an attachment whose name it refuses, so there is nothing to release.
            Err(ClientError::Call(CallError::InvalidArgument { .. })) => Ok(()),
            Err(_) => queue_release(&self.config.runtime_dir, attachment).map(drop).map_err(Error::Queue),
        }
    }
}

/// Releases a lease without any preparation.
pub(crate) fn release(config: &Config, attachment: &Attachment) -> Result<(), Error> {
    Releasing::prepare(config).release(attachment)
}

/// Whether the attachment's lease has these addresses, or only addresses among `others`. `others` are all addresses on
/// the interface, including those that later plugins in the list added.
pub(crate) fn check(
    config: &Config,
    attachment: &Attachment,
    addresses: &[IpNetwork],
    others: &[IpNetwork],
) -> Result<(), Error> {
    let call = Check { attachment: attachment.clone(), addresses: addresses.to_vec() };
    match ask(config, &call) {
        Ok(_) => Ok(()),
        Err(ClientError::Call(CallError::LeaseMismatch { leased, .. }))
            if leased.iter().all(|address| others.contains(&host_prefix(address.ip()))) =>
        {
            Ok(())
        }
        Err(error) => Err(told(config, error)),
    }
}

/// Releases the leases of this network that are not `valid`, except those whose link is `stuck`.
pub(crate) fn collect(config: &Config, valid: &[Attachment], stuck: &BTreeSet<IfName>) -> Result<(), Error> {
    let said = |error| told(config, error);
    let mut client = connect(config).map_err(said)?;
    let mut valid = [valid, &[gateway(&config.name)]].concat();
    if !stuck.is_empty() {
        let add = |reply: ListReply| {
            let leases = reply.leases.into_iter().map(|lease| lease.attachment);
            valid.extend(leases.filter(|attachment| stuck.contains(&host_veth_name(attachment))));
        };
        client.call_more(&List {}, add).map_err(said)?;
    }
    let call = Collect { network: config.name.clone(), valid };
    loop {
        client.set_deadline(Instant::now() + SHORT_WAIT);
        if client.call(&call).map_err(said)?.released.is_empty() {
            return Ok(());
        }
    }
}

/// Whether the next ADD would get an address. Returns the families that it would get.
pub(crate) fn status(config: &Config) -> Result<Vec<Family>, Error> {
    let not_available = |error: ClientError| match told(config, error) {
        // The message has only the daemon's own words. "gives no address" would be wrong here, because no address was
        // asked for.
        Error::Ipam(error) => Error::NotAvailable { reason: error.to_string(), source: Some(error) },
        Error::IpamUnreachable { socket, source } => {
            Error::NotAvailable { reason: unreachable(&socket, &source), source: Some(source) }
        }
        other => Error::NotAvailable { reason: other.to_string(), source: None },
    };
    ask(config, &Status { pool: config.pool.clone() }).map_err(not_available)?;
    let pools = ask(config, &Pools {}).map_err(not_available)?.pools;
    let Some(first) = pools.first() else { return Ok(Vec::new()) };
    let name = config.pool.as_ref().unwrap_or(&first.name);
    let family = |status: &PoolStatus| match status.family {
        ferrule_wire::Family::Ipv4 => Family::V4,
        ferrule_wire::Family::Ipv6 => Family::V6,
    };
    Ok(pools.iter().filter(|status| status.name == *name).map(family).collect())
}

fn told(config: &Config, error: ClientError) -> Error {
    if error.is_unreachable() {
        Error::IpamUnreachable { socket: config.socket(), source: Box::new(error) }
    } else {
        Error::Ipam(Box::new(error))
    }
}
