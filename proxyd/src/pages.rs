//! What can be seen from outside over HTTP: figures and health.

use std::sync::Arc;

use ferrule_daemon::{Exposition, Kind, Page, Pages, process_figures};
use tokio::sync::watch;

use crate::sync::thread::{Figures, Status};

/// The pages.
#[derive(Debug, Clone)]
pub struct Window {
    status: watch::Receiver<Status>,
    figures: Arc<Figures>,
}

impl Window {
    /// Pages about this status and these figures.
    pub const fn new(status: watch::Receiver<Status>, figures: Arc<Figures>) -> Self {
        Self { status, figures }
    }

    /// All is well, or why not.
    fn health(&self) -> Result<(), String> {
        let status = self.status.borrow();
        match (&status.trouble, status.refused.first()) {
            (Some(trouble), _) => Err(trouble.clone()),
            (None, Some(first)) => Err(format!("{} Services are refused: {first}", status.refused.len())),
            (None, None) => Ok(()),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        if self.status.borrow().ready {
            Ok(())
        } else {
            Err("the Services are not in the kernel yet".to_owned())
        }
    }

    fn metrics(&self) -> String {
        let (status, figures) = (self.status.borrow().clone(), &self.figures);
        let mut page = Exposition::new();
        page.family("ferrule_proxyd_build_info", Kind::Gauge, "The version that runs; always 1.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.family("ferrule_proxyd_ready", Kind::Gauge, "1 once the kernel has held all Services.")
            .sample(&[], u8::from(status.ready));
        page.family("ferrule_proxyd_services", Kind::Gauge, "Services that the kernel serves.")
            .sample(&[], status.services);
        page.family("ferrule_proxyd_frontends", Kind::Gauge, "Places at which they are served.")
            .sample(&[], status.frontends);
        page.family("ferrule_proxyd_refused", Kind::Gauge, "Services that the kernel refused.")
            .sample(&[], status.refused.len());
        // Dashboards made for kube-proxy know this one.
        page.family("kubeproxy_sync_proxy_rules_duration_seconds", Kind::Histogram, "Rounds, by duration.")
            .histogram(&[], &figures.rounds);
        let counters = [
            ("ferrule_proxyd_elements_total", "Elements added and deleted.", &figures.elements),
            ("ferrule_proxyd_transactions_total", "Transactions.", &figures.transactions),
            ("ferrule_proxyd_repaired_total", "What others did and was undone.", &figures.repaired),
            (
                "ferrule_proxyd_forgotten_total",
                "Remembered endpoints and tracked connections that were forgotten.",
                &figures.forgotten,
            ),
            ("ferrule_proxyd_rounds_failed_total", "Rounds that failed as a whole.", &figures.failed),
        ];
        for (name, help, counter) in counters {
            page.family(name, Kind::Counter, help).sample(&[], counter.get());
        }
        process_figures(&mut page);
        page.into_text()
    }
}

impl Pages for Window {
    async fn page(&self, path: &str) -> Option<Page> {
        let page = |result: Result<(), String>| match result {
            Ok(()) => Page { good: true, text: "ok\n".to_owned() },
            Err(reason) => Page { good: false, text: format!("{reason}\n") },
        };
        match path {
            "/metrics" => Some(Page { good: true, text: self.metrics() }),
            "/healthz" => Some(page(self.health())),
            "/readyz" => Some(page(self.readiness())),
            _ => None,
        }
    }
}
