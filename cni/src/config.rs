//! The network configuration on standard input, from JSON to checked types.
//!
//! Runtimes and libraries add fields of their own, so unknown ones are left alone, unless they look like one
//! of ours misspelt.

use std::path::PathBuf;

use ferrule_model::{Attachment, IfName, is_host_veth};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::delegate::Delegate;
use crate::error::Error;
use crate::extras::Extras;
use crate::result::{AddResult, Dns, Route};
use crate::spec::Version;
use crate::{ports, shaping};

/// Where `ipamd` lives unless the configuration says otherwise.
const RUNTIME_DIR: &str = "/run/ferrule";
/// The fields that are ours alone; `ipam` is everybody's.
const OURS: [&str; 5] = ["runtimeDir", "mode", "mtu", "bridge", "isolation"];
/// The bridge of mode `bridge` unless the configuration names another.
const BRIDGE: &str = "ferrule0";
/// IPv6 needs this much on every link (RFC 8200, section 5).
const MTU_MIN: u64 = 1280;
/// `ETH_MAX_MTU`, the most a veth takes.
const MTU_MAX: u64 = 65535;
/// The type under which `ipamd` is named in `ipam`.
const IPAM_TYPE: &str = "ferrule-ipam";

/// The configuration of the network, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The version to answer in.
    pub version: Version,
    /// Name of the network.
    pub name: String,
    /// Where `ipamd`'s socket and the queue of releases are.
    pub runtime_dir: PathBuf,
    /// How pods are attached.
    pub mode: Mode,
    /// MTU of the pod's interface in bytes; `None` = what `ipamd` says.
    pub mtu: Option<u32>,
    /// Name of the pool to take addresses from; `None` = the node's first.
    pub pool: Option<String>,
    /// The pods share a link with their subnet and its gateway, instead of having their addresses alone.
    pub shares_subnet: bool,
    /// Name service, for the result.
    pub dns: Dns,
    /// Routes for the result of `ferrule-ipam`; `None` = everything by the gateway.
    pub routes: Option<Vec<Route>>,
    /// The plugin to have addresses from; `None` = `ipamd`.
    pub delegate: Option<Delegate>,
    /// Host ports and bandwidth.
    pub extras: Extras,
}

/// How pods are attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Each by itself, with routes.
    Routed,
    /// All on one bridge.
    Bridge(Bridge),
}

/// The bridge of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: IfName,
    /// Pods reach the node and what is behind it, but not each other.
    pub isolated: bool,
}

impl Config {
    /// Path of `ipamd`'s socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join(ferrule_wire::SOCKET_NAME)
    }
}

/// A network configuration that is JSON and whose version is spoken.
#[derive(Debug)]
pub(crate) struct Document {
    fields: Map<String, Value>,
    pub(crate) version: Version,
}

