//! The questions for addresses: to `ipamd`, or to another IPAM plugin that the configuration names.
//!
//! `ipam` is the one door for the verbs; behind it `ipamd` talks to the daemon, and `delegate` runs a plugin. Nothing here
//! talks to the kernel. Of the neighbours these modules may import `edge` and `decide`.

pub(crate) mod delegate;
pub(crate) mod ipam;
pub(crate) mod ipamd;
