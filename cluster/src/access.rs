//! The way to the API server: credentials, addresses, and what the log has said of it. All watches and patches of a
//! daemon share it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrule_config::{Endpoint, Kubernetes};
use ferrule_model::chain;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::api::Api;
use crate::fault::Fault;
use crate::kind::{ObjectName, Resource};

/// Credentials and addresses. A clone is the same way.
///
/// If several servers are named, one of them is in use. When it does not answer as a server should, the next one is
/// used by everybody, and after the last one the first again.
#[derive(Debug, Clone)]
pub struct Access(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    kubeconfig: Option<PathBuf>,
    servers: Vec<Endpoint>,
    /// Which of the servers is in use.
    current: AtomicUsize,
    /// The faults that the log has named, and that still hold.
    said: Mutex<BTreeSet<Said>>,
}

/// A fault that the log has named: the kind of objects that it is about, if it is not about all of them, and its class.
type Said = (Option<&'static str>, String);

impl Access {
    /// The user is that of the kubeconfig; without one, it is the service account of the pod that this runs in. The
    /// address is one of `servers`; without any, it is the kubeconfig's, or that of the Service that the pod's
    /// environment names.
    pub fn new(settings: &Kubernetes) -> Self {
        let Kubernetes { kubeconfig, servers } = settings.clone();
        let (current, said) = (AtomicUsize::new(0), Mutex::default());
        Self(Arc::new(Shared { kubeconfig, servers, current, said }))
    }

    /// Reads the credentials, for the server that is in use. Connects to nothing yet. The number tells
    /// [`Access::leave`] which server it is.
    ///
    /// # Errors
    /// [`Fault::Credentials`]
    pub(crate) async fn open(&self) -> Result<(Api, usize), Fault> {
        let number = self.0.current.load(Ordering::Relaxed);
        let server = self.0.servers.get(number);
        let mut config = match (&self.0.kubeconfig, server) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path).map_err(|error| credentials(&error))?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| credentials(&error))?
            }
            // This one needs no environment. The name in it is replaced below.
            (None, Some(_)) => Config::incluster_dns().map_err(|error| credentials(&error))?,
            (None, None) => Config::incluster().map_err(|error| credentials(&error))?,
        };
        if let Some(server) = server {
            config.cluster_url = server.to_string().parse().map_err(|error| credentials(&error))?;
        }
        Ok((Api::new(&config).map_err(|error| credentials(&error))?, number))
    }

    /// Merges `patch` into the status of an object, by a strategic merge patch.
    ///
    /// # Errors
    /// What can happen to every request.
    pub async fn patch_status(
        &self,
        resource: Resource,
        name: &ObjectName,
        patch: Vec<u8>,
    ) -> Result<(), Fault> {
        let (api, server) = self.open().await?;
        let done = api.patch_status(resource, name, patch).await;
        if let Err(fault) = &done {
            self.leave(server, fault);
        }
        done
    }

    /// How many servers can be tried.
    pub(crate) fn servers(&self) -> usize {
        self.0.servers.len().max(1)
    }

    /// The address of a server, if it was configured here.
    pub(crate) fn server(&self, number: usize) -> Option<String> {
        self.0.servers.get(number).map(ToString::to_string)
    }

    /// Leaves this server for the next one if the fault is the server's, unless somebody else has already left it.
    pub(crate) fn leave(&self, number: usize, fault: &Fault) {
        if fault.is_the_servers() {
            let next = (number + 1) % self.servers();
            // If it fails, the server in use is another one already.
            let _ = self.0.current.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether the log still has to name a fault of this class. It is about requests for `plural`, or about all.
    pub(crate) fn say(&self, plural: &'static str, fault: &Fault, class: String) -> bool {
        let about = (!fault.is_everybodys()).then_some(plural);
        self.said().insert((about, class))
    }

    /// Notes that the server gave what it was asked for, for `plural`. Its content may still be unreadable. Returns
    /// whether the log has named a fault that is over now.
    pub(crate) fn answered(&self, plural: &'static str) -> bool {
        let mut said = self.said();
        let before = said.len();
        said.retain(|(about, class)| about.is_some_and(|about| about != plural || class == Fault::MALFORMED));
        said.len() < before
    }

    /// Notes that for some time nothing was wrong with requests for `plural`.
    pub(crate) fn is_good(&self, plural: &'static str) {
        self.said().retain(|(about, _)| *about != Some(plural));
    }

    fn said(&self) -> MutexGuard<'_, BTreeSet<Said>> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn credentials(error: &dyn std::error::Error) -> Fault {
    Fault::Credentials(chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\npreferences: null\nextensions: null\n\
        clusters:\n- name: c\n  cluster:\n    server: https://192.0.2.1:6443\n    proxy-url: null\n    certificate-authority: null\n\
        users:\n- name: u\n  user:\n    token: t\n    username: null\n\
        contexts:\n- name: x\n  context:\n    cluster: c\n    user: u\n    namespace: null\ncurrent-context: x\n";

    fn open(text: &str) -> Result<(), Fault> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kubeconfig = Some(file.path().to_owned());
        let access = Access::new(&Kubernetes { kubeconfig, servers: Vec::new() });
        runtime.block_on(access.open()).map(drop)
    }

    #[test]
    fn a_kubeconfig_is_read_as_client_go_reads_it() {
        assert!(open(KUBECONFIG).is_ok(), "null is absence");
        // Names are compared as they are written, there as here (decision 67).
        for (name, written) in
            [("clusters:", "Clusters:"), ("server:", "Server:"), ("current-context:", "Current-Context:")]
        {
            let fault = open(&KUBECONFIG.replacen(name, written, 1)).err().unwrap();
            assert!(matches!(fault, Fault::Credentials(_)), "{written} {fault}");
        }
    }

    #[test]
    fn servers_are_used_in_turn_and_a_fault_of_the_client_is_no_reason_to_leave_one() {
        let server = |port| Endpoint { tls: true, host: "192.0.2.1".into(), port };
        let access = Access::new(&Kubernetes { kubeconfig: None, servers: vec![server(1), server(2)] });
        let current = || access.0.current.load(Ordering::Relaxed);
        let away = Fault::Away("refused".into());
        access.leave(0, &Fault::Expired("old".into()));
        assert_eq!(current(), 0);
        // Two watches find the same server away: it is left once.
        access.leave(0, &away);
        access.leave(0, &away);
        assert_eq!(current(), 1);
        access.leave(1, &away);
        assert_eq!(current(), 0);
    }

    #[test]
    fn a_fault_of_all_watches_is_said_once_and_one_of_a_kind_once_for_that_kind() {
        let access = Access::new(&Kubernetes::default());
        let say = |plural, fault: &Fault| access.say(plural, fault, fault.class());
        let away = Fault::Away("refused".into());
        let refused = Fault::Refused { code: 500, message: String::new(), retry_after: None };
        assert!(say("services", &away) && !say("nodes", &away));
        assert!(say("services", &refused) && say("nodes", &refused) && !say("nodes", &refused));
        assert!(access.answered("services") && !access.answered("services"));
        assert!(say("services", &away), "it is a new one");
        assert!(!say("nodes", &refused), "nodes are still refused");
    }

    #[test]
    fn what_cannot_be_read_is_not_said_again_only_because_the_server_answers() {
        let access = Access::new(&Kubernetes::default());
        let malformed = Fault::Malformed("<html>".into());
        let say = || access.say("nodes", &malformed, malformed.class());
        assert!(say() && !access.answered("nodes") && !say());
        access.is_good("nodes");
        assert!(say());
    }
}
