//! Counts what the daemon does, and writes the figures for Prometheus. `pages` shows them.

use crate::decide::holdings::Change;
use crate::decide::service::ServiceRequest;
use ferrule_daemon::{Counter, Exposition, Histogram, Kind};
use ferrule_wire::{CallError, Family, PoolStatus};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The methods that the writer performs, in the order of the page.
const METHODS: [&str; 8] = ["Allocate", "Release", "Check", "Status", "Collect", "List", "Pools", "Resting"];

/// Why the daemon takes back a lease that nobody released, in the order of the page.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reason {
    /// Namespace and link are gone.
    Gone,
    /// The lease belongs to another boot.
    Reboot,
}

const REASONS: [&str; 2] = ["gone", "reboot"];

/// What is counted while the daemon runs. Any thread can add to it at little cost.
#[derive(Debug, Default)]
pub struct Metrics {
    calls: [Histogram; METHODS.len()],
    /// By method and error. The lock is taken only for calls that failed, and to write the page.
    errors: Mutex<BTreeMap<(&'static str, String), u64>>,
    leases: AtomicUsize,
    given: Counter,
    ended: Counter,
    reclaimed: [Counter; REASONS.len()],
    missing: AtomicU64,
    commits: Histogram,
    store_failures: Counter,
    slow_rounds: Counter,
    refused: Counter,
}

impl Metrics {
    /// A call was answered.
    pub(crate) fn answered(&self, method: usize, took: Duration, error: Option<&CallError>) {
        self.calls[method].observe(took);
        let Some(error) = error else { return };
        let name = error.name();
        let name = name.rsplit('.').next().unwrap_or_default().to_owned();
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry((METHODS[method], name)).or_default() += 1;
    }

    /// A change is durable.
    pub(crate) fn changed(&self, change: &Change) {
        match change {
            Change::Given(_) => self.given.increment(),
            Change::Ended(_) => self.ended.increment(),
            Change::Released(_) | Change::Forgotten(_) => {}
        }
    }

    /// A lease that nobody released was taken back, and that is durable.
    pub(crate) fn reclaimed(&self, reason: Reason) {
        self.reclaimed[reason as usize].increment();
    }

    /// Sets how many leases belong to pods that are gone, as the last look saw it.
    pub(crate) fn missing(&self, leases: u64) {
        self.missing.store(leases, Ordering::Relaxed);
    }

    /// How many leases there are now.
    pub(crate) fn leases(&self, leases: usize) {
        self.leases.store(leases, Ordering::Relaxed);
    }

    /// A commit ended.
    pub(crate) fn committed(&self, took: Duration, worked: bool) {
        self.commits.observe(took);
        if !worked {
            self.store_failures.increment();
        }
    }

    /// A round of calls took longer than 1 s.
    pub(crate) fn slow(&self) {
        self.slow_rounds.increment();
    }

    /// How many rounds took longer than 1 s.
    #[must_use]
    pub fn slow_rounds(&self) -> u64 {
        self.slow_rounds.get()
    }

    /// A caller who must not make calls was turned away.
    pub(crate) fn refused(&self) {
        self.refused.increment();
    }

