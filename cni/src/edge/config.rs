//! The network configuration on standard input, from JSON to checked types.
//!
//! Runtimes and libraries add fields of their own. So unknown fields are left alone, unless one looks like a misspelt
//! field of ours.

use std::ffi::OsString;
use std::path::PathBuf;

use ferrule_model::json::{field, in_words, is_name, is_unset, named};
use ferrule_model::{Attachment, Identifier, IdentifierError, IfName};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::edge::bandwidth::{self, Bandwidth};
use crate::edge::error::Error;
use crate::edge::fields::{clipped, kind, mistyped, unknown, wrong};
use crate::edge::mappings::{self, PortMapping};
use crate::edge::result::{AddResult, Dns, Route};
use crate::edge::spec::Version;
use crate::edge::wanted::CAPABILITIES;

/// The runtime directory of `ipamd`, unless the configuration names another.
const RUNTIME_DIR: &str = "/run/ferrule";
/// The fields that are ours alone. `ipam` is not among them, because all plugins share it.
const OURS: [&str; 5] = ["runtimeDir", "mode", "mtu", "bridge", "isolation"];
/// The bridge of mode `bridge` unless the configuration names another.
const BRIDGE: &str = "ferrule0";
/// The least MTU that IPv6 demands of every link (RFC 8200, section 5).
const MTU_MIN: u64 = 1280;
/// `ETH_MAX_MTU`, the greatest MTU of a veth.
const MTU_MAX: u64 = 65535;
/// The plugin type in `ipam` that stands for `ipamd`.
const IPAM_TYPE: &str = "ferrule-ipam";
/// The fields of `dns`, and those of a route.
const PARTS: [&str; 11] = [
    "nameservers",
    "domain",
    "search",
    "options",
    "dst",
    "gw",
    "mtu",
    "advmss",
    "priority",
    "table",
    "scope",
];

/// The configuration of the network, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The version of the specification in which the plugin answers.
    pub version: Version,
    /// Name of the network.
    pub name: String,
    /// Where `ipamd`'s socket and the queue of releases are.
    pub runtime_dir: PathBuf,
    /// How pods are attached.
    pub mode: Mode,
    /// MTU of the pod's interface in bytes. `None` means what `ipamd` says.
    pub mtu: Option<u32>,
    /// Name of the pool to take addresses from. `None` means the node's first pool.
    pub pool: Option<String>,
    /// Whether the pods share a link with their subnet and its gateway. Otherwise a pod has only its own addresses on
    /// the link.
    pub shares_subnet: bool,
    /// Name service for the result.
    pub dns: Dns,
    /// Routes for the result of `ferrule-ipam`. `None` means that everything goes by the gateway.
    pub routes: Option<Vec<Route>>,
    /// The plugin that gives the addresses. `None` means `ipamd`.
    pub delegate: Option<Delegate>,
    /// Host ports and bandwidth.
    pub extras: Extras,
}

/// How pods are attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Each pod by itself, with routes.
    Routed,
    /// All pods on one bridge.
    Bridge(Bridge),
}

/// The bridge of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: IfName,
    /// Whether pods are kept from each other. They still reach the node and what is behind it.
    pub isolated: bool,
}

/// What the runtime asks for in addition to the link: host ports and a limited bandwidth.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras {
    /// `runtimeConfig.portMappings`.
    pub ports: Vec<PortMapping>,
    /// `runtimeConfig.bandwidth`.
    pub bandwidth: Bandwidth,
}

impl Extras {
    /// Whether nothing is asked for.
    pub const fn is_none(&self) -> bool {
        self.ports.is_empty() && self.bandwidth.is_none()
    }
}

/// The IPAM plugin that `ipam.type` names, with what it is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    /// The name of its file.
    pub plugin: String,
    /// `CNI_PATH`, in which it is looked for.
    pub path: Option<OsString>,
    /// The other CNI variables that we were given.
    pub variables: Vec<(&'static str, OsString)>,
    /// The whole configuration.
    pub stdin: Vec<u8>,
    /// Whether the runtime handed over a result of ADD, which means that the plugin holds something.
    pub has_result: bool,
}

impl Config {
    /// Path of the socket of `ipamd`.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join(ferrule_wire::SOCKET_NAME)
    }
}

