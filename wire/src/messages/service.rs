//! The interface that every Varlink service has, `org.varlink.service`: its calls and replies as types.

use serde::{Deserialize, Serialize};

use crate::messages::method::methods;

methods! {
    crate::messages::SERVICE_INTERFACE;
    /// Who serves here.
    GetInfo = "org.varlink.service.GetInfo" -> GetInfoReply,
    /// The definition of an interface.
    GetInterfaceDescription = "org.varlink.service.GetInterfaceDescription" -> GetInterfaceDescriptionReply,
}

/// Who serves here, and which interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetInfo {}

/// Answer to [`GetInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetInfoReply {
    /// Who made it.
    pub vendor: String,
    /// What it is.
    pub product: String,
    /// Its version.
    pub version: String,
    /// Where to read about it.
    pub url: String,
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
}

/// The definition of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetInterfaceDescription {
    /// Its name.
    pub interface: String,
}

/// Answer to [`GetInterfaceDescription`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetInterfaceDescriptionReply {
    /// The text of the definition.
    pub description: String,
}
