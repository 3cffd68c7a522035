//! Keeps the status of this node's object as it should be, one task for each matter. A channel tells the task what is
//! due. Strategic merge patches leave the rest of the object alone.

use std::collections::BTreeSet;
use std::time::Duration;

use ferrule_cluster::Access;
use ferrule_cluster::kind::ObjectName;
use ferrule_daemon::Pause;
use tokio::sync::watch;

use super::objects::NODES;

/// Another program may want another value. A fight with it is no faster than this.
const LEAST_GAP: Duration = Duration::from_secs(5);

/// A matter that is kept.
pub(super) struct Matter<F> {
    /// Its name, for a person.
    pub(super) what: &'static str,
    /// The patch that the facts make necessary, if any.
    pub(super) due: fn(&F) -> Option<Vec<u8>>,
}

/// Keeps a matter of the node called `name`, until no more facts come.
pub(super) async fn keep<F>(access: Access, name: String, matter: Matter<F>, mut facts: watch::Receiver<F>) {
    let Matter { what, due } = matter;
    let object = ObjectName { namespace: String::new(), name: name.clone() };
    let mut pause = Pause::new();
    let mut said = BTreeSet::new();
    while facts.wait_for(|facts| due(facts).is_some()).await.is_ok() {
        let patch = due(&facts.borrow_and_update());
        let Some(patch) = patch else { continue };
        match access.patch_status(NODES, &object, patch).await {
            Ok(()) => {
                tracing::info!("{what} of node {name} written");
                (pause, said) = (Pause::new(), BTreeSet::new());
                tokio::time::sleep(LEAST_GAP).await;
                if facts.changed().await.is_err() {
                    return;
                }
            }
            Err(fault) => {
                if said.insert(fault.class()) {
                    tracing::error!(
                        "cannot write {what} of node {name}: {fault}; tried again, ever more rarely; routes are not held up"
                    );
                }
                tokio::time::sleep(pause.next_wait().max(fault.retry_after())).await;
            }
        }
    }
}
