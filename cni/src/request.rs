//! From the environment and standard input to a typed request. Every fault is found here, before anything is done.

use std::ffi::OsString;
use std::io::Read;

use ferrule_model::{Attachment, IfName};
use ferrule_wire::Pod;

use crate::config::{Config, Document, clipped, is_identifier};
use crate::error::Error;
use crate::result::AddResult;
use crate::spec::{Verb, Version};

/// No network configuration with a `prevResult` comes near this.
const STDIN_MAX: u64 = 1 << 20;

/// What the runtime asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// No `CNI_COMMAND`: somebody runs the plugin by hand.
    About,
    /// VERSION.
    Version,
    /// ADD.
    Add(Add),
    /// DEL.
    Del(Del),
    /// CHECK.
    Check(Check),
    /// STATUS.
    Status(Config),
    /// GC.
    Gc(Gc),
}

/// ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// The network.
    pub config: Config,
    /// What is to be attached.
    pub attachment: Attachment,
    /// Name of the interface in the pod.
    pub ifname: IfName,
    /// The pod's namespace.
    pub sandbox: Sandbox,
    /// The pod, if the runtime named it.
    pub pod: Option<Pod>,
}

/// DEL. The namespace may be gone and is not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Del {
    /// The network.
    pub config: Config,
    /// What is to be detached.
    pub attachment: Attachment,
}

/// CHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The network.
    pub config: Config,
    /// What is attached.
    pub attachment: Attachment,
    /// Name of the interface in the pod.
    pub ifname: IfName,
    /// The pod's namespace.
    pub sandbox: Sandbox,
    /// What ADD answered, with the changes of the plugins after it.
    pub result: AddResult,
}

/// GC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gc {
    /// The network.
    pub config: Config,
    /// All its attachments that the runtime knows.
    pub valid: Vec<Attachment>,
}

/// `CNI_NETNS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its path.
    pub path: String,
    /// `CNI_NETNS_OVERRIDE`: it may be our own.
    pub may_be_own: bool,
}

/// A request that cannot be made out, with the version to say so in.
#[derive(Debug)]
pub struct Unreadable {
    /// The caller's version if it is known by then, else the newest.
    pub version: Version,
    /// Why.
    pub error: Error,
}

impl Request {
    /// Reads the environment, and for the verbs that have a configuration standard input.
    ///
    /// # Errors
    /// The first fault: of the environment, then of the JSON, the version, the fields.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>, stdin: impl Read) -> Result<Self, Unreadable> {
        let newest = |error| Unreadable { version: Version::NEWEST, error };
        let Some(verb) = verb(&variable).map_err(newest)? else { return Ok(Self::About) };
        if verb == Verb::Version {
            return Ok(Self::Version);
        }
        let target = Target::read(verb, &variable).map_err(newest)?;
        let document = read_all(stdin).and_then(|text| Document::parse(&text)).map_err(newest)?;
        let version = document.version;
        build(verb, target, &document, &variable).map_err(|error| Unreadable { version, error })
    }
}

/// What the variables name: a container's interface.
struct Target {
    container_id: String,
    ifname: IfName,
    /// Empty if the verb does without.
    netns: String,
}

impl Target {
    /// `None` for verbs that have no target.
    fn read(verb: Verb, variable: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, Error> {
        let mut missing = Vec::new();
        for name in verb.variables() {
            if text(variable, name)?.is_none() {
                missing.push(*name);
            }
        }
        if !missing.is_empty() {
            return Err(Error::MissingVariables { verb, names: missing });
        }
        if verb.variables().is_empty() {
            return Ok(None);
        }
        let needed = |name| Ok(text(variable, name)?.unwrap_or_default());
        let container_id = needed("CNI_CONTAINERID")?;
        if !is_identifier(&container_id) {
            let reason = format!(
                "{:?} is not a container identifier: letters, digits, `_`, `.`, `-`, beginning with a letter or \
                 a digit",
                clipped(&container_id)
            );
            return Err(Error::Variable { name: "CNI_CONTAINERID", reason });
        }
        let ifname = IfName::new(clipped(&needed("CNI_IFNAME")?))
            .map_err(|error| Error::Variable { name: "CNI_IFNAME", reason: error.to_string() })?;
        // DEL does without the namespace, so a broken path must not stop it.
        let netns = if verb == Verb::Del { String::new() } else { needed("CNI_NETNS")? };
        Ok(Some(Self { container_id, ifname, netns }))
    }
}

fn verb(variable: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Verb>, Error> {
    let Some(command) = text(variable, "CNI_COMMAND")? else { return Ok(None) };
    match Verb::parse(&command) {
        Some(verb) => Ok(Some(verb)),
        None => Err(Error::UnknownCommand(clipped(&command).to_owned())),
    }
}

/// The value of a variable; an empty one is none.
fn text(variable: &impl Fn(&str) -> Option<OsString>, name: &'static str) -> Result<Option<String>, Error> {
    match variable(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(_)) => Err(Error::Variable { name, reason: "it is not UTF-8".into() }),
    }
}

fn read_all(stdin: impl Read) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    stdin.take(STDIN_MAX + 1).read_to_end(&mut text).map_err(Error::Stdin)?;
    if text.len() as u64 > STDIN_MAX { Err(Error::TooLong(STDIN_MAX)) } else { Ok(text) }
}

