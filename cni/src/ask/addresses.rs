//! The source of addresses: `ipamd`, or the plugin that the configuration names. The verbs need not know which of the
//! two it is.

use std::collections::BTreeSet;

use ferrule_model::{Attachment, Family, IfName, IpNetwork};

use crate::ask::daemon::{self, Daemon};
use crate::ask::delegate::{self, Running};
use crate::decide::grant::Grant;
use crate::edge::config::{Config, Delegate};
use crate::edge::error::Error;
use crate::edge::request::Add;
use crate::edge::spec::Verb;

/// Gives one attachment its addresses. It is asked first and answers later, so that the caller can work meanwhile.
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub(crate) enum AddressSource<'a> {
    /// The daemon.
    Daemon(Daemon<'a>),
    /// Another plugin. It runs once it was asked.
    Plugin(&'a Delegate, Option<Running>),
}

impl<'a> AddressSource<'a> {
    /// Connects to the daemon, which may be just starting. A plugin is started only when it is asked.
    pub(crate) fn wait(config: &'a Config) -> Result<Self, Error> {
        match &config.delegate {
            Some(delegate) => Ok(Self::Plugin(delegate, None)),
            None => Daemon::wait(config).map(Self::Daemon),
        }
    }

    /// Asks for what `add` wants.
    pub(crate) fn ask(&mut self, add: &Add) -> Result<(), Error> {
        match self {
            Self::Daemon(daemon) => daemon.ask(add),
            Self::Plugin(delegate, running) => {
                *running = Some(delegate::start(delegate, Verb::Add)?);
                Ok(())
            }
        }
    }

    /// The answer, and whether the attachment had the addresses before.
    pub(crate) fn answer(&mut self) -> Result<(Grant, bool), Error> {
        match self {
            Self::Daemon(daemon) => daemon.answer(),
            Self::Plugin(delegate, running) => match running.take() {
                Some(running) => Ok((Grant::of(delegate::result(delegate, running)?), false)),
                None => Err(Error::Lease("nobody was asked".into())),
            },
        }
    }
}

/// Takes an attachment's addresses back. Before the second step, the caller makes sure that no link has them any more.
pub(crate) enum Releasing<'a> {
    /// The daemon.
    Daemon(daemon::Releasing<'a>),
    /// Another plugin.
    Plugin(&'a Delegate),
}

impl<'a> Releasing<'a> {
    /// Does what can be done in advance.
    pub(crate) fn prepare(config: &'a Config) -> Self {
        match &config.delegate {
            Some(delegate) => Self::Plugin(delegate),
            None => Self::Daemon(daemon::Releasing::prepare(config)),
        }
    }

    /// Gives the addresses back.
    pub(crate) fn release(self, attachment: &Attachment) -> Result<(), Error> {
        match self {
            Self::Daemon(daemon) => daemon.release(attachment),
            Self::Plugin(delegate) => delegate::release(delegate),
        }
    }
}

/// Does both steps at once.
pub(crate) fn release(config: &Config, attachment: &Attachment) -> Result<(), Error> {
    Releasing::prepare(config).release(attachment)
}

/// Whether the attachment has been given these addresses. `others` may be on the interface in addition.
pub(crate) fn check(
    config: &Config,
    attachment: &Attachment,
    addresses: &[IpNetwork],
    others: &[IpNetwork],
) -> Result<(), Error> {
    match &config.delegate {
        Some(delegate) => delegate::run(delegate, Verb::Check),
        None => daemon::check(config, attachment, addresses, others),
    }
}

/// Takes back the addresses that none of the `valid` attachments has, except where a link is `stuck`.
pub(crate) fn collect(config: &Config, valid: &[Attachment], stuck: &BTreeSet<IfName>) -> Result<(), Error> {
    match &config.delegate {
        Some(delegate) => delegate::run(delegate, Verb::Gc),
        None => daemon::collect(config, valid, stuck),
    }
}

/// Whether the next ADD would get an address. Returns the families that it would get, if they are known.
pub(crate) fn status(config: &Config) -> Result<Vec<Family>, Error> {
    match &config.delegate {
        Some(delegate) => match delegate::run(delegate, Verb::Status) {
            Err(error @ Error::DelegateHangs { .. }) => {
                Err(Error::NotAvailable { reason: error.to_string(), source: None })
            }
            told => told.map(|()| Vec::new()),
        },
        None => daemon::status(config),
    }
}
