//! `[node] interface`: the link by which the other nodes reach this one.

use std::fmt;
use std::net::IpAddr;

use ferrule_model::{IfName, IpNetwork, host_prefix};
use toml::Spanned;

use crate::document::{Checked, Document};

/// How the link is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The link of this name.
    Name(IfName),
    /// The link that has an address in this network. The other nodes use that address.
    Network(IpNetwork),
}

impl fmt::Display for Interface {
    /// As it stands in the file, provided that the file has it in the shortest form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Network(network) if *network == host_prefix(network.ip()) => network.ip().fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// The value of the key: a network, a single address, or a name.
pub(crate) fn interface(document: &Document<'_>, key: &str, text: &Spanned<String>) -> Checked<Interface> {
    let value = text.get_ref();
    if value.contains('/') {
        return document.network(key, text).map(Interface::Network);
    }
    let address = match value.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => Some(document.ipv4(key, text)?.into()),
        Ok(IpAddr::V6(_)) => Some(document.ipv6(key, text)?.into()),
        Err(_) => None,
    };
    if let Some(address) = address {
        return Ok(Interface::Network(host_prefix(address)));
    }
    IfName::new(value).map(Interface::Name).map_err(|error| {
        let reason = format!("\"{value}\" is neither a link's name nor a network: {error}");
        document.fault(
            text,
            key,
            reason,
            "write a link's name, as eth1, or the network of its address, as 192.0.2.0/24",
        )
    })
}
