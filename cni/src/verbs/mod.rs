//! The verbs of the specification, one file each: [`add`], [`del`], [`check`], [`status`] and [`gc`]. [`face`] does all
//! of them for `ferrule-ipam`, the same program under its other name.
//!
//! A verb puts the parts in order: it asks for addresses (`ask`), lets `decide` work out what is needed, has it done
//! (`act`), and takes everything back if a step fails. These modules may import all neighbours, and nothing imports
//! them but the crate's root.

pub mod add;
pub mod check;
pub mod del;
pub mod face;
pub mod gc;
pub mod status;
