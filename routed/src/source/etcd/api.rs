//! The requests to etcd, each with the right that it needs, and the files that the requests need.

use std::path::Path;
use std::sync::Arc;

use ferrule_config::{Endpoint, Etcd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::fault::{Fault, Right};
use super::grpc::{AskedInVain, Channel, Messages, Tls, ended_watch};
use super::message::{
    AuthenticateRequest, AuthenticateResponse, Compare, DeleteRequest, Empty, Event, KeyValue,
    LeaseGrantRequest, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, Operand, PutRequest,
    RangeRequest, RangeResponse, Request, RequestOp, Target, TxnRequest, TxnResponse, WatchCreateRequest,
    WatchRequest, WatchResponse,
};

/// A member of the cluster on which this client is logged in.
#[derive(Debug)]
pub(super) struct Api {
    channel: Channel,
    login: Option<AuthenticateRequest>,
    prefix: String,
}

/// The condition for the change of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unless {
    /// No key begins with the first subnet of it.
    Taken,
    /// The key has not changed since this revision.
    ChangedSince(i64),
}

/// A watch that has begun, and the right that it needs.
#[derive(Debug)]
pub(super) struct Watch {
    messages: Messages,
    right: Right,
}

impl Api {
    /// Connects to a member, with the files as they are now, and logs in.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(super) async fn open(settings: &Etcd, endpoint: &Endpoint) -> Result<Self, Fault> {
        let tls = if endpoint.tls { Some(tls(settings)?) } else { None };
        let login = settings.credentials.as_deref().map(login).transpose()?;
        let channel = Channel::connect(endpoint, tls.as_ref()).await?;
        let mut api = Self { channel, login, prefix: settings.prefix.clone() };
        api.log_in().await?;
        Ok(api)
    }

    async fn log_in(&mut self) -> Result<(), Fault> {
        let Some(login) = &self.login else { return Ok(()) };
        let answer = self.channel.ask("/etcdserverpb.Auth/Authenticate", login, None).await;
        let answer: AuthenticateResponse = match answer {
            // Without authentication everybody may do everything.
            Err(Fault::Refused { message, .. }) if message.contains("not enabled") => return Ok(()),
            answer => answer?,
        };
        self.channel.set_token(&answer.token)
    }

    /// Sends a request. The server forgets a token that was not used for some minutes; then this asks for a new one.
    async fn ask<Q, A>(&mut self, method: &str, question: &Q, right: Option<&Right>) -> Result<A, Fault>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        match self.channel.ask(method, question, right).await {
            Err(Fault::Token(_)) => {
                self.log_in().await?;
                self.channel.ask(method, question, right).await
            }
            answer => answer,
        }
    }

    /// The key of the network's configuration.
    pub(super) fn config_key(&self) -> String {
        format!("{}/config", self.prefix)
    }

    /// The beginning of the keys of all subnets.
    pub(super) fn subnets_key(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }

    /// The network's configuration, if there is one.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn config(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let key = self.config_key();
        let right = Right { kind: "read", key: key.clone(), is_prefix: false };
        let (mut found, _) = self.range(key, Vec::new(), &right).await?;
        Ok(found.pop().map(|found| found.value))
    }

    /// All subnets, and the revision at which they were read.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn subnets(&mut self) -> Result<(Vec<KeyValue>, i64), Fault> {
        let key = self.subnets_key();
        let end = end_of(&key);
        self.range(key, end, &self.all("read")).await
    }

    fn all(&self, kind: &'static str) -> Right {
        Right { kind, key: self.subnets_key(), is_prefix: true }
    }

    async fn range(
        &mut self,
        key: String,
        range_end: Vec<u8>,
        right: &Right,
    ) -> Result<(Vec<KeyValue>, i64), Fault> {
        let question = RangeRequest { key: key.into(), range_end };
        let answer: RangeResponse = self.ask("/etcdserverpb.KV/Range", &question, Some(right)).await?;
        let header = answer.header.ok_or_else(|| Fault::Malformed("it has no revision".into()))?;
        Ok((answer.kvs, header.revision))
    }

    /// Writes the subnet `name`. `first` is the beginning of its name. Returns whether that was done, and the revision
    /// after it.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn put(
        &mut self,
        (name, first): (&str, &str),
        value: Vec<u8>,
        lease: i64,
        unless: Unless,
    ) -> Result<Option<i64>, Fault> {
        let key = format!("{}{name}", self.subnets_key()).into_bytes();
        let first = format!("{}{first}", self.subnets_key());
        let compare = match unless {
            Unless::Taken => Compare {
                target: Target::CreateRevision.into(),
                range_end: end_of(&first),
                key: first.into(),
                operand: Some(Operand::CreateRevision(0)),
            },
            Unless::ChangedSince(revision) => same_since(&key, revision),
        };
        self.change(compare, Request::Put(PutRequest { key, value, lease })).await
    }

    /// Deletes the subnet `name` if it has not changed since `revision`.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn delete(&mut self, name: &str, revision: i64) -> Result<(), Fault> {
        let key = format!("{}{name}", self.subnets_key()).into_bytes();
        self.change(same_since(&key, revision), Request::Delete(DeleteRequest { key })).await.map(drop)
    }

    async fn change(&mut self, compare: Compare, request: Request) -> Result<Option<i64>, Fault> {
        let question =
            TxnRequest { compare: vec![compare], success: vec![RequestOp { request: Some(request) }] };
        let right = self.all("write");
        let answer: TxnResponse = self.ask("/etcdserverpb.KV/Txn", &question, Some(&right)).await?;
        let header = answer.header.ok_or_else(|| Fault::Malformed("it has no revision".into()))?;
        Ok(answer.succeeded.then_some(header.revision))
    }

    /// Makes a lease of this number (0 for any) that lasts so many seconds. Returns its number, and how many seconds it
    /// got. A lease of this number that exists is renewed.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn grant(&mut self, id: i64, seconds: u64) -> Result<(i64, u64), Fault> {
        let question = LeaseGrantRequest { ttl: i64::try_from(seconds).unwrap_or(i64::MAX), id };
        let answer = self.ask("/etcdserverpb.Lease/LeaseGrant", &question, None).await;
        let answer: LeaseGrantResponse = match answer {
            Err(Fault::Refused { message, .. }) if message.contains("already exists") => {
                let left = self.renew(id).await?;
                return left.map(|left| (id, left)).ok_or(Fault::Refused { code: 9, message });
            }
            answer => answer?,
        };
        if !answer.error.is_empty() {
            return Err(Fault::Refused { code: 2, message: answer.error });
        }
        Ok((answer.id, u64::try_from(answer.ttl).unwrap_or(seconds)))
    }

    /// Renews a lease. Returns for how many seconds; `None` if there is no lease of this number.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn renew(&mut self, lease: i64) -> Result<Option<u64>, Fault> {
        let question = LeaseId { id: lease };
        let right = self.all("write");
        let answer = self.ask("/etcdserverpb.Lease/LeaseKeepAlive", &question, Some(&right)).await;
        let answer: LeaseKeepAliveResponse = answer?;
        Ok(u64::try_from(answer.ttl).ok().filter(|ttl| *ttl > 0))
    }

    /// Ends a lease to which no key is tied.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn revoke(&mut self, lease: i64) -> Result<(), Fault> {
        let question = LeaseId { id: lease };
        let right = self.all("write");
        let answer: Result<Empty, _> =
            self.ask("/etcdserverpb.Lease/LeaseRevoke", &question, Some(&right)).await;
        answer.map(drop)
    }

    /// Begins to watch all subnets, from `revision` on.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn watch(&mut self, revision: i64) -> Result<Watch, Fault> {
        let key = self.subnets_key();
        let range_end = end_of(&key);
        let create = WatchCreateRequest { key: key.into(), range_end, start_revision: revision };
        let right = self.all("read");
        self.listen(create, right).await
    }

    /// Begins to watch the network's configuration, from `revision` on.
    ///
    /// # Errors
    /// What can happen to every request.
    pub(super) async fn watch_config(&mut self, revision: i64) -> Result<Watch, Fault> {
        let key = self.config_key();
        let right = Right { kind: "read", key: key.clone(), is_prefix: false };
        let create = WatchCreateRequest { key: key.into(), range_end: Vec::new(), start_revision: revision };
        self.listen(create, right).await
    }

    async fn listen(&mut self, create: WatchCreateRequest, right: Right) -> Result<Watch, Fault> {
        let question = WatchRequest { create: Some(create) };
        let messages = self.channel.listen("/etcdserverpb.Watch/Watch", &question, &right).await?;
        Ok(Watch { messages, right })
    }

    /// Waits for changes and returns them. Cancel safe.
    ///
    /// # Errors
    /// The watch cannot go on; [`Fault::Compacted`] if the server no longer has the changes since the watch began.
    pub(super) async fn changes(&self, watch: &mut Watch) -> Result<Vec<Event>, Fault> {
        let Watch { messages, right } = watch;
        events(self.channel.next(messages, right).await?, right)
    }
}

