//! `[services]`: what `proxyd` does with Services.

use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::DEFAULT_SERVICES;
use crate::document::{Checked, Document};
use crate::raw::Text;
use crate::settings::absolute;

/// `[services]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// What carries packets to endpoints.
    pub backend: ServiceBackend,
    /// Where the Services come from.
    pub source: ServiceSource,
    /// The services file ([`crate::ServicesFile`]); absolute.
    pub path: PathBuf,
    /// Node ports are served at those of the node's addresses that are in these networks. If there is none, at the
    /// node's own address, and if that is not known, at all of its addresses but those of the loopback.
    pub node_port_addresses: Vec<IpNetwork>,
    /// External addresses of Services are served if they are in one of these networks.
    pub external_cidrs: Vec<IpNetwork>,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            backend: ServiceBackend::default(),
            source: ServiceSource::default(),
            path: DEFAULT_SERVICES.into(),
            node_port_addresses: Vec::new(),
            external_cidrs: Vec::new(),
        }
    }
}

/// What carries packets to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceBackend {
    /// The node's nftables.
    #[default]
    Nftables,
}

/// Where the Services come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceSource {
    /// A file on this node, which is watched.
    #[default]
    File,
    /// The API server of a Kubernetes cluster, as `[kubernetes]` says.
    Kubernetes,
}

/// `[services]` as it is spelled.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawServiceSettings {
    backend: Option<Text>,
    source: Option<Text>,
    path: Option<Text>,
    node_port_addresses: Vec<Text>,
    external_cidrs: Vec<Text>,
}

pub(crate) fn services(document: &Document<'_>, raw: &RawServiceSettings) -> Checked<Services> {
    if let Some(text) = raw.backend.as_ref().filter(|text| text.get_ref() != "nftables") {
        let reason = format!("there is no backend \"{}\"", text.get_ref());
        return Err(document.fault(text, "services.backend", reason, "write backend = \"nftables\""));
    }
    let source = match raw.source.as_ref().map(|text| (text, text.get_ref().as_str())) {
        None | Some((_, "file")) => ServiceSource::File,
        Some((_, "kubernetes")) => ServiceSource::Kubernetes,
        Some((text, other)) => {
            let reason = format!("there is no source \"{other}\"");
            let remedy = "write source = \"file\" or \"kubernetes\"";
            return Err(document.fault(text, "services.source", reason, remedy));
        }
    };
    let path = raw.path.as_ref().map(|text| absolute(document, "services.path", text)).transpose()?;
    Ok(Services {
        source,
        path: path.unwrap_or_else(|| DEFAULT_SERVICES.into()),
        node_port_addresses: document.networks("services.node_port_addresses", &raw.node_port_addresses)?,
        external_cidrs: document.networks("services.external_cidrs", &raw.external_cidrs)?,
        ..Services::default()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Config;

    #[test]
    fn what_is_not_said_has_its_default_and_what_is_wrong_is_named() {
        let of = |text: &str| Config::parse(text, Path::new("f")).map(|config| config.services);
        assert_eq!(of("").unwrap(), Services::default());
        let text = "[services]\nbackend = \"nftables\"\nsource = \"file\"\npath = \"/s.toml\"\n\
                    node_port_addresses = [\"192.0.2.0/24\"]\nexternal_cidrs = [\"203.0.113.0/24\"]\n";
        let services = of(text).unwrap();
        assert_eq!((services.path.as_path(), services.source), (Path::new("/s.toml"), ServiceSource::File));
        let kubernetes = of("[services]\nsource = \"kubernetes\"\n").unwrap();
        assert_eq!(kubernetes.source, ServiceSource::Kubernetes);
        assert_eq!(services.external_cidrs, ["203.0.113.0/24".parse().unwrap()]);
        for (wrong, word) in [
            ("backend = \"ipvs\"", "nftables"),
            ("source = \"etcd\"", "file"),
            ("path = \"s.toml\"", "services.path"),
            ("external_cidrs = [\"203.0.113.1\"]", "services.external_cidrs"),
            ("node_ports = []", "node_ports"),
        ] {
            let fault = of(&format!("[services]\n{wrong}\n")).unwrap_err().to_string();
            assert!(fault.contains("f:2") && fault.contains(word), "{fault}");
        }
    }
}
