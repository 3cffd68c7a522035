//! Writes into the log what the writer has done.

use crate::decide::holdings::Change;
use ferrule_wire::{Attachment, Lease};
use std::net::IpAddr;
use std::time::Duration;

/// The container in the lease of a bridge's own address.
const GATEWAY: &str = "gateway";

/// What happened and is durable.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) changes: Vec<Change>,
    /// Leases that were taken back, and for how long their pods were gone.
    pub(crate) reclaimed: Vec<(Lease, Duration)>,
}

impl News {
    pub(crate) fn log(&self) {
        for (lease, gone_for) in &self.reclaimed {
            log_reclaimed(lease, *gone_for);
        }
        self.changes.iter().for_each(log);
    }
}

/// The addresses of the pools that the node itself has, each with its link and with the lease that has it.
pub(crate) fn log_held<'a>(held: impl Iterator<Item = (IpAddr, &'a str, Option<Attachment>)>) {
    for (address, link, leased) in held {
        match leased {
            None => tracing::warn!(
                %address,
                link,
                "the node itself has an address of a pool: no pod gets it; if it is left over, delete it"
            ),
            Some(attachment) if attachment.container_id == GATEWAY => {}
            Some(attachment) => tracing::error!(
                %address,
                link,
                container_id = attachment.container_id,
                "the node itself has the address of a pod, which nobody reaches until it is deleted from the node"
            ),
        }
    }
}

/// The reason for the release that is logged next.
fn log_reclaimed(lease: &Lease, gone_for: Duration) {
    tracing::warn!(
        addresses = joined(lease),
        container_id = lease.attachment.container_id,
        netns = lease.netns,
        link = %ferrule_model::host_veth_name(&lease.attachment),
        gone_for_s = gone_for.as_secs(),
        "lease reclaimed: the runtime never ended the pod, but its namespace and its link are gone"
    );
}

pub(crate) fn joined(lease: &Lease) -> String {
    lease.addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(",")
}

fn log(change: &Change) {
    let (lease, what) = match change {
        Change::Given(lease) => (lease, "lease given"),
        Change::Ended(lease) => (lease, "lease released"),
        Change::Released(_) | Change::Forgotten(_) => return,
    };
    let lease = lease.open();
    tracing::info!(
        addresses = joined(&lease),
        pod = lease.pod.as_ref().map(tracing::field::display),
        network = lease.attachment.network,
        container_id = lease.attachment.container_id,
        ifname = lease.attachment.ifname,
        pool = lease.pool,
        "{what}"
    );
}
