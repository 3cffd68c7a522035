//! Host ports and bandwidth where the addresses are another plugin's, where the pod is on a bridge, and both: CHECK
//! misses what is gone, DEL and GC remove all of it and nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::Path;

use ferrule_cni::Answer;
use ferrule_cni::decide::ports::Granted;
use ferrule_model::table::{MAPS, SETS, TABLE};
use ferrule_model::{Attachment, Bucket, Element, host_veth_name, ifb_name};
use ferrule_netlink::Kernel;
use ferrule_netlink::nft::{Change, Netfilter};
use ferrule_netlink::traffic::Traffic;
use serde_json::{Value, json};

use crate::on_both_kernels;
use crate::support::machine::Machine;
use crate::support::{Bench, failure, result};

/// Where Debian has the reference plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// The three networks, by name.
fn networks(bench: &Bench<'_, impl Machine>) -> [(&'static str, Value); 3] {
    assert!(
        Path::new(PLUGINS).join("host-local").exists(),
        "host-local is missing: apt-get install containernetworking-plugins"
    );
    let delegated = json!({
        "type": "host-local", "dataDir": bench.dir.path().join("host-local"),
        "ranges": [[{ "subnet": "10.9.0.0/24" }], [{ "subnet": "fd09::/64" }]]
    });
    [
        ("delegated", json!({ "ipam": delegated })),
        ("bridged", json!({ "mode": "bridge", "bridge": "br7" })),
        ("both", json!({ "mode": "bridge", "bridge": "br8", "ipam": delegated })),
    ]
}

/// A pod of one of the networks: what the runtime asks for is the same for all but the port.
struct Pod<'a, M: Machine> {
    bench: &'a Bench<'a, M>,
    network: &'static str,
    fields: Value,
    id: &'static str,
}

impl<M: Machine> Pod<'_, M> {
    fn attachment(&self) -> Attachment {
        Attachment { network: self.network.into(), container_id: self.id.into(), ifname: "eth0".into() }
    }

    /// Runs a verb; host-local knows versions up to 1.0.0.
    fn verb(&self, command: &str, more: &Value) -> Answer {
        let path = self.bench.machine.path(self.id);
        let variables = [("CNI_CONTAINERID", self.id), ("CNI_NETNS", &path), ("CNI_PATH", PLUGINS)];
        let mut fields = self.fields.clone();
        fields["name"] = self.network.into();
        fields["cniVersion"] = if command == "GC" { "1.1.0" } else { "1.0.0" }.into();
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.bench.verb_with(command, &variables, &fields)
    }

    /// ADD and CHECK with a UDP and a TCP port and both limits; what was asked for, with the result.
    fn add(&self, port: u16) -> Value {
        let mut asked = json!({ "runtimeConfig": {
            "portMappings": [
                { "hostPort": port, "containerPort": 80 },
                { "hostPort": port, "containerPort": 53, "protocol": "udp" }
            ],
            "bandwidth": { "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 800_000 }
        } });
        asked["prevResult"] = Value::Null;
        asked["prevResult"] = result(&self.verb("ADD", &asked));
        result(&self.verb("CHECK", &asked));
        asked
    }

    /// How many of its host ports and devices there are.
    fn has(&self) -> (usize, [bool; 2]) {
        let mut host = self.bench.machine.host();
        let links = [host_veth_name(&self.attachment()), ifb_name(&self.attachment())];
        let link = links.map(|name| host.link(&name).unwrap().is_some());
        let owner = ferrule_model::Owner::of(&self.attachment()).to_string();
        (elements(self.bench).iter().filter(|element| element.comment == owner).count(), link)
    }
}

/// All elements of the table; none where there is no table.
fn elements<M: Machine>(bench: &Bench<'_, M>) -> Vec<Element> {
    let mut netfilter = bench.machine.netfilter();
    MAPS.iter().chain(&SETS).flat_map(|set| netfilter.elements(TABLE, set).unwrap_or_default()).collect()
}

/// What host-local has given out.
fn held(bench: &Bench<'_, impl Machine>, network: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(bench.dir.path().join("host-local").join(network)) else { return 0 };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.") || name.starts_with("fd09")).count()
}

