//! Ferrule's lab: whole pod networks on one machine, in namespaces, and what is proved on them with packets. Lives here: the network
//! (`space`, `topology`), the programs as their units start them (`unit`, `service`), the runtime's side of CNI (`conflist`,
//! `runtime`, `pod`), the proofs (`matrix`, `proof`, `life`, `repair`, `leftovers`), and what a person sees of it (`table`, `report`).
//!
//! Nothing here is linked into the programs, and nothing of theirs is linked in here: they are run as they will be installed.

pub mod addressing;
pub mod cluster;
pub mod command;
pub mod conflist;
pub mod echo;
pub mod endpoint;
pub mod error;
pub mod install;
pub mod ipam;
pub mod keep;
pub mod leftovers;
pub mod life;
pub mod matrix;
pub mod ping;
pub mod pod;
pub mod proof;
pub mod repair;
pub mod report;
pub mod runtime;
pub mod runtimes;
pub mod scenario;
pub mod service;
pub mod space;
pub mod table;
pub mod topology;
pub mod unit;
