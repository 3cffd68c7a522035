//! `ipamd list` and `ipamd pools`: which addresses the running daemon has given, and what is left, for people and as JSON.

use crate::look::clock::boot_clock;
use clap::Args;
use ferrule_daemon::{AskError, Asked, CommonArgs, ago, print, print_json, table};
use ferrule_wire::{Family, Lease, List, ListReply, PoolStatus, Pools, Status};
use std::time::Duration;

/// As many characters of a container's identifier are shown as tools of container runtimes show.
const SHORT: usize = 13;

/// Options of the commands that show something.
#[derive(Debug, Clone, Copy, Args)]
pub struct Form {
    /// The daemon's answer as JSON, with nothing shortened
    #[arg(long)]
    json: bool,
}

/// Prints all leases.
///
/// # Errors
/// The daemon cannot be asked.
pub fn list(common: &CommonArgs, form: Form) -> Result<(), AskError> {
    let mut ipamd = Asked::connect(&common.runtime_dir, crate::serve::daemon::PROGRAM)?;
    let mut leases = Vec::new();
    ipamd.ask(|client| client.call_more(&List {}, |page| leases.extend(page.leases)))?;
    if form.json {
        return print_json(&ListReply { leases });
    }
    if leases.is_empty() {
        return print("no pod has an address\n");
    }
    leases.sort_by_key(|lease| lease.addresses.first().map(ipnetwork::IpNetwork::ip));
    let now = (boot_clock())();
    let rows: Vec<_> = leases.iter().map(|lease| row(lease, now)).collect();
    print(&table(["ADDRESSES", "POD", "GIVEN", "CONTAINER", "INTERFACE", "NETWORK", "POOL"], &rows))
}

fn row(lease: &Lease, now: Duration) -> [String; 7] {
    let attachment = &lease.attachment;
    let addresses: Vec<_> = lease.addresses.iter().map(|address| address.ip().to_string()).collect();
    [
        addresses.join(","),
        lease.pod.as_ref().map(ToString::to_string).unwrap_or_default(),
        ago(now.saturating_sub(Duration::from_millis(lease.given_at_boottime_ms))),
        attachment.container_id.chars().take(SHORT).collect(),
        attachment.ifname.clone(),
        attachment.network.clone(),
        lease.pool.clone(),
    ]
}

/// Prints all pools.
///
/// # Errors
/// The daemon cannot be asked, or there is no pool: then why.
pub fn pools(common: &CommonArgs, form: Form) -> Result<(), AskError> {
    let mut ipamd = Asked::connect(&common.runtime_dir, crate::serve::daemon::PROGRAM)?;
    let answer = ipamd.ask(|client| client.call(&Pools {}))?;
    if form.json {
        return print_json(&answer);
    }
    if answer.pools.is_empty() {
        // Its error says why there is none.
        return ipamd.ask(|client| client.call(&Status::default())).map(|_| ());
    }
    let rows: Vec<_> = answer.pools.iter().map(pool_row).collect();
    print(&table(["POOL", "FAMILY", "IN USE", "RESTING", "RESERVED", "FREE", "DRAINING", "SUBNETS"], &rows))
}

fn pool_row(pool: &PoolStatus) -> [String; 8] {
    let subnets: Vec<_> = pool.subnets.iter().map(ToString::to_string).collect();
    let family = match pool.family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    };
    [
        pool.name.clone(),
        family.to_owned(),
        pool.in_use.to_string(),
        pool.resting.to_string(),
        pool.reserved.clone(),
        pool.free.clone(),
        pool.draining.to_string(),
        subnets.join(","),
    ]
}
