//! The search for leases that nobody uses any more. It looks at all leases again and again, and has those taken back
//! that `leaks` finds lost. A thread of its own reads the kernel's files, so that no caller waits for that.

use crate::decide::leaks::{Found, Lost, Suspects};
use crate::decide::seen::Sight;
use crate::decide::seen::Whereabouts;
use crate::decide::service::{Answer, PAGE, ServiceRequest};
use crate::look::sight::NodeSight;
use crate::serve::writer::Handle;
use ferrule_wire::Lease;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The longest time between two looks. It is short, so that a look sees pods that come back meanwhile, and a link that
/// proves that the daemon runs in the right namespace.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Searches for ever. A lease is taken back after its namespace and link have been gone for `grace`.
pub(crate) async fn search(handle: Handle, mut grace: watch::Receiver<Duration>) {
    let sight: Arc<dyn Sight> = Arc::new(NodeSight::new(Arc::clone(handle.home())));
    let (mut suspects, mut told) = (Suspects::default(), Told::default());
    loop {
        // There is a look at the start too, so that a caller who asks why a pool is full is told about lost leases.
        let after = *grace.borrow_and_update();
        let Some((known, found)) = look(&handle, suspects, &sight, after).await else { return };
        suspects = known;
        if let Some(found) = found {
            told.tell(found, sight.whereabouts(), &handle).await;
        }
        tokio::select! {
            () = sleep((after / 2).min(PAUSE_MAX)) => {}
            changed = grace.changed() => if changed.is_err() { return },
        }
    }
}

/// What the log has been told of the looks so far.
#[derive(Default)]
struct Told {
    missing: HashMap<String, u64>,
    /// Why leases without pods are kept.
    doubt: Option<Whereabouts>,
}

impl Told {
    /// Logs what is new.
    async fn tell(&mut self, found: Found, whereabouts: Whereabouts, handle: &Handle) {
        let Found { missing, withheld } = found;
        if self.missing != missing {
            self.missing.clone_from(&missing);
            handle.miss(missing).await;
        }
        let doubt = (withheld > 0).then_some(whereabouts);
        if std::mem::replace(&mut self.doubt, doubt) == doubt {
            return;
        }
        match doubt {
            None => {}
            Some(Whereabouts::Elsewhere) => tracing::warn!(
                leases = withheld,
                "leases whose pods are gone are not taken back: the plugin calls from another network namespace, so that \
                 ipamd does not see the pods' links; run it in the node's (hostNetwork: true, no PrivateNetwork=)"
            ),
            Some(Whereabouts::Untold | Whereabouts::Here) => tracing::warn!(
                leases = withheld,
                "leases whose pods are gone are not taken back yet: the next ADD, or a pod's link, will show whether ipamd runs in \
                 the network namespace that the pods' links are in"
            ),
        }
    }
}

/// Looks at all leases once; `None` if the daemon is ending.
async fn look(
    handle: &Handle,
    mut suspects: Suspects,
    sight: &Arc<dyn Sight>,
    grace: Duration,
) -> Option<(Suspects, Option<Found>)> {
    let mut after = None;
    loop {
        let Ok(Answer::Leases(page)) = handle.perform(ServiceRequest::Leases { after }, None).await else {
            // The store failed: what is known stays for the next look.
            return Some((suspects, None));
        };
        after = page.leases.last().map(|lease| lease.attachment.clone());
        let last = page.leases.len() < PAGE;
        let (known, lost) = look_at(page.leases, suspects, Arc::clone(sight), grace, handle.now()).await?;
        suspects = known;
        for lost in lost {
            handle.reclaim(lost, Arc::clone(sight)).await;
        }
        if last {
            let found = suspects.end();
            let home = Arc::clone(handle.home());
            spawn_blocking(move || home.keep()).await.ok()?;
            return Some((suspects, Some(found)));
        }
    }
}

async fn look_at(
    leases: Vec<Lease>,
    mut suspects: Suspects,
    sight: Arc<dyn Sight>,
    grace: Duration,
    now: Duration,
) -> Option<(Suspects, Vec<Lost>)> {
    let looked = spawn_blocking(move || {
        let lost = suspects.look(&leases, &*sight, grace, now);
        (suspects, lost)
    });
    // It fails only when the runtime shuts down.
    looked.await.ok()
}
