//! What the runtime wants for one attachment beyond the network's configuration. It may say so in three places:
//! capabilities (`runtimeConfig`), `args.cni` and `CNI_ARGS`. The first of them that says something counts (the
//! conventions).

use std::net::IpAddr;

use ferrule_model::json::field;
use ferrule_model::{Identifier, IpNetwork, Mac};
use ferrule_wire::messages::{AddressRange, Pod};
use serde_json::{Map, Value};

use crate::edge::error::Error;
use crate::edge::fields::{clipped, mistyped, only, wrong};
use crate::edge::result::Dns;

/// The annotations of the pod. The runtime gives them if the network's list declares this capability.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// The capabilities that a network's configuration can declare, so that the runtime gives them.
pub(crate) const CAPABILITIES: [&str; 8] =
    ["portMappings", "bandwidth", "ips", "mac", "ipRanges", "dns", "aliases", ANNOTATIONS];
/// Annotation with the pool to take addresses from.
const POOL: &str = "ferrule.io/pool";
/// Annotation with addresses, separated by commas.
const ADDRESSES: &str = "ferrule.io/ips";

/// Wishes for one attachment. An empty field means no wish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Ethernet address of the pod's end.
    pub mac: Option<Mac>,
    /// Exactly these addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Only addresses inside these ranges.
    pub ranges: Vec<AddressRange>,
    /// A pool in place of the configuration's.
    pub pool: Option<String>,
    /// Name service.
    pub dns: Option<Dns>,
    /// Names of the pod within its network.
    pub aliases: Vec<String>,
}

/// `CNI_ARGS`: `KEY=VALUE` pairs joined by semicolons.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The pod, if it has a name.
    pub(crate) pod: Option<Pod>,
    ip: Option<String>,
    mac: Option<String>,
}

impl Arguments {
    /// Refuses unknown keys unless `IgnoreUnknown` is set (the conventions' section on CNI_ARGS).
    pub(crate) fn parse(arguments: &str) -> Result<Self, Error> {
        let fault = |reason| Error::Variable { name: "CNI_ARGS", reason };
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        let mut pod = Pod { namespace: String::new(), name: String::new(), uid: String::new() };
        let mut found = Self::default();
        for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| fault(format!("{:?} is not of the form KEY=VALUE", clipped(pair))))?;
            match key {
                "IgnoreUnknown" => ignore_unknown = is_true(value),
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                "K8S_POD_UID" => value.clone_into(&mut pod.uid),
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IP" => found.ip = Some(value.to_owned()),
                "MAC" => found.mac = Some(value.to_owned()),
                other => unknown.push(clipped(other)),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            let keys = unknown.join(", ");
            return Err(fault(format!("unknown keys {keys} (IgnoreUnknown=1 lets them pass)")));
        }
        for (key, value) in [("NAMESPACE", &pod.namespace), ("NAME", &pod.name), ("UID", &pod.uid)] {
            clean(value).map_err(|reason| fault(format!("K8S_POD_{key} {:?}: {reason}", clipped(value))))?;
        }
        found.pod = Some(pod).filter(|pod| !pod.name.is_empty());
        Ok(found)
    }
}

/// Checks whether a name can be written into a lease, a log and an alias. If not, the error says why.
pub(crate) fn clean(name: &str) -> Result<(), String> {
    if name.len() > Identifier::MAX_LEN {
        return Err(format!("it has {} bytes, and at most {} are possible", name.len(), Identifier::MAX_LEN));
    }
    if name.contains(char::is_control) {
        return Err("it has a control character in it".to_owned());
    }
    Ok(())
}

/// Whether the text means "true" in the spelling of the conventions and of the reference library.
pub(crate) fn is_true(text: &str) -> bool {
    text == "1" || text.eq_ignore_ascii_case("true")
}

impl Wanted {
    /// Reads all three places.
    pub(crate) fn read(fields: &Map<String, Value>, arguments: &Arguments) -> Result<Self, Error> {
        let empty = Map::new();
        let runtime = object(fields, "runtimeConfig", "runtimeConfig")?.unwrap_or(&empty);
        let args = object(fields, "args", "args")?.unwrap_or(&empty);
        let args = object(args, "cni", "args.cni")?.unwrap_or(&empty);
        let annotations = object(runtime, ANNOTATIONS, ANNOTATIONS)?;
        let annotation = |key: &str| annotations?.get(key)?.as_str().filter(|text| !text.is_empty());
        let addresses = match (field(runtime, "ips"), field(args, "ips")) {
            (Some(ips), _) => addresses("runtimeConfig.ips", &texts("runtimeConfig.ips", ips)?)?,
            (None, Some(ips)) => addresses("args.cni.ips", &texts("args.cni.ips", ips)?)?,
            _ => match (annotation(ADDRESSES), &arguments.ip) {
                (Some(list), _) => addresses(ADDRESSES, &split(list))?,
                (None, Some(list)) => addresses("CNI_ARGS: IP", &split(list))?,
                (None, None) => Vec::new(),
            },
        };
        let mac = match (text(runtime, "runtimeConfig", "mac")?, text(args, "args.cni", "mac")?) {
            (Some(text), _) => Some(mac("runtimeConfig.mac", text)?),
            (None, Some(text)) => Some(mac("args.cni.mac", text)?),
            (None, None) => arguments.mac.as_ref().map(|text| mac("CNI_ARGS: MAC", text)).transpose()?,
        };
        Ok(Self {
            mac,
            addresses,
            ranges: ranges(runtime)?,
            pool: annotation(POOL).map(|pool| named(POOL, pool)).transpose()?,
            dns: dns(runtime)?,
            aliases: match field(runtime, "aliases") {
                None => Vec::new(),
                Some(aliases) => {
                    let names = texts("runtimeConfig.aliases", aliases)?;
                    names.iter().map(|name| named("runtimeConfig.aliases", name)).collect::<Result<_, _>>()?
                }
            },
        })
    }
}