impl Document {
    /// Reads the text.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Error> {
        let fields = match serde_json::from_slice(text).map_err(Error::Json)? {
            Value::Object(fields) => fields,
            other => return Err(wrong("(all)", format!("expected an object, found {}", kind(&other)))),
        };
        let version = match fields.get("cniVersion") {
            // Section 1 of the specification's older texts: what does not say is 0.1.0.
            None => Version::OLDEST,
            Some(Value::String(text)) => Version::parse(text)
                .ok_or_else(|| Error::UnsupportedVersion { found: clipped(text).into() })?,
            Some(other) => return Err(mistyped("cniVersion", "a text like \"1.1.0\"", other)),
        };
        Ok(Self { fields, version })
    }

    /// Checks every field of ours.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        self.refuse_misspelt()?;
        let mode = self.mode()?;
        Ok(Config {
            shares_subnet: mode != Mode::Routed,
            mode,
            mtu: self.mtu()?,
            pool: self.pool()?,
            dns: self.dns()?,
            extras: self.extras()?,
            ..self.config_for_del()?
        })
    }

    /// What `ferrule-ipam` needs: everything beside `ipam` is the business of the plugin that calls it.
    pub(crate) fn config_for_ipam(&self) -> Result<Config, Error> {
        let mut config = self.config_for_del()?;
        let Some(ipam) = self.ipam()? else { return Err(wrong("ipam", "it is missing")) };
        if let Some(unknown) =
            ipam.keys().find(|key| !matches!(key.as_str(), "type" | "pool" | "routes" | "runtimeDir"))
        {
            let reason = "there is no such field: `type`, `pool`, `routes` and `runtimeDir` are";
            return Err(wrong(&format!("ipam.{}", clipped(unknown)), reason));
        }
        config.pool = pool(ipam)?;
        config.shares_subnet = true;
        config.routes = match ipam.get("routes") {
            None | Some(Value::Null) => None,
            Some(routes) => Some(
                Vec::deserialize(routes)
                    .map_err(|error| wrong("ipam.routes", format!("it is no list of routes: {error}")))?,
            ),
        };
        Ok(config)
    }

    /// The plugin that addresses come from, if it is not `ipamd`.
    pub(crate) fn delegate(&self) -> Option<&str> {
        let kind = self.fields.get("ipam")?.get("type")?.as_str()?;
        // What is no file's name is refused by ADD, so that there is nothing to delete.
        Some(kind).filter(|kind| *kind != IPAM_TYPE && is_identifier(kind))
    }

    /// The whole text, for a plugin that is delegated to.
    pub(crate) fn text_of_all(&self) -> Vec<u8> {
        Value::Object(self.fields.clone()).to_string().into_bytes()
    }

    /// Whether there is a result of a plugin before, or of ADD.
    pub(crate) fn has_result(&self) -> bool {
        self.fields.get("prevResult").is_some_and(|result| !result.is_null())
    }

    /// All fields.
    pub(crate) const fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Checks what DEL needs. Other faults do not concern it: a pod that could not be attached for them must be
    /// deletable all the same.
    pub(crate) fn config_for_del(&self) -> Result<Config, Error> {
        let name = self.text("name")?.ok_or_else(|| wrong("name", "it is missing: name the network"))?;
        if !is_identifier(name) {
            let rule = "letters, digits, `_`, `.`, `-`, beginning with a letter or a digit";
            return Err(wrong("name", format!("{:?} is not a network's name: {rule}", clipped(name))));
        }
        Ok(Config {
            version: self.version,
            name: name.to_owned(),
            runtime_dir: self.runtime_dir()?,
            mode: Mode::Routed,
            mtu: None,
            pool: None,
            shares_subnet: false,
            dns: Dns::default(),
            routes: None,
            delegate: None,
            extras: Extras::default(),
        })
    }

    fn extras(&self) -> Result<Extras, Error> {
        Ok(Extras {
            ports: ports::read(self.runtime_config("portMappings")?)?,
            bandwidth: shaping::read(self.runtime_config("bandwidth")?)?,
        })
    }

    /// What the runtime gives for a capability. It does so where the configuration declares it, and need not hand the
    /// declaration on (section 3, "Deriving execution configuration"); where it does, what is not declared is not ours:
    /// another plugin of the list has it.
    fn runtime_config(&self, capability: &str) -> Result<&Value, Error> {
        let declared = self.fields.get("capabilities").and_then(Value::as_object);
        if declared.is_some_and(|declared| declared.get(capability) != Some(&Value::Bool(true))) {
            return Ok(&Value::Null);
        }
        match self.fields.get("runtimeConfig") {
            None | Some(Value::Null) => Ok(&Value::Null),
            Some(Value::Object(given)) => Ok(given.get(capability).unwrap_or(&Value::Null)),
            Some(other) => Err(mistyped("runtimeConfig", "an object", other)),
        }
    }

    fn dns(&self) -> Result<Dns, Error> {
        match self.fields.get("dns") {
            None | Some(Value::Null) => Ok(Dns::default()),
            Some(dns) => {
                Dns::deserialize(dns).map_err(|error| wrong("dns", format!("it is no name service: {error}")))
            }
        }
    }

    fn ipam(&self) -> Result<Option<&Map<String, Value>>, Error> {
        match self.fields.get("ipam") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(ipam)) => Ok(Some(ipam).filter(|ipam| !ipam.is_empty())),
            Some(other) => Err(mistyped("ipam", "an object", other)),
        }
    }

    fn text(&self, field: &'static str) -> Result<Option<&str>, Error> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(mistyped(field, "a text", other)),
        }
    }

    fn runtime_dir(&self) -> Result<PathBuf, Error> {
        let of_ipam = self.fields.get("ipam").and_then(|ipam| ipam.get("runtimeDir")).and_then(Value::as_str);
        let path = PathBuf::from(self.text("runtimeDir")?.or(of_ipam).unwrap_or(RUNTIME_DIR));
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(wrong(
                "runtimeDir",
                format!("{path:?} is not an absolute path: write one like {RUNTIME_DIR:?}"),
            ))
        }
    }

    fn mode(&self) -> Result<Mode, Error> {
        match self.text("mode")? {
            None | Some("routed") => {
                for field in ["bridge", "isolation"] {
                    if self.fields.get(field).is_some_and(|value| !value.is_null()) {
                        return Err(wrong(field, "it is of mode \"bridge\": remove it, or set the mode"));
                    }
                }
                Ok(Mode::Routed)
            }
            Some("bridge") => Ok(Mode::Bridge(Bridge { name: self.bridge()?, isolated: self.isolation()? })),
            Some(other) => Err(wrong(
                "mode",
                format!("{:?} is not one of \"routed\" (the default) and \"bridge\"", clipped(other)),
            )),
        }
    }

    fn bridge(&self) -> Result<IfName, Error> {
        let name = clipped(self.text("bridge")?.unwrap_or(BRIDGE));
        match IfName::new(name) {
            Ok(name) if !is_host_veth(name.as_str()) => Ok(name),
            Ok(name) => Err(wrong("bridge", format!("{name} is the name of a pod's link"))),
            Err(error) => Err(wrong("bridge", error.to_string())),
        }
    }

    fn isolation(&self) -> Result<bool, Error> {
        match self.fields.get("isolation") {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(mistyped("isolation", "true or false", other)),
        }
    }

    fn mtu(&self) -> Result<Option<u32>, Error> {
        match self.fields.get("mtu") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => match number.as_u64() {
                // As in the reference plugins: 0 is "not set".
                Some(0) => Ok(None),
                Some(mtu @ MTU_MIN..=MTU_MAX) => Ok(u32::try_from(mtu).ok()),
                _ => Err(wrong("mtu", format!("{number} is not between {MTU_MIN} and {MTU_MAX}"))),
            },
            Some(other) => Err(mistyped("mtu", "a number of bytes", other)),
        }
    }

    fn pool(&self) -> Result<Option<String>, Error> {
        let Some(ipam) = self.ipam()? else { return Ok(None) };
        match ipam.get("type") {
            Some(Value::String(kind)) if kind == IPAM_TYPE => {}
            // Its fields are its own.
            Some(Value::String(kind)) if is_identifier(kind) => return Ok(None),
            other => {
                let found = other.map_or_else(|| "nothing".into(), Value::to_string);
                let remedy = "leave `ipam` out, or name the IPAM plugin";
                return Err(wrong("ipam.type", format!("{} is no plugin: {remedy}", clipped(&found))));
            }
        }
        // Nobody but us adds fields here.
        if let Some(unknown) = ipam.keys().find(|key| !matches!(key.as_str(), "type" | "pool")) {
            return Err(wrong(
                &format!("ipam.{}", clipped(unknown)),
                "there is no such field: `type` and `pool` are",
            ));
        }
        pool(ipam)
    }

    /// The result of the plugin before us in the list.
    pub(crate) fn previous(&self) -> Result<Option<AddResult>, Error> {
        if self.has_result() { self.prev_result().map(Some) } else { Ok(None) }
    }

    /// The result of ADD that CHECK is given.
    pub(crate) fn prev_result(&self) -> Result<AddResult, Error> {
        match self.fields.get("prevResult") {
            None | Some(Value::Null) => Err(wrong(
                "prevResult",
                "CHECK needs the result of ADD: the container runtime has to give it",
            )),
            Some(result) => AddResult::read(result)
                .map_err(|error| wrong("prevResult", format!("it is not a result of ADD: {error}"))),
        }
    }

    /// What GC is to keep: container and interface of each attachment. A runtime that says nothing has none, as the
    /// reference library does (`cnitool gc`).
    pub(crate) fn valid(&self, network: &str) -> Result<Vec<Attachment>, Error> {
        // The second is the key of an earlier text; libcni writes both.
        let given = ["cni.dev/valid-attachments", "cni.dev/attachments"]
            .into_iter()
            .find_map(|key| Some((key, self.fields.get(key).filter(|value| !value.is_null())?)));
        let Some((key, value)) = given else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| mistyped(key, "a list", value))?;
        let attachment = |entry: &Value| {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
            match (text("containerID"), text("ifname")) {
                (Some(container_id), Some(ifname)) => {
                    Ok(Attachment { network: network.to_owned(), container_id, ifname })
                }
                _ => Err(wrong(key, "each entry needs `containerID` and `ifname`")),
            }
        };
        list.iter().map(attachment).collect()
    }

    /// What the pod would silently lack.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), Error> {
        if let Some(value @ Value::Bool(true)) = self.fields.get("ipMasq") {
            let remedy =
                "masquerading is routed's (`[routing] masquerade` in ferrule.toml), remove the field";
            return Err(Error::UnsupportedField { field: "ipMasq", value: value.to_string(), remedy });
        }
        Ok(())
    }

    fn refuse_misspelt(&self) -> Result<(), Error> {
        for key in self.fields.keys() {
            if let Some(ours) = OURS.into_iter().find(|ours| ours != key && looks_like(key, ours)) {
                return Err(wrong(clipped(key), format!("there is no such field: is {ours:?} meant?")));
            }
        }
        Ok(())
    }
}