fn nothing() -> Value {
    json!({})
}

on_both_kernels! {
    fn check_misses_what_is_gone_and_del_removes_the_rest_without_being_told(bench) {
        for (network, fields) in networks(&bench) {
            let pod = Pod { bench: &bench, network, fields, id: "pod" };
            let asked = pod.add(8080);
            let bridged = network != "delegated";
            // A port leads to each family's address; on a bridge, others of its pods are masqueraded.
            let expected = if bridged { 4 + 4 } else { 4 };
            assert!(pod.has().0 >= expected && pod.has().1 == [true, true], "{network}: {:?}", pod.has());
            assert_eq!(held(&bench, network), if network == "bridged" { 0 } else { 2 }, "{network}");

            let mut host = bench.machine.host();
            let ifb = host.link(&ifb_name(&pod.attachment())).unwrap().unwrap();
            host.limit(ifb.index, Bucket { rate: 7, burst: 7000 }).unwrap();
            let gone = elements(&bench).into_iter().find(|element| Granted::of(element).is_some()).unwrap();
            bench.machine.netfilter().change(TABLE, &[Change::Delete(&gone)], None).unwrap();
            let (code, text) = failure(&pod.verb("CHECK", &asked));
            assert_eq!(code, 103, "{text}");
            for what in [&format!("host port {}", Granted::of(&gone).unwrap().name()), "bandwidth (egress)"] {
                assert!(text.contains(what), "{network}: {what} in {text}");
            }

            result(&pod.verb("DEL", &nothing()));
            assert_eq!(pod.has(), (0, [false, false]), "{network}");
            assert_eq!(held(&bench, network), 0, "{network}");
            result(&pod.verb("DEL", &nothing()));
        }
        assert_eq!(elements(&bench), []);
    }

    /// Debian's host-local knows no GC; its error is told, and does not stop ours.
    fn gc_removes_what_no_attachment_of_the_network_has(bench) {
        bench.machine.add_pod("second");
        bench.machine.add_pod("third");
        for (network, fields) in networks(&bench) {
            let pod = |id| Pod { bench: &bench, network, fields: fields.clone(), id };
            let (forgotten, valid) = (pod("pod"), pod("second"));
            let other = Pod { bench: &bench, network: "other", fields: json!({}), id: "third" };
            forgotten.add(8080);
            valid.add(8081);
            let asked = other.add(8082);
            let (before, others) = (valid.has(), other.has());
            let keep = json!({ "cni.dev/valid-attachments": [{ "containerID": "second", "ifname": "eth0" }] });
            let answer = forgotten.verb("GC", &keep);
            if network == "bridged" {
                result(&answer);
            } else {
                let (_, text) = failure(&answer);
                assert!(text.contains("host-local") && text.contains("does not know GC"), "{network}: {text}");
            }
            assert_eq!(forgotten.has(), (0, [false, false]), "{network}");
            assert_eq!((valid.has(), other.has()), (before, others), "{network}: nothing else");
            result(&other.verb("CHECK", &asked));
            for pod in [forgotten, valid, other] {
                result(&pod.verb("DEL", &nothing()));
            }
            assert_eq!(elements(&bench), [], "{network}");
        }
    }

    fn whichever_request_is_refused_nothing_is_left(bench) {
        for (network, fields) in networks(&bench) {
            let pod = Pod { bench: &bench, network, fields, id: "pod" };
            let asked = pod.add(8080);
            result(&pod.verb("DEL", &nothing()));
            let asked = json!({ "runtimeConfig": asked["runtimeConfig"] });
            let mut n = 0;
            loop {
                bench.faults.set(n, crate::support::faulty::Fault::Refused);
                let answer = pod.verb("ADD", &asked);
                if bench.faults.take() {
                    break;
                }
                let (_, text) = failure(&answer);
                assert_eq!(pod.has(), (0, [false, false]), "{network} {n}: {text}");
                assert_eq!(held(&bench, network), 0, "{network} {n}: {text}");
                n += 1;
            }
            assert!(n > 10, "{n} requests");
            result(&pod.verb("DEL", &nothing()));
        }
    }
}
