//! The questions for addresses: to `ipamd`, or to another IPAM plugin that the configuration names.
//!
//! The verbs use `addresses` alone, and need not know who answers. Behind it, `daemon` talks to `ipamd`, and `delegate`
//! runs another plugin. Nothing here talks to the kernel. Of the neighbours these modules may import `edge` and
//! `decide`.

pub(crate) mod addresses;
pub(crate) mod daemon;
pub(crate) mod delegate;
