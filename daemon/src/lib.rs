//! What Ferrule's daemons share, all of it effects: the command line ([`CommonArgs`]), logging ([`start_logging`]), the
//! talk with the service manager ([`Notifier`], [`Watchdog`]), the end ([`Shutdown`]) and files that other processes
//! read or write ([`FileWatch`], [`write_atomically`]).
//!
//! What does not live here: anything that only one daemon needs, and the meaning of the files (crate `config`).

mod args;
mod atomic;
mod logging;
mod notify;
mod shutdown;
mod watch;

pub use args::CommonArgs;
pub use atomic::write_atomically;
pub use logging::{LoggingError, start_logging};
pub use notify::{Notifier, Watchdog};
pub use shutdown::Shutdown;
pub use watch::{FileWatch, WatchError};
