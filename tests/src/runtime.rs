//! The runtime's side of CNI: executes the plugin as containerd and CRI-O do through libcni, one process a verb. What a pod is in
//! the lab lives in `pod`.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    command::output,
    conflist::Conflist,
    error::{Context, LabError, Result},
    space::Space,
};

/// What the plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Look whether an attachment is as ADD left it.
    Check,
    /// Say whether an ADD would be served.
    Status,
    /// Remove what belongs to no container that the runtime knows.
    Gc,
    /// Say which versions are spoken.
    Version,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Status => "STATUS",
            Verb::Gc => "GC",
            Verb::Version => "VERSION",
        }
    }
}

/// A container as its runtime knows it.
#[derive(Clone, Debug)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its network namespace, as the node sees it.
    pub netns: PathBuf,
    /// Name of the interface to make in it.
    pub ifname: String,
    /// Name of the pod (`K8S_POD_NAME`).
    pub pod: String,
}

/// What came of one execution.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Whether the exit status was 0.
    pub success: bool,
    /// Standard output as JSON; null when there was none.
    pub output: Value,
    /// Standard error.
    pub log: String,
    /// From start to exit.
    pub took: Duration,
}

impl Reply {
    /// The reply of a call that had to succeed.
    pub fn expect_success(self, what: &str) -> Result<Reply> {
        if self.success {
            return Ok(self);
        }
        Err(LabError::promise(format!("{what} to succeed"), format!("{} {}", self.output, self.log.trim())))
    }
}

/// A runtime's configuration.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Where plugins are (`CNI_PATH`, commonly `/opt/cni/bin`).
    pub plugin_dir: PathBuf,
    /// The network.
    pub network: Conflist,
}

impl Runtime {
    /// Executes the plugin in a node. `container` is absent for VERSION and STATUS, `prev_result` present for CHECK and DEL.
    pub fn call(
        &self,
        node: &Space,
        verb: Verb,
        container: Option<&Container>,
        prev_result: Option<&Value>,
    ) -> Result<Reply> {
        let config = match verb {
            Verb::Version => json!({ "cniVersion": self.network.version }),
            _ => self.network.plugin_config(prev_result),
        };
        self.execute(node, verb, container, &config)
    }

    /// Has everything removed that is none of these containers', as libcni does: with both names of the key.
    pub fn collect(&self, node: &Space, valid: &[&Container]) -> Result<Reply> {
        let attachment =
            |container: &&Container| json!({ "containerID": container.id, "ifname": container.ifname });
        let valid: Vec<Value> = valid.iter().map(attachment).collect();
        let mut config = self.network.plugin_config(None);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            config[key] = valid.clone().into();
        }
        self.execute(node, Verb::Gc, None, &config)
    }

    fn execute(
        &self,
        node: &Space,
        verb: Verb,
        container: Option<&Container>,
        config: &Value,
    ) -> Result<Reply> {
        let mut command = Command::new(self.plugin_dir.join(self.network.plugin_type()?));
        command.env("CNI_COMMAND", verb.as_str()).env("CNI_PATH", &self.plugin_dir);
        if let Some(container) = container {
            let args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                container.pod,
                container.id,
                uid(&container.id)
            );
            command.env("CNI_CONTAINERID", &container.id).env("CNI_IFNAME", &container.ifname);
            command.env("CNI_NETNS", &container.netns).env("CNI_ARGS", args);
        } else if verb == Verb::Version {
            // libcni fills these in for VERSION, which needs none of them.
            for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
                command.env(name, "dummy");
            }
        }
        let (output, took) = node.enter(|| {
            let start = Instant::now();
            (output(&mut command, config.to_string().as_bytes()), start.elapsed())
        })?;
        let output = output.context(|| format!("executing {}", self.plugin_dir.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)
                .map_err(|error| LabError::parse(format!("output of {}: {text}", verb.as_str()), &error))?,
        };
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Reply { success: output.status.success(), output: value, log, took })
    }
}

/// A pod's uid in the shape of Kubernetes', out of its sandbox' id.
fn uid(id: &str) -> String {
    let part = |range| id.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}
