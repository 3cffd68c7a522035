//! What the tests of the verbs share: a node with the fake kernel, one with the real kernel in scratch namespaces,
//! faults at any request, a stand-in for `ipamd`, and the plugin run as a runtime runs it.

#![allow(dead_code, reason = "every test file uses its own part")]

pub(crate) mod faulty;
pub(crate) mod ipamd;
pub(crate) mod lab;
pub(crate) mod machine;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;

use ferrule_cni::{Answer, Face, serve};
use ferrule_model::{Attachment, HostSide, IfName};
use ferrule_wire::{Record, Records};
use serde_json::{Value, json};
use tempfile::TempDir;

use faulty::{Fault, Faults, FaultyNode};
use ipamd::Ipamd;
use machine::{Machine, Snapshot};

/// A node, its `ipamd`, and a pod called `pod`.
pub(crate) struct Bench<'a, M: Machine> {
    pub(crate) machine: &'a M,
    pub(crate) ipamd: Ipamd,
    pub(crate) faults: Faults,
    pub(crate) dir: TempDir,
    /// Fields of the configuration beside the usual ones.
    pub(crate) config: Value,
    /// The runtime hears no result.
    pub(crate) deaf: bool,
}

/// An output to which nothing can be written.
struct Deaf;

impl Write for Deaf {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::from_raw_os_error(32))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The kernel's state in both namespaces, the leases, and the attachments whose host's side is kept.
#[derive(Debug, PartialEq)]
pub(crate) struct World {
    host: Snapshot,
    pod: Snapshot,
    leases: Vec<Attachment>,
    kept: BTreeMap<String, HostSide>,
}

impl<'a, M: Machine> Bench<'a, M> {
    pub(crate) fn new(machine: &'a M) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ipamd = Ipamd::start(dir.path());
        Records::new(dir.path()).make().unwrap();
        machine.add_pod("pod");
        Self { machine, ipamd, faults: Faults::default(), dir, config: json!({}), deaf: false }
    }

    /// Runs a verb for `eth0` of container `c0ffee` in `pod`.
    pub(crate) fn verb(&self, command: &str) -> Answer {
        self.verb_with(command, &[], &json!({}))
    }

    /// The same with variables and fields of the configuration changed.
    pub(crate) fn verb_with(&self, command: &str, variables: &[(&str, &str)], fields: &Value) -> Answer {
        let netns = self.machine.path("pod");
        let mut environment: BTreeMap<&str, &str> = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_NETNS", netns.as_str()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ]
        .into();
        environment.extend(variables.iter().copied());
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeDir": self.dir.path()
        });
        for more in [&self.config, fields] {
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        let node = FaultyNode { machine: self.machine, faults: self.faults.clone() };
        let variable = |name: &str| environment.get(name).map(OsString::from);
        let mut written = Vec::new();
        let output: &mut dyn Write = if self.deaf { &mut Deaf } else { &mut written };
        let mut answer = serve(Face::Network, variable, config.to_string().as_bytes(), output, &node);
        written.append(&mut answer.stdout);
        Answer { stdout: written, ..answer }
    }

    /// ADD that succeeds.
    pub(crate) fn add(&self) -> Value {
        result(&self.verb("ADD"))
    }

    /// CHECK against the result of an ADD.
    pub(crate) fn check(&self, result: &Value) -> Answer {
        self.verb_with("CHECK", &[], &json!({ "prevResult": result }))
    }

    /// ADD with a fault at its `n`-th request to the kernel; `None` when it has fewer.
    pub(crate) fn add_with_fault(&self, n: u64, fault: Fault) -> Option<Answer> {
        self.faults.set(n, fault);
        let answer = self.verb("ADD");
        if self.faults.take() { None } else { Some(answer) }
    }

    pub(crate) fn world(&self) -> World {
        World {
            host: machine::snapshot(&mut self.machine.host()),
            pod: machine::snapshot(&mut self.machine.inside("pod")),
            leases: self.ipamd.leases().into_keys().collect(),
            kept: self.kept(),
        }
    }

    /// The records of what attachments have on the host, by the names of their links.
    pub(crate) fn kept(&self) -> BTreeMap<String, HostSide> {
        let records = Records::new(self.dir.path());
        let read = |name: IfName| match records.read(&name).unwrap() {
            Record::Kept(made) => (name.to_string(), *made),
            other => panic!("{name}: {other:?}"),
        };
        records.names().unwrap().into_iter().map(read).collect()
    }

    /// The releases that wait for a daemon.
    pub(crate) fn queued(&self) -> Vec<Attachment> {
        let queue = ferrule_wire::queued(self.dir.path()).unwrap();
        queue.into_iter().map(|mut release| release.claim().unwrap()).collect()
    }
}

impl World {
    /// An ADD that is repeated and fails may leave the mark that has DEL look for host ports and limits.
    pub(crate) fn but_for_the_mark(mut self) -> Self {
        self.host.forget_marks();
        self
    }

    /// The node's part.
    pub(crate) fn host_state(&self) -> (&Snapshot, &[Attachment], &BTreeMap<String, HostSide>) {
        (&self.host, &self.leases, &self.kept)
    }
}

/// A namespace's path for a process that is not this one.
pub(crate) fn path_for_others(path: &str) -> String {
    path.replace("/proc/self/", &format!("/proc/{}/", std::process::id()))
}

/// The attachment of [`Bench::verb`].
pub(crate) fn attachment() -> Attachment {
    Attachment { network: "pods".into(), container_id: "c0ffee".into(), ifname: "eth0".into() }
}

/// What a verb that succeeded wrote.
pub(crate) fn result(answer: &Answer) -> Value {
    assert!(answer.ok, "{answer:?} {}", String::from_utf8_lossy(&answer.stdout));
    assert!(answer.log.is_none(), "{answer:?}");
    if answer.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&answer.stdout).unwrap() }
}

/// What an ADD that succeeded wrote, and what it said to the operator besides.
pub(crate) fn warned(answer: &Answer) -> (Value, String) {
    assert!(answer.ok, "{answer:?} {}", String::from_utf8_lossy(&answer.stdout));
    (serde_json::from_slice(&answer.stdout).unwrap(), answer.log.clone().unwrap_or_default())
}

/// The code and the message of a verb that failed.
pub(crate) fn failure(answer: &Answer) -> (u64, String) {
    assert!(!answer.ok, "{}", String::from_utf8_lossy(&answer.stdout));
    assert_eq!(answer.log.as_deref().map(|log| log.matches('\n').count()), Some(1), "one line in the log");
    let object: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert!(object["cniVersion"].is_string(), "{object}");
    let text =
        format!("{} {}", object["msg"].as_str().unwrap(), object["details"].as_str().unwrap_or_default());
    (object["code"].as_u64().unwrap(), text)
}
