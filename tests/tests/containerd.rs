//! containerd on a node with Ferrule, as Debian ships it: `ctr run --cni`, and the CRI socket as kubelet uses it. Needs root, containerd,
//! runc, the loopback plugin and busybox-static; fails without.

mod cri;
mod steps;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use cri::{
    Cri, message as msg,
    pod::{NAMESPACE, Pod, sandbox_config, uid},
};
use ferrule_tests::{
    command::wait_for,
    error::{LabError, Result},
    runtimes::{
        self,
        containerd::{self, Container, Containerd},
        host::{self, Host},
        image,
    },
};
use steps::Steps;

/// A node with containerd that has the image in the namespace of containerd.
fn node(steps: &Steps, namespace: &str) -> (Host, Containerd) {
    let host = steps.step("a node with Ferrule", || {
        runtimes::require(&containerd::NEEDS)?;
        let host = Host::start(&runtimes::install()?, &steps.dir())?;
        let address = host.address();
        Ok((host, format!("{}, {}", address.v4, address.v6)))
    });
    let containerd = steps.step("containerd, with the image", || {
        image::write(host.space(), &host.place)?;
        let containerd = Containerd::start(&host)?;
        containerd.import(&host, namespace)?;
        Ok((containerd, image::NAME.to_owned()))
    });
    (host, containerd)
}

/// The end of both.
fn leave(steps: &Steps, host: Host, containerd: Containerd) {
    steps.prove("nothing is left of the node", || {
        let status = containerd.end(&host, "TERM")?;
        if !status.success() {
            return Err(LabError::promise("containerd to stop with status 0", status.to_string()));
        }
        host.finish()
    });
}

#[test]
fn containers_of_ctr_run_talk_and_leave_nothing() {
    let steps = Steps::new("containerd, ctr run --cni");
    let (host, containerd) = node(&steps, "default");
    let [one, two] = ["one", "two"].map(|name| {
        steps.step(&format!("run {name}"), || {
            let container = Container::run(&host, name)?;
            let lease = host.lease_of(&container.cni_id())?;
            if lease.ifname != "eth0" || lease.pod.is_some() {
                return Err(LabError::promise("a lease for eth0 of no pod", format!("{lease:?}")));
            }
            host::shows(name, |line| container.exec(&host, line), lease.at)?;
            host.routes_to(lease.at)?;
            let seen = format!("{}, {} for {}", lease.at.v4, lease.at.v6, lease.container_id);
            Ok(((container, lease.at), seen))
        })
    });
    steps.prove("everyone reaches everyone", || {
        for ((from, _), (_, to)) in [(&one, &two), (&two, &one)] {
            host::reaches(&from.name, |line| from.exec(&host, line), &[*to, host.address()])?;
            host.ping(*to)?;
        }
        Ok("two containers and the node, IPv4 and IPv6".to_owned())
    });
    steps.prove("the leases are those of the two", || {
        let ids: BTreeSet<String> = host.leases()?.into_iter().map(|lease| lease.container_id).collect();
        if ids == BTreeSet::from([one.0.cni_id(), two.0.cni_id()]) {
            return Ok(ids.into_iter().collect::<Vec<_>>().join(", "));
        }
        Err(LabError::promise("leases of default-one and default-two", format!("{ids:?}")))
    });
    steps.prove("one goes, the other stays", || {
        one.0.kill(&host)?;
        host.routes_to(two.1)?;
        host.ping(two.1)?;
        match host.leases()?.as_slice() {
            [lease] if lease.container_id == two.0.cni_id() => Ok("one lease left".to_owned()),
            other => Err(LabError::promise("the lease of two alone", format!("{other:?}"))),
        }
    });
    steps.prove("the last one goes and leaves nothing", || {
        two.0.kill(&host)?;
        host.is_empty()
    });
    steps.prove("a container that nobody removes from the network", || detached(&host));
    leave(&steps, host, containerd);
}

/// `ctr run --detach` adds a container to the network and never removes it. Its link and routes go with its namespace; its addresses
/// are nobody else's until the network is collected.
fn detached(host: &Host) -> Result<String> {
    let options = containerd::options(host, "three");
    host.place.run(&format!("ctr run --detach {options} {} three", image::NAME))?;
    let lease = host.lease_of("default-three")?;
    host::shows("three", |line| containerd::exec(host, "three", line), lease.at)?;
    host.place.run("ctr task rm --force three")?;
    host.place.run("ctr container rm three")?;
    host.empty.wait_same(host.space(), "the network without containers", host::SOON)?;
    host.lease_of("default-three")?;
    host.collect(1)?;
    host.is_empty()?;
    Ok("links and routes gone with it, its lease when collected".to_owned())
}

