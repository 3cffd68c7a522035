//! What several tests begin with.

use ferrule_model::{IfName, Mac, VethSpec};

/// A veth pair from `u0` to `u1`.
pub(crate) fn a_pair() -> VethSpec {
    VethSpec {
        host_name: IfName::new("u0").unwrap(),
        host_mac: Mac::local([1; 6]),
        alias: None,
        pod_name: IfName::new("u1").unwrap(),
        pod_mac: Mac::local([2; 6]),
    }
}