fn events(answer: WatchResponse, right: &Right) -> Result<Vec<Event>, Fault> {
    match answer {
        WatchResponse { compact_revision: 1.., .. } => Err(Fault::Compacted),
        WatchResponse { canceled: true, cancel_reason, .. } => Err(ended_watch(cancel_reason, right)),
        WatchResponse { events, .. } => Ok(events),
    }
}

/// The condition that the key has not changed since this revision.
fn same_since(key: &[u8], revision: i64) -> Compare {
    Compare {
        target: Target::ModRevision.into(),
        key: key.to_vec(),
        operand: Some(Operand::ModRevision(revision)),
        range_end: Vec::new(),
    }
}

/// The end of the range of all keys that begin with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn unusable(setting: &'static str, path: &Path, reason: impl Into<String>) -> Fault {
    Fault::File { setting, path: path.to_owned(), reason: reason.into() }
}

/// The one line of the file of `credentials`.
fn login(path: &Path) -> Result<AuthenticateRequest, Fault> {
    let text =
        std::fs::read_to_string(path).map_err(|error| unusable("credentials", path, error.to_string()))?;
    let line = text.trim_end_matches(['\n', '\r']);
    match line.split_once(':').filter(|(name, password)| !name.is_empty() && !password.contains('\n')) {
        Some((name, password)) => Ok(AuthenticateRequest { name: name.into(), password: password.into() }),
        None => Err(unusable("credentials", path, "it is not one line NAME:PASSWORD")),
    }
}

