//! The plugin's side of `ipamd`: how long it waits, and what it does when nobody answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ferrule_model::{Attachment, IfName, IpNetwork, family, host_veth_name};
use ferrule_wire::{
    Allocate, AllocateReply, CallError, Check, Client, ClientError, Collect, Family, List, ListReply, Pod,
    Pools, Release, Status, queue_release,
};

use crate::config::Config;
use crate::error::Error;

/// How long ADD waits for a daemon that is not up yet: a restart takes less, and the runtime tries again anyway.
const START_WAIT: Duration = Duration::from_secs(3);
/// How long ADD waits for the answer. The daemon drops calls that are older.
const ALLOCATE_WAIT: Duration = Duration::from_secs(5);
/// How long the other verbs wait: a DEL that gets no answer queues the release, within the second or two that a runtime
/// gives a pod's end.
const SHORT_WAIT: Duration = Duration::from_millis(1500);

/// A connection to `ipamd`.
pub(crate) struct Ipam<'a> {
    config: &'a Config,
    client: Client,
}

impl<'a> Ipam<'a> {
    /// Connects, and waits a little for a daemon that is just starting.
    pub(crate) fn wait(config: &'a Config) -> Result<Self, Error> {
        let client = Client::connect_wait(&config.socket(), Instant::now() + START_WAIT);
        client.map(|client| Self { config, client }).map_err(|error| told(config, error))
    }

    fn connect(config: &'a Config) -> Result<Self, ClientError> {
        let client = Client::connect(&config.socket(), Instant::now() + SHORT_WAIT)?;
        Ok(Self { config, client })
    }

    /// Asks for a lease; the answer is fetched with [`allocated`](Self::allocated).
    pub(crate) fn allocate(
        &mut self,
        attachment: &Attachment,
        pod: Option<&Pod>,
        netns: &str,
    ) -> Result<(), Error> {
        self.client.set_deadline(Instant::now() + ALLOCATE_WAIT);
        let call = Allocate {
            pool: self.config.pool.clone(),
            pod: pod.cloned(),
            netns: Some(netns.to_owned()),
            deadline_ms: u64::try_from(ALLOCATE_WAIT.as_millis()).ok(),
            ..Allocate::new(attachment.clone())
        };
        self.client.send(&call).map_err(|error| told(self.config, error))
    }

    /// The answer to [`allocate`](Self::allocate).
    pub(crate) fn allocated(&mut self) -> Result<AllocateReply, Error> {
        self.client.receive::<Allocate>().map_err(|error| told(self.config, error))
    }
}

/// Gives the attachment's addresses back; for a daemon that cannot do it now, queues that.
///
/// The caller has made sure that no link holds them any more.
pub(crate) fn release(config: &Config, attachment: &Attachment) -> Result<(), Error> {
    let call = Release { attachment: attachment.clone() };
    match Ipam::connect(config).and_then(|mut ipam| ipam.client.call(&call)) {
        Ok(_) => Ok(()),
        // What cannot be leased to is not leased to.
        Err(ClientError::Call(CallError::InvalidArgument { .. })) => Ok(()),
        Err(_) => queue_release(&config.runtime_dir, attachment).map(drop).map_err(Error::Queue),
    }
}

/// Whether the attachment is leased these addresses.
pub(crate) fn check(config: &Config, attachment: &Attachment, addresses: &[IpNetwork]) -> Result<(), Error> {
    let call = Check { attachment: attachment.clone(), addresses: addresses.to_vec() };
    let answer = Ipam::connect(config).and_then(|mut ipam| ipam.client.call(&call));
    answer.map(drop).map_err(|error| told(config, error))
}

/// Releases the leases of this network that are not `valid`, except those whose link is `stuck`.
pub(crate) fn collect(config: &Config, valid: &[Attachment], stuck: &BTreeSet<IfName>) -> Result<(), Error> {
    let said = |error| told(config, error);
    let mut client = Ipam::connect(config).map_err(said)?.client;
    let mut valid = valid.to_vec();
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

/// Whether the next ADD would get an address; the families it would get.
pub(crate) fn status(config: &Config) -> Result<Vec<Family>, Error> {
    let not_available = |error: ClientError| match told(config, error) {
        // The daemon's own words, without "gives no address": none was asked for.
        Error::Ipam(error) => Error::NotAvailable { reason: error.to_string(), source: Some(error) },
        Error::IpamUnreachable { socket, source } => Error::NotAvailable {
            reason: format!("ipamd cannot be reached at {}: is it running?", socket.display()),
            source: Some(source),
        },
        other => Error::NotAvailable { reason: other.to_string(), source: None },
    };
    let mut ipam = Ipam::connect(config).map_err(not_available)?;
    ipam.client.call(&Status { pool: config.pool.clone() }).map_err(not_available)?;
    let pools = ipam.client.call(&Pools {}).map_err(not_available)?.pools;
    let Some(first) = pools.first() else { return Ok(Vec::new()) };
    let name = config.pool.as_ref().unwrap_or(&first.name);
    Ok(pools.iter().filter(|status| status.name == *name).map(|status| status.family).collect())
}

/// The addresses of a lease, if pods can be given such: whole addresses, one of each family at most.
pub(crate) fn usable(addresses: &[IpNetwork]) -> Result<(), Error> {
    let unusable = |reason: String| Err(Error::Lease(reason));
    for (place, address) in addresses.iter().enumerate() {
        let whole = match family(address) {
            ferrule_model::Family::V4 => 32,
            ferrule_model::Family::V6 => 128,
        };
        if address.prefix() != whole {
            return unusable(format!("{address} is not a single address (/{whole})"));
        }
        if addresses[..place].iter().any(|other| family(other) == family(address)) {
            return unusable(format!("there is more than one {} address", Family::of(address)));
        }
    }
    if addresses.is_empty() { unusable("there is no address in it".into()) } else { Ok(()) }
}

fn told(config: &Config, error: ClientError) -> Error {
    if error.is_unreachable() {
        Error::IpamUnreachable { socket: config.socket(), source: Box::new(error) }
    } else {
        Error::Ipam(Box::new(error))
    }
}
