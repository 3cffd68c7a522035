//! A pod as kubelet makes it through the CRI: a sandbox and one container in it, from start to removal.

use std::{
    collections::HashMap,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Output},
};

use ferrule_tests::{
    error::{LabError, Result},
    runtimes::{
        host::{Held, Host},
        image,
    },
};

use super::{Cri, message};

/// The pods' namespace in the cluster.
pub(crate) const NAMESPACE: &str = "shop";

/// What kubelet would ask for.
pub(crate) fn sandbox_config(host: &Host, name: &str) -> message::PodSandboxConfig {
    message::PodSandboxConfig {
        metadata: Some(message::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid(name),
            namespace: NAMESPACE.to_owned(),
        }),
        hostname: name.to_owned(),
        log_directory: format!("/run/log/{name}"),
        port_mappings: Vec::new(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: HashMap::new(),
        linux: Some(message::LinuxPodSandboxConfig {
            cgroup_parent: format!("{}/{name}", host.place.cgroup()),
        }),
    }
}

pub(crate) fn uid(name: &str) -> String {
    let number = name.rsplit('-').next().unwrap_or_default();
    format!("00000000-0000-4000-8000-{number:0>12}")
}

/// A pod's sandbox and its one container.
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) sandbox: String,
    container: String,
    pub(crate) lease: Held,
}

impl Pod {
    /// RunPodSandbox, CreateContainer, StartContainer, as kubelet starts a pod.
    pub(crate) fn run(host: &Host, cri: &Cri, name: &'static str) -> Result<Pod> {
        Self::run_as(host, cri, name, sandbox_config(host, name))
    }

    /// The same for a sandbox that asks for more.
    pub(crate) fn run_as(
        host: &Host,
        cri: &Cri,
        name: &'static str,
        config: message::PodSandboxConfig,
    ) -> Result<Pod> {
        let request = message::RunPodSandboxRequest { config: Some(config.clone()) };
        let sandbox: message::SandboxId = cri.call("RuntimeService/RunPodSandbox", &request)?;
        let request = message::CreateContainerRequest {
            pod_sandbox_id: sandbox.pod_sandbox_id.clone(),
            config: Some(message::ContainerConfig {
                metadata: Some(message::ContainerMetadata { name: "main".to_owned() }),
                image: Some(message::ImageSpec { image: image::NAME.to_owned() }),
            }),
            sandbox_config: Some(config),
        };
        let container: message::ContainerId = cri.call("RuntimeService/CreateContainer", &request)?;
        let _: message::Empty = cri.call("RuntimeService/StartContainer", &container)?;
        let lease = host.lease_of(&sandbox.pod_sandbox_id)?;
        Ok(Pod { name, sandbox: sandbox.pod_sandbox_id, container: container.container_id, lease })
    }

    fn id(&self) -> message::SandboxId {
        message::SandboxId { pod_sandbox_id: self.sandbox.clone() }
    }

    pub(crate) fn status(&self, cri: &Cri) -> Result<message::PodSandboxStatus> {
        let answer: message::PodSandboxStatusResponse =
            cri.call("RuntimeService/PodSandboxStatus", &self.id())?;
        answer.status.ok_or_else(|| LabError::promise(format!("a status of {}", self.name), "none"))
    }

    /// The sandbox is ready and its status has the addresses of the lease, IPv4 first.
    pub(crate) fn is_ready(&self, cri: &Cri) -> Result<()> {
        let status = self.status(cri)?;
        let network = status.network.clone().unwrap_or_default();
        let ips: Vec<String> =
            [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect();
        let at = self.lease.at;
        if status.state == 0 && ips == [at.v4.to_string(), at.v6.to_string()] {
            return Ok(());
        }
        Err(LabError::promise(
            format!("{} ready with {}, {}", self.name, at.v4, at.v6),
            format!("{status:?}"),
        ))
    }

    /// ExecSync; an output as of a process.
    pub(crate) fn exec(&self, cri: &Cri, line: &str) -> Result<Output> {
        let request = message::ExecSyncRequest {
            container_id: self.container.clone(),
            cmd: line.split_whitespace().map(str::to_owned).collect(),
            timeout: 10,
        };
        let answer: message::ExecSyncResponse = cri.call("RuntimeService/ExecSync", &request)?;
        // A wait status holds the exit code above its low byte.
        let status = ExitStatus::from_raw(answer.exit_code << 8);
        Ok(Output { status, stdout: answer.stdout, stderr: answer.stderr })
    }

    pub(crate) fn stop(&self, cri: &Cri) -> Result<()> {
        cri.call::<message::Empty>("RuntimeService/StopPodSandbox", &self.id()).map(drop)
    }

    pub(crate) fn remove(&self, cri: &Cri) -> Result<()> {
        cri.call::<message::Empty>("RuntimeService/RemovePodSandbox", &self.id()).map(drop)
    }
}
