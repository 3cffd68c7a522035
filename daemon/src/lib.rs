//! What Ferrule's daemons share. All of it has effects:
//!
//! - the command line ([`CommonArgs`]) and logging ([`start_logging`], [`log_as_one`]);
//! - the talk with the service manager ([`Notifier`], [`Watchdog`]);
//! - the runtime and the signals ([`block_on`], [`Signals`]);
//! - the waits between tries ([`Pause`]);
//! - files that other processes read or write ([`FileWatch`], [`FolderWatch`], [`write_atomically`]);
//! - figures and health over HTTP ([`serve_metrics`]);
//! - a Varlink interface on a socket ([`varlink`]), and asking a running daemon ([`Asked`]).
//!
//! Two things do not live here: what only one daemon needs, and the meaning of the files (crate `config`).

mod alone;
mod args;
mod ask;
mod atomic;
mod folder;
mod inotify;
mod logging;
mod metrics;
mod notify;
mod pause;
mod signals;
mod trail;
pub mod varlink;
mod watch;

pub use alone::{Alone, NotAlone};
pub use args::CommonArgs;
pub use ask::{AskError, Asked, ago, print, print_json, table};
pub use atomic::{write_atomically, write_secret};
pub use folder::{FolderWatch, Written};
pub use logging::{Logging, LoggingError, log_as_one, start_logging};
pub use metrics::{
    Counter, Exposition, Histogram, HttpLimits, Kind, Page, Pages, process_figures, serve_metrics,
};
pub use notify::{Notifier, Watchdog};
pub use pause::Pause;
pub use signals::{Heard, Signals, block_on};
pub use watch::FileWatch;