fn pool(ipam: &Map<String, Value>) -> Result<Option<String>, Error> {
    match ipam.get("pool") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(pool)) if !pool.is_empty() => Ok(Some(pool.clone())),
        Some(other) => Err(mistyped("ipam.pool", "the name of a pool", other)),
    }
}

/// The grammar of container identifiers and network names: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// The first part of a text that somebody else wrote, for a message.
pub(crate) fn clipped(text: &str) -> &str {
    const MAX: usize = 100;
    text.char_indices().nth(MAX).map_or(text, |(end, _)| &text[..end])
}

/// Whether `key` is `ours` in another case or with separators, or one letter away from it.
fn looks_like(key: &str, ours: &str) -> bool {
    if key.len() > 2 * ours.len() {
        return false;
    }
    let plain = |text: &str| -> Vec<char> {
        text.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
    };
    let (a, b) = (plain(key), plain(ours));
    let same_start = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same_start..], &b[same_start..]);
    let same_end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    a.len().max(b.len()) - same_end <= 1
}

pub(crate) fn wrong(field: &str, reason: impl Into<String>) -> Error {
    Error::Config { field: field.to_owned(), reason: reason.into() }
}

pub(crate) fn mistyped(field: &str, expected: &str, found: &Value) -> Error {
    wrong(field, format!("expected {expected}, found {}", kind(found)))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_of_ours_is_told_from_somebody_elses() {
        for (key, ours) in [
            ("runtimedir", "runtimeDir"),
            ("runtime_dir", "runtimeDir"),
            ("runtime-dir", "runtimeDir"),
            ("runtimeDirs", "runtimeDir"),
            ("MTU", "mtu"),
            ("mod", "mode"),
            ("Mode", "mode"),
        ] {
            assert!(looks_like(key, ours), "{key}");
        }
        for key in ["runtimeConfig", "name", "type", "dns", "args", "cniVersion", "metadata", "", "ü"] {
            assert!(!OURS.into_iter().any(|ours| looks_like(key, ours)), "{key}");
        }
    }

    #[test]
    fn the_grammar_of_identifiers_is_the_specifications() {
        for good in ["a", "0", "A.b_c-d", "c0ffee"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", ".a", "_a", "-a", "a b", "a/b", "ä", "a\n"] {
            assert!(!is_identifier(bad), "{bad:?}");
        }
    }
}
