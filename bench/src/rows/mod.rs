//! What is measured: a module for each group of rows.

mod burst;
mod calls;
mod cost;
mod crowd;
mod daemons;
mod flood;
mod load;
mod nodes;
mod routes;
mod scale;
mod traffic;
mod verbs;

use ferrule_tests::error::Result;

use crate::row::Row;
use crate::stand::Bench;

pub use cost::{Cost, cost};

/// A group: its name, what it measures, and how.
pub struct Group {
    /// For `--only`.
    pub name: &'static str,
    /// For `--help` and the log.
    pub about: &'static str,
    /// Measures.
    pub measure: fn(&Bench) -> Result<Vec<Row>>,
}

/// All groups, in the order of the table.
pub const GROUPS: [Group; 10] = [
    Group {
        name: "add-del",
        about: "ADD and DEL one at a time, beside ptp and the floor",
        measure: verbs::one_family,
    },
    Group { name: "dual", about: "ADD and DEL of both families", measure: verbs::dual_stack },
    Group { name: "burst", about: "100 pods at concurrency 16", measure: burst::rows },
    Group { name: "crowd", about: "ADD with 500 pods on the node", measure: crowd::rows },
    Group { name: "plugin", about: "the plugin's size, system calls and round trips", measure: cost::rows },
    Group { name: "ipamd", about: "Allocate and Release with 16 clients", measure: calls::rows },
    Group { name: "scale", about: "ipamd with 65,000 leases", measure: scale::rows },
    Group { name: "routed", about: "5,000 nodes in the kernel, and idling with them", measure: routes::rows },
    Group { name: "traffic", about: "packets between pods", measure: traffic::rows },
    Group { name: "start", about: "daemons from start to ready", measure: daemons::rows },
];
