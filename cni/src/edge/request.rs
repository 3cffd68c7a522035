//! Reads the environment and standard input into a typed request. It finds every fault before anything is done.

use std::ffi::OsString;
use std::io::Read;

use ferrule_model::{Attachment, Identifier, IdentifierError, IfName};
use ferrule_wire::messages::Pod;

use crate::edge::config::{Config, Delegate, Document};
use crate::edge::error::Error;
use crate::edge::fields::clipped;
use crate::edge::result::AddResult;
use crate::edge::spec::{Verb, Version};
use crate::edge::wanted::{Arguments, Wanted, is_true};

/// Most bytes of standard input. Even a network configuration with a `prevResult` is far smaller.
const STDIN_MAX: u64 = 1 << 20;

/// The two names under which the program is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// `ferrule`: attaches pods.
    Network,
    /// `ferrule-ipam`: gives addresses to other plugins, which attach pods.
    Ipam,
}

/// What the runtime asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Invocation {
    /// There is no `CNI_COMMAND`: a person runs the plugin by hand.
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
    /// What the runtime wants beyond the configuration.
    pub wanted: Wanted,
    /// The result of the plugin before this one in the list.
    pub previous: Option<AddResult>,
}

/// DEL. It does not ask for the namespace, which may be gone.
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
    /// The path.
    pub path: String,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the plugin's own.
    pub may_be_own: bool,
}

/// A request with a fault, and the version in which the fault is reported.
#[derive(Debug)]
pub struct Unreadable {
    /// The caller's version if it is known by then, else the newest version.
    pub version: Version,
    /// The fault.
    pub error: Error,
}

impl Invocation {
    /// Reads the environment. For the verbs that have a configuration, reads standard input too.
    ///
    /// # Errors
    /// The first fault. The order is: environment, JSON, version, fields.
    pub fn read(
        face: Face,
        variable: impl Fn(&str) -> Option<OsString>,
        stdin: impl Read,
    ) -> Result<Self, Unreadable> {
        let newest = |error| Unreadable { version: Version::NEWEST, error };
        let Some(verb) = verb(&variable).map_err(newest)? else { return Ok(Self::About) };
        if verb == Verb::Version {
            return Ok(Self::Version);
        }
        let target = Target::read(verb, &variable).map_err(newest)?;
        if let Some(target) = target.as_ref().filter(|_| verb != Verb::Del) {
            target.interface().map_err(newest)?;
        }
        let document = read_all(stdin).and_then(|text| Document::parse(&text)).map_err(newest)?;
        let version = document.version;
        build(face, verb, target, &document, &variable).map_err(|error| Unreadable { version, error })
    }
}

/// The interface of a container that the variables name.
struct Target {
    container_id: String,
    /// Unchecked, because DEL takes names that ADD would refuse.
    ifname: String,
    /// Empty if the verb does not need it.
    netns: String,
}

impl Target {
    /// Returns `None` for verbs that concern no single container.
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
        match Identifier::new(container_id.as_str()) {
            // A runtime sends DEL even after an ADD that was refused.
            Err(IdentifierError::TooLong(_)) if verb == Verb::Del => {}
            checked => drop(checked.map_err(|error| {
                let reason = format!("{:?} is not a container identifier: {error}", clipped(&container_id));
                Error::Variable { name: "CNI_CONTAINERID", reason }
            })?),
        }
        // DEL does not need the namespace, so a broken path must not stop it.
        let netns = if verb == Verb::Del { String::new() } else { needed("CNI_NETNS")? };
        Ok(Some(Self { container_id, ifname: needed("CNI_IFNAME")?, netns }))
    }

    /// The name of the interface, checked by the kernel's rules.
    fn interface(&self) -> Result<IfName, Error> {
        IfName::new(clipped(&self.ifname))
            .map_err(|error| Error::Variable { name: "CNI_IFNAME", reason: error.to_string() })
    }
}

fn verb(variable: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Verb>, Error> {
    let Some(command) = text(variable, "CNI_COMMAND")? else { return Ok(None) };
    match Verb::parse(&command) {
        Some(verb) => Ok(Some(verb)),
        None => Err(Error::UnknownCommand(clipped(&command).to_owned())),
    }
}

/// The value of a variable. An empty value counts as none.
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
    face: Face,
    verb: Verb,
    target: Option<Target>,
    document: &Document,
    variable: &impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, Error> {
    if document.version < verb.since() {
        return Err(Error::VerbTooNew { verb, found: document.version });
    }
    // DEL checks nothing more: an attachment that ADD refused must be deletable.
    let mut config = match (face, verb) {
        (_, Verb::Del) => document.config_for_del()?,
        (Face::Network, _) => document.config()?,
        (Face::Ipam, _) => document.config_for_ipam()?,
    };
    if face == Face::Network {
        config.delegate = delegate(document, variable);
    }
    let Some(target) = target else {
        return Ok(match verb {
            Verb::Gc => Invocation::Gc(Gc { valid: document.valid(&config.name)?, config }),
            _ => Invocation::Status(config),
        });
    };
    let attachment = Attachment {
        network: config.name.clone(),
        container_id: target.container_id.clone(),
        ifname: target.ifname.clone(),
    };
    if verb == Verb::Del {
        return Ok(Invocation::Del(Del { config, attachment }));
    }
    let ifname = target.interface()?;
    let Target { netns, .. } = target;
    let may_be_own = text(variable, "CNI_NETNS_OVERRIDE")?.is_some_and(|text| is_true(&text));
    let sandbox = Sandbox { path: netns, may_be_own };
    if verb == Verb::Check {
        let result = document.prev_result()?;
        return Ok(Invocation::Check(Check { config, attachment, ifname, sandbox, result }));
    }
    if face == Face::Network {
        document.refuse_unsupported()?;
    }
    let arguments = Arguments::parse(&text(variable, "CNI_ARGS")?.unwrap_or_default())?;
    let wanted = Wanted::read(document.fields(), &arguments)?;
    let previous = document.previous()?;
    Ok(Invocation::Add(Add { config, attachment, ifname, sandbox, pod: arguments.pod, wanted, previous }))
}

/// The IPAM plugin that the configuration names, with what it is to be given. It is looked for only when it is needed.
fn delegate(document: &Document, variable: &impl Fn(&str) -> Option<OsString>) -> Option<Delegate> {
    const HANDED_ON: [&str; 5] =
        ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_NETNS_OVERRIDE"];
    let plugin = document.delegate()?.to_owned();
    let variables = HANDED_ON.into_iter().filter_map(|name| Some((name, variable(name)?)));
    Some(Delegate {
        plugin,
        path: variable("CNI_PATH"),
        variables: variables.collect(),
        stdin: document.text_of_all(),
        has_result: document.has_result(),
    })
}
