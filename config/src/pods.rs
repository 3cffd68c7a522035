//! `[pods]`: what the node lets its pods do.

use serde::Deserialize;

use crate::document::{Checked, Document};
use crate::raw::Text;

/// `[pods]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// What a pod's packets may have as their source.
    pub source_check: SourceCheck,
}

/// What a pod's packets may have as their source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceCheck {
    /// What this node routes out of the very link by which the packet came.
    #[default]
    Strict,
    /// What this node routes out of the link of any of its pods.
    Loose,
    /// Anything.
    Off,
}

/// `[pods]` as it is spelled.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawPods {
    source_check: Option<Text>,
}

pub(crate) fn pods(document: &Document<'_>, raw: &RawPods) -> Checked<Pods> {
    let mut pods = Pods::default();
    if let Some(text) = &raw.source_check {
        pods.source_check = match text.get_ref().as_str() {
            "strict" => SourceCheck::Strict,
            "loose" => SourceCheck::Loose,
            "off" => SourceCheck::Off,
            other => {
                let reason = format!("there is no source check \"{other}\"");
                let remedy = "write source_check = \"strict\", \"loose\" or \"off\"";
                return Err(document.fault(text, "pods.source_check", reason, remedy));
            }
        };
    }
    Ok(pods)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Config;

    #[test]
    fn the_source_check_is_strict_unless_another_one_is_asked_for() {
        let of = |text: &str| Config::parse(text, Path::new("f")).map(|config| config.pods.source_check);
        assert_eq!(of("").ok(), Some(SourceCheck::Strict));
        for (text, expected) in
            [("strict", SourceCheck::Strict), ("loose", SourceCheck::Loose), ("off", SourceCheck::Off)]
        {
            assert_eq!(of(&format!("[pods]\nsource_check = \"{text}\"\n")).ok(), Some(expected));
        }
        let fault = of("[pods]\nsource_check = \"none\"\n").expect_err("no such check").to_string();
        assert!(fault.contains("f:2") && fault.contains("\"loose\" or \"off\""), "{fault}");
    }
}
