//! podman with the CNI network backend, as Debian ships it, on a node with Ferrule: containers that talk, stop, start and go. Needs root,
//! podman, conmon, runc and busybox-static; fails without.

mod steps;

use std::net::{IpAddr, SocketAddr};

use ferrule_tests::{
    command::run,
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
            let id = podman::run(&host, NETWORK, name, "")?;
            attached(&host, name, &id)
        });
    }
    steps.prove("everyone reaches everyone", || talk(&host));
    restart(&steps, &host);
    reload(&steps, &host);
    publish(&steps, &host);
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

/// A published port, which podman asks for by the capability `portMappings` of the shipped list.
fn publish(steps: &Steps, host: &Host) {
    let node = host.address();
    let places = [node.v4.into(), node.v6.into()].map(|at: IpAddr| SocketAddr::new(at, 8080));
    let callers = [host.outside(), host.space()];
    let refused = || {
        for (caller, at) in callers.iter().flat_map(|caller| places.map(|at| (caller, at))) {
            if let Some(answer) = host::fetch(caller, at, "/reach")? {
                return Err(LabError::promise(format!("{at} to refuse {}", caller.name()), answer));
            }
        }
        Ok(())
    };
    steps.prove("a published port is reached from outside and from the node", || {
        refused()?;
        let id = podman::run(host, NETWORK, "web", "--publish 8080:80")?;
        attached(host, "web", &id)?;
        host.place.run("podman exec web httpd -p 80 -h /bin")?;
        for (caller, at) in callers.iter().flat_map(|caller| places.map(|at| (caller, at))) {
            let answer = host::fetch(caller, at, "/reach")?.unwrap_or_default();
            // What the image has in it.
            if !answer.contains("ping -c 1") {
                return Err(LabError::promise(format!("a file from {at} to {}", caller.name()), answer));
            }
        }
        Ok(format!("{} and {}, {} elements", places[0], places[1], host.host_ports()?))
    });
    steps.prove("rm closes it and leaves nothing", || {
        host.place.run("podman rm --force --time 0 web")?;
        refused()?;
        match host.host_ports()? {
            0 => {}
            left => return Err(LabError::promise("no element in the table of host ports", left.to_string())),
        }
        // The table without elements stays, as the manual says.
        run(host.space(), "nft delete table inet ferrule-hostports")?;
        let left = ["one", "two"].map(|name| podman::inspect(host, NETWORK, name).map(|seen| seen.id));
        only(host, &left.into_iter().collect::<Result<Vec<_>>>()?)?;
        Ok("refused, no element".to_owned())
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
    host.has_alias(&format!("{NETWORK}: {name} {id}/eth0"))?;
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
