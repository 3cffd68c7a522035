//! podman with the CNI network backend, as Debian ships it, on a node with Ferrule: containers that talk, stop, start and go. Needs root,
//! podman, conmon, runc and busybox-static; fails without.

mod steps;

use ferrule_tests::{
    error::{LabError, Result},
    ipam::Ipam,
    runtimes::{
        self,
        host::{self, Host},
        image, podman,
    },
};
use steps::Steps;

/// The name in the shipped list.
const NETWORK: &str = "ferrule";

#[test]
fn containers_of_podman_talk_come_back_and_leave_nothing() {
    let steps = Steps::new("podman");
    let mut host = steps.step("a node with Ferrule", || {
        runtimes::require(&podman::NEEDS)?;
        let host = Host::start(&runtimes::install()?, &steps.dir())?;
        let address = host.address();
        Ok((host, format!("{}, {}", address.v4, address.v6)))
    });
    steps.prove("the image is loaded", || {
        image::write(host.space(), &host.place)?;
        podman::prepare(&host)?;
        Ok(image::NAME.to_owned())
    });
    steps.prove("podman lists the shipped network", || {
        let networks = host.place.run("podman network ls --format {{.Name}}")?;
        match networks.lines().any(|name| name == NETWORK) {
            true => Ok(networks.replace('\n', ", ")),
            false => Err(LabError::promise(format!("{NETWORK} among the networks"), networks)),
        }
    });
    for name in ["one", "two"] {
        steps.prove(&format!("run {name}"), || {
            let id = podman::run(&host, NETWORK, name)?;
            attached(&host, name, &id)
        });
    }
    steps.prove("everyone reaches everyone", || talk(&host));
    restart(&steps, &host);
    reload(&steps, &host);
    steps.prove("a container goes while ipamd is down: its addresses come back with it", || {
        host.stop_ipamd()?;
        host.place.run("podman rm --force --time 0 one")?;
        host.start_ipamd()?;
        let two = podman::inspect(&host, NETWORK, "two")?;
        only(&host, &[two.id])?;
        Ok("one lease left".to_owned())
    });
    steps.prove("rm of the last one leaves nothing", || {
        host.place.run("podman rm --force --time 0 two")?;
        host.is_empty()
    });
    steps.prove("nothing is left of the node", || host.finish());
}

/// A container that is stopped has no address; started again it is the same container with new ones. Twice, for what the first time
/// leaves behind.
fn restart(steps: &Steps, host: &Host) {
    steps.prove("stop gives the addresses back, start takes others", || {
        let before = podman::inspect(host, NETWORK, "one")?;
        let two = podman::inspect(host, NETWORK, "two")?;
        host.place.run("podman stop --time 5 one")?;
        only(host, std::slice::from_ref(&two.id))?;
        host.place.run("podman start one")?;
        attached(host, "one", &before.id)?;
        let after = podman::inspect(host, NETWORK, "one")?;
        only(host, &[before.id, two.id])?;
        if after.at.v4 == before.at.v4 || after.at.v6 == before.at.v6 {
            // They rest, so that nobody is taken for the one before.
            return Err(LabError::promise("other addresses within the cooldown", format!("{:?}", after.at)));
        }
        talk(host)
    });
    for time in ["first", "second"] {
        steps.prove(&format!("restart, the {time} time"), || {
            let before = podman::inspect(host, NETWORK, "one")?;
            let two = podman::inspect(host, NETWORK, "two")?;
            host.place.run("podman restart --time 5 one")?;
            attached(host, "one", &before.id)?;
            only(host, &[before.id, two.id])?;
            talk(host)
        });
    }
}

/// `podman network reload` says DEL and ADD for a container that goes on.
fn reload(steps: &Steps, host: &Host) {
    steps.prove("network reload attaches a running container anew", || {
        let before = podman::inspect(host, NETWORK, "one")?;
        let two = podman::inspect(host, NETWORK, "two")?;
        host.place.run("podman network reload one")?;
        attached(host, "one", &before.id)?;
        only(host, &[before.id, two.id])?;
        talk(host)
    });
}

/// podman, `ipamd`, the container and the kernel agree about a running container.
fn attached(host: &Host, name: &str, id: &str) -> Result<String> {
    let seen = podman::inspect(host, NETWORK, name)?;
    let lease = host.lease_of(id)?;
    if seen.id != id || lease.at != seen.at || lease.ifname != "eth0" {
        return Err(LabError::promise(format!("{id} with its lease {lease:?}"), format!("{seen:?}")));
    }
    // podman tells a name, and no namespace of a cluster.
    if lease.pod.as_ref().is_none_or(|[namespace, pod, _]| !namespace.is_empty() || pod != name) {
        return Err(LabError::promise(format!("a lease that names {name}"), format!("{lease:?}")));
    }
    host.has_alias(name)?;
    host::shows(name, |line| podman::exec(host, name, line), lease.at)?;
    host.routes_to(lease.at)?;
    Ok(format!("{}, {}", lease.at.v4, lease.at.v6))
}

/// There are leases of these containers and of no other.
fn only(host: &Host, ids: &[String]) -> Result<()> {
    let leases = host.leases()?;
    let known = leases.iter().all(|lease| ids.contains(&lease.container_id));
    let counts = Ipam::connect(host.space())?.counts4()?;
    if known && leases.len() == ids.len() && counts.in_use == ids.len() as u64 {
        return Ok(());
    }
    Err(LabError::promise(format!("leases of {ids:?} alone"), format!("{leases:?}, {counts:?}")))
}

fn talk(host: &Host) -> Result<String> {
    let one = podman::inspect(host, NETWORK, "one")?.at;
    let two = podman::inspect(host, NETWORK, "two")?.at;
    let node = host.address();
    host::reaches("one", |line| podman::exec(host, "one", line), &[two, node])?;
    host::reaches("two", |line| podman::exec(host, "two", line), &[one, node])?;
    host.ping(one)?;
    host.ping(two)?;
    Ok("two containers and the node, IPv4 and IPv6".to_owned())
}
