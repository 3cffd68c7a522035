//! What the daemon looks at: the node, and the files that its settings come from.
//!
//! [`sight`] looks for the pods' namespaces and links, [`home`] tells whether this process runs where the links are,
//! [`clock`] is the one clock. `inputs` follows `ferrule.toml` and `node.json`, `flannel` the files of flannel. Nothing
//! here changes a lease or writes to the store. Of the neighbours these modules may import `decide`.

pub mod clock;
pub(crate) mod flannel;
pub mod home;
pub(crate) mod inputs;
pub mod sight;