fn build(
    verb: Verb,
    target: Option<Target>,
    document: &Document,
    variable: &impl Fn(&str) -> Option<OsString>,
) -> Result<Request, Error> {
    if document.version < verb.since() {
        return Err(Error::VerbTooNew { verb, found: document.version });
    }
    // Nothing more is looked at for DEL: what ADD refused has to be deletable.
    let config = if verb == Verb::Del { document.config_for_del()? } else { document.config()? };
    let Some(Target { container_id, ifname, netns }) = target else {
        return Ok(match verb {
            Verb::Gc => Request::Gc(Gc { valid: document.valid(&config.name)?, config }),
            _ => Request::Status(config),
        });
    };
    let attachment = Attachment { network: config.name.clone(), container_id, ifname: ifname.to_string() };
    if verb == Verb::Del {
        return Ok(Request::Del(Del { config, attachment }));
    }
    let may_be_own = text(variable, "CNI_NETNS_OVERRIDE")?.is_some_and(|text| is_true(&text));
    let sandbox = Sandbox { path: netns, may_be_own };
    if verb == Verb::Check {
        let result = document.prev_result()?;
        return Ok(Request::Check(Check { config, attachment, ifname, sandbox, result }));
    }
    document.refuse_unsupported()?;
    let pod = pod(&text(variable, "CNI_ARGS")?.unwrap_or_default())?;
    Ok(Request::Add(Add { config, attachment, ifname, sandbox, pod }))
}

fn is_true(text: &str) -> bool {
    text == "1" || text.eq_ignore_ascii_case("true")
}

/// The pod that `CNI_ARGS` names: `KEY=VALUE` pairs joined by semicolons. Unknown keys are refused unless `IgnoreUnknown`
/// is set (the conventions' section on CNI_ARGS).
fn pod(arguments: &str) -> Result<Option<Pod>, Error> {
    let wrong = |reason| Error::Variable { name: "CNI_ARGS", reason };
    let mut unknown = Vec::new();
    let mut ignore_unknown = false;
    let mut pod = Pod { namespace: String::new(), name: String::new(), uid: String::new() };
    for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| wrong(format!("{:?} is not of the form KEY=VALUE", clipped(pair))))?;
        match key {
            "IgnoreUnknown" => ignore_unknown = is_true(value),
            "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
            "K8S_POD_NAME" => value.clone_into(&mut pod.name),
            "K8S_POD_UID" => value.clone_into(&mut pod.uid),
            "K8S_POD_INFRA_CONTAINER_ID" => {}
            other => unknown.push(clipped(other)),
        }
    }
    if !unknown.is_empty() && !ignore_unknown {
        return Err(wrong(format!("unknown keys {} (IgnoreUnknown=1 lets them pass)", unknown.join(", "))));
    }
    Ok(Some(pod).filter(|pod| !pod.name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_read_from_the_arguments() {
        let found =
            pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;X=y;K8S_POD_UID=7").unwrap();
        let expected = Pod { namespace: "shop".into(), name: "web-0".into(), uid: "7".into() };
        assert_eq!(found, Some(expected));
        assert_eq!(pod("").unwrap(), None);
        assert_eq!(pod("IgnoreUnknown=true;A=b;;").unwrap(), None);
    }

    #[test]
    fn unknown_and_broken_arguments_are_refused() {
        for arguments in ["A=b", "IgnoreUnknown=0;A=b", "K8S_POD_NAME", "=;"] {
            let error = pod(arguments).unwrap_err();
            assert_eq!(error.code(), 4, "{arguments}");
            assert!(error.to_string().contains("CNI_ARGS"), "{error}");
        }
    }
}
