//! The pages for observers from outside: `/metrics`, `/healthz` and `/readyz`. `ferrule_daemon` serves them. When
//! somebody looks, the writer is asked what is in the pools.

use crate::decide::service::{Answer, ServiceRequest};
use crate::serve::writer::Handle;
use ferrule_daemon::{Exposition, Page, Pages, process_figures};
use ferrule_wire::Status;
use std::time::Duration;
use tokio::time::timeout;

/// How long a probe waits for the writer. A commit takes milliseconds. If the disk takes longer than this, the observer
/// should know.
const PATIENCE: Duration = Duration::from_secs(2);

/// The daemon as observers from outside see it.
pub(crate) struct Outside {
    pub(crate) handle: Handle,
}

impl Outside {
    /// The writer's answer, if it comes in time. Such a question is not counted as a call.
    async fn ask(&self, request: ServiceRequest) -> Result<Answer, String> {
        let asked = timeout(PATIENCE, self.handle.perform(request, Some(PATIENCE))).await;
        asked.map_err(|_| "the writer does not answer".to_owned())?.map_err(|error| error.to_string())
    }
}

impl Pages for Outside {
    async fn page(&self, path: &str) -> Option<Page> {
        let page = |result: Result<String, String>| match result {
            Ok(text) => Page { good: true, text },
            Err(reason) => Page { good: false, text: format!("{reason}\n") },
        };
        match path {
            "/metrics" => {
                // Even without the writer, the counters are worth reading.
                let pools = match self.ask(ServiceRequest::Pools).await {
                    Ok(Answer::Pools(reply)) => reply.pools,
                    _ => Vec::new(),
                };
                let mut text = Exposition::new();
                self.handle.metrics().write(&mut text, &pools);
                process_figures(&mut text);
                Some(page(Ok(text.into_text())))
            }
            // This shows that the writer works. Probes ask often, so the question costs the same however many leases
            // there are.
            "/healthz" => {
                let first_page = self.ask(ServiceRequest::Leases { after: None }).await;
                Some(page(first_page.map(|_| "ok\n".to_owned())))
            }
            // This shows that a pod would get an address.
            "/readyz" => {
                let status = self.ask(ServiceRequest::Status(Status::default())).await;
                Some(page(status.map(|_| "ok\n".to_owned())))
            }
            _ => None,
        }
    }
}
