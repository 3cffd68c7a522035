//! `[routing.etcd]`: where the store of the cluster's subnets is, and as which user the daemon uses it.

use std::path::PathBuf;
use std::time::Duration;

use crate::document::{Checked, Document};
use crate::endpoint::Endpoint;
use crate::raw::{RawEtcd, Text};
use crate::settings::absolute;

/// flannel's own prefix, where nodes of both share a network.
const PREFIX: &str = "/coreos.com/network";
/// A day, as in flannel: a node that is off for a night keeps its subnet.
const LEASE_S: u32 = 86_400;
/// A lease is renewed at a sixth of its time. Shorter leases are lost to a slow disk.
const LEASE_S_MIN: u32 = 5;
/// A month. After some time a subnet has to become free again.
const LEASE_S_MAX: u32 = 30 * 86_400;

/// `[routing.etcd]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// The members, which are tried one after another. There is at least one if etcd is the source.
    pub endpoints: Vec<Endpoint>,
    /// The beginning of all keys. It begins with a slash and does not end with one.
    pub prefix: String,
    /// The authority that signed the servers' certificates. It is set if the endpoints use TLS.
    pub ca: Option<PathBuf>,
    /// This client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The file with `NAME:PASSWORD`.
    pub credentials: Option<PathBuf>,
    /// How long a subnet stays with a node that does not renew it.
    pub lease: Duration,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: PREFIX.into(),
            ca: None,
            identity: None,
            credentials: None,
            lease: Duration::from_secs(LEASE_S.into()),
        }
    }
}

/// Reads the table; `source` is what `[routing] source` says.
pub(crate) fn etcd(document: &Document<'_>, raw: &RawEtcd, source: Option<&Text>) -> Checked<Etcd> {
    let path = |key: &str, text: &Option<Text>| {
        text.as_ref().map(|text| absolute(document, &format!("routing.etcd.{key}"), text)).transpose()
    };
    let endpoints = raw.endpoints.iter().map(|text| endpoint(document, text)).collect::<Checked<Vec<_>>>()?;
    if let Some(text) = source.filter(|text| text.get_ref() == "etcd" && endpoints.is_empty()) {
        let remedy =
            "write endpoints = [\"https://192.0.2.10:2379\"] into [routing.etcd], each member of the cluster";
        return Err(document.fault(text, "routing.etcd.endpoints", "no member of etcd is named", remedy));
    }
    let files = [&raw.ca, &raw.cert, &raw.key];
    let tls = encryption(document, &raw.endpoints, &endpoints, files)?;
    if let (true, None, Some(text)) = (tls, &raw.ca, raw.endpoints.first()) {
        let remedy =
            "write ca = \"/etc/ferrule/etcd-ca.crt\", the authority that signed the servers' certificates";
        return Err(document.fault(
            text,
            "routing.etcd.ca",
            "the endpoints are https and there is no ca",
            remedy,
        ));
    }
    let identity = match (&raw.cert, &raw.key) {
        (Some(text), None) | (None, Some(text)) => {
            let reason = "a certificate is of use with its key only";
            return Err(document.fault(
                text,
                "routing.etcd.cert",
                reason,
                "write both cert and key, or neither",
            ));
        }
        _ => path("cert", &raw.cert)?.zip(path("key", &raw.key)?),
    };
    let mut settings = Etcd {
        endpoints,
        ca: path("ca", &raw.ca)?,
        identity,
        credentials: path("credentials", &raw.credentials)?,
        ..Etcd::default()
    };
    if let Some(text) = &raw.prefix {
        settings.prefix = prefix(document, text)?;
    }
    if let Some(seconds) = &raw.lease_s {
        let remedy =
            "write the seconds after which the subnet of a node that is gone is free, by default 86400";
        let seconds = document.number("routing.etcd.lease_s", seconds, LEASE_S_MIN..=LEASE_S_MAX, remedy)?;
        settings.lease = Duration::from_secs(seconds.into());
    }
    Ok(settings)
}

/// Whether the endpoints use TLS: all do or none does. The `files` are for all of them.
fn encryption(
    document: &Document<'_>,
    texts: &[Text],
    endpoints: &[Endpoint],
    files: [&Option<Text>; 3],
) -> Checked<bool> {
    let tls = endpoints.iter().any(|endpoint| endpoint.tls);
    if let Some((text, _)) = texts.iter().zip(endpoints).find(|(_, endpoint)| endpoint.tls != tls) {
        let reason = "some endpoints are https and this one is not";
        return Err(document.fault(text, "routing.etcd.endpoints", reason, "write https in all of them"));
    }
    if let (false, Some(text)) = (tls, files.into_iter().flatten().next()) {
        let reason = "the endpoints are not spoken to over TLS";
        let remedy = "write endpoints that begin with https://, or remove ca, cert and key";
        return Err(document.fault(text, "routing.etcd.ca", reason, remedy));
    }
    Ok(tls)
}

fn endpoint(document: &Document<'_>, text: &Text) -> Checked<Endpoint> {
    Endpoint::parse(text.get_ref()).ok_or_else(|| {
        let reason = format!("\"{}\" is not the URL of a member", text.get_ref());
        let remedy = "write it as https://192.0.2.10:2379, the member's client URL and nothing behind it";
        document.fault(text, "routing.etcd.endpoints", reason, remedy)
    })
}

fn prefix(document: &Document<'_>, text: &Text) -> Checked<String> {
    let prefix = text.get_ref().trim_end_matches('/');
    if prefix.starts_with('/') && !prefix.contains("//") && !prefix.contains(char::is_control) {
        return Ok(prefix.to_owned());
    }
    let reason = format!("\"{}\" is not a prefix of keys", text.get_ref());
    Err(document.fault(text, "routing.etcd.prefix", reason, format!("write it as {PREFIX}")))
}
