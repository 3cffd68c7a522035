//! Stores that cannot be trusted or written: what is given out afterwards collides with nothing that runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use crate::common::{Place, allocate, attachment, leases, until};
use ferrule_wire::{CallError, Client, ClientError, Lease, Pod, Status};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const POOL: &str = "[[ipam.pool]]\nname = \"p\"\nsubnets = [\"10.8.0.0/24\", \"fd08::/64\"]\n";

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// What ADD leaves on the host.
fn attach(lease: &Lease) -> String {
    let whom = &lease.attachment;
    let name = ferrule_model::host_veth_name(whom).as_str().to_owned();
    let alias = format!("{}: shop/web-0 {}/{}", whom.network, whom.container_id, whom.ifname);
    run("ip", &["link", "add", &name, "type", "veth", "peer", "name", &format!("p{}", &name[3..])]);
    run("ip", &["link", "set", &name, "up", "alias", &alias]);
    for address in &lease.addresses {
        run("ip", &["route", "add", &address.to_string(), "dev", &name]);
    }
    name
}

fn damage(store: &Path, how: &str) {
    let db = store.join("db");
    let bytes = fs::read(&db).unwrap_or_default();
    match how {
        "cut off" => fs::write(db, &bytes[..bytes.len() / 3]).unwrap(),
        "emptied" => fs::write(db, "").unwrap(),
        "flipped" => {
            let flipped = bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
            fs::write(db, flipped).unwrap();
        }
        "removed" if store.exists() => fs::remove_dir_all(store).unwrap(),
        "removed" => {}
        other => panic!("{other}"),
    }
}

/// So many commits that those before are in the store alone, and not in the file of the last commits beside it any
/// more.
fn many_commits(client: &mut Client) {
    for _ in 0..500 {
        client.call(&allocate("passing")).unwrap();
        client.call(&ferrule_wire::Release { attachment: attachment("passing") }).unwrap();
    }
}

#[test]
fn leases_of_a_damaged_or_missing_store_are_made_anew_from_the_pods_that_run() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    // Aliases are read from /sys, which shows the links of the network namespace that it was mounted in.
    run("mount", &["-t", "sysfs", "none", "/sys"]);
    let place = Place::new(POOL);
    let store = place.runtime_dir().join("ipam");
    let mut daemon = place.start();
    let mut client = place.client();
    let given: Vec<Lease> = ["a", "b"].map(|id| client.call(&allocate(id)).unwrap().lease).into();
    let links: Vec<String> = given.iter().map(attach).collect();

    for (round, how) in ["cut off", "flipped", "removed"].into_iter().enumerate() {
        many_commits(&mut place.client());
        daemon.kill();
        damage(&store, how);
        daemon = place.start();
        let mut client = place.client();
        for lease in &given {
            let mut call = allocate(&lease.attachment.container_id);
            call.pod = Some(Pod { namespace: "x".into(), name: "y".into(), uid: String::new() });
            let again = client.call(&call).unwrap();
            assert!(again.existing, "{how}: the runtime asks again");
            assert_eq!(again.lease.addresses, lease.addresses, "{how}");
            assert_eq!(again.lease.pod.unwrap().to_string(), "shop/web-0", "{how}");
        }
        // Every address of the pool can be given without meeting one in use; two are enough to come upon them.
        let fresh = client.call(&allocate(&format!("fresh-{round}"))).unwrap().lease;
        assert!(given.iter().all(|lease| lease.addresses[0] != fresh.addresses[0]), "{how}: {fresh:?}");
        assert!(place.log().contains("lease made anew"), "{}", place.log_end());
    }
    let kept = fs::read_dir(place.runtime_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut kept: Vec<_> = kept.filter_map(|name| name.into_string().ok()).collect();
    kept.retain(|name| name.starts_with("ipam.damaged-"));
    kept.sort();
    let each = |number| [format!("ipam.damaged-{number}"), format!("ipam.damaged-{number}.commits")];
    assert_eq!(kept, (1..=3).flat_map(each).collect::<Vec<_>>(), "each with its last commits");
    assert!(place.log().contains("is damaged: it is kept aside"), "{}", place.log_end());

    // A pod whose address nobody knows any more, as on a bridge: better no service than a second owner, however often
    // the service manager tries.
    run("ip", &["route", "flush", "dev", &links[0]]);
    run("ip", &["-6", "route", "flush", "dev", &links[0]]);
    many_commits(&mut place.client());
    daemon.kill();
    for how in ["emptied", "as it is"] {
        if how != "as it is" {
            damage(&store, how);
        }
        let output = place.command().stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let refused = said.contains(&links[0]) && !said.contains(&links[1]);
        assert!(!output.status.success() && refused && said.contains("delete these pods"), "{how}: {said}");
    }
    run("ip", &["link", "delete", &links[0]]);
    let _daemon = place.start();
    let left: Vec<_> = leases(&mut place.client()).into_iter().map(|lease| lease.addresses).collect();
    assert_eq!(left, [given[1].addresses.clone()]);
    run("ip", &["link", "delete", &links[1]]);
}

