//! The name of this node.

use thiserror::Error;

/// The longest name of a node: that of a DNS name.
const LONGEST: usize = 253;

/// Why a text cannot be the name of a node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeNameError {
    /// None of the three places gives a name.
    #[error(
        "the node has no name; set [node] name in ferrule.toml, or NODE_NAME in the environment, or the hostname"
    )]
    Missing,
    /// A name that is too long or has characters that no node name has.
    #[error(
        "\"{name}\" from {origin} cannot be a node's name; \
         use 1 to 253 letters, digits, '-', '.' and '_', beginning with a letter or a digit"
    )]
    Invalid {
        /// The text.
        name: String,
        /// Where it comes from.
        origin: &'static str,
    },
}

/// The name of this node: `[node] name` of the configuration, else the environment's `NODE_NAME`, else the hostname.
///
/// Empty values count as absent. The hostname is trimmed and put in lower case, because the kubelet registers it like
/// that. The other two are taken as they are written.
///
/// # Errors
/// If no place gives a name, or if the first place that does gives one that no node can have.
pub fn node_name(
    configured: Option<&str>,
    environment: Option<&str>,
    hostname: Option<&str>,
) -> Result<String, NodeNameError> {
    let given = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
    let (name, origin) = if let Some(name) = given(configured) {
        (name, "[node] name")
    } else if let Some(name) = given(environment) {
        (name, "NODE_NAME")
    } else if let Some(name) = given(hostname.map(str::trim)) {
        (name.to_lowercase(), "the hostname")
    } else {
        return Err(NodeNameError::Missing);
    };
    if check_node_name(&name) { Ok(name) } else { Err(NodeNameError::Invalid { name, origin }) }
}

/// Whether a node can have this name.
#[must_use]
pub fn check_node_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    name.len() <= LONGEST
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_wins_then_the_environment_then_the_hostname() {
        assert_eq!(node_name(Some("a"), Some("b"), Some("c")).unwrap(), "a");
        assert_eq!(node_name(None, Some("b"), Some("c")).unwrap(), "b");
        assert_eq!(node_name(None, None, Some("c")).unwrap(), "c");
        assert_eq!(node_name(Some(""), Some(""), Some(" Node-C\n")).unwrap(), "node-c");
    }

    #[test]
    fn no_name_and_bad_names_are_refused_with_their_origin() {
        assert_eq!(node_name(None, Some(""), None), Err(NodeNameError::Missing));
        let error = node_name(None, Some("no de"), Some("c")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"no de\" from NODE_NAME cannot be a node's name; use 1 to 253 letters, digits, '-', '.' and '_', \
             beginning with a letter or a digit"
        );
        assert!(!check_node_name(&"n".repeat(254)));
        assert!(!check_node_name("-a") && !check_node_name("") && !check_node_name("a/b"));
        assert!(check_node_name(&"n".repeat(253)) && check_node_name("Node_1.example"));
    }
}
