//! `[kubernetes]`: where the API server is, and as which user the daemons use it.

use std::path::PathBuf;

use crate::document::{Checked, Document};
use crate::endpoint::Endpoint;
use crate::raw::{RawAccess, RawKubernetes, RawServers};
use crate::settings::absolute;

/// `[kubernetes]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// The file with the credentials, and with the API server's address if `servers` has none; absolute. Without it,
    /// the service account of the pod that the daemon runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The API servers' own addresses, which are tried in turn. All of them use TLS.
    pub servers: Vec<Endpoint>,
}

/// Reads the table; `old` is `[routing.kubernetes]`, where the kubeconfig was before.
pub(crate) fn kubernetes(
    document: &Document<'_>,
    raw: &RawAccess,
    old: &RawKubernetes,
) -> Checked<Kubernetes> {
    let path = |key: &str, text| absolute(document, key, text);
    let new = raw.kubeconfig.as_ref().map(|text| path("kubernetes.kubeconfig", text)).transpose()?;
    let key = "routing.kubernetes.kubeconfig";
    let before = old.kubeconfig.as_ref().map(|text| path(key, text)).transpose()?;
    if let (Some(new), Some(before), Some(text)) = (&new, &before, &old.kubeconfig)
        && new != before
    {
        let reason = format!("[kubernetes] kubeconfig is another file, \"{}\"", new.display());
        let remedy = "remove this one; [kubernetes] holds for all daemons";
        return Err(document.fault(text, key, reason, remedy));
    }
    Ok(Kubernetes { kubeconfig: new.or(before), servers: servers(document, raw)? })
}

fn servers(document: &Document<'_>, raw: &RawAccess) -> Checked<Vec<Endpoint>> {
    let Some(list) = &raw.server else { return Ok(Vec::new()) };
    let remedy = "write it as https://192.0.2.10:6443, the server's own address and nothing behind it";
    let server = |text: &String| {
        let server = Endpoint::parse(text).filter(|server| server.tls);
        let reason = format!("\"{text}\" is not the address of an API server");
        server.ok_or_else(|| document.fault(list, "kubernetes.server", reason, remedy))
    };
    let texts = match list.get_ref() {
        RawServers::One(text) => std::slice::from_ref(text),
        RawServers::Many(texts) => texts,
    };
    if texts.is_empty() {
        let remedy = "name at least one server, or remove the key";
        return Err(document.fault(list, "kubernetes.server", "the list is empty", remedy));
    }
    texts.iter().map(server).collect()
}
