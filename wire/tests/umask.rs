//! The one test here changes the umask, which the whole process shares.

use std::os::unix::fs::PermissionsExt;

use ferrule_wire::{Attachment, Queued, make_queue, queue_release};
use nix::sys::stat::{Mode, umask};

/// The runtime runs the plugin with whatever umask it likes; `ipamd` is not root.
#[test]
fn a_queued_release_can_be_read_by_the_daemon_whatever_the_umask_is() {
    let runtime_dir = tempfile::tempdir().unwrap();
    let queue = make_queue(runtime_dir.path()).unwrap();
    umask(Mode::from_bits_truncate(0o077));
    let attachment =
        Attachment { network: "ferrule".into(), container_id: "c0ffee".into(), ifname: "eth0".into() };
    assert_eq!(queue_release(runtime_dir.path(), &attachment).unwrap(), Queued::Yes);
    let entry = std::fs::read_dir(queue).unwrap().next().unwrap().unwrap();
    assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o644);
}