/// What sled lost of the last commits comes from the file beside it, and nothing has to be asked of the kernel.
#[test]
fn a_store_that_lost_its_last_commits_has_them_again() {
    for how in ["as it is", "cut off", "emptied", "removed"] {
        let place = Place::new(POOL);
        let mut daemon = place.start();
        let mut client = place.client();
        client.call(&allocate("stays")).unwrap();
        client.call(&allocate("goes")).unwrap();
        client.call(&ferrule_wire::Release { attachment: attachment("goes") }).unwrap();
        let before = leases(&mut client);
        assert_eq!(before.len(), 1);
        daemon.kill();
        if how != "as it is" {
            damage(&place.runtime_dir().join("ipam"), how);
        }
        daemon = place.start();
        assert_eq!(leases(&mut place.client()), before, "{how}");
        assert!(!place.log().contains("is damaged"), "{}", place.log_end());
        daemon.kill();
    }
}

#[test]
fn a_full_disk_fails_calls_until_there_is_room_and_loses_nothing() {
    let mount = tempfile::tempdir().unwrap();
    let at = mount.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=6m", "none", at]);
    let place = Place::new(&format!("[ipam]\nstate_dir = \"{at}\"\n{POOL}"));
    let daemon = place.start();
    let mut client = place.client();
    let mut known = vec![client.call(&allocate("before")).unwrap().lease];
    let filler = mount.path().join("filler");
    // Ends with "no space left".
    let _ = fs::write(&filler, vec![0; 8 << 20]);
    let mut failed = 0;
    // What fits into the space that the store holds already is given all the same.
    for number in 0..20_000 {
        match client.call(&allocate(&format!("n{number}"))) {
            Ok(reply) => {
                known.push(reply.lease);
                client.call(&ferrule_wire::Release { attachment: attachment(&format!("n{number}")) }).ok();
                known.pop();
            }
            Err(ClientError::Call(CallError::StoreFailed { reason })) => {
                println!("after {number}: {reason}");
                failed += 1;
                break;
            }
            Err(error) => panic!("{error:?}\n{}", place.log_end()),
        }
    }
    assert_eq!(failed, 1, "the disk never filled");
    fs::remove_file(&filler).unwrap();
    client.call(&Status::default()).unwrap();
    known.push(client.call(&allocate("after")).unwrap().lease);
    daemon.kill();
    // A start while there is no room serves or says why not; nothing is lost by it, nor taken for damage.
    let _ = fs::write(&filler, vec![0; 8 << 20]);
    let mut starved = place.start();
    let socket = place.runtime_dir().join("ipamd.sock");
    until("it serves or ends", || {
        starved.has_ended() || Client::connect(&socket, crate::common::soon()).is_ok()
    });
    starved.kill();
    fs::remove_file(&filler).unwrap();
    let _daemon = place.start();
    let found = leases(&mut place.client());
    assert!(known.iter().all(|lease| found.contains(lease)), "{known:?}\n{found:?}");
    assert!(!place.log().contains("is damaged"), "{}", place.log_end());
    run("umount", &["--lazy", at]);
}

#[test]
fn a_store_that_cannot_be_written_stops_the_start_with_the_reason() {
    let mount = tempfile::tempdir().unwrap();
    let at = mount.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "none", at]);
    let place = Place::new(&format!("[ipam]\nstate_dir = \"{at}\"\n{POOL}"));
    let daemon = place.start();
    place.client().call(&allocate("a")).unwrap();
    daemon.kill();
    run("mount", &["-o", "remount,ro", at]);
    let output = place.command().stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(at) && said.contains("Read-only"), "{said}");
    run("mount", &["-o", "remount,rw", at]);
    let _daemon = place.start();
    assert_eq!(leases(&mut place.client()).len(), 1, "it was left as it was");
    run("umount", &["--lazy", at]);
}
