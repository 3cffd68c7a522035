//! DEL: it succeeds when nothing is left to do, whatever was there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use ferrule_model::host_veth_name;
use ferrule_netlink::Kernel;
use serde_json::json;

use crate::on_both_kernels;
use crate::support::faulty::Fault;
use crate::support::{Bench, attachment, failure, result};

on_both_kernels! {
    fn twice_is_once(bench) {
        bench.add();
        result(&bench.verb("DEL"));
        result(&bench.verb("DEL"));
        assert_eq!(bench.ipamd.leases().len(), 0);
    }

    fn what_was_never_added_is_deleted(bench) {
        result(&bench.verb("DEL"));
        assert_eq!(bench.queued(), []);
    }

    fn the_namespace_is_not_needed(bench) {
        for netns in ["", "/nonexistent"] {
            bench.add();
            result(&bench.verb_with("DEL", &[("CNI_NETNS", netns)], &json!({})));
            assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
            assert_eq!(bench.ipamd.leases().len(), 0);
        }
        bench.add();
        bench.machine.remove_pod("pod");
        result(&bench.verb_with("DEL", &[("CNI_NETNS", "")], &json!({})));
        assert_eq!(bench.ipamd.leases().len(), 0);
    }

    fn without_ipamd_the_link_goes_and_the_release_is_queued(bench) {
        bench.add();
        bench.ipamd.stop();
        result(&bench.verb("DEL"));
        assert_eq!(bench.machine.host().link(&host_veth_name(&attachment())).unwrap(), None);
        assert_eq!(bench.queued(), [attachment()]);
    }

    fn an_ipamd_that_dies_or_cannot_write_gets_the_release_queued(bench) {
        bench.add();
        bench.ipamd.state().refuse = Some(ferrule_wire::CallError::StoreFailed { reason: "disk full".into() });
        result(&bench.verb("DEL"));
        assert_eq!(bench.queued(), [attachment()]);
    }

    fn without_ipamd_in_this_boot_there_is_nothing_to_release(bench) {
        bench.ipamd.stop();
        std::fs::remove_dir_all(bench.dir.path().join("releases")).unwrap();
        result(&bench.verb("DEL"));
    }

    /// An address is not free while a living link holds it.
    fn while_the_link_cannot_be_deleted_the_lease_stays(bench) {
        bench.add();
        let leases = bench.ipamd.leases();
        bench.faults.set(0, Fault::Refused);
        let (code, text) = failure(&bench.verb("DEL"));
        assert_eq!(code, 100, "{text}");
        assert_eq!(bench.ipamd.leases(), leases);
        assert_eq!(bench.queued(), []);
        result(&bench.verb("DEL"));
        assert_eq!(bench.ipamd.leases().len(), 0);
    }

    fn what_add_refuses_can_be_deleted(bench) {
        for fields in [
            json!({ "ipMasq": true }),
            json!({ "prevResult": 7 }),
            json!({ "mode": "bridge", "mtu": 1 }),
            json!({ "ipam": { "type": "no-such" } }),
            json!({ "ipam": 7 }),
            json!({ "MTU": 1500 }),
        ] {
            let arguments = [("CNI_ARGS", "nonsense")];
            failure(&bench.verb_with("ADD", &arguments, &fields));
            result(&bench.verb_with("DEL", &arguments, &fields));
        }
    }
}