/// The pods of the CRI test.
const PODS: [&str; 2] = ["web-0", "web-1"];

/// A connection to the CRI, once it serves and has seen the image: it hears of images by an event.
fn connect(host: &Host) -> Result<Cri> {
    let cri = Cri::new(containerd::connect(host)?)?;
    let spec = msg::ImageSpec { image: image::NAME.to_owned() };
    let request = msg::ImageStatusRequest { image: Some(spec) };
    wait_for("CRI to know the image", Duration::from_secs(5), || {
        let answer = cri.call::<msg::ImageStatusResponse>("ImageService/ImageStatus", &request);
        Ok(match answer {
            Ok(answer) => answer.image.map(drop).ok_or_else(|| "it does not".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    })?;
    Ok(cri)
}

#[test]
fn pods_of_cri_get_their_addresses_and_leave_nothing() {
    let steps = Steps::new("containerd, CRI");
    let (mut host, containerd) = node(&steps, "k8s.io");
    let cri = steps.step("the runtime says that the network is ready", || {
        let cri = connect(&host)?;
        network_is_ready(&cri)?;
        Ok((cri, "NetworkReady".to_owned()))
    });
    let pods = PODS.map(|name| {
        steps.step(&format!("RunPodSandbox {name}"), || {
            let pod = Pod::run(&host, &cri, name)?;
            attached(&host, &cri, &pod)?;
            let seen = format!("{}, {}", pod.lease.at.v4, pod.lease.at.v6);
            Ok((pod, seen))
        })
    });
    steps.prove("everyone reaches everyone", || talk(&host, &cri, &pods));
    steps.prove("List names the pods", || {
        let expected = PODS.map(|name| Some([NAMESPACE.to_owned(), name.to_owned(), uid(name)]));
        let leases = host.leases()?;
        match leases.iter().map(|lease| lease.pod.clone()).eq(expected) {
            true => Ok(PODS.join(", ")),
            false => Err(LabError::promise(format!("leases of {PODS:?}"), format!("{leases:?}"))),
        }
    });
    let (containerd, cri) = steps.step("containerd crashes: the pods keep their addresses", || {
        containerd.end(&host, "KILL")?;
        let containerd = Containerd::start(&host)?;
        let cri = connect(&host)?;
        talk(&host, &cri, &pods)?;
        for pod in &pods {
            attached(&host, &cri, pod)?;
        }
        Ok(((containerd, cri), "same addresses, same leases".to_owned()))
    });
    end_pods(&steps, &mut host, &cri, &pods);
    exposed(&steps, &host, &cri);
    leave(&steps, host, containerd);
}

/// A pod with a host port and limits, which the runtime hands on in its own spelling.
fn exposed(steps: &Steps, host: &Host, cri: &Cri) {
    let web = SocketAddr::from((host.address().v4, 8080));
    let callers = [host.outside(), host.space()];
    let pod = steps.step("RunPodSandbox with a host port and limits", || {
        let mut config = sandbox_config(host, "web-3");
        config.port_mappings =
            vec![msg::PortMapping { container_port: 80, host_port: 8080, ..msg::PortMapping::default() }];
        let limits = [("ingress", "16M"), ("egress", "8M")];
        config.annotations =
            limits.map(|(way, rate)| (format!("kubernetes.io/{way}-bandwidth"), rate.to_owned())).into();
        let pod = Pod::run_as(host, cri, "web-3", config)?;
        pod.is_ready(cri)?;
        host.routes_to(pod.lease.at)?;
        let seen = format!("{}, {}", pod.lease.at.v4, pod.lease.at.v6);
        Ok((pod, seen))
    });
    steps.prove("the host port is reached from outside and from the node", || {
        pod.exec(cri, "httpd -p 80 -h /bin")?;
        for caller in callers {
            let answer = host::fetch(caller, web, "/reach")?.unwrap_or_default();
            if !answer.contains("ping -c 1") {
                return Err(LabError::promise(format!("a file from {web} to {}", caller.name()), answer));
            }
        }
        Ok(format!("{web}, {} elements", host.host_ports()?))
    });
    steps.prove("what it receives and what it sends is limited", || {
        let limits = host.place.run("tc qdisc show")?;
        for rate in ["rate 16Mbit", "rate 8Mbit"] {
            if !limits.contains(rate) {
                return Err(LabError::promise(rate, limits));
            }
        }
        Ok("16 and 8 Mbit/s".to_owned())
    });
    steps.prove("its end closes the port and leaves nothing", || {
        pod.stop(cri)?;
        pod.remove(cri)?;
        if let Some(answer) = host::fetch(host.outside(), web, "/reach")? {
            return Err(LabError::promise(format!("{web} to refuse"), answer));
        }
        match host.host_ports()? {
            0 => {}
            left => return Err(LabError::promise("no element in the table of host ports", left.to_string())),
        }
        // The table without elements stays, as the manual says.
        host.place.run("nft delete table inet ferrule-hostports")?;
        host.is_empty()
    });
}

/// The pods' end, with and without `ipamd`.
fn end_pods(steps: &Steps, host: &mut Host, cri: &Cri, [first, second]: &[Pod; 2]) {
    steps.prove("StopPodSandbox, twice", || {
        first.stop(cri)?;
        is_detached(host, cri, first, &[second])?;
        first.stop(cri)?;
        is_detached(host, cri, first, &[second])?;
        second.is_ready(cri)?;
        host.ping(second.lease.at)?;
        Ok("not ready, its link, routes and lease gone; the other one stays".to_owned())
    });
    steps.prove("StopPodSandbox while ipamd is down", || {
        host.stop_ipamd()?;
        second.stop(cri)?;
        host.start_ipamd()?;
        is_detached(host, cri, second, &[])?;
        host.is_empty()
    });
    steps.prove("RunPodSandbox while ipamd is down fails and leaves nothing", || {
        host.stop_ipamd()?;
        let failed = refused(host, cri, "web-2");
        host.start_ipamd()?;
        let said = failed?;
        host.is_empty()?;
        Ok(said)
    });
    steps.prove("RemovePodSandbox leaves nothing", || {
        first.remove(cri)?;
        second.remove(cri)?;
        let left: msg::ListPodSandboxResponse =
            cri.call("RuntimeService/ListPodSandbox", &msg::Empty::default())?;
        if left.items.is_empty() {
            host.is_empty()
        } else {
            Err(LabError::promise("no sandbox", format!("{left:?}")))
        }
    });
}

fn network_is_ready(cri: &Cri) -> Result<()> {
    let answer: msg::StatusResponse = cri.call("RuntimeService/Status", &msg::Empty::default())?;
    let conditions = answer.status.unwrap_or_default().conditions;
    if conditions.iter().any(|condition| condition.r#type == "NetworkReady" && condition.status) {
        return Ok(());
    }
    Err(LabError::promise("NetworkReady", format!("{conditions:?}")))
}

/// CRI, `ipamd`, the container and the kernel agree about a running pod.
fn attached(host: &Host, cri: &Cri, pod: &Pod) -> Result<()> {
    pod.is_ready(cri)?;
    let lease = host.lease_of(&pod.sandbox)?;
    if lease != pod.lease || lease.ifname != "eth0" {
        return Err(LabError::promise(format!("the lease {:?}", pod.lease), format!("{lease:?}")));
    }
    host::shows(pod.name, |line| pod.exec(cri, line), lease.at)?;
    host.routes_to(lease.at)?;
    host.has_alias(&format!("{NAMESPACE}/{}", pod.name))
}

/// A stopped sandbox holds nothing; the leases are those of the others.
fn is_detached(host: &Host, cri: &Cri, pod: &Pod, others: &[&Pod]) -> Result<()> {
    let status = pod.status(cri)?;
    if status.state != 1 {
        return Err(LabError::promise(format!("{} not ready", pod.name), format!("{status:?}")));
    }
    let leases = host.leases()?;
    if !leases.iter().eq(others.iter().map(|other| &other.lease)) {
        return Err(LabError::promise(format!("{} leases", others.len()), format!("{leases:?}")));
    }
    host.has_links(others.len())
}

/// Every pod reaches the others and the node, and the node every pod.
fn talk(host: &Host, cri: &Cri, pods: &[Pod]) -> Result<String> {
    for from in pods {
        let others = pods.iter().filter(|to| to.name != from.name).map(|to| to.lease.at);
        let all: Vec<_> = others.chain([host.address()]).collect();
        host::reaches(from.name, |line| from.exec(cri, line), &all)?;
        host.ping(from.lease.at)?;
    }
    Ok(format!("{} pods and the node, IPv4 and IPv6", pods.len()))
}

/// A sandbox that cannot be had fails with the plugin's reason, which must say whom to look at.
fn refused(host: &Host, cri: &Cri, name: &str) -> Result<String> {
    let request = msg::RunPodSandboxRequest { config: Some(sandbox_config(host, name)) };
    match cri.call::<msg::SandboxId>("RuntimeService/RunPodSandbox", &request) {
        Ok(id) => Err(LabError::promise("no sandbox without ipamd", id.pod_sandbox_id)),
        Err(error) => match error.to_string().split_once("plugin type=\"ferrule\" failed (add): ") {
            Some((_, said)) if said.starts_with("ipamd cannot be reached") => Ok(said.to_owned()),
            _ => Err(LabError::promise("ADD's error about ipamd", error.to_string())),
        },
    }
}
