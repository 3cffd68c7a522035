//! The one test here changes the umask, which the whole process shares.

use std::os::unix::fs::PermissionsExt;

use ferrule_model::{HostSide, Limits, Way, pod_mac};
use ferrule_wire::{Attachment, Queued, Records, make_queue, queue_release, write_record};
use nix::sys::stat::{Mode, umask};

/// The runtime runs the plugin with whatever umask it likes; the daemons are not root.
#[test]
fn what_is_written_for_the_daemons_can_be_read_by_them_whatever_the_umask_is() {
    let runtime_dir = tempfile::tempdir().unwrap();
    let queue = make_queue(runtime_dir.path()).unwrap();
    Records::new(runtime_dir.path()).make().unwrap();
    umask(Mode::from_bits_truncate(0o077));
    let attachment =
        Attachment { network: "ferrule".into(), container_id: "c0ffee".into(), ifname: "eth0".into() };
    assert_eq!(queue_release(runtime_dir.path(), &attachment).unwrap(), Queued::Yes);
    let way = Way::Routed { pod_mac: pod_mac(&attachment), addresses: Vec::new() };
    let made = HostSide {
        attachment,
        pod: String::new(),
        netns: String::new(),
        mtu: 1500,
        way,
        ports: None,
        limits: Limits::default(),
    };
    write_record(runtime_dir.path(), &made).unwrap();
    for directory in [queue, runtime_dir.path().join("attachments")] {
        let entry = std::fs::read_dir(directory).unwrap().next().unwrap().unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }
}
