//! What can go wrong between this daemon and etcd, and what a person can do about it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// The right that a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Right {
    /// `read` or `write`, as etcd's roles spell it.
    pub(super) kind: &'static str,
    /// The key.
    pub(super) key: String,
    /// Whether the right is for all keys that begin with it.
    pub(super) is_prefix: bool,
}

impl fmt::Display for Right {
    /// Written as the arguments of `etcdctl role grant-permission ROLE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key, is_prefix } = self;
        write!(f, "{}{kind} {key}", if *is_prefix { "--prefix=true " } else { "" })
    }
}

/// The subnets could not be read, or none could be taken or kept.
#[derive(Debug, Error)]
pub(super) enum Fault {
    /// A file of the credentials cannot be used.
    #[error("cannot use {}: {reason}; correct [routing.etcd] {setting}", path.display())]
    File {
        /// The key of the configuration that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The server does not know the user, or the password is wrong.
    #[error(
        "etcd does not accept the user and password of [routing.etcd] credentials ({0}); correct the file, or set the \
         password with `etcdctl user passwd`"
    )]
    Login(String),
    /// The server wants a user, and none is configured.
    #[error(
        "etcd asks for a user ({0}); write NAME:PASSWORD into a file and name it in [routing.etcd] credentials"
    )]
    NoLogin(String),
    /// The server's token is no longer valid.
    #[error("etcd has forgotten who this is ({0}); a new token is asked for")]
    Token(String),
    /// The server knows the user, and does not allow the request.
    #[error(
        "etcd does not allow to {} {} ({message}); give the user's role this right: `etcdctl role grant-permission ROLE \
         {right}`", right.kind, right.key
    )]
    Forbidden {
        /// The right that is missing.
        right: Right,
        /// The server's words.
        message: String,
    },
    /// Any other refusal.
    #[error("etcd answers: {message} (gRPC status {code}); see its log")]
    Refused {
        /// The gRPC status.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// There is no server, or it stopped in the middle, or it has no majority.
    #[error(
        "etcd cannot be reached: {0}; see that a majority of its members runs, and that the way to them is open"
    )]
    Away(String),
    /// There is a connection, but nothing arrives.
    #[error(
        "etcd cannot be reached: no answer from {endpoint} for {} s; see that a majority of its members runs, and that \
         the way to them is open", after.as_secs()
    )]
    Silent {
        /// The member that does not answer.
        endpoint: String,
        /// How long it has been silent.
        after: Duration,
    },
    /// Client and server do not trust each other.
    #[error(
        "no TLS with etcd: {0}; see that [routing.etcd] ca is the authority of its certificates, that they are for the \
         names in endpoints, and that it accepts the one of cert"
    )]
    Tls(String),
    /// What the server says is no answer.
    #[error("the answer of etcd cannot be read: {0}; is it etcd, version 3, at [routing.etcd] endpoints?")]
    Malformed(String),
    /// The server no longer has the changes since the list.
    #[error("etcd no longer has the changes since the last one that was seen")]
    Compacted,
    /// The network's configuration is not there, or cannot be used.
    #[error("{0}")]
    Network(String),
    /// No address of this node is known.
    #[error(
        "this node's address is not known: {0}; set [node] address, by which the other nodes reach this one"
    )]
    NoAddress(String),
    /// All subnets are taken.
    #[error(
        "no subnet is left in {0}: every one is taken; remove what nodes left behind that are gone (`etcdctl del KEY`), or \
         make the network in {1} larger"
    )]
    Full(String, String),
}

impl Fault {
    /// Faults of one class are one fault to a person. They are one line in the log until all is well again.
    pub(super) fn class(&self) -> String {
        match self {
            Self::File { setting, .. } => (*setting).into(),
            Self::Login(_) | Self::NoLogin(_) => "login".into(),
            Self::Token(_) => "token".into(),
            Self::Forbidden { right, .. } => right.to_string(),
            Self::Refused { code, message } => format!("{code} {message}"),
            Self::Away(_) | Self::Silent { .. } => "away".into(),
            Self::Tls(_) => "tls".into(),
            Self::Malformed(_) => "malformed".into(),
            Self::Compacted => "compacted".into(),
            Self::Network(why) => why.clone(),
            Self::NoAddress(_) => "address".into(),
            Self::Full(..) => "full".into(),
        }
    }

    /// Whether another member may do better. What the cluster as a whole says is the same at every member.
    pub(super) fn is_the_members(&self) -> bool {
        match self {
            Self::Away(_)
            | Self::Silent { .. }
            | Self::Tls(_)
            | Self::Malformed(_)
            | Self::Refused { .. } => true,
            Self::File { .. } | Self::Login(_) | Self::NoLogin(_) | Self::Token(_) => false,
            Self::Forbidden { .. } | Self::Compacted | Self::Network(_) => false,
            Self::NoAddress(_) | Self::Full(..) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_named_with_its_key_and_the_command_that_allows_it() {
        let right = Right { kind: "write", key: "/net/subnets/".into(), is_prefix: true };
        let fault = Fault::Forbidden { right, message: "permission denied".into() };
        assert_eq!(
            fault.to_string(),
            "etcd does not allow to write /net/subnets/ (permission denied); give the user's role this right: `etcdctl role \
             grant-permission ROLE --prefix=true write /net/subnets/`"
        );
    }
}
