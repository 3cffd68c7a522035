//! What can go wrong between a daemon and the API server, and what a person can do about it. Pure.

use std::time::Duration;

use thiserror::Error;

use crate::kind::Permission;

/// At most so long does the daemon hold back when a server asks for it.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Objects could not be read, or one could not be written.
#[derive(Debug, Error)]
pub enum Fault {
    /// The kubeconfig or the pod's service account cannot be used.
    #[error(
        "cannot log in to the API server: {0}; in a pod, mount the service account; elsewhere, set [kubernetes] kubeconfig"
    )]
    Credentials(String),
    /// The server does not know the client.
    #[error(
        "the API server does not accept this daemon's credentials ({0}); renew the token or the certificate of \
         the kubeconfig, or restart the pod"
    )]
    Unauthorized(String),
    /// The server knows the client, and does not allow the request.
    #[error(
        "the API server does not allow to {permission} ({message}); apply conf/kubernetes/rbac.yaml, or give the user of \
         the kubeconfig the verb \"{}\" on \"{}\"", permission.verb, permission.object()
    )]
    Forbidden {
        /// The right that is missing.
        permission: Permission,
        /// The server's words.
        message: String,
    },
    /// The server no longer has the changes since the version that it was asked for.
    #[error("the API server no longer has the changes since the last one that was seen ({0})")]
    Expired(String),
    /// Any other refusal.
    #[error("the API server answers {code}: {message}; see its log")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The server's words.
        message: String,
        /// How long the server asks clients to hold back.
        retry_after: Option<Duration>,
    },
    /// There is no server, or it stopped in the middle.
    #[error("the API server cannot be reached: {0}; see that it runs, and that the way to it is open")]
    Away(String),
    /// There is a connection, but nothing arrives.
    #[error("the API server cannot be reached: no answer for {} s; see that it runs, and that the way to it is open", .0.as_secs())]
    Silent(Duration),
    /// What the server says is no answer.
    #[error(
        "the API server's answer cannot be read: {0}; is it an API server, and nothing between it and here?"
    )]
    Malformed(String),
}

impl Fault {
    /// The class of [`Fault::Malformed`].
    pub(crate) const MALFORMED: &str = "malformed";

    /// Faults of one class are one fault to a person. They are one line in the log until the server answers again.
    pub fn class(&self) -> String {
        match self {
            Self::Credentials(_) => "credentials".into(),
            Self::Unauthorized(_) => "unauthorized".into(),
            Self::Forbidden { permission, .. } => permission.to_string(),
            Self::Expired(_) => "expired".into(),
            Self::Refused { code, .. } => code.to_string(),
            Self::Away(_) | Self::Silent(_) => "away".into(),
            Self::Malformed(_) => Self::MALFORMED.into(),
        }
    }

    /// Whether the fault concerns the client, and not the request.
    pub(crate) fn is_the_clients(&self) -> bool {
        matches!(self, Self::Credentials(_) | Self::Unauthorized(_) | Self::Forbidden { .. })
    }

    /// Whether another server could do better.
    pub(crate) fn is_the_servers(&self) -> bool {
        match self {
            Self::Away(_) | Self::Silent(_) | Self::Malformed(_) | Self::Unauthorized(_) => true,
            Self::Refused { code, .. } => *code >= 500,
            Self::Credentials(_) | Self::Forbidden { .. } | Self::Expired(_) => false,
        }
    }

    /// Whether it is the same fault for every request, whatever kind of objects it is about.
    pub(crate) fn is_everybodys(&self) -> bool {
        matches!(self, Self::Credentials(_) | Self::Unauthorized(_) | Self::Away(_) | Self::Silent(_))
    }

    /// How long the daemon holds back: as long as the server asks, within reason. A daemon that knows nothing yet
    /// cannot wait for hours because some program on the way says so.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Refused { retry_after: Some(wait), .. } => (*wait).min(LONGEST_RETRY),
            _ => Duration::ZERO,
        }
    }

    /// Whether the request may no longer make sense to the server, so that everything has to be asked again.
    pub(crate) fn doubts_the_version(&self) -> bool {
        match self {
            // Too many requests: the server will accept the same request later.
            Self::Refused { code, .. } => *code != 429,
            Self::Expired(_) | Self::Malformed(_) => true,
            Self::Credentials(_) | Self::Unauthorized(_) | Self::Forbidden { .. } => false,
            Self::Away(_) | Self::Silent(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Resource;

    const NODES: Resource = Resource { group: "", version: "v1", plural: "nodes" };

    #[test]
    fn what_is_forbidden_is_named_with_its_verb_and_resource_and_the_remedy() {
        let fault = Fault::Forbidden { permission: NODES.watch(), message: "no role".into() };
        assert_eq!(fault.retry_after(), Duration::ZERO);
        assert_eq!(
            fault.to_string(),
            "the API server does not allow to watch nodes (no role); apply conf/kubernetes/rbac.yaml, or give the user \
             of the kubeconfig the verb \"watch\" on \"nodes\""
        );
    }

    #[test]
    fn a_server_is_spared_for_as_long_as_it_asks_within_reason() {
        let wait = |seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            Fault::Refused { code: 429, message: String::new(), retry_after }.retry_after().as_secs()
        };
        assert_eq!([wait(None), wait(Some(7)), wait(Some(86_400))], [0, 7, 60]);
    }
}