    /// Writes all figures. `pools` is what the writer says about its pools now.
    pub(crate) fn write(&self, page: &mut Exposition, pools: &[PoolStatus]) {
        page.family("ferrule_ipamd_build_info", Kind::Gauge, "The version that runs; always 1.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.family("ferrule_ipamd_leases", Kind::Gauge, "Leases in the store.")
            .sample(&[], self.leases.load(Ordering::Relaxed));
        page.family("ferrule_ipamd_leases_given_total", Kind::Counter, "Leases given.")
            .sample(&[], self.given.get());
        page.family(
            "ferrule_ipamd_leases_ended_total",
            Kind::Counter,
            "Leases that ended, however they did.",
        )
        .sample(&[], self.ended.get());
        let help = "Leases taken back that nobody gave back: namespace and link are gone, or the machine was started anew.";
        page.family("ferrule_ipamd_leases_reclaimed_total", Kind::Counter, help);
        for (reason, count) in REASONS.iter().zip(&self.reclaimed) {
            page.sample(&[("reason", reason)], count.get());
        }
        let help = "Leases whose namespace and link are gone, as the last look saw: they are taken back if the next ones agree.";
        page.family("ferrule_ipamd_leases_missing", Kind::Gauge, help)
            .sample(&[], self.missing.load(Ordering::Relaxed));
        write_pools(page, pools);
        let help =
            "From a call's arrival until its answer is durable. List and Resting: each page of the answer.";
        page.family("ferrule_ipamd_call_duration_seconds", Kind::Histogram, help);
        for (method, times) in METHODS.iter().zip(&self.calls) {
            page.histogram(&[("method", method)], times);
        }
        page.family(
            "ferrule_ipamd_call_errors_total",
            Kind::Counter,
            "Calls that were answered with an error.",
        );
        for ((method, error), count) in &*self.errors.lock().unwrap_or_else(PoisonError::into_inner) {
            page.sample(&[("method", method), ("error", error)], count);
        }
        page.family(
            "ferrule_ipamd_commit_duration_seconds",
            Kind::Histogram,
            "What the store took for a commit.",
        )
        .histogram(&[], &self.commits);
        page.family(
            "ferrule_ipamd_store_failures_total",
            Kind::Counter,
            "Commits that failed: nothing was changed.",
        )
        .sample(&[], self.store_failures.get());
        let help = "Rounds of calls that took longer than 1 s; the log says what each waited for.";
        page.family("ferrule_ipamd_slow_rounds_total", Kind::Counter, help)
            .sample(&[], self.slow_rounds.get());
        page.family("ferrule_ipamd_callers_refused_total", Kind::Counter, "Callers that may not call.")
            .sample(&[], self.refused.get());
    }
}

fn write_pools(page: &mut Exposition, pools: &[PoolStatus]) {
    let family = |pool: &PoolStatus| match pool.family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    };
    let help = "Addresses of a pool by state: in_use, resting, reserved, free. Their sum is the size.";
    page.family("ferrule_ipamd_pool_addresses", Kind::Gauge, help);
    for pool in pools {
        let states = [
            ("in_use", pool.in_use.to_string()),
            ("resting", pool.resting.to_string()),
            ("reserved", pool.reserved.clone()),
            ("free", pool.free.clone()),
        ];
        for (state, count) in states {
            page.sample(&[("pool", &pool.name), ("family", family(pool)), ("state", state)], count);
        }
    }
    page.family("ferrule_ipamd_pool_size", Kind::Gauge, "All addresses of a pool's subnets.");
    for pool in pools {
        page.sample(&[("pool", &pool.name), ("family", family(pool))], &pool.size);
    }
    let help = "Addresses in leases of a pool that are no longer the pool's to give.";
    page.family("ferrule_ipamd_pool_draining", Kind::Gauge, help);
    for pool in pools {
        page.sample(&[("pool", &pool.name), ("family", family(pool))], pool.draining);
    }
}

/// A request's place in [`METHODS`].
pub(crate) const fn method(request: &ServiceRequest) -> usize {
    match request {
        ServiceRequest::Allocate(_) => 0,
        ServiceRequest::Release(_) => 1,
        ServiceRequest::Check(_) => 2,
        ServiceRequest::Status(_) => 3,
        ServiceRequest::Collect(_) => 4,
        ServiceRequest::Leases { .. } => 5,
        ServiceRequest::Pools => 6,
        ServiceRequest::Resting { .. } => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_wire::Status;

    #[test]
    fn every_request_has_its_method_s_name() {
        let attachment =
            ferrule_wire::Attachment { network: "n".into(), container_id: "c".into(), ifname: "i".into() };
        for (request, name) in [
            (ServiceRequest::Release(attachment), "Release"),
            (ServiceRequest::Status(Status::default()), "Status"),
            (ServiceRequest::Leases { after: None }, "List"),
            (ServiceRequest::Pools, "Pools"),
            (ServiceRequest::Resting { pool: None, after: None }, "Resting"),
        ] {
            assert_eq!(METHODS[method(&request)], name);
        }
    }
}
