//! The table of rooms, and what a pure one may not do. A new room is one line here.

/// A part of a crate, and what it may import.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Where it is, from the repository's root: a folder, or a module without its `.rs`.
    pub place: &'static str,
    /// The modules of its own crate that it may name; `None`: all of them.
    pub imports: Option<&'static [&'static str]>,
    /// Modules in it that are not part of it, and that it may not name.
    pub apart: &'static [&'static str],
    /// It decides and has no effects.
    pub pure: bool,
}

const fn pure(place: &'static str, imports: &'static [&'static str]) -> Room {
    Room { place, imports: Some(imports), apart: &[], pure: true }
}

/// A room that acts: only what it imports of its own crate is checked.
const fn acts(place: &'static str, imports: &'static [&'static str]) -> Room {
    Room { place, imports: Some(imports), apart: &[], pure: false }
}

/// All of a crate but the modules `apart`.
const fn pure_crate(place: &'static str, apart: &'static [&'static str]) -> Room {
    Room { place, imports: None, apart, pure: true }
}

/// All rooms whose imports are checked.
pub const ROOMS: &[Room] = &[
    pure_crate("config/src", &["load"]),
    pure_crate("model/src", &[]),
    pure("wire/src/messages", &["messages"]),
    // cluster: what the server says, and what its words mean.
    pure("cluster/src/kind", &["kind"]),
    pure("cluster/src/fault", &["fault", "kind"]),
    pure("cluster/src/feed", &["fault", "feed"]),
    pure("cluster/src/objects", &["fault", "kind", "objects"]),
    // cni: from what reads the request to what puts the others to work.
    acts("cni/src/edge", &["edge"]),
    pure("cni/src/decide", &["decide", "edge"]),
    acts("cni/src/ask", &["ask", "decide", "edge"]),
    acts("cni/src/act", &["act", "decide", "edge"]),
    acts("cni/src/verbs", &["act", "ask", "decide", "edge", "verbs"]),
    // ipamd: the same.
    pure("ipamd/src/decide", &["decide"]),
    acts("ipamd/src/store", &["decide", "store"]),
    acts("ipamd/src/look", &["decide", "look"]),
    acts("ipamd/src/serve", &["decide", "look", "serve", "store"]),
    acts("ipamd/src/moving", &["decide", "look", "moving", "serve", "store"]),
    // routed: from what decides to what puts the others to work. No two rooms import each other.
    pure("routed/src/decide", &["decide"]),
    acts("routed/src/source", &["decide", "source"]),
    acts("routed/src/show", &["PROGRAM", "decide", "show", "source"]),
    acts("routed/src/host", &["decide", "host", "show"]),
    acts("routed/src/keep", &["decide", "keep"]),
    acts("routed/src/pass", &["decide", "host", "keep", "pass", "show", "source"]),
    // proxyd: the same.
    pure("proxyd/src/decide", &["decide"]),
    acts("proxyd/src/source", &["decide", "source"]),
    pure("proxyd/src/nft", &["decide", "nft"]),
    acts("proxyd/src/sync", &["decide", "nft", "sync"]),
    // Of the rooms that act, what only decides.
    pure("proxyd/src/source/entries", &["decide", "source::entries"]),
    pure("proxyd/src/source/kubernetes/followed", &["decide", "source::kubernetes::followed"]),
    pure("proxyd/src/source/kubernetes/node", &["decide", "source::kubernetes::node"]),
    pure("proxyd/src/source/kubernetes/service", &["decide", "source::kubernetes::followed"]),
    pure(
        "proxyd/src/source/kubernetes/slice",
        &["decide", "source::kubernetes::followed", "source::kubernetes::service"],
    ),
    pure("proxyd/src/source/kubernetes/unread", &["source::kubernetes::unread"]),
    pure("routed/src/host/forward", &["decide", "host::forward"]),
    pure("routed/src/host/masquerade", &["decide", "host::masquerade"]),
    pure("routed/src/keep/repair", &["decide", "keep::repair"]),
    pure("routed/src/keep/share", &["decide", "keep::share"]),
    pure("routed/src/keep/suspects", &["keep::suspects"]),
    pure("routed/src/keep/watch", &["decide", "keep::suspects", "keep::watch"]),
];

/// What a pure room may name of other crates, the standard library aside: values, and what turns them into text and back.
pub const CRATES: &[&str] = &[
    "ferrule_cluster::kind",
    "ferrule_config",
    "ferrule_model",
    "ferrule_wire::messages",
    "ipnetwork",
    "nix::errno",
    "serde",
    "serde_json",
    "siphasher",
    "thiserror",
    "toml",
];

/// What it may not name of the standard library.
pub const BANNED: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::Read",
    "std::io::Write",
    "std::io::copy",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant::now",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
];

/// What it may not call on a value, whatever the value is: these ask the clock or the file system without naming it.
pub const BANNED_METHODS: &[&str] = &[
    "canonicalize",
    "elapsed",
    "exists",
    "is_dir",
    "is_file",
    "is_symlink",
    "metadata",
    "read_dir",
    "read_link",
    "symlink_metadata",
    "to_socket_addrs",
    "try_exists",
];