fn named(field: &str, name: &str) -> Result<String, Error> {
    clean(name).map_err(|reason| wrong(field, format!("{:?}: {reason}", clipped(name))))?;
    Ok(name.to_owned())
}

fn object<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
    name: &str,
) -> Result<Option<&'a Map<String, Value>>, Error> {
    match field(fields, key) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(mistyped(name, "an object", other)),
    }
}

fn text<'a>(fields: &'a Map<String, Value>, of: &str, key: &str) -> Result<Option<&'a str>, Error> {
    match field(fields, key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty()).map(String::as_str)),
        Some(other) => Err(mistyped(&format!("{of}.{key}"), "a text", other)),
    }
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, Error> {
    let list = value.as_array().ok_or_else(|| mistyped(name, "a list", value))?;
    let text =
        |entry: &Value| entry.as_str().map(str::to_owned).ok_or_else(|| mistyped(name, "texts", entry));
    list.iter().map(text).collect()
}

fn split(list: &str) -> Vec<String> {
    list.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// Reads addresses with or without a prefix length. The length is ignored, because the pool says it.
fn addresses(name: &str, list: &[String]) -> Result<Vec<IpAddr>, Error> {
    let address = |text: &String| {
        let parsed = text.parse::<IpNetwork>().map(|network| network.ip().to_canonical());
        parsed.map_err(|_| wrong(name, format!("{:?} is not an address", clipped(text))))
    };
    let found = list.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    for v6 in [false, true] {
        if found.iter().filter(|address| address.is_ipv6() == v6).count() > 1 {
            return Err(wrong(name, "there is more than one address of a family in it"));
        }
    }
    Ok(found)
}

fn mac(name: &str, text: &str) -> Result<Mac, Error> {
    let parsed = text.to_ascii_lowercase().replace('-', ":").parse::<Mac>();
    let mac = parsed.map_err(|_| wrong(name, format!("{:?} is not an Ethernet address", clipped(text))))?;
    // The rule is that of `is_valid_ether_addr` in the kernel.
    if mac.octets()[0] & 1 == 1 || mac.octets() == [0; 6] {
        return Err(wrong(name, format!("{mac} is no single device's address")));
    }
    Ok(mac)
}

/// Reads `ipRanges`: sets of ranges. Each range is a subnet, possibly with a first and a last address. The caller
/// cannot choose the gateway.
fn ranges(runtime: &Map<String, Value>) -> Result<Vec<AddressRange>, Error> {
    const NAME: &str = "runtimeConfig.ipRanges";
    let Some(sets) = field(runtime, "ipRanges") else { return Ok(Vec::new()) };
    let list =
        |value: &Value| value.as_array().cloned().ok_or_else(|| mistyped(NAME, "a list of lists", value));
    let mut found = Vec::new();
    for set in list(sets)? {
        for range in list(&set)? {
            let range = range.as_object().ok_or_else(|| mistyped(NAME, "an object", &range))?;
            only(range, NAME, &["subnet", "rangeStart", "rangeEnd", "gateway"])?;
            let subnet = text(range, NAME, "subnet")?.and_then(|text| text.parse::<IpNetwork>().ok());
            let subnet = subnet.ok_or_else(|| wrong(NAME, "each range needs a `subnet`"))?;
            let end = |key, otherwise: IpAddr| match text(range, NAME, key)? {
                None => Ok(otherwise),
                Some(text) => match text.parse::<IpAddr>() {
                    Ok(address) if subnet.contains(address) => Ok(address),
                    _ => Err(wrong(NAME, format!("{key} {:?} is not in {subnet}", clipped(text)))),
                },
            };
            let first = end("rangeStart", subnet.network())?;
            let last = end("rangeEnd", subnet.broadcast())?;
            if first > last {
                return Err(wrong(NAME, format!("{first} comes after {last}")));
            }
            found.push(AddressRange { first, last });
        }
    }
    Ok(found)
}

fn dns(runtime: &Map<String, Value>) -> Result<Option<Dns>, Error> {
    let Some(dns) = object(runtime, "dns", "runtimeConfig.dns")? else { return Ok(None) };
    only(dns, "runtimeConfig.dns", &["servers", "searches", "options"])?;
    let list = |key: &str| match field(dns, key) {
        None => Ok(Vec::new()),
        Some(value) => texts(&format!("runtimeConfig.dns.{key}"), value),
    };
    let (nameservers, search, options) = (list("servers")?, list("searches")?, list("options")?);
    Ok(Some(Dns { nameservers, domain: None, search, options }).filter(|dns| *dns != Dns::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted(fields: &Value, arguments: &str) -> Result<Wanted, Error> {
        Wanted::read(fields.as_object().unwrap(), &Arguments::parse(arguments)?)
    }

    #[test]
    fn the_pod_is_read_from_the_arguments() {
        let pod = |text: &str| Arguments::parse(text).unwrap().pod;
        let found = pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;X=y;K8S_POD_UID=7");
        let expected = Pod { namespace: "shop".into(), name: "web-0".into(), uid: "7".into() };
        assert_eq!(found, Some(expected));
        assert_eq!(pod(""), None);
        assert_eq!(pod("IgnoreUnknown=true;A=b;;"), None);
    }

    #[test]
    fn unknown_and_broken_arguments_are_refused() {
        for arguments in ["A=b", "IgnoreUnknown=0;A=b", "K8S_POD_NAME", "=;"] {
            let error = Arguments::parse(arguments).unwrap_err();
            assert_eq!(error.code(), 4, "{arguments}");
            assert!(error.to_string().contains("CNI_ARGS"), "{error}");
        }
    }

    #[test]
    fn capabilities_come_before_args_and_those_before_cni_args() {
        let arguments = "IP=10.0.0.3,fd00::3;MAC=02:00:00:00:00:03";
        let mut fields = json!({});
        let of = |fields: &Value| {
            let found = wanted(fields, arguments).unwrap();
            (found.addresses[0].to_string(), found.mac.unwrap().octets()[5])
        };
        assert_eq!(of(&fields), ("10.0.0.3".into(), 3));
        fields["args"] =
            json!({ "cni": { "ips": ["10.0.0.2/24"], "mac": "02-00-00-00-00-02", "labels": [] } });
        assert_eq!(of(&fields), ("10.0.0.2".into(), 2));
        fields["runtimeConfig"] = json!({ "ips": ["10.0.0.1/24", "fd00::1/64"], "mac": "02:00:00:00:00:01" });
        assert_eq!(of(&fields), ("10.0.0.1".into(), 1));
    }

    #[test]
    fn annotations_name_pool_and_addresses() {
        let annotations = json!({ POOL: "blue", ADDRESSES: "10.0.0.9, fd00::9", "other": "x" });
        let found = wanted(&json!({ "runtimeConfig": { ANNOTATIONS: annotations } }), "").unwrap();
        assert_eq!(found.pool.as_deref(), Some("blue"));
        assert_eq!(found.addresses, ["10.0.0.9".parse::<IpAddr>().unwrap(), "fd00::9".parse().unwrap()]);
    }

    #[test]
    fn a_range_is_the_subnet_or_a_part_of_it() {
        let sets =
            json!([[{ "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.10" }], [{ "subnet": "fd00::/126" }]]);
        let found = wanted(&json!({ "runtimeConfig": { "ipRanges": sets } }), "").unwrap().ranges;
        let texts: Vec<_> = found.iter().map(|range| format!("{} {}", range.first, range.last)).collect();
        assert_eq!(texts, ["10.0.0.10 10.0.0.255", "fd00:: fd00::3"]);
    }

    #[test]
    fn a_wish_that_cannot_be_read_is_named() {
        for (runtime, name) in [
            (json!({ "ips": "10.0.0.1" }), "runtimeConfig.ips"),
            (json!({ "ips": ["10.0.0.1", "10.0.0.2"] }), "more than one"),
            (json!({ "mac": "01:00:5e:00:00:01" }), "no single device"),
            (json!({ "mac": "x" }), "runtimeConfig.mac"),
            (json!({ "dns": { "servers": "1.1.1.1" } }), "runtimeConfig.dns.servers"),
            (json!({ "aliases": [1] }), "runtimeConfig.aliases"),
            (json!({ "ipRanges": [{}] }), "runtimeConfig.ipRanges"),
            (json!({ "ipRanges": [[{ "subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.1" }]] }), "is not in"),
            (json!({ ANNOTATIONS: [] }), ANNOTATIONS),
        ] {
            let error = wanted(&json!({ "runtimeConfig": runtime }), "").unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(error.to_string().contains(name), "{error}");
        }
        let error = wanted(&json!({ "runtimeConfig": 1 }), "").unwrap_err();
        assert_eq!(error.code(), 7);
    }
}
