//! Ferrule measured beside its peers, in namespaces of its own. Lives here: what is measured ([`rows`], a module for each group of
//! rows), on what ([`stand`], [`contender`], [`process`]), and what is made of it ([`stats`], [`row`], [`machine`]).
//!
//! The nodes, the daemons and the sandboxes are those of the lab (`ferrule-tests`).

pub mod contender;
pub mod machine;
pub mod process;
pub mod row;
pub mod rows;
pub mod stand;
pub mod stats;