fn tls(settings: &Etcd) -> Result<Tls, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Fault::Tls(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    if let Some(path) = &settings.ca {
        for certificate in certificates("ca", path)? {
            roots.add(certificate).map_err(|error| unusable("ca", path, error.to_string()))?;
        }
    }
    let builder = builder.with_root_certificates(roots);
    let asked = Arc::<AskedInVain>::default();
    let mut config = match &settings.identity {
        None => builder.with_client_cert_resolver(Arc::clone(&asked) as _),
        Some((certificate, key)) => {
            let chain = certificates("cert", certificate)?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("key", key, error.to_string()))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|error| unusable("key", key, error.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Tls { connector: TlsConnector::from(Arc::new(config)), asked })
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found =
        read().map_err(|error: rustls::pki_types::pem::Error| unusable(setting, path, error.to_string()))?;
    if found.is_empty() { Err(unusable(setting, path, "it has no certificate")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_behind_all_that_begins_with_its_prefix() {
        assert_eq!(end_of("/a/"), b"/a0");
        assert_eq!(end_of("10.5.34.0-24"), b"10.5.34.0-25");
    }

    #[test]
    fn a_watch_that_ends_says_why() {
        let right = Right { kind: "read", key: "/n/subnets/".into(), is_prefix: true };
        let class = |answer: WatchResponse| {
            events(answer, &right).map(|events| events.len()).map_err(|fault| fault.class())
        };
        let event = Event { kind: 1, kv: None };
        assert_eq!(class(WatchResponse { events: vec![event], ..WatchResponse::default() }), Ok(1));
        let compacted = WatchResponse { canceled: true, compact_revision: 7, ..WatchResponse::default() };
        assert_eq!(class(compacted), Err("compacted".into()));
        let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied".into();
        let refused = WatchResponse { canceled: true, cancel_reason: reason, ..WatchResponse::default() };
        assert_eq!(class(refused), Err(right.to_string()));
    }

    #[test]
    fn a_name_and_a_password_come_from_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("login");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            login(&path).map(|login| (login.name, login.password)).map_err(|fault| fault.to_string())
        };
        assert_eq!(read("n1:a:b c\n"), Ok(("n1".into(), "a:b c".into())));
        for odd in ["", "n1\n", ":x\n", "a:b\nc:d\n"] {
            assert!(
                read(odd)
                    .unwrap_err()
                    .contains("not one line NAME:PASSWORD; correct [routing.etcd] credentials")
            );
        }
    }
}