/// A network configuration that is JSON and has a version that the plugin speaks.
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
        let version = match field(&fields, "cniVersion") {
            // A configuration without a version is of 0.1.0 (section 1 of the specification's older texts). The
            // reference library reads an empty text in the same way.
            None => Version::OLDEST,
            Some(Value::String(text)) if text.is_empty() => Version::OLDEST,
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
            ..self.config_with_names()?
        })
    }

    /// Reads what DEL needs. Names are checked as well.
    fn config_with_names(&self) -> Result<Config, Error> {
        let config = self.config_for_del()?;
        Identifier::new(config.name.as_str()).map_err(|error| no_network(&config.name, error))?;
        let (path, most) = (config.socket(), ferrule_wire::SOCKET_PATH_MAX);
        let length = path.as_os_str().len();
        if length > most {
            let reason = format!(
                "its socket would be {}, of {length} bytes, and at most {most} are possible",
                path.display()
            );
            return Err(wrong("runtimeDir", reason));
        }
        Ok(config)
    }

    /// Reads what `ferrule-ipam` needs. Everything outside of `ipam` concerns only the plugin that calls it.
    pub(crate) fn config_for_ipam(&self) -> Result<Config, Error> {
        let mut config = self.config_with_names()?;
        let Some(ipam) = self.ipam()? else { return Err(wrong("ipam", "it is missing")) };
        if let Some(unknown) = unknown(ipam, &["type", "pool", "routes", "runtimeDir"]) {
            let reason = "there is no such field: `type`, `pool`, `routes` and `runtimeDir` are";
            return Err(wrong(&format!("ipam.{}", clipped(unknown)), reason));
        }
        config.pool = pool(ipam)?;
        config.shares_subnet = true;
        config.routes = field(ipam, "routes")
            .map(|routes| parts(routes, "ipam.routes", "it is no list of routes"))
            .transpose()?;
        Ok(config)
    }

    /// The plugin that gives the addresses, if it is not `ipamd`.
    pub(crate) fn delegate(&self) -> Option<&str> {
        let kind = field(self.get("ipam")?.as_object()?, "type")?.as_str()?;
        // ADD refuses a type that cannot be the name of a file, so such a plugin holds nothing that DEL could give
        // back.
        Some(kind).filter(|kind| *kind != IPAM_TYPE && Identifier::new(*kind).is_ok())
    }

    /// The whole text, for a plugin that this one executes.
    pub(crate) fn text_of_all(&self) -> Vec<u8> {
        Value::Object(self.fields.clone()).to_string().into_bytes()
    }

    /// Whether there is a result, either of the plugin before this one or of ADD.
    pub(crate) fn has_result(&self) -> bool {
        self.get("prevResult").is_some()
    }

    /// The value of a field. Its name is matched as Go does.
    fn get(&self, name: &str) -> Option<&Value> {
        field(&self.fields, name)
    }

    /// All fields.
    pub(crate) const fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Checks what DEL needs. DEL ignores other faults: a pod that could not be attached because of them must still be
    /// deletable.
    pub(crate) fn config_for_del(&self) -> Result<Config, Error> {
        let name = self.text("name")?.ok_or_else(|| wrong("name", "it is missing: name the network"))?;
        if !Identifier::is_spelt_well(name) {
            return Err(no_network(name, IdentifierError::Grammar));
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
            ports: mappings::read(self.runtime_config("portMappings")?)?,
            bandwidth: bandwidth::read(self.runtime_config("bandwidth")?)?,
        })
    }

    /// What the runtime gives for a capability. The runtime gives it where the configuration declares the capability,
    /// but it need not hand that declaration on (section 3, "Deriving execution configuration"). Where it does, a
    /// capability that is not declared is not for us: another plugin of the list has declared it.
    fn runtime_config(&self, capability: &str) -> Result<&Value, Error> {
        if !self.is_declared(capability) {
            return Ok(&Value::Null);
        }
        match self.get("runtimeConfig") {
            None => Ok(&Value::Null),
            Some(Value::Object(given)) => Ok(field(given, capability).unwrap_or(&Value::Null)),
            Some(other) => Err(mistyped("runtimeConfig", "an object", other)),
        }
    }

    /// Whether the runtime gives this capability to us.
    fn is_declared(&self, capability: &str) -> bool {
        let declared = self.get("capabilities").and_then(Value::as_object);
        declared.is_none_or(|declared| declared.get(capability) == Some(&Value::Bool(true)))
    }

    /// Refuses a capability that the plugin does not have. If it were ignored, the pod would lack it.
    fn refuse_unknown_capabilities(&self) -> Result<(), Error> {
        let Some(given) = self.get("runtimeConfig").and_then(Value::as_object) else { return Ok(()) };
        let is_known = |key: &str| CAPABILITIES.iter().any(|name| is_name(key, name));
        let unknown =
            given.iter().find(|(key, value)| !is_known(key) && !is_unset(value) && self.is_declared(key));
        let Some((key, _)) = unknown else { return Ok(()) };
        let known = CAPABILITIES.join(", ");
        let reason = format!(
            "the plugin does not have this capability, which the network configuration declares: remove it from \
             \"capabilities\" (known are {known})"
        );
        Err(wrong(&format!("runtimeConfig.{}", clipped(key)), reason))
    }

    fn dns(&self) -> Result<Dns, Error> {
        self.get("dns").map_or_else(|| Ok(Dns::default()), |dns| parts(dns, "dns", "it is no name service"))
    }

    fn ipam(&self) -> Result<Option<&Map<String, Value>>, Error> {
        match self.get("ipam") {
            None => Ok(None),
            Some(Value::Object(ipam)) => Ok(Some(ipam).filter(|ipam| !ipam.is_empty())),
            Some(other) => Err(mistyped("ipam", "an object", other)),
        }
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(mistyped(name, "a text", other)),
        }
    }

    fn runtime_dir(&self) -> Result<PathBuf, Error> {
        let ipam = self.get("ipam").and_then(Value::as_object);
        let of_ipam = ipam.and_then(|ipam| field(ipam, "runtimeDir")).and_then(Value::as_str);
        let given = self.text("runtimeDir")?.filter(|path| !path.is_empty()).or(of_ipam);
        let path = PathBuf::from(given.filter(|path| !path.is_empty()).unwrap_or(RUNTIME_DIR));
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
            None | Some("" | "routed") => {
                for name in ["bridge", "isolation"] {
                    if self.get(name).is_some_and(|value| !is_unset(value)) {
                        return Err(wrong(name, "it is of mode \"bridge\": remove it, or set the mode"));
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
        let name = self.text("bridge")?.filter(|name| !name.is_empty()).unwrap_or(BRIDGE);
        let name = clipped(name);
        let name = IfName::new(name).map_err(|error| wrong("bridge", error.to_string()))?;
        if name.is_of_pods() {
            return Err(wrong("bridge", format!("{name} is the name of a pod's link: choose another name")));
        }
        if name.is_of_tunnels() {
            let reason = format!(
                "{name} is the name of a tunnel, which could not be made any more: choose another name"
            );
            return Err(wrong("bridge", reason));
        }
        Ok(name)
    }

    fn isolation(&self) -> Result<bool, Error> {
        match self.get("isolation") {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(mistyped("isolation", "true or false", other)),
        }
    }

    fn mtu(&self) -> Result<Option<u32>, Error> {
        match self.get("mtu") {
            None => Ok(None),
            Some(Value::Number(number)) => match number.as_u64() {
                // 0 means "not set", as in the reference plugins.
                Some(0) => Ok(None),
                Some(mtu @ MTU_MIN..=MTU_MAX) => Ok(u32::try_from(mtu).ok()),
                _ => Err(wrong("mtu", format!("{number} is not between {MTU_MIN} and {MTU_MAX}"))),
            },
            Some(other) => Err(mistyped("mtu", "a number of bytes", other)),
        }
    }

    fn pool(&self) -> Result<Option<String>, Error> {
        let Some(ipam) = self.ipam()? else { return Ok(None) };
        match field(ipam, "type") {
            Some(Value::String(kind)) if kind == IPAM_TYPE => {}
            // Another plugin's fields are its own business.
            Some(Value::String(kind)) if Identifier::new(kind.as_str()).is_ok() => return Ok(None),
            other => {
                let found = other.map_or_else(|| "nothing".into(), Value::to_string);
                let remedy = "leave `ipam` out, or name the IPAM plugin";
                return Err(wrong("ipam.type", format!("{} is no plugin: {remedy}", clipped(&found))));
            }
        }
        // Nobody but us has fields here.
        if let Some(unknown) = unknown(ipam, &["type", "pool"]) {
            return Err(wrong(
                &format!("ipam.{}", clipped(unknown)),
                "there is no such field: `type` and `pool` are",
            ));
        }
        pool(ipam)
    }

    /// The result of the plugin before this one in the list.
    pub(crate) fn previous(&self) -> Result<Option<AddResult>, Error> {
        if self.has_result() { self.prev_result().map(Some) } else { Ok(None) }
    }

    /// The result of ADD, which CHECK is given.
    pub(crate) fn prev_result(&self) -> Result<AddResult, Error> {
        match self.get("prevResult") {
            None => Err(wrong(
                "prevResult",
                "CHECK needs the result of ADD: the container runtime has to give it",
            )),
            Some(result) => AddResult::read(result)
                .map_err(|reason| wrong("prevResult", format!("it is not a result of ADD: {reason}"))),
        }
    }

    /// The attachments that GC keeps, each by container and interface. A Go program writes null for an empty list, so
    /// null means that there are none. A runtime that leaves the field out (`cnitool gc`) would have everything
    /// removed.
    pub(crate) fn valid(&self, network: &str) -> Result<Vec<Attachment>, Error> {
        // The second name is that of an earlier text of the specification. libcni writes both.
        const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let Some((key, value)) = KEYS.into_iter().find_map(|key| Some((key, self.get(key)?))) else {
            if self.fields.keys().any(|key| KEYS.iter().any(|name| is_name(key, name))) {
                return Ok(Vec::new());
            }
            let reason = "it is missing, and without it GC would remove every pod of the network: the container runtime \
                          has to list the attachments that live ([] if there are none)";
            return Err(wrong(KEYS[0], reason));
        };
        let list = value.as_array().ok_or_else(|| mistyped(key, "a list", value))?;
        let attachment = |entry: &Value| {
            let text = |name: &str| field(entry.as_object()?, name)?.as_str().map(str::to_owned);
            match (text("containerID"), text("ifname")) {
                (Some(container_id), Some(ifname)) => {
                    Ok(Attachment { network: network.to_owned(), container_id, ifname })
                }
                _ => Err(wrong(key, "each entry needs `containerID` and `ifname`")),
            }
        };
        list.iter().map(attachment).collect()
    }

    /// Refuses what the plugin cannot do and the pod would silently lack.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), Error> {
        self.refuse_unknown_capabilities()?;
        if let Some(value @ Value::Bool(true)) = self.get("ipMasq") {
            let remedy =
                "masquerading is routed's (`[routing] masquerade` in ferrule.toml), remove the field";
            return Err(Error::UnsupportedField { field: "ipMasq", value: value.to_string(), remedy });
        }
        Ok(())
    }

    fn refuse_misspelt(&self) -> Result<(), Error> {
        for key in self.fields.keys() {
            if OURS.iter().any(|ours| is_name(key, ours)) {
                continue;
            }
            if let Some(ours) = OURS.into_iter().find(|ours| looks_like(key, ours)) {
                return Err(wrong(clipped(key), format!("there is no such field: is {ours:?} meant?")));
            }
        }
        Ok(())
    }
}

fn pool(ipam: &Map<String, Value>) -> Result<Option<String>, Error> {
    match field(ipam, "pool") {
        None => Ok(None),
        Some(Value::String(pool)) if pool.is_empty() => Ok(None),
        Some(Value::String(pool)) => match crate::edge::wanted::clean(pool) {
            Ok(()) => Ok(Some(pool.clone())),
            Err(reason) => {
                Err(wrong("ipam.pool", format!("{:?} cannot be a pool's name: {reason}", clipped(pool))))
            }
        },
        Some(other) => Err(mistyped("ipam.pool", "the name of a pool", other)),
    }
}

/// Reads a value into a type that derives `Deserialize`, as Go would read it.
fn parts<T: DeserializeOwned>(value: &Value, name: &str, fault: &str) -> Result<T, Error> {
    let mut value = value.clone();
    named(&mut value, &PARTS);
    let read = serde_json::from_value(value);
    read.map_err(|error| wrong(name, format!("{fault}: {}", in_words(&error.to_string(), "an object"))))
}

fn no_network(name: &str, error: IdentifierError) -> Error {
    wrong("name", format!("{:?} is not a network's name: {error}", clipped(name)))
}

/// Whether `key` is `ours` in another case, with other separators, or with one letter wrong.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_of_ours_is_told_from_somebody_elses() {
        for (key, ours) in [
            ("runtime_dir", "runtimeDir"),
            ("runtime-dir", "runtimeDir"),
            ("runtimeDirs", "runtimeDir"),
            ("mod", "mode"),
        ] {
            assert!(looks_like(key, ours), "{key}");
        }
        for key in ["runtimeConfig", "name", "type", "dns", "args", "cniVersion", "metadata", "", "ü"] {
            assert!(!OURS.into_iter().any(|ours| looks_like(key, ours)), "{key}");
        }
    }
}
