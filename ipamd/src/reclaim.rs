//! The search for leases that nobody uses any more: looks at all leases again and again, and has those taken back that
//! `leaks` finds lost. The look at the kernel's files happens on a thread of its own, so that nobody waits for it.

use crate::leaks::{Lost, Suspects};
use crate::service::{Answer, PAGE, Request};
use crate::sight::{Node, Sight};
use crate::writer::Handle;
use ferrule_wire::Lease;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The longest between two looks: a sign of life in between is seen, and a link that proves the right namespace.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Searches for ever. `grace` is how long a namespace and a link have to be gone.
pub(crate) async fn search(handle: Handle, mut grace: watch::Receiver<Duration>) {
    let sight: Arc<dyn Sight> = Arc::new(Node);
    let mut suspects = Suspects::default();
    loop {
        let after = *grace.borrow_and_update();
        tokio::select! {
            () = sleep((after / 2).min(PAUSE_MAX)) => {}
            changed = grace.changed() => if changed.is_err() { return } else { continue },
        }
        let Some(known) = look(&handle, suspects, &sight, after).await else { return };
        suspects = known;
    }
}

/// Looks at all leases once; `None` if the daemon is ending.
async fn look(
    handle: &Handle,
    mut suspects: Suspects,
    sight: &Arc<dyn Sight>,
    grace: Duration,
) -> Option<Suspects> {
    let mut after = None;
    loop {
        let Ok(Answer::Leases(page)) = handle.perform(Request::Leases { after }, None).await else {
            // The store failed: what is known stays for the next look.
            return Some(suspects);
        };
        after = page.leases.last().map(|lease| lease.attachment.clone());
        let last = page.leases.len() < PAGE;
        let (known, lost) = look_at(page.leases, suspects, Arc::clone(sight), grace, handle.now()).await?;
        suspects = known;
        for lost in lost {
            handle.reclaim(lost, Arc::clone(sight)).await;
        }
        if last {
            suspects.end();
            return Some(suspects);
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
